"""`pvtctl visualize predictions`: predictions next to ground truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvtctl.cli._resolve_recipe import NAMED_DATA, note
from pvtctl.cli.visualize._options import AsJson, Backbone, Device, FormatOption, Out, Pictures, Weights, picture_names
from pvtctl.errors import UsageError

if TYPE_CHECKING:
    from pvtctl.runs.load_run import LoadedRun
    from pvtctl.tasks.base import ComparedImage, Comparer


class Pick(StrEnum):
    """Images of a data set to draw."""

    first = "first"
    worst = "worst"
    best = "best"
    random = "random"


COUNT = 6
EPILOG = """Examples:

pvtctl visualize predictions runs/my-detector

pvtctl visualize predictions runs/my-segmenter --pick worst --count 4 --out worst

pvtctl visualize predictions runs/my-detector street.jpg room.jpg --score-threshold 0.5

pvtctl visualize predictions coco --weights detector.safetensors --pick random --seed 3
"""


def predictions(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN] [DATA | IMAGES...]",
            help="A run directory (or --weights), then data with ground truth, or images. Default: the run's data.",
        ),
    ] = None,
    weights: Weights = None,
    backbone: Backbone = None,
    split: Annotated[str | None, typer.Option(help="For a data set: train or val. Default: val.")] = None,
    count: Annotated[
        int | None, typer.Option(min=1, max=500, help="For a data set: pictures to draw. Default: 6.")
    ] = None,
    pick: Annotated[
        Pick | None,
        typer.Option(help="For a data set: which images. Worst and best predict the whole split. Default: first."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of --pick random.")] = 0,
    score_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Detectors: lowest score of detections to draw and match.")
    ] = 0.3,
    device: Device = None,
    out: Out = None,
    form: FormatOption = None,
    as_json: AsJson = False,
) -> None:
    """Draw predictions next to the ground truth of a data set, or on your own images.

    Detectors: ground truth on the left, detections on the right, missed and wrong ones dashed with their error type.
    Segmentation: image, ground truth, prediction and errors. Depth: the same, with scales. Classifiers: the most likely
    classes, with the true one marked.

    Worst and best are by F1 score of the detections (IoU 0.5), by mean IoU over the classes in an image, by AbsRel, and
    by loss.
    """
    source, rest = _source(list(words or ()), weights)
    if len(rest) == 1 and is_data(rest[0]):
        target: str | None = rest[0]
    elif rest:
        for option, value in (("split", split), ("count", count), ("pick", pick)):
            if value is not None:
                raise UsageError(f"--{option} is for data with ground truth, and images were named", "leave it out")
        _of_images(source, rest, backbone, score_threshold, device, (out, form, as_json))
        return
    elif any((Path(source) / name).is_file() for name in ("run.json", "recipe.yaml")):
        from pvtctl.runs.read_run import read_run

        read_run(Path(source), finished=False)  # report an unfinished run
        target = None
    else:
        raise UsageError(f"no input for {source}: neither data nor images are named", "add scenes, or street.jpg")
    _of_data(
        source,
        target,
        backbone,
        (split or "val", pick or Pick.first, count or COUNT, seed),
        score_threshold,
        device,
        (out, form, as_json),
    )


_Writing = tuple[Path | None, Any, bool]
"""--out, --format, --json."""


def _source(words: list[str], weights: str | None) -> tuple[str, list[str]]:
    """The model, and the remaining words: data or images."""
    if weights is not None:
        return weights, words
    if not words:
        raise UsageError(
            "which model? Neither a run nor --weights is given", "for example: pvtctl visualize predictions runs/my-run"
        )
    if is_data(words[0]) or (Path(words[0]).is_file() and Path(words[0]).suffix.lower() in _IMAGES):
        raise UsageError(
            f"{words[0]} is not a model", f"name a run before it, or add --weights: {words[0]} --weights W"
        )
    return words[0], words[1:]


_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


def is_data(word: str) -> bool:
    """Whether a word is data with ground truth: a known name, or a folder in a known layout."""
    from pvtctl.data.layouts import guess_layout

    folder = Path(word).expanduser()
    if word in NAMED_DATA:
        return True
    return folder.is_dir() and (guess_layout(folder) is not None or (folder / "val").is_dir())


def _of_data(
    source: str,
    target: str | None,
    backbone: str | None,
    choice: tuple[str, Pick, int, int],
    threshold: float,
    device: str | None,
    writing: _Writing,
) -> None:
    """Predictions next to ground truth; `target` None: on the data that the run `source` was trained on."""
    from pvtctl.cli.eval._plan import EvalOptions, make_eval_plan
    from pvtctl.cli.predict._run import say_skipped_images
    from pvtctl.runs.load_run import load_run
    from pvtctl.tasks.from_recipe import open_split
    from pvtctl.tasks.registry import task_spec

    split, pick, count, seed = choice
    out, form, as_json = writing
    plan = make_eval_plan(
        EvalOptions(
            target=target or source,
            weights=source if target else None,
            backbone=backbone,
            head=None,
            task=None,
            folder=None,
            scale_shift=None,
            size=None,
            resize=None,
            batch_size=None,
            profile=None,
            partial=False,
            device=device,
            out=None,
            as_json=True,
        )
    )
    opened = open_split(plan.recipe, split, "evaluate")
    loaded = load_run(source, device=device, backbone=backbone)
    comparer = task_spec(loaded.task).comparer(loaded.predictor, plan.recipe, opened, threshold=threshold)
    total = len(opened)
    pictures = Pictures.open("predictions", Path(source).name, min(count, total), out, form)
    shown, skipped = _picked(comparer, opened.ids, pick, count, seed)
    say_skipped_images(skipped, 0)
    if not shown:
        raise UsageError(f"no image of {split} could be read", "`pvtctl data check FOLDER` lists every fault")
    for stem, each in zip(picture_names([safe_name(each.id) for each in shown]), shown, strict=True):
        pictures.add(stem, each.draw, title=each.id, caption=each.verdict, id=each.id, verdict=each.verdict)
    how = {Pick.first: "the first", Pick.random: "randomly chosen"}.get(pick, f"the {pick.value}")
    pictures.close(
        f"Predictions of {source}",
        f"{len(shown)} of {total} {split} images ({how}): predictions next to ground truth.",
        {"weights": source, "task": plan.recipe.task, "split": split, "pick": pick.value, "skipped": skipped},
        as_json=as_json,
    )


def _picked(
    comparer: Comparer, names: Sequence[str], pick: Pick, count: int, seed: int
) -> tuple[list[ComparedImage], dict[str, str]]:
    """The predictions to draw, and unreadable images with the reason."""
    import numpy as np

    from pvtctl.data.images import BadImage
    from pvtctl.engine import Progress

    order: Sequence[int] = range(len(names))
    ranked = pick in (Pick.worst, Pick.best)
    if pick is Pick.random:
        order = np.random.default_rng(seed).permutation(len(names)).tolist()
    shown: list[ComparedImage] = []
    goodness: dict[int, float] = {}
    skipped: dict[str, str] = {}
    with Progress("predictions", len(names) if ranked else min(count, len(names)), unit="images") as progress:
        for index in order:
            try:
                compared = comparer(index)
            except (BadImage, OSError) as error:
                skipped[names[index]] = getattr(error, "strerror", None) or str(error)
                continue
            finally:
                progress.advance()
            if ranked:  # their pixels would fill the memory: those chosen are read again
                if math.isfinite(compared.goodness):
                    goodness[index] = compared.goodness
                continue
            shown.append(compared)
            if len(shown) == count:
                break
    if ranked:
        sign = 1 if pick is Pick.worst else -1
        shown = [comparer(at) for at in sorted(goodness, key=lambda at: (sign * goodness[at], at))[:count]]
    return shown, skipped


def _of_images(
    source: str, words: list[str], backbone: str | None, threshold: float, device: str | None, writing: _Writing
) -> None:
    """Predictions on images without ground truth."""
    from pvtctl.cli.predict._run import nothing_read, say_skipped_images
    from pvtctl.data.images import BadImage
    from pvtctl.engine import Progress
    from pvtctl.runs.load_run import load_run
    from pvtctl.tasks.predict import find_images, read_pixels

    out, form, as_json = writing
    images = find_images(words)
    loaded = load_run(source, device=device, backbone=backbone)
    note(f"{source}, for {loaded.task}; {len(images.names)} image{'s' * (len(images.names) != 1)} without ground truth")
    pictures = Pictures.open("predictions", Path(source).name, len(images.names), out, form)
    skipped: dict[str, str] = {}
    turned = 0
    with Progress("predictions", len(images.names), unit="images") as progress:
        for name, stem in zip(images.names, picture_names(images.names), strict=True):
            try:
                pixels, asks = read_pixels(images.folder / name)
            except (BadImage, OSError) as error:
                skipped[name] = getattr(error, "strerror", None) or str(error)
            else:
                turned += asks
                _add(pictures, loaded, name, stem, pixels, threshold, str(images.folder / name))
            progress.advance()
    say_skipped_images(skipped, turned)
    if not pictures.written:
        raise nothing_read(skipped)
    pictures.close(
        f"Predictions of {source}",
        f"{len(pictures.written)} images without ground truth.",
        {"weights": source, "task": loaded.task, "skipped": skipped},
        as_json=as_json,
    )


def _add(pictures: Pictures, loaded: LoadedRun, name: str, stem: str, pixels: Any, threshold: float, file: str) -> None:
    """Add a picture of one prediction."""
    from pvtctl.data.images import to_rgb

    predictor = loaded.predictor
    prediction = predictor(pixels)
    said = predictor.in_words(prediction, threshold)
    draw = partial(predictor.draw, image=to_rgb(pixels), prediction=prediction, title=name, threshold=threshold)
    pictures.add(stem, draw, title=name, caption=said, file=file, verdict=said)


def safe_name(name: str) -> str:
    """Convert a file name in a data set to a path that stays below the folder of pictures."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
    return "/".join(parts) or "image"
