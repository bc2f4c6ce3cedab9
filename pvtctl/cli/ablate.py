"""`pvtctl ablate`: run a study of the papers and check its claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pvtctl.cli._console import print_json, print_text, table
from pvtctl.cli._options import AS_JSON, DEVICE, GPUS, App, argument, bundle, examples, option, shared
from pvtctl.errors import PvtctlError, ToldElsewhereError, UsageError
from pvtctl.io.console import say
from pvtctl.io.names import plural
from pvtctl.io.urls import keep_secrets
from pvtctl.runs.paths import runs_root

if TYPE_CHECKING:
    from pvtctl.studies.plan import Run, StudyPlan, StudyRequest

app = App(rich_markup_mode=None)

EPILOG = examples(
    "pvtctl ablate ls",
    "pvtctl ablate vit-vs-pvt",
    "pvtctl ablate gcnet --seeds 3 --jobs 2",
    "pvtctl ablate deeper-vs-wider --rows pvt_medium --dry-run",
    "pvtctl ablate vit-vs-pvt --profile paper --gpus 8 --slurm jobs --sbatch=--gres=gpu:8",
)


def _weights(texts: Sequence[str]) -> dict[str, str]:
    weights = {}
    for text in texts:
        row, equals, source = text.partition("=")
        if not (row and equals and source):
            raise UsageError(f"--weights {text}: write it as ROW=FILE", "--weights pvt_small=pvt_small.pth")
        weights[row] = source
    return weights


@bundle
class AblateOptions:
    """Options of `pvtctl ablate`."""

    study: str = argument(
        metavar="STUDY", help="A name of `pvtctl ablate ls`, any recipe with rows, or a YAML file; ls lists them."
    )
    profile: str | None = option(
        help="Scale: mini (built-in data, minutes on two CPU cores), paper (its data), smoke. Default: mini; for a file of "
        "your own paper, which is all of its settings."
    )
    rows: str | None = option(help="Rows to run, with commas. Default: all.")
    seeds: int | None = option(min=1, max=100, help="Runs of each row. Default: the study's own for mini, else 1.")
    jobs: int | None = option(
        min=1, help="Parallel runs. Default: 1; on a CPU at profile mini one per core, at most 4."
    )
    folder: str | None = option(
        "--data",
        metavar="DIR|URL",
        help="Folder of the study's data, or the URL of tar shards. Default: $PVTCTL_DATA/NAME.",
    )
    weights: list[str] = option(default=[], metavar="ROW=FILE", help="Weights that a row starts from; may be repeated.")
    pretrain: bool = option(
        "--pretrain", default=False, help="Pretrain all backbones here, even if there are published weights."
    )
    overrides: list[str] = option(
        "--set", default=[], metavar="KEY=VALUE", help="Change a value of all rows' recipes; may be repeated."
    )
    pretraining_overrides: list[str] = option(
        "--set-pretraining", default=[], metavar="KEY=VALUE", help="Change a value of the pretrainings' recipes."
    )
    out: Path | None = option(
        help="Folder of all studies, which share pretrainings. Default: $PVTCTL_RUNS (or runs)/studies."
    )
    latency: bool = option(default=True, help="Time the paper's models at the paper's size for the report.")
    report: bool = option("--report", default=False, help="Run nothing: write the report of the finished runs.")
    dry_run: bool = option("--dry-run", default=False, help="Show the runs and their state.")
    slurm: Path | None = option(metavar="DIR", help="Run nothing: write Slurm job files into a new folder.")
    sbatch: list[str] = option(
        default=[], metavar="OPTION", help="With --slurm: a line of each job's header, as --sbatch=--gres=gpu:8."
    )
    gpus: int | None = shared(GPUS)
    device: str | None = shared(DEVICE)
    only: str | None = option(hidden=True, help="Train this one run in this process.")
    as_json: bool = shared(AS_JSON)

    @property
    def root(self) -> Path:
        """The folder of all studies."""
        return (self.out or runs_root() / "studies").expanduser()

    def request(self) -> StudyRequest:
        """What defines the runs. Raises UsageError."""
        from pvtctl.studies.plan import StudyRequest

        return StudyRequest(
            self.study,
            self.root,
            self.profile,
            [row.strip() for row in self.rows.split(",")] if self.rows else (),
            self.seeds,
            None if self.folder is None else keep_secrets(self.folder),
            _weights(self.weights),
            self.overrides,
            self.pretraining_overrides,
            self.pretrain,
        )


@app.command(epilog=EPILOG)
def ablate(context: typer.Context, options: AblateOptions) -> None:
    """Run the rows of a paper's table, each after the pretraining it needs, and write the table of published and
    measured figures, a verdict on each claim, and plots.

    Running the same command again resumes the study and retries failed runs.
    """
    if options.study == "ls":
        _list(options)
        return
    from pvtctl.studies.start import run_rows

    request = options.request()
    plan = request.plan()
    if options.only is not None:
        _train_one(context, plan, options.only, options)
        return
    if options.sbatch and options.slurm is None:
        raise UsageError("--sbatch is for --slurm", "add --slurm DIR")
    if options.slurm is not None:
        _write_jobs(plan, request, options.slurm, options)
        return
    if options.dry_run:
        _show_plan(plan, options.as_json)
        return
    device, failed = options.device, list[str]()
    if not options.report:
        states = run_rows(request, plan, jobs=options.jobs, gpus=options.gpus, device=device, say=say)
        failed = [name for name, state in states.items() if state.status == "failed"]
        if failed and not any(states[run.name].status == "finished" for run in plan.runs if run.kind == "row"):
            raise PvtctlError(
                f"{plural(len(failed), 'run')} failed, and no row has finished", "the log of each is named above"
            )
    from pvtctl.studies.report import write_study

    result = write_study(plan, latency=options.latency, device=device, say=say)
    if options.as_json:
        print_json(result.document)
    else:
        table(result.title, result.columns, result.rows, caption=result.caption)
        table("", ["claim", "verdict", "why"], result.verdicts)
        for name, path in result.files.items():
            print_text(f"{name}: {path}")
    if failed:
        raise ToldElsewhereError(f"{plural(len(failed), 'run')} failed")


def _list(options: AblateOptions) -> None:
    from pvtctl.studies.overview import overview

    lines = overview(options.root)
    if options.as_json:
        print_json({"studies": [asdict(line) for line in lines]})
        return
    columns = ["study", "paper", "what the paper found", "rows", "takes at mini", "takes at paper", "state"]
    table("", columns, [line.cells() for line in lines])
    say("pvtctl ablate NAME runs one at profile mini, on the built-in data")


def _train_one(context: typer.Context, plan: StudyPlan, name: str, options: AblateOptions) -> None:
    """Train one run of the study in this process; record a failure for the report."""
    from pvtctl.cli.finetune import with_found_weights
    from pvtctl.cli.pretrain import arguments_of, in_processes, train
    from pvtctl.io.stop import Stopped
    from pvtctl.studies.run import failure_file, recipe_to_run, record_failure, state_of

    run = plan.find(name)
    if state_of(run).status == "finished":
        return
    in_processes(options.gpus, options.device, arguments_of(context))
    failure_file(run).unlink(missing_ok=True)
    try:
        recipe, resume = recipe_to_run(plan, run)
        if recipe.model.head is not None:
            recipe = with_found_weights(recipe)
        train(recipe, run.out, device=options.device, resume=resume)
    except Stopped:
        raise
    except PvtctlError as error:
        record_failure(run, error.message, error.exit_code)
        raise


def _show_plan(plan: StudyPlan, as_json: bool) -> None:
    from pvtctl.recipe.scale import changes_line
    from pvtctl.studies.run import state_of

    states = [(run, state_of(run)) for run in plan.runs]
    if as_json:
        runs = [
            {
                "run": run.name,
                "needs": run.needs,
                "seed": run.seed,
                "state": state.status,
                "reason": state.reason,
                "folder": str(run.out),
                "recipe": run.recipe.plain_values(),
            }
            for run, state in states
        ]
        changes = {key: list(pair) for key, pair in plan.changes.items()}
        document = {"study": plan.study, "profile": plan.profile, "profile_changes": changes}
        print_json(document | {"out": str(plan.out), "runs": runs})
        return
    rows = [[run.name, _begins_from(run), state.status, run.out] for run, state in states]
    caption = changes_line(plan.profile, plan.changes)
    table(f"{plan.study}, profile {plan.profile}", ["run", "starts from", "state", "folder"], rows, caption=caption)


def _begins_from(run: Run) -> str:
    model = run.recipe.model
    nothing = run.kind == "pretraining" or model.init == "scratch" or model.head is None
    return run.needs or model.weights or ("nothing" if nothing else "published weights, or a run on ImageNet")


def _write_jobs(plan: StudyPlan, request: StudyRequest, folder: Path, options: AblateOptions) -> None:
    from pvtctl.studies.slurm import write_jobs
    from pvtctl.studies.start import process_words

    words, device = request.words(), options.device
    report = [*words, "--report", *process_words(None, device), *([] if options.latency else ["--no-latency"])]
    arguments = [*words, *process_words(options.gpus, device)]
    files = write_jobs(plan, folder.expanduser(), arguments=arguments, report=report, options=options.sbatch)
    say(f"{len(files) - 1} jobs; hand them to Slurm by")
    print_text(f"bash {files[-1]}")
