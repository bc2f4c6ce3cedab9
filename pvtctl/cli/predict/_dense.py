"""What `pvtctl predict` does with a segmentation or depth model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._console import print_json, say, table
from pvtctl.cli._resolve_recipe import note

if TYPE_CHECKING:
    from pvtctl.tasks.dense.predict import DenseUse
    from pvtctl.tasks.predict import Images
    from pvtctl.weights.describe import Inspected

MOST_CLASSES = 12
"""Rows of the table of classes."""


@dataclass(frozen=True, kw_only=True)
class DenseOptions:
    """The options of `predict` that segmentation and depth read; None where the user left it open."""

    weights: str
    size: tuple[int, int] | None
    ratios: tuple[float, ...]
    flip: bool
    window: tuple[int, int] | None
    stride: tuple[int, int] | None
    scale_shift: tuple[float, float] | None
    device: str | None
    out: Path | None
    as_json: bool


@dataclass
class Seen:
    """What came of the images so far."""

    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    """File -> what is printed of it."""
    skipped: dict[str, str] = field(default_factory=dict)
    turned: int = 0


def predict_dense(
    options: DenseOptions,
    checkpoint: Inspected,
    images: Images,
    on_skipped: Callable[[dict[str, str], int], None],
    nothing_read: Callable[[dict[str, str]], Exception],
) -> None:
    """Write a map for every image, and print a summary. Raises UsageError; PvtctlError when no image could be read."""
    from pvtctl.engine import single
    from pvtctl.tasks.dense.inference import DenseTesting
    from pvtctl.tasks.dense.predict import DenseUse
    from pvtctl.tasks.dense.windows import sliding_window

    window = sliding_window(options.window, options.stride)
    use = DenseUse(
        checkpoint,
        single(options.device).device,
        testing=DenseTesting(options.ratios, options.flip, window),
        size=options.size,
        scale_shift=options.scale_shift,
    )
    what = f"{len(use.class_names)} classes" if use.task == "segmentation" else f"depth in {_UNITS[use.space]}"
    note(
        f"weights: {options.weights}, {checkpoint.what}, {what}; {len(images.names)} image{'s' * (len(images.names) != 1)} at {use.tested_at}"
    )
    seen = Seen()
    _look_at_all(use, images, seen, options.out)
    on_skipped(seen.skipped, seen.turned)
    if not seen.images:
        raise nothing_read(seen.skipped)
    if options.as_json:
        print_json(
            {
                "weights": options.weights,
                "backbone": checkpoint.backbone,
                "head": use.head,
                "task": use.task,
                **({"classes": use.class_names} if use.task == "segmentation" else {"space": use.space}),
                "images": [{"file": str(images.folder / name), **entry} for name, entry in seen.images.items()],
                "skipped": seen.skipped,
                "folder": options.out and str(options.out),
            }
        )
        return
    _show(use, seen)
    print(f"maps: {options.out}")


_UNITS = {"metres": "metres", "inverse": "inverse depth, without a unit"}


def _look_at_all(use: DenseUse, images: Images, seen: Seen, out: Path | None) -> None:
    from pvtctl.data.images import BadImage
    from pvtctl.engine import Progress
    from pvtctl.tasks.predict import read_pixels

    write = _write_labels if use.task == "segmentation" else _write_depth
    with Progress("predict", len(images.names), unit="images") as progress:
        for name in images.names:
            try:
                pixels, turned = read_pixels(images.folder / name)
            except (BadImage, OSError) as error:
                seen.skipped[name] = getattr(error, "strerror", None) or str(error)
                progress.advance()
                continue
            answer = use(pixels)
            entry: dict[str, Any] = {"height": int(pixels.shape[1]), "width": int(pixels.shape[2])}
            if out is not None:
                files = write(use, pixels, answer, (out / name).with_suffix(""))
                entry["files"] = {kind: str(path) for kind, path in files.items()}
            seen.images[name] = entry | _summary(use, answer)
            seen.turned += turned
            progress.advance()


def _write_labels(use: DenseUse, pixels: Any, labels: Any, stem: Path) -> dict[str, Path]:
    """`NAME.png`, the label map with its palette, and `NAME_view.png` over the image."""
    from pvtctl.tasks.predict import save_picture
    from pvtctl.tasks.segmentation.pictures import draw_overlay, write_label_map
    from pvtctl.views.class_colours import class_colours

    colours = class_colours(len(use.class_names), use.palette)
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = {"labels": stem.with_name(f"{stem.name}.png"), "view": stem.with_name(f"{stem.name}_view.png")}
    write_label_map(files["labels"], labels, colours)
    image = pixels.permute(1, 2, 0).contiguous().numpy()
    save_picture(draw_overlay(image, labels, use.class_names, colours), files["view"])
    return files


def _write_depth(use: DenseUse, pixels: Any, depth: Any, stem: Path) -> dict[str, Path]:
    """`NAME.png` (16 bits), `NAME.npy` and `NAME_view.png`."""
    from pvtctl.tasks.depth.pictures import write_depth

    stem.parent.mkdir(parents=True, exist_ok=True)
    return write_depth(stem.parent, stem.name, depth, space=use.space)  # type: ignore[arg-type]


def _summary(use: DenseUse, answer: Any) -> dict[str, Any]:
    """What is said of one image: shares of the classes, or the range of the depth."""
    import numpy as np

    if use.task == "segmentation":
        counts = np.bincount(answer.ravel(), minlength=len(use.class_names))
        shares = {use.class_names[label]: round(float(counts[label] / answer.size), 5) for label in np.argsort(-counts)}
        return {"classes": {name: share for name, share in shares.items() if share}}
    low, middle, high = (float(value) for value in np.quantile(answer, [0.01, 0.5, 0.99]))
    return {"depth": {"percentile_1": low, "median": middle, "percentile_99": high}}


def _show(use: DenseUse, seen: Seen) -> None:
    if use.task == "depth":
        rows = [[name, *(f"{value:.3g}" for value in entry["depth"].values())] for name, entry in seen.images.items()]
        unit = "m" if use.space == "metres" else "inverse, no unit"
        table(
            f"Depth ({unit}) of {len(rows)} image{'s' * (len(rows) != 1)}",
            ["image", "1st percentile", "median", "99th percentile"],
            rows,
        )
        return
    total = sum(entry["height"] * entry["width"] for entry in seen.images.values())
    pixels: dict[str, float] = {}
    images: dict[str, int] = {}
    for entry in seen.images.values():
        for name, share in entry["classes"].items():
            pixels[name] = pixels.get(name, 0.0) + share * entry["height"] * entry["width"]
            images[name] = images.get(name, 0) + 1
    most = sorted(pixels, key=pixels.__getitem__, reverse=True)
    shares: list[list[Any]] = [
        [name, f"{100 * pixels[name] / total:.1f}", images[name]] for name in most[:MOST_CLASSES]
    ]
    table(f"{len(most)} classes in {len(seen.images)} images", ["class", "pixels, %", "images"], shares)
    if len(most) > MOST_CLASSES:
        say(f"and {len(most) - MOST_CLASSES} more classes (--json lists all)")
