"""`pvtctl ablate`: run a study of the papers and check its claims."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pvtctl.cli._console import print_json, table
from pvtctl.cli._options import AS_JSON, DEVICE, GPUS
from pvtctl.errors import PvtctlError, ToldElsewhereError, UsageError
from pvtctl.io.console import say
from pvtctl.runs.paths import runs_root

if TYPE_CHECKING:
    from pvtctl.studies.plan import Run, StudyPlan
    from pvtctl.studies.report import StudyReport
    from pvtctl.studies.request import StudyRequest
    from pvtctl.studies.run import RunState

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EPILOG = """Examples:

pvtctl ablate ls

pvtctl ablate vit-vs-pvt

pvtctl ablate gcnet --seeds 3 --jobs 2

pvtctl ablate deeper-vs-wider --rows pvt_medium --dry-run

pvtctl ablate vit-vs-pvt --profile paper --gpus 8 --slurm jobs --sbatch=--gres=gpu:8
"""


@app.command(epilog=EPILOG)
def ablate(
    context: typer.Context,
    study: str = typer.Argument(
        metavar="STUDY", help="A name of `pvtctl ablate ls`, any recipe with rows, or a YAML file; ls lists them."
    ),
    profile: str = typer.Option(
        "mini", help="Scale: mini (built-in data, minutes on two CPU cores), paper (its data), smoke."
    ),
    rows: str | None = typer.Option(None, help="Rows to run, with commas. Default: all."),
    seeds: int | None = typer.Option(
        None, min=1, max=100, help="Runs of each row. Default: the study's own for mini, else 1."
    ),
    jobs: int | None = typer.Option(
        None, min=1, help="Parallel runs. Default: 1; on a CPU at profile mini one per core, at most 4."
    ),
    folder: Path | None = typer.Option(
        None, "--data", metavar="DIR", help="Folder of the study's data. Default: $PVTCTL_DATA/NAME."
    ),
    weights: list[str] | None = typer.Option(
        None, metavar="ROW=FILE", help="Weights that a row starts from; may be repeated."
    ),
    pretrain: bool = typer.Option(
        False, "--pretrain", help="Pretrain all backbones here, even if there are published weights."
    ),
    overrides: list[str] | None = typer.Option(
        None, "--set", metavar="KEY=VALUE", help="Change a value of all rows' recipes; may be repeated."
    ),
    pretraining_overrides: list[str] | None = typer.Option(
        None, "--set-pretraining", metavar="KEY=VALUE", help="Change a value of the pretrainings' recipes."
    ),
    out: Path | None = typer.Option(
        None, help="Folder of all studies, which share pretrainings. Default: $PVTCTL_RUNS (or runs)/studies."
    ),
    latency: bool = typer.Option(True, help="Time the paper's models at the paper's size for the report."),
    report: bool = typer.Option(False, "--report", help="Run nothing: write the report of the finished runs."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show the runs and their state."),
    slurm: Path | None = typer.Option(
        None, metavar="DIR", help="Run nothing: write Slurm job files into a new folder."
    ),
    sbatch: list[str] | None = typer.Option(
        None, metavar="OPTION", help="With --slurm: a line of each job's header, as --sbatch=--gres=gpu:8."
    ),
    gpus: int | None = GPUS,
    device: str | None = DEVICE,
    only: str | None = typer.Option(None, hidden=True, help="Train this one run in this process."),
    as_json: bool = AS_JSON,
) -> None:
    """Run the rows of a paper's table, each after the pretraining it needs, and write the table of published and
    measured figures, a verdict on each claim, and plots.

    Running the same command again resumes the study and retries failed runs.
    """
    root = (out or runs_root() / "studies").expanduser()
    if study == "ls":
        _list(root, as_json)
        return
    from pvtctl.studies.request import StudyRequest, run_rows

    request = StudyRequest(
        study,
        root,
        profile,
        [row.strip() for row in rows.split(",")] if rows else (),
        seeds,
        folder,
        _weights(weights or []),
        overrides,
        pretraining_overrides,
        pretrain,
    )
    plan = request.plan()
    if only is not None:
        _train_one(context, plan, only, gpus, device)
        return
    if sbatch and slurm is None:
        raise UsageError("--sbatch is for --slurm", "add --slurm DIR")
    if slurm is not None:
        _write_jobs(plan, request, slurm, gpus, device, latency, sbatch or [])
        return
    if dry_run:
        _show_plan(plan, as_json)
        return
    failed: list[str] = []
    if not report:
        states = run_rows(request, plan, jobs=jobs, gpus=gpus, device=device, say=say)
        failed = [name for name, state in states.items() if state.status == "failed"]
        if failed and not any(states[run.name].status == "finished" for run in plan.runs if run.kind == "row"):
            raise PvtctlError(f"{len(failed)} runs failed, and no row has finished", "the log of each is named above")
    from pvtctl.studies.report import write_study

    result = write_study(plan, latency=latency, device=device, say=say)
    _show(result, as_json)
    if failed:
        raise ToldElsewhereError(f"{len(failed)} runs failed")


def _weights(texts: list[str]) -> dict[str, str]:
    weights = {}
    for text in texts:
        row, equals, source = text.partition("=")
        if not (row and equals and source):
            raise UsageError(f"--weights {text}: write it as ROW=FILE", "--weights pvt_small=pvt_small.pth")
        weights[row] = source
    return weights


def _list(root: Path, as_json: bool) -> None:
    from pvtctl.studies.overview import overview

    lines = overview(root)
    if as_json:
        print_json({"studies": [line.as_dict() for line in lines]})
        return
    columns = ["study", "paper", "what the paper found", "rows", "takes at mini", "takes at paper", "state"]
    table("", columns, [line.cells() for line in lines])
    say("pvtctl ablate NAME runs one at profile mini, on the built-in data")


def _train_one(context: typer.Context, plan: StudyPlan, name: str, gpus: int | None, device: str | None) -> None:
    """Train one run of the study in this process; record a failure for the report."""
    from pvtctl.cli.finetune import with_found_weights
    from pvtctl.cli.pretrain import arguments_of, in_processes, train
    from pvtctl.engine.stop import Stopped
    from pvtctl.studies.run import failure_file, recipe_to_run, record_failure, state_of

    run = plan.find(name)
    if state_of(run).status == "finished":
        return
    in_processes(gpus, device, arguments_of(context))
    failure_file(run).unlink(missing_ok=True)
    try:
        recipe, resume = recipe_to_run(plan, run)
        if recipe.model.head is not None:
            recipe = with_found_weights(recipe)
        train(recipe, run.out, device=device, resume=resume)
    except Stopped:
        raise
    except PvtctlError as error:
        record_failure(run, error.message, error.exit_code)
        raise


def _show_plan(plan: StudyPlan, as_json: bool) -> None:
    from pvtctl.studies.run import state_of

    states = {run.name: state_of(run) for run in plan.runs}
    if as_json:
        print_json(
            {
                "study": plan.study,
                "profile": plan.profile,
                "out": str(plan.out),
                "runs": [_run_line(run, states[run.name]) for run in plan.runs],
            }
        )
        return
    rows = [[run.name, _begins_from(run), states[run.name].status, run.out] for run in plan.runs]
    table(f"{plan.study}, profile {plan.profile}", ["run", "starts from", "state", "folder"], rows)


def _begins_from(run: Run) -> str:
    model = run.recipe.model
    nothing = run.kind == "pretraining" or model.init == "scratch"
    return run.needs or model.weights or ("nothing" if nothing else "published weights, or a run on ImageNet")


def _run_line(run: Run, state: RunState) -> dict[str, object]:
    return {
        "run": run.name,
        "needs": run.needs,
        "seed": run.seed,
        "state": state.status,
        "reason": state.reason,
        "folder": str(run.out),
        "recipe": run.recipe.model_dump(mode="json"),
    }


def _write_jobs(
    plan: StudyPlan,
    request: StudyRequest,
    folder: Path,
    gpus: int | None,
    device: str | None,
    latency: bool,
    options: list[str],
) -> None:
    from pvtctl.studies.request import process_words
    from pvtctl.studies.slurm import write_jobs

    words = request.words()
    report = [*words, "--report", *process_words(None, device), *([] if latency else ["--no-latency"])]
    files = write_jobs(
        plan, folder.expanduser(), arguments=[*words, *process_words(gpus, device)], report=report, options=options
    )
    say(f"{len(files) - 1} jobs; hand them to Slurm by")
    print(f"bash {files[-1]}")


def _show(result: StudyReport, as_json: bool) -> None:
    if as_json:
        print_json(result.document)
        return
    table(result.title, result.columns, result.rows, caption=result.caption)
    table("", ["claim", "verdict", "why"], result.verdicts)
    for name, path in result.files.items():
        print(f"{name}: {path}")
