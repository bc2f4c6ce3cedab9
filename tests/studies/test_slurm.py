"""Job files: each after what it needs, and such that a shell runs them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from pvtctl.errors import UsageError
from pvtctl.studies.plan import StudyRequest
from pvtctl.studies.slurm import write_jobs

SBATCH = """#!/bin/bash
# stands in for Slurm: writes down how it was called, and answers with a job number
echo "$@" >> calls
wc -l < calls | tr -d ' '
"""


def test_submit_hands_over_every_run_after_what_it_needs(tmp_path: Path) -> None:
    plan = StudyRequest("gcnet", tmp_path / "out", profile="smoke", seeds=2).plan()
    options = ["--gres=gpu:8"]
    files = write_jobs(plan, tmp_path / "jobs", arguments=["gcnet"], report=["gcnet", "--report"], options=options)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sbatch").write_text(SBATCH)
    (tools / "sbatch").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    subprocess.run(["bash", str(files[-1])], check=True, env={**os.environ, "PATH": path})
    calls = (tmp_path / "jobs" / "calls").read_text().splitlines()
    assert len(calls) == len(plan.runs) + 1
    number = {run.name: at + 1 for at, run in enumerate(plan.runs)}
    for run, call in zip(plan.runs, calls, strict=False):
        assert call.endswith(f"{run.name.replace('/', '-')}.sbatch")
        assert (f"afterok:{number[run.needs]} --kill-on" in call) if run.needs else "dependency" not in call
    assert calls[-1].startswith(f"--dependency=afterany:{':'.join(str(n) for n in number.values())} ")


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (1, False)])
def test_a_job_that_saved_itself_is_queued_again(tmp_path: Path, code: int, requeued: bool) -> None:
    plan = StudyRequest("gcnet", tmp_path / "out", profile="smoke", rows=["pvt_small"]).plan()
    files = write_jobs(plan, tmp_path / "jobs", arguments=["gcnet", "--set", "about=two words"], report=["gcnet"])
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {
        "pvtctl": f'printf "%s\\n" "$@" > {tmp_path}/asked; exit {code}',
        "scontrol": "touch requeued",
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    job = next(file for file in files if file.name == "pvt_small-seed0.sbatch")
    # jobs run in the folder in which they were written
    done = subprocess.run(["bash", str(job)], env=environment, cwd=tmp_path, check=False)
    assert done.returncode == code
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["ablate", "gcnet", "--set", "about=two words", "--only", "pvt_small/seed0"]
    assert Path("requeued").exists() == requeued
    Path("requeued").unlink(missing_ok=True)


def test_headers_hold_the_options(tmp_path: Path) -> None:
    plan = StudyRequest("gcnet", tmp_path / "out", profile="smoke").plan()
    files = write_jobs(plan, tmp_path / "jobs", arguments=[], report=[], options=["--gres=gpu:8", "--time=8:00:00"])
    for file in files[:-1]:
        text = file.read_text()
        assert text.startswith("#!/bin/bash\n#SBATCH")
        assert "#SBATCH --gres=gpu:8\n#SBATCH --time=8:00:00\n" in text


def test_names_with_spaces_stay_in_their_header(tmp_path: Path) -> None:
    recipe = tmp_path / "my study.yaml"
    recipe.write_text("base: small_photos\nrows:\n  a: {model: {backbone: {name: pvt_v2_b0}}}\n")
    plan = StudyRequest(str(recipe), tmp_path / "out", profile="smoke").plan()
    files = write_jobs(plan, tmp_path / "two words 100%", arguments=[], report=[], options=["--comment=two words"])
    for file in files[:-1]:
        header = [line for line in file.read_text().splitlines() if line.startswith("#SBATCH")]
        assert re.fullmatch(r"#SBATCH --job-name=my-study-[\w.-]+", header[0])
        assert header[1] == f'#SBATCH --output="{file.parent}/{file.stem}.log"'.replace("%", "%%")


@pytest.mark.parametrize("option", ["--time=1\nrm -rf x", "--time=1\rx", "", " ", "--a\x1b[2J", "--a\u2028b"])
def test_an_option_is_one_line(tmp_path: Path, option: str) -> None:
    plan = StudyRequest("gcnet", tmp_path / "out", profile="smoke").plan()
    with pytest.raises(UsageError, match="--sbatch"):
        write_jobs(plan, tmp_path / "jobs", arguments=[], report=[], options=[option])


@pytest.mark.parametrize("name", ["a\nb", 'a"b', "a'b", "a\\b"])
def test_folders_that_a_header_cannot_hold(tmp_path: Path, name: str) -> None:
    plan = StudyRequest("gcnet", tmp_path / "out", profile="smoke").plan()
    with pytest.raises(UsageError, match="headers cannot hold"):
        write_jobs(plan, tmp_path / name, arguments=[], report=[])


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    plan = StudyRequest("gcnet", tmp_path / "out", profile="smoke").plan()
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "mine").write_text("kept")
    with pytest.raises(UsageError, match="exists"):
        write_jobs(plan, tmp_path / "jobs", arguments=[], report=[])
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["mine"]
