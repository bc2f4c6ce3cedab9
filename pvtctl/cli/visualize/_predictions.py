"""`pvtctl visualize predictions`: predictions next to ground truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pvtctl.cli._options import DEVICE, argument, bundle, examples, option, shared
from pvtctl.cli._resolve_recipe import NAMED_DATA, note
from pvtctl.cli.visualize._options import ModelChoice, Output, picture_names
from pvtctl.errors import UsageError
from pvtctl.io.names import plural

if TYPE_CHECKING:
    from pvtctl.tasks.base import ComparedImage, Comparer


class Pick(StrEnum):
    """Images of a data set to draw."""

    first = "first"
    worst = "worst"
    best = "best"
    random = "random"


COUNT = 6
EPILOG = examples(
    "pvtctl visualize predictions runs/my-detector",
    "pvtctl visualize predictions runs/my-segmenter --pick worst --count 4 --out worst",
    "pvtctl visualize predictions runs/my-detector street.jpg room.jpg --score-threshold 0.5",
    "pvtctl visualize predictions coco --weights detector.safetensors --pick random --seed 3",
)


@bundle
class ComparisonOptions(ModelChoice):
    """Options of `pvtctl visualize predictions`."""

    words: list[str] | None = argument(
        default=None,
        metavar="[RUN] [DATA | IMAGES...]",
        help="A run directory (or --weights), then data with ground truth, or images. Default: the run's data.",
    )
    split: str | None = option(help="For a data set: train or val. Default: val.")
    count: int | None = option(min=1, max=500, help="For a data set: pictures to draw. Default: 6.")
    pick: Pick | None = option(
        help="For a data set: which images. Worst and best predict the whole split. Default: first."
    )
    seed: int = option(default=0, min=0, help="Seed of --pick random.")
    score_threshold: float = option(
        default=0.3, min=0, max=1, help="Detectors: lowest score of detections to draw and match."
    )
    device: str | None = shared(DEVICE)


def predictions(*, options: ComparisonOptions, output: Output) -> None:
    """Draw predictions next to the ground truth of a data set, or on your own images.

    Detectors: ground truth on the left, detections on the right, missed and wrong ones dashed with their error type.
    Segmentation: image, ground truth, prediction and errors. Depth: the same, with scales. Classifiers: the most likely
    classes, with the true one marked.

    Worst and best are by F1 score of the detections (IoU 0.5), by mean IoU over the classes in an image, by AbsRel, and
    by loss.
    """
    source, rest = _source(list(options.words or ()), options.weights)
    if len(rest) == 1 and is_data(rest[0]):
        _of_data(source, rest[0], options, output)
    elif rest:
        for option in ("split", "count", "pick"):
            if getattr(options, option) is not None:
                raise UsageError(f"--{option} is for data with ground truth, and images were named", "leave it out")
        _of_images(source, rest, options, output)
    elif any((Path(source) / name).is_file() for name in ("run.json", "recipe.yaml")):
        from pvtctl.runs.read_run import read_run

        read_run(Path(source), finished=False)  # report an unfinished run
        _of_data(source, None, options, output)
    else:
        raise UsageError(f"no input for {source}: neither data nor images are named", "add scenes, or street.jpg")


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


def _of_data(source: str, target: str | None, options: ComparisonOptions, output: Output) -> None:
    """Predictions next to ground truth; `target` None: on the data that the run `source` was trained on."""
    from pvtctl.cli.eval import EvalOptions
    from pvtctl.cli.eval._plan import make_eval_plan
    from pvtctl.cli.predict import say_skipped_images
    from pvtctl.runs.load_run import load_run
    from pvtctl.tasks.from_recipe import open_split
    from pvtctl.tasks.registry import task_spec

    split, pick, count = options.split or "val", options.pick or Pick.first, options.count or COUNT
    backbone, device = options.backbone, options.device
    weights = source if target else None
    plan = make_eval_plan(
        EvalOptions(target=target or source, weights=weights, backbone=backbone, device=device, as_json=True)
    )
    opened = open_split(plan.recipe, split, "evaluate")
    loaded = load_run(source, device=device, backbone=backbone)
    comparer = task_spec(loaded.task).comparer(loaded.predictor, plan.recipe, opened, threshold=options.score_threshold)
    total = len(opened)
    pictures = output.open("predictions", Path(source).name, min(count, total))
    shown, skipped = _picked(comparer, opened.ids, pick, count, options.seed)
    say_skipped_images(skipped)
    if not shown:
        raise UsageError(f"no image of {split} could be read", "`pvtctl data check FOLDER` lists every fault")
    for stem, each in zip(picture_names([safe_name(each.id) for each in shown]), shown, strict=True):
        pictures.add(stem, each.draw, title=each.id, caption=each.verdict, id=each.id, verdict=each.verdict)
    how = {Pick.first: "the first", Pick.random: "randomly chosen"}.get(pick, f"the {pick.value}")
    pictures.close(
        f"Predictions of {source}",
        f"{len(shown)} of {plural(total, f'{split} image')} ({how}): predictions next to ground truth.",
        {"weights": source, "task": plan.recipe.task, "split": split, "pick": pick.value, "skipped": skipped},
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


def _of_images(source: str, words: list[str], options: ComparisonOptions, output: Output) -> None:
    """Predictions on images without ground truth."""
    from pvtctl.cli.predict import ImageReader
    from pvtctl.data.images import to_rgb
    from pvtctl.runs.load_run import load_run
    from pvtctl.tasks.predict import find_images

    images, threshold = find_images(words), options.score_threshold
    loaded = load_run(source, device=options.device, backbone=options.backbone)
    note(f"{source}, for {loaded.task}; {plural(len(images.names), 'image')} without ground truth")
    pictures = output.open("predictions", Path(source).name, len(images.names))
    stems = dict(zip(images.names, picture_names(images.names), strict=True))
    reader = ImageReader(images, loaded.reading)
    for name, _, pixels in reader.read("predictions"):
        prediction = loaded.predictor(pixels)
        said = loaded.predictor.in_words(prediction, threshold)
        draw = partial(
            loaded.predictor.draw, image=to_rgb(pixels), prediction=prediction, title=name, threshold=threshold
        )
        pictures.add(stems[name], draw, title=name, caption=said, file=str(images.folder / name), verdict=said)
    reader.report()
    pictures.close(
        f"Predictions of {source}",
        f"{plural(len(pictures.written), 'image')} without ground truth.",
        {"weights": source, "task": loaded.task, "skipped": reader.skipped},
    )


def safe_name(name: str) -> str:
    """Convert a file name in a data set to a path that stays below the folder of pictures."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
    return "/".join(parts) or "image"
