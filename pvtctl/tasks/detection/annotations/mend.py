"""Mends single entries of a COCO file whose meaning is clear, and drops those that cost one object; all is counted.

Files without faults never come here: `pvtctl.tasks.detection.coco_file` hands over only entries that are not plain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from pycocotools import mask as coco_mask

from pvtctl.tasks.detection.segments import SegmentReader

Size = tuple[int, int]
"""(height, width)."""


class Faults(Protocol):
    """Collects the ids concerned, by kind of fault."""

    def add(self, kind: str, *ids: int | str) -> None: ...


def is_whole(value: Any) -> bool:
    """Whether it is an int of at most 64 bits."""
    return type(value) is int and -(2**63) <= value < 2**63


def is_number(value: Any) -> bool:
    """Whether it is a float, or an int of at most 64 bits."""
    return type(value) is float or is_whole(value)


def is_flag(value: Any) -> bool:
    """Whether it is a plain `iscrowd`: 0, 1, true, false, or missing."""
    return value is None or (type(value) in (int, bool) and value in (0, 1))


_FLOAT = {float}


def is_plain_annotation(item: Any) -> bool:
    """Whether an annotation has values of the types that COCO defines."""
    if type(item) is not dict:
        return False
    box, area = item.get("bbox"), item.get("area")
    return (
        is_whole(item.get("id"))
        and is_whole(item.get("image_id"))
        and is_whole(item.get("category_id"))
        and type(box) is list
        and len(box) == 4
        and ({*map(type, box)} == _FLOAT or all(map(is_number, box)))
        and (area is None or is_number(area))
        and is_flag(item.get("iscrowd"))
    )


class EntryMender:
    """Mends one entry and notes under the entry's name how: numbers as text, whole numbers with a point."""

    def __init__(self, faults: Faults, name: int | str) -> None:
        self.faults, self.name = faults, name
        self._noted: set[str] = set()

    def note(self, kind: str) -> None:
        """Count the entry under a kind, once."""
        if kind not in self._noted:
            self._noted.add(kind)
            self.faults.add(kind, self.name)

    def number(self, value: Any) -> int | float | None:
        """A number, also one written as text; None for anything else."""
        if is_number(value):
            return float(value) if type(value) is float else int(value)
        if type(value) is not str or len(value) > 40:
            return None
        try:
            read = float(value)
        except ValueError:
            return None
        if not math.isfinite(read):
            return None
        self.note("text_numbers")
        return int(read) if read.is_integer() and abs(read) < 2**53 else read

    def whole(self, value: Any) -> int | None:
        """A whole number, also one written as text or as 160.0; None for anything else."""
        read = self.number(value)
        if type(read) is float and math.isfinite(read) and read.is_integer() and abs(read) < 2**53:
            self.note("whole_floats")
            return int(read)
        return read if is_whole(read) else None  # type: ignore[return-value]


def mended_image(item: Any, at: int, faults: Faults, size_of: Callable[[str], Size | None] | None) -> Any:
    """Id, height and width of an image entry as whole numbers, missing sizes from its file; unchanged where unclear."""
    if not isinstance(item, dict):
        return item
    entry = EntryMender(faults, _name(item, at))
    sides = {key: entry.whole(item.get(key)) for key in ("height", "width")}
    if (
        any(side is None or side < 1 for side in sides.values())
        and isinstance(name := item.get("file_name"), str)
        and size_of is not None
    ):
        found = size_of(name)
        if found is not None:
            entry.note("size_from_file")
            sides = dict(zip(("height", "width"), found, strict=True))
    return item | sides | {"id": entry.whole(item.get("id"))}


def mended_category(item: Any, at: int, faults: Faults) -> Any:
    """A category with a whole number as id and a text as name; unchanged where unclear."""
    if not isinstance(item, dict):
        return item
    entry = EntryMender(faults, _name(item, at))
    name = item.get("name")
    return item | {"id": entry.whole(item.get("id")), "name": str(name) if is_number(name) else name}


def mended_annotation(item: Any, at: int, faults: Faults, sizes: Mapping[int, Size]) -> dict[str, Any] | None:
    """An annotation with plain values; `id` is None where a new one is to be given. None if it is dropped.

    `sizes` are those of the images by id: a missing box follows from the mask.
    """
    if not isinstance(item, dict):
        faults.add("bad_annotation", f"#{at + 1}")
        return None
    entry = EntryMender(faults, _name(item, at))
    image, category = entry.whole(item.get("image_id")), entry.whole(item.get("category_id"))
    if image is None or category is None:
        entry.note("bad_annotation")
        return None
    crowd = _flag(entry, item.get("iscrowd"))
    if crowd is None:
        entry.note("bad_crowd")
        return None
    box = _box(entry, item.get("bbox"))
    if box is None:
        box = None if image not in sizes else mask_box(item.get("segmentation"), *sizes[image])
        entry.note("bad_box" if box is None else "box_from_mask")
        if box is None:
            return None
    area = item.get("area")
    mended = {"image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
    if area is not None and (area := entry.number(area)) is None:
        area = math.nan  # is replaced, and counted, with the others that are no area
    key = entry.whole(item.get("id"))
    if key is None:
        entry.note("no_id")
    return item | mended | {"id": key, "area": area}


def _name(item: Mapping[str, Any], at: int) -> int | str:
    return item["id"] if is_whole(item.get("id")) else f"#{at + 1}"


def _flag(entry: EntryMender, value: Any) -> int | None:
    if is_flag(value):
        return int(bool(value))
    read = entry.number(value)
    return int(read) if read in (0, 1) else None


def _box(entry: EntryMender, box: Any) -> list[int | float] | None:
    if not isinstance(box, list) or len(box) != 4:
        return None
    values = [entry.number(value) for value in box]
    return None if None in values else values  # type: ignore[return-value]


def mask_box(segmentation: Any, height: int, width: int) -> list[int | float] | None:
    """[x, y, width, height] around a mask: the extent of its polygons, or of the pixels of run lengths; None without a mask."""
    reader = SegmentReader()
    reader.add(segmentation, height, width)
    segments, _ = reader.finish()
    if polygons := segments.polygons(0):
        points = np.concatenate(polygons).reshape(-1, 2)
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        return [left, top, right - left, bottom - top]
    if not segments.has_mask()[0]:
        return None
    box: list[int | float] = coco_mask.toBbox(segments.rle(0, height, width)).tolist()
    return box if box[2] > 0 else None


def mask_area(segmentation: Any, height: int, width: int) -> float:
    """Pixels of a mask; 0 without one."""
    reader = SegmentReader()
    reader.add(segmentation, height, width)
    segments, _ = reader.finish()
    return float(coco_mask.area(segments.rle(0, height, width))) if segments.has_mask()[0] else 0.0
