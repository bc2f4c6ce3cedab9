"""A study as Slurm jobs: one per run, each after its pretraining, and the report last. Does not import torch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from pvtctl.errors import UsageError
from pvtctl.io.files import write_text
from pvtctl.studies.plan import StudyPlan

_JOB = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --output={log}
#SBATCH --open-mode=append
#SBATCH --requeue
# Two minutes before the time limit the run saves and stops; it resumes when the job is requeued.
#SBATCH --signal=B:TERM@120
{options}
cd {folder} || exit 2
{command} &
child=$!
trap 'kill -TERM "$child"' TERM
wait "$child"; code=$?
# a trapped signal ends the first wait early
if kill -0 "$child" 2>/dev/null; then wait "$child"; code=$?; fi
if [ "$code" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


def write_jobs(
    plan: StudyPlan, folder: Path, *, arguments: Sequence[str], report: Sequence[str], options: Sequence[str] = ()
) -> list[Path]:
    """Write a job file for each run of the plan, one for the report, and `submit.sh`, which submits all with `sbatch`.

    `arguments` follow `pvtctl ablate` in every job, with `--only RUN` appended, and `report` in the report's job;
    `options` (`--gres=gpu:8`) are added to each header. Raises UsageError if `folder` exists.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists", "name a new folder for the job files")
    for option in options:
        if not option.strip() or not option.isprintable():
            raise UsageError(f"--sbatch {option!r} is not one line", "one option each, as --sbatch=--gres=gpu:8")
    if not re.fullmatch(r"[^\x00-\x1f\x7f'\"\\]+", str(folder.absolute())):
        raise UsageError(f"{folder} has characters that Slurm's headers cannot hold", "choose another --slurm")
    header = "\n".join(f"#SBATCH {option}" for option in options)
    here = Path.cwd()
    lines = ["#!/bin/bash", "# Submits the study's jobs to Slurm, each after the one that it needs.", "set -e"]
    lines.append(f"cd {shlex.quote(str(folder.absolute()))}")
    files = []
    jobs: dict[str, str] = {}
    for number, run in enumerate(plan.runs):
        label = run.name.replace("/", "-")
        command = ["pvtctl", "ablate", *arguments, "--only", run.name]
        files.append(_write_job(folder, label, plan, command, header, here))
        # a job that can never start would wait forever, and block the report
        after = f"--dependency=afterok:${jobs[run.needs]} --kill-on-invalid-dep=yes " if run.needs in jobs else ""
        jobs[run.name] = f"job{number}"
        lines.append(f"job{number}=$(sbatch --parsable {after}{shlex.quote(files[-1].name)})")
    files.append(_write_job(folder, "report", plan, ["pvtctl", "ablate", *report], header, here))
    everything = ":".join(f"${job}" for job in jobs.values())
    lines.append(f"sbatch --dependency=afterany:{everything} report.sbatch")
    files.append(write_script(folder / "submit.sh", "\n".join(lines) + "\n"))
    return files


def _write_job(folder: Path, label: str, plan: StudyPlan, command: Sequence[str], header: str, here: Path) -> Path:
    text = _JOB.format(
        name=re.sub(r"[^\w.+-]", "-", f"{plan.study}-{label}"),
        # sbatch splits its lines at spaces, takes quotes, and replaces `%j` in names of files
        log='"' + str(folder.absolute() / f"{label}.log").replace("%", "%%") + '"',
        options=header,
        folder=shlex.quote(str(here)),
        command=shlex.join(command),
    )
    return write_script(folder / f"{label}.sbatch", text)


def write_script(path: Path, text: str) -> Path:
    """Write an executable file."""
    write_text(path, text)
    path.chmod(0o755)
    return path
