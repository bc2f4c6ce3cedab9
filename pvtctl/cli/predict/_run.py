"""What `pvtctl predict` does: choose images and model, run it, write and show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._console import print_json, say, table
from pvtctl.cli._resolve_recipe import note
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.files import require_place
from pvtctl.runs.paths import runs_root

if TYPE_CHECKING:
    from pvtctl.models.structures import Detections
    from pvtctl.tasks.detection.predict import DetectorUse
    from pvtctl.tasks.detection.scoring.columns import Columns
    from pvtctl.tasks.predict import Images
    from pvtctl.weights.describe import Inspected

DRAW_FROM = 0.3
"""Score of the weakest detection that is drawn and counted."""
HEADS_OWN = 0.05
"""Below that, a head must be asked for what it would drop itself."""
NAMED = 5
"""Skipped files that are named one by one."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """The options of `pvtctl predict`; None where the user left it open."""

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


@dataclass
class Seen:
    """What came of the images so far."""

    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(height, width) of every image that could be read."""
    found: list[Columns] = field(default_factory=list)
    """All detections of each of them."""
    shown: dict[str, Detections] = field(default_factory=dict)
    """Those of at least the threshold."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Files that could not be read, and why."""
    turned: int = 0
    """Images that ask to be turned."""


def run_predict(options: PredictOptions) -> None:
    """Raises UsageError; PvtctlError when no image could be read or nothing can be written."""
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
    if checkpoint.dense is not None:
        _answer(options, checkpoint, images)
    elif checkpoint.detector is not None:
        _detect(options, checkpoint, images)
    elif checkpoint.head is not None:
        _classify(options, checkpoint, images)
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


def _check_options(options: PredictOptions, checkpoint: Inspected) -> None:
    """Raise UsageError for an option that the weights' task does not read."""
    from pvtctl.tasks.predict import READ_BY

    task = checkpoint.task
    for name, tasks in {**READ_BY, "out": ("detection", "segmentation", "depth")}.items():
        if task is not None and task not in tasks and getattr(options, name) not in (None, False):
            hint = "leave it out; --json prints all that there is" if name == "out" else "leave it out"
            raise UsageError(
                f"--{name.replace('_', '-')} is for {' and '.join(tasks)}, and {checkpoint.path} is for {task}", hint
            )


def _answer(options: PredictOptions, checkpoint: Inspected, images: Images) -> None:
    from pvtctl.cli._console import parse_size
    from pvtctl.cli.predict._dense import DenseOptions, predict_dense
    from pvtctl.tasks.dense.predict import asked_sides

    size = parse_size(options.size) if options.size else asked_sides(options.short_side, options.long_side)
    predict_dense(
        DenseOptions(
            weights=str(options.weights),
            size=size,
            ratios=options.ratios or (),
            flip=options.flip,
            window=options.window,
            stride=options.stride,
            scale_shift=options.scale_shift,
            device=options.device,
            out=options.out if options.out is not None or options.as_json else _default_out(options),
            as_json=options.as_json,
        ),
        checkpoint,
        images,
        say_skipped,
        nothing_read,
    )


def _detect(options: PredictOptions, checkpoint: Inspected, images: Images) -> None:
    from pvtctl.engine import single
    from pvtctl.models.structures import DetectOptions
    from pvtctl.tasks.detection.predict import DetectorUse

    threshold = DRAW_FROM if options.score_threshold is None else options.score_threshold
    lowest = threshold if threshold < HEADS_OWN else None
    use = DetectorUse(
        checkpoint,
        single(options.device).device,
        options=DetectOptions(lowest, options.nms_iou, options.max_detections),
        short_side=options.short_side,
        long_side=options.long_side,
    )
    note(
        f"weights: {options.weights}, {checkpoint.backbone} + {use.head}, {len(use.class_names)} classes; "
        f"{len(images.names)} image{'s' * (len(images.names) != 1)} at a short side of {use.sizes[0]} (long side up to {use.sizes[1]})"
    )
    out = options.out if options.out is not None or options.as_json else _default_out(options)
    seen = Seen()
    try:
        _look_at_all(use, images, seen, threshold, out)
    finally:  # after Ctrl-C too: what was seen is kept, in whole files
        files = _write(use, images, seen, out) if out is not None and seen.sizes else {}
    say_skipped(seen.skipped, seen.turned)
    if not seen.sizes:
        raise nothing_read(seen.skipped)
    if options.as_json:
        _print_detections(options, checkpoint, use, images, seen, threshold, files)
    else:
        _show_detections(use, seen, threshold, files)


def _look_at_all(use: DetectorUse, images: Images, seen: Seen, threshold: float, out: Path | None) -> None:
    from pvtctl.data.images import BadImage
    from pvtctl.engine import Progress
    from pvtctl.tasks.detection.predict import above, to_columns
    from pvtctl.tasks.predict import read_pixels

    with Progress("predict", len(images.names), unit="images") as progress:
        for number, name in zip(images.ids, images.names, strict=True):
            try:
                pixels, turned = read_pixels(images.folder / name)
            except (BadImage, OSError) as error:
                seen.skipped[name] = getattr(error, "strerror", None) or str(error)
                progress.advance()
                continue
            found = use(pixels)
            seen.found.append(to_columns(found, number))
            shown = above(found, threshold)
            if out is not None:
                _draw(pixels, shown, use, out / "images" / name)
            seen.shown[name] = shown
            seen.sizes[name] = (int(pixels.shape[1]), int(pixels.shape[2]))
            seen.turned += turned
            progress.advance()


def _draw(pixels: Any, shown: Detections, use: DetectorUse, path: Path) -> None:
    from pvtctl.tasks.detection.pictures import draw_detections
    from pvtctl.tasks.predict import save_picture

    if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        path = path.with_name(f"{path.name}.png")
    image = pixels.permute(1, 2, 0).contiguous().numpy()
    save_picture(draw_detections(image, shown, use.class_names), path)


def _write(use: DetectorUse, images: Images, seen: Seen, out: Path) -> dict[str, Path]:
    """The results file and what its ids mean."""
    import json

    from pvtctl.io.files import write_text
    from pvtctl.tasks.detection.predict import coco_images
    from pvtctl.tasks.detection.scoring.columns import join
    from pvtctl.tasks.detection.scoring.results import write_results

    files = {"pictures": out / "images", "detections": out / "detections.json", "ids": out / "images.json"}
    truth = coco_images(images, seen.sizes, use)
    write_results(files["detections"], join(seen.found, masks=use.has_masks), use.category_ids, truth)
    write_text(files["ids"], json.dumps(truth, indent=1))
    return files


def _show_detections(use: DetectorUse, seen: Seen, threshold: float, files: dict[str, Path]) -> None:
    counts, images, best = _per_class(use, seen)
    rows = [[name, counts[name], images[name], f"{best[name]:.2f}"] for name, _ in counts.most_common()]
    found = sum(counts.values())
    title = f"{found} objects of {len(counts)} classes in {len(seen.sizes)} images (score {threshold:g} or more)"
    if rows:
        table(title, ["class", "objects", "images", "best score"], rows)
    else:
        print(title)
        top = max((float(each.scores.max()) for each in seen.found if len(each)), default=None)
        say("nothing was detected at all" if top is None else f"the best score is {top:.2f}; see --score-threshold")
    for name, path in files.items():
        print(f"{name}: {path}")


def _per_class(use: DetectorUse, seen: Seen) -> tuple[Counter[str], Counter[str], dict[str, float]]:
    """Objects, images and the best score of each class that is shown."""
    counts: Counter[str] = Counter()
    images: Counter[str] = Counter()
    best: dict[str, float] = {}
    for shown in seen.shown.values():
        names = [use.class_names[label] for label in shown.labels.tolist()]
        counts.update(names)
        images.update(set(names))
        for name, score in zip(names, shown.scores.tolist(), strict=True):
            best[name] = max(score, best.get(name, 0.0))
    return counts, images, best


def _print_detections(
    options: PredictOptions,
    checkpoint: Inspected,
    use: DetectorUse,
    images: Images,
    seen: Seen,
    threshold: float,
    files: dict[str, Path],
) -> None:
    counts, _, _ = _per_class(use, seen)
    print_json(
        {
            "weights": options.weights,
            "backbone": checkpoint.backbone,
            "head": use.head,
            "score_threshold": threshold,
            "counts": dict(counts.most_common()),
            "images": [
                {
                    "id": number,
                    "file": str(images.folder / name),
                    "height": seen.sizes[name][0],
                    "width": seen.sizes[name][1],
                    "detections": _as_dicts(seen.shown[name], use.class_names),
                }
                for number, name in zip(images.ids, images.names, strict=True)
                if name in seen.sizes
            ],
            "skipped": seen.skipped,
            "files": {name: str(path) for name, path in files.items()},
        }
    )


def _as_dicts(found: Detections, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Boxes are left, top, right, bottom in pixels of the image."""
    return [
        {"class": class_names[label], "score": round(score, 5), "box": [round(side, 2) for side in box]}
        for label, score, box in zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    ]


def _classify(options: PredictOptions, checkpoint: Inspected, images: Images) -> None:
    from pvtctl.data.images import BadImage
    from pvtctl.engine import Progress, single
    from pvtctl.tasks.classification.predict import ClassifierUse, likeliest
    from pvtctl.tasks.predict import read_pixels

    use = ClassifierUse(checkpoint, single(options.device).device)
    note(f"weights: {options.weights}, {checkpoint.backbone}, {len(use.class_names)} classes")
    found: dict[str, list[tuple[str, float]]] = {}
    skipped: dict[str, str] = {}
    with Progress("predict", len(images.names), unit="images") as progress:
        for name in images.names:
            try:
                found[name] = likeliest(use(read_pixels(images.folder / name)[0]), use.class_names)
            except (BadImage, OSError) as error:
                skipped[name] = getattr(error, "strerror", None) or str(error)
            progress.advance()
    say_skipped(skipped, 0)
    if not found:
        raise nothing_read(skipped)
    if options.as_json:
        listed = [
            {
                "file": str(images.folder / name),
                "classes": [{"class": label, "score": round(score, 5)} for label, score in best],
            }
            for name, best in found.items()
        ]
        print_json({"weights": options.weights, "backbone": checkpoint.backbone, "images": listed, "skipped": skipped})
        return
    most = max(len(best) for best in found.values())
    rows = [[name, *(f"{label} {100 * score:.1f} %" for label, score in best)] for name, best in found.items()]
    table(f"The likeliest classes of {len(found)} images", ["image", *map(str, range(1, most + 1))], rows)


def _default_out(options: PredictOptions) -> Path:
    """`<runs>/predict-<weights>-<images>`, with a number where that is taken."""
    parts = [Path(part).name or part for part in (str(options.weights), options.images[0])]
    label = "-".join(re.sub(r"[^\w.+-]+", "_", part) for part in parts)
    out = runs_root() / f"predict-{label}"
    number = 2
    while out.exists():
        out, number = runs_root() / f"predict-{label}-{number}", number + 1
    return out


def say_skipped(skipped: dict[str, str], turned: int) -> None:
    for name, reason in list(skipped.items())[:NAMED]:
        say(f"skipped {name}: {reason}")
    if len(skipped) > NAMED:
        say(f"skipped {len(skipped) - NAMED} more")
    if turned:
        which = "1 image asks" if turned == 1 else f"{turned} images ask"
        say(f"note: {which} to be turned (EXIF), which is not done, as in training")


def nothing_read(skipped: dict[str, str]) -> PvtctlError:
    name, reason = next(iter(skipped.items()))
    what = "the image could not" if len(skipped) == 1 else f"none of the {len(skipped)} images could"
    return PvtctlError(
        f"{what} be read; {name}: {reason}",
        "copy it again; of a video, write frames first: ffmpeg -i clip.mp4 frames/%06d.jpg",
    )
