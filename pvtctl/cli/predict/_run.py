"""Body of `pvtctl predict`: choose images and model, run it, write and show the results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._console import parse_size, print_json, table
from pvtctl.cli._resolve_recipe import note
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.console import say
from pvtctl.io.files import require_place
from pvtctl.runs.paths import runs_root

if TYPE_CHECKING:
    from pvtctl.tasks.base import PredictionWriter
    from pvtctl.tasks.predict import Images
    from pvtctl.weights.describe import Inspected

NAMED = 5
"""Number of skipped files that are listed by name."""


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """Options of `pvtctl predict`; None if not given."""

    images: Sequence[str]
    weights: str | None
    backbone: str | None
    score_threshold: float | None
    nms_iou: float | None
    max_detections: int | None
    short_side: int | None
    long_side: int | None
    size: str | None = None
    ratios: tuple[float, ...] | None = None
    flip: bool = False
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scale_shift: tuple[float, float] | None = None
    device: str | None
    out: Path | None
    as_json: bool


def run_predict(options: PredictRequest) -> None:
    """Run `pvtctl predict`. Raises UsageError; PvtctlError if no image can be read or nothing can be written."""
    if options.weights is None:
        raise UsageError(
            "predict needs --weights", "--weights FILE, the folder of a run, or a name of `pvtctl weights ls`"
        )
    if options.out is not None and options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise UsageError(f"--out {options.out} is there already", "name a new folder; nothing is ever overwritten")
    if options.out is not None:
        require_place(options.out)
    from pvtctl.tasks.predict import find_images
    from pvtctl.weights.describe import inspect_checkpoint

    images = find_images(options.images)
    checkpoint = inspect_checkpoint(options.weights, options.backbone)
    _check_options(options, checkpoint)
    if checkpoint.task is not None:
        _predict(options, checkpoint, images)
    elif checkpoint.foreign is not None:
        raise UsageError(
            f"{checkpoint.path} holds {checkpoint.foreign}, which pvtctl does not build",
            "docs/checkpoints.md lists what is read",
        )
    else:
        raise UsageError(
            f"{checkpoint.path} has no head, so it cannot predict",
            f"train one: pvtctl finetune DATA --weights {options.weights}",
        )


def _check_options(options: PredictRequest, checkpoint: Inspected) -> None:
    """Raise UsageError for an option that the weights' task does not use."""
    from pvtctl.tasks.registry import TASK_SPECS, tasks_taking

    readers = {name: tasks_taking(name) for name in (*_option_names(), "scale_shift")}
    readers["out"] = tuple(name for name, spec in TASK_SPECS.items() if spec.writes_predictions)
    task = checkpoint.task
    for name, tasks in readers.items():
        if task is not None and task not in tasks and getattr(options, name) not in (None, False):
            hint = "leave it out; --json prints everything" if name == "out" else "leave it out"
            raise UsageError(
                f"--{name.replace('_', '-')} is for {' and '.join(tasks)}, and {checkpoint.path} is for {task}", hint
            )


def _option_names() -> list[str]:
    from pvtctl.tasks.base import PredictOptions

    return list(PredictOptions.__annotations__)


def _predict(options: PredictRequest, checkpoint: Inspected, images: Images) -> None:
    """Predict all images, write the files, and print a table or JSON."""
    from pvtctl.engine import single
    from pvtctl.tasks.base import PredictionRequest
    from pvtctl.tasks.registry import task_spec

    spec = task_spec(str(checkpoint.task))
    said: Any = {name: getattr(options, name) for name in _option_names()}
    said["size"] = parse_size(options.size) if options.size else None
    out = options.out
    if out is None and spec.writes_predictions and not options.as_json:
        out = _default_out(options)
    request = PredictionRequest(checkpoint, single(options.device).device, said, options.scale_shift)
    writer = spec.prediction_writer(request, images, out)
    note(f"weights: {options.weights}, {writer.description}")
    skipped: dict[str, str] = {}
    files: dict[str, Path] = {}
    turned = 0
    try:
        turned = _predict_all(writer, images, skipped)
    finally:  # after Ctrl-C too: keep finished predictions, in complete files
        if len(writer):
            files = writer.finish()
    say_skipped_images(skipped, turned if writer.tells_turned else 0)
    if not len(writer):
        raise nothing_read(skipped)
    if options.as_json:
        document = {"weights": options.weights, "backbone": checkpoint.backbone, **writer.document()}
        print_json(document | {"skipped": skipped} | writer.places(files))
        return
    title, columns, rows = writer.table()
    if rows:
        table(title, columns, rows)
    else:
        print(title)
    if remark := writer.remark():
        say(remark)
    for name, path in files.items():
        print(f"{name}: {path}")


def _predict_all(writer: PredictionWriter, images: Images, skipped: dict[str, str]) -> int:
    """Number of images with EXIF rotation; unreadable ones are added to `skipped`, with the reason."""
    from pvtctl.data.images import BadImage
    from pvtctl.engine import Progress
    from pvtctl.tasks.predict import read_pixels

    turned = 0
    with Progress("predict", len(images.names), unit="images") as progress:
        for number, name in zip(images.ids, images.names, strict=True):
            try:
                pixels, asks = read_pixels(images.folder / name)
            except (BadImage, OSError) as error:
                skipped[name] = getattr(error, "strerror", None) or str(error)
            else:
                writer.add(name, number, pixels)
                turned += asks
            progress.advance()
    return turned


def _default_out(options: PredictRequest) -> Path:
    """`<runs>/predict-<weights>-<images>`, with a number if it exists."""
    parts = [Path(part).name or part for part in (str(options.weights), options.images[0])]
    label = "-".join(re.sub(r"[^\w.+-]+", "_", part) for part in parts)
    out = runs_root() / f"predict-{label}"
    number = 2
    while out.exists():
        out, number = runs_root() / f"predict-{label}-{number}", number + 1
    return out


def say_skipped_images(skipped: dict[str, str], turned: int) -> None:
    for name, reason in list(skipped.items())[:NAMED]:
        say(f"skipped {name}: {reason}")
    if len(skipped) > NAMED:
        say(f"skipped {len(skipped) - NAMED} more")
    if turned:
        which = "1 image has" if turned == 1 else f"{turned} images have"
        say(f"note: {which} an EXIF rotation, which is ignored, as in training")


def nothing_read(skipped: dict[str, str]) -> PvtctlError:
    name, reason = next(iter(skipped.items()))
    what = "the image could not" if len(skipped) == 1 else f"none of the {len(skipped)} images could"
    return PvtctlError(
        f"{what} be read; {name}: {reason}",
        "copy it again; of a video, write frames first: ffmpeg -i clip.mp4 frames/%06d.jpg",
    )
