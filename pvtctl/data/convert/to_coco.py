"""Converts detection sets in Pascal-VOC or YOLO layout to COCO's."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvtctl.data.convert.source import (
    AnnotatedImage,
    ConversionFindings,
    ImageIndex,
    Note,
    polygon_area,
    read_names,
    split_of_folders,
)
from pvtctl.data.convert.splits import require_labelled, stated_splits
from pvtctl.data.convert.voc import read_voc
from pvtctl.data.convert.yolo import read_yolo
from pvtctl.data.images import Reading
from pvtctl.errors import UsageError, nearest
from pvtctl.io.files import new_folder
from pvtctl.io.foreign import require_folder
from pvtctl.io.names import name_bytes, with_count

SOURCES = ("voc", "yolo")

VAL_SHARE = 0.2
"""The share of the images used for val if the source has no splits."""


@dataclass(frozen=True)
class DatasetConversion:
    """Result of a conversion."""

    path: str
    classes: list[str]
    images: dict[str, int]
    objects: dict[str, int]
    split_by: str
    """Origin of the splits: "yaml", "lists", "folders" or "share"."""
    notes: list[Note]


def convert_to_coco(
    source: Path | str,
    layout: str,
    to: Path | str,
    *,
    images: Path | str | None = None,
    classes: Path | str | None = None,
    val_share: float | None = None,
    seed: int = 0,
    zero_based: bool = False,
    exif: bool = True,
    copy: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> DatasetConversion:
    """Write the new folder `to` in COCO's layout: `images/{train,val}/`, `annotations/instances_{train,val}.json`.

    `layout` is `voc` (see `convert_voc.read_voc`, also for `zero_based`) or `yolo` (`convert_yolo.read_yolo`). Images
    are looked for in `images`, else in `source`; they become hard links, or copies with `copy` and where links cannot
    be made. `classes` is a file with one class name a line, which gives their order.
    Splits are those of the source's data.yaml, lists or folders; where it has none, and with `val_share`, that share of
    the images, drawn by `seed` and the names of the files, becomes val. With `exif`, labels of images with an EXIF
    rotation are those of the picture as shown, unless a size that is stated says otherwise. The folder appears when all of
    it is written.

    Raises UsageError with the first faults of the label files, file and line named; PvtctlError when the disk refuses.
    """
    source, to = Path(source).expanduser(), Path(to).expanduser()
    image_folder = Path(images).expanduser() if images is not None else source
    _check_arguments(source, image_folder, to, layout, val_share)
    index, findings = ImageIndex(image_folder, Reading(exif)), ConversionFindings(source, image_folder)
    names = read_names(Path(classes).expanduser()) if classes is not None else None
    if layout == "voc":
        names, found = read_voc(source, index, names, findings, zero_based=zero_based, on_progress=on_progress)
    else:
        names, found = read_yolo(source, index, names, findings, on_progress=on_progress)
    findings.refuse()
    split_by, splits = _splits(source, found, index, val_share, seed, findings)
    with new_folder(to) as folder:
        (folder / "annotations").mkdir()
        for split, items in splits.items():
            document = _document(items, names, _link_images(items, folder / "images" / split, copy), layout)
            text = json.dumps(document, separators=(",", ":"))
            (folder / "annotations" / f"instances_{split}.json").write_text(text + "\n", encoding="utf-8")
    return DatasetConversion(
        str(to),
        names,
        {split: len(items) for split, items in splits.items()},
        {split: sum(len(item.objects) for item in items) for split, items in splits.items()},
        split_by,
        findings.notes(),
    )


def _check_arguments(source: Path, images: Path, to: Path, layout: str, val_share: float | None) -> None:
    if layout not in SOURCES:
        raise UsageError(f"unknown layout {layout!r}", nearest(layout, SOURCES))
    for folder in (source, images):
        require_folder(folder, "name the folder that holds the labels, and --images where needed", "folder")
    if to.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{to} is inside {source}", "name a folder outside: the source stays as it is")
    if val_share is not None and not 0 < val_share < 1:
        raise UsageError(
            f"a share of {val_share} of the images cannot be used for val", "give a number between 0 and 1, as 0.2"
        )


def _splits(
    source: Path,
    found: Sequence[AnnotatedImage],
    index: ImageIndex,
    val_share: float | None,
    seed: int,
    findings: ConversionFindings,
) -> tuple[str, dict[str, list[AnnotatedImage]]]:
    """(origin of the splits, split -> its images)."""
    stated = stated_splits(source, index) if found and val_share is None else None
    by: dict[str | None, list[AnnotatedImage]] = defaultdict(list)
    for item in found:
        folders = split_of_folders(item.found_as) or split_of_folders(findings.below(item.path))
        by[stated.split_of.get(item.path) if stated else folders].append(item)
    if val_share is None and found:
        require_labelled(stated, [*by], {split_of_folders(findings.below(path)) for path in index.paths})
    if val_share is not None or not by["val"]:  # drawn from all that is not a test image
        rest = by["train"] + by["val"] + by[None]
        split_by, splits = "share", _draw(rest, val_share or VAL_SHARE, seed)
    else:
        split_by = stated.origin if stated else "folders"
        splits = {split: by[split] for split in ("train", "val") if by[split]}
        for item in by[None]:
            findings.note("no_split", item.path)
    for item in by["test"]:
        findings.note("test", item.path)
    if not splits:
        notes = findings.notes()
        seen = f": {with_count(notes[0].meaning, notes[0].count)}" if notes else ""
        raise UsageError(
            f"no labelled images in {source}{seen}",
            "name the folder of the images with --images, if they are elsewhere",
        )
    return split_by, splits


def _draw(items: list[AnnotatedImage], share: float, seed: int) -> dict[str, list[AnnotatedImage]]:
    """A share of the images, at least one of several, is val: the same ones on every machine."""
    if not items:
        return {}

    def rank(item: AnnotatedImage) -> bytes:
        return hashlib.sha256(name_bytes(f"{seed}/{item.found_as.as_posix()}")).digest()

    count = min(max(round(len(items) * share), 1), len(items) - 1)
    chosen = {id(item) for item in sorted(items, key=rank)[:count]}
    splits = {
        "train": [item for item in items if id(item) not in chosen],
        "val": [item for item in items if id(item) in chosen],
    }
    return {split: members for split, members in splits.items() if members}


def _link_images(items: Iterable[AnnotatedImage], folder: Path, copy: bool) -> list[str]:
    """Put the images into `folder` and return their names there."""
    folder.mkdir(parents=True)
    names: set[str] = set()
    given = []
    for item in items:
        name, number = item.path.name, 1
        while name.lower() in names:  # of another folder; lower, as some file systems know no case
            number += 1
            name = f"{item.path.stem}_{number}{item.path.suffix}"
        names.add(name.lower())
        given.append(name)
        try:
            if copy:
                raise OSError
            os.link(item.path.resolve(), folder / name)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(item.path, folder / name)
    return given


def _document(items: Sequence[AnnotatedImage], names: list[str], files: list[str], layout: str) -> dict[str, Any]:
    numbers = {name: at for at, name in enumerate(names, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (item, file_name) in enumerate(zip(items, files, strict=True), start=1):
        height, width = item.size
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for labelled in item.objects:
            x0, y0, x1, y1 = labelled.box
            box = [_short(value) for value in (x0, y0, x1 - x0, y1 - y0)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": numbers[labelled.name],
                    "bbox": box,
                    "area": _short(polygon_area(labelled.polygon) or (x1 - x0) * (y1 - y0)),
                    "iscrowd": int(labelled.crowd),
                    "segmentation": [[_short(value) for value in labelled.polygon]] if labelled.polygon else [],
                }
            )
    return {
        "info": {"description": f"converted from {layout} by pvtctl"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name, "supercategory": ""} for name, number in numbers.items()],
    }


def _short(value: float) -> int | float:
    """Three decimals at most: a thousandth of a pixel is below what either source knows."""
    value = round(float(value), 3)
    return int(value) if value.is_integer() else value
