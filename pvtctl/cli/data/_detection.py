"""What `pvtctl data` says of detection sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._console import say, table
from pvtctl.errors import UsageError

if TYPE_CHECKING:
    from pvtctl.data.convert.to_coco import Conversion
    from pvtctl.recipe.schema import DetectionData
    from pvtctl.tasks.detection.check import DetectionVerdict

_CLASS_ROWS = 40
"""More classes than these are not all printed."""

_LARGEST_TO_LIST = 64 << 20
"""Bytes of an annotation file that is still read only to name the number of classes."""


def print_figures(verdict: DetectionVerdict) -> None:
    """What the annotations hold, by split and by class."""
    from pvtctl.tasks.detection.check import class_rows

    if not verdict.splits:
        return
    table(
        "",
        ["split", "images", "without objects", "objects", "with mask", "crowds", "small", "medium", "large"],
        [
            [
                split,
                figures.images,
                figures.without_objects,
                figures.objects,
                figures.with_mask,
                figures.crowds,
                figures.small,
                figures.medium,
                figures.large,
            ]
            for split, figures in verdict.splits.items()
        ],
        caption="small: below 32x32 pixels of area, large: from 96x96. Crowd regions are neither learned nor scored.",
    )
    rows = class_rows(verdict)
    left = len(rows) - _CLASS_ROWS
    more = f"{left} rarer classes are not shown: --json lists all" if left > 0 else None
    table("", ["class", *verdict.splits], [list(row.values()) for row in rows[:_CLASS_ROWS]], caption=more)


def draw_detection(
    name: str,
    root: Path | None,
    output: Path,
    *,
    split: str,
    count: int,
    copies: int,
    side: int,
    seed: int,
    detection: DetectionData,
) -> None:
    """`data preview` of a detection set, with its masks where it has any."""
    from pvtctl.tasks.detection.data import DetectionDataset, open_detection_split
    from pvtctl.tasks.detection.pictures import draw_detections
    from pvtctl.tasks.detection.preview import draw_detection_preview

    def opened(with_masks: bool) -> DetectionDataset:
        return open_detection_split(
            name,
            root,
            split,
            detection=detection.model_dump(),
            training=split == "train",
            with_masks=with_masks,
            seed=seed,
            samples=count if name == "scenes" else None,
            image_size=side,
        )

    try:
        dataset = opened(True)
    except UsageError:  # boxes alone, or a fault that shows again
        dataset = opened(False)
    ids = draw_detection_preview(dataset, output, draw_detections, count=count, copies=copies, side=side)
    views = f"{copies} training views each" if dataset.training else "as evaluated"
    say(f"{output}: {len(ids)} of {len(dataset)} {split} images, {views}")


def found_coco(place: Path) -> dict[str, Any]:
    """Classes and images of a COCO set for `data ls`; large annotation files are not read for it."""
    from pvtctl.data.image_files import SUFFIXES
    from pvtctl.errors import PvtctlError
    from pvtctl.tasks.detection.coco import find_coco
    from pvtctl.tasks.detection.coco_file import load_coco

    row: dict[str, Any] = {}
    for split in ("train", "val"):
        try:
            folder, file = find_coco(place, split)
            row[split] = sum(path.name.lower().endswith(SUFFIXES) for path in folder.iterdir())
            if "classes" not in row and file.stat().st_size <= _LARGEST_TO_LIST:
                row["classes"] = len(load_coco(file)["categories"])
        except PvtctlError as error:
            row["state"] = error.message
    return row


def say_conversion(done: Conversion) -> None:
    """What was written and what was left out, on stderr."""
    origin = {
        "lists": "splits by the source's lists",
        "folders": "splits by the source's folders",
        "share": "the source has no splits, or --val-share was given: val is drawn",
    }
    for split, images in done.images.items():
        say(f"{split}: {images} images, {done.objects[split]} objects")
    say(f"classes: {len(done.classes)} ({', '.join(done.classes[:10])}{', ...' if len(done.classes) > 10 else ''})")
    say(origin[done.split_by])
    for note in done.notes:
        say(f"note: {note.count} {note.meaning} ({', '.join(note.examples)}{', ...' if note.count > 5 else ''})")
