"""`pvtctl visualize curves`: curves of runs."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, cast

import typer

from pvtctl.cli._options import examples
from pvtctl.cli._resolve_recipe import note
from pvtctl.cli.visualize._options import Output
from pvtctl.errors import UsageError


class Axis(StrEnum):
    """Horizontal axis."""

    steps = "steps"
    epochs = "epochs"
    images = "images"
    time = "time"


class What(StrEnum):
    """Curves to draw."""

    loss = "loss"
    score = "score"
    lr = "lr"


MOST = 40
"""Maximum number of runs in one picture."""
EPILOG = examples(
    "pvtctl visualize curves runs/my-run runs/another --out curves.svg",
    "pvtctl visualize curves runs/my-detector --x epochs --only score",
    "pvtctl visualize curves runs --x time --only loss",
)


def curves(
    runs: list[Path] = typer.Argument(metavar="RUNS...", help="Folders of runs, or folders with runs below them."),
    *,
    x: Axis = typer.Option(Axis.steps, "--x", help="Over steps, epochs, images seen, or hours."),
    only: list[What] | None = typer.Option(None, help="loss, score or lr only; may be repeated. Default: all three."),
    output: Output,
) -> None:
    """Draw the curves of runs in one picture: training loss, main scores, learning rate.

    Runs are named by the shortest distinct end of their path. Unfinished runs are marked and drawn as far as they are.
    Long losses are drawn faintly, with their running mean. Hours include evaluations. Scores of different tasks are not
    drawn together; their losses may be, with `--only loss`.
    """
    from pvtctl.runs.curves import AXES, damage, names_of, panels_of
    from pvtctl.runs.read_run import read_run
    from pvtctl.views.curves import draw_panels

    folders = [folder for word in runs for folder in _runs_of(word)]
    if len(folders) > MOST:
        raise UsageError(f"{len(folders)} runs are too many for one picture", f"name at most {MOST}")
    read = [read_run(folder, finished=False) for folder in folders]
    names = names_of(folders)
    for run, name in zip(read, names, strict=True):
        if run.status != "finished":
            note(f"{name} has not finished ({run.info.get('reason') or run.status}); drawn as far as it is")
        if (told := damage(run)) is not None:
            note(told)
    what = [each.value for each in only or list(What)]
    panels = panels_of(read, names, cast("Any", what), x.value)
    pictures = output.open("curves", names[0].replace("/", "-"), 1)
    title = names[0] if len(names) == 1 else f"{len(names)} runs"
    pictures.add(
        "curves",
        partial(draw_panels, panels=panels, xlabel=AXES[x.value]),
        title=title,
        panels=[
            {
                "title": panel.title,
                "unit": panel.ylabel,
                "curves": [
                    {"run": name, x.value: list(each.xs), "values": list(each.means)}
                    for name, each in zip(names, panel.series, strict=True)
                ],
            }
            for panel in panels
        ],
    )
    listed = [
        {"name": name, "path": str(run.path), "task": run.recipe.task, "status": run.status}
        for name, run in zip(names, read, strict=True)
    ]
    pictures.close(f"Curves of {title}", "", {"x": x.value, "runs": listed})


def _runs_of(word: Path) -> list[Path]:
    """The run, or the runs below a folder, sorted by path; `read_run` raises for anything else."""
    from pvtctl.engine.run_files import find_runs

    word = word.expanduser()
    if not word.is_dir() or (word / "run.json").exists() or (word / "recipe.yaml").exists():
        return [word]
    return sorted(find_runs(word, status=None)) or [word]
