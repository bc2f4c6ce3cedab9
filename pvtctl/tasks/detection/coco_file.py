"""Reads and checks a COCO annotation file: all faults, and the rest as columns of numbers."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtctl.errors import UsageError
from pvtctl.io.foreign import read_json
from pvtctl.io.names import with_count
from pvtctl.tasks.detection.annotations.kinds import COSTS_AN_OBJECT, KINDS, CocoSeverity
from pvtctl.tasks.detection.annotations.mend import (
    Size,
    is_plain_annotation,
    is_whole,
    mask_area,
    mended_annotation,
    mended_category,
    mended_image,
)
from pvtctl.tasks.detection.annotations.plausible import odd_shapes
from pvtctl.tasks.detection.segments import SegmentReader, Segments

CHECK_HINT = "`pvtctl data check FOLDER` lists every fault"

_EXAMPLES = 5
_CLIP_TOLERANCE = 0.01
"""Pixels: COCO's own boxes are rounded to two decimals, and may end slightly outside their images."""


@dataclass(frozen=True)
class CocoProblem:
    """One kind of fault of a file. An `error` makes it unusable; for a `warning` something was dropped or corrected; a
    `note` changes nothing."""

    kind: str
    severity: CocoSeverity
    message: str
    """One line with the number and the first five ids."""
    ids: tuple[int | str, ...]
    """All ids concerned, of annotations, images or categories by kind; `#N` is the Nth in its list."""


@dataclass
class CocoTable:
    """Content of a file as columns; rows without errors, in the order of the file."""

    category_ids: list[int]
    class_names: list[str]
    file_names: list[str]
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int32]
    """(I, 2): height, width."""
    ids: NDArray[np.int64]
    images: NDArray[np.int64]
    """(N,): positions in `image_ids`."""
    labels: NDArray[np.int64]
    """(N,): positions in `category_ids`, which is sorted."""
    boxes: NDArray[np.float64]
    """(N, 4): x, y, width, height as in the file."""
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    segments: Segments | None = None
    """None if masks were not requested."""
    problems: list[CocoProblem] = field(default_factory=list)

    def take(self, rows: NDArray[Any]) -> CocoTable:
        """With some of the annotations, positions or a mask of booleans."""
        columns = {name: getattr(self, name)[rows] for name in ("ids", "images", "labels", "boxes", "areas", "crowd")}
        return replace(self, **columns, segments=None if self.segments is None else self.segments[rows])


class _Faults:
    def __init__(self) -> None:
        self.found: dict[str, list[int | str]] = {}

    def add(self, kind: str, *ids: int | str) -> None:
        self.found.setdefault(kind, []).extend(ids)

    def add_repeated(self, kind: str, values: Iterable[Any]) -> None:
        """Record the `values` that occur more than once."""
        if repeated := [value for value, count in Counter(values).items() if count > 1]:
            self.add(kind, *repeated)

    def add_rows(self, kind: str, ids: NDArray[np.int64], wrong: Any) -> None:
        """Record the `ids` where `wrong` (N,) is true."""
        if wrong.any():
            self.add(kind, *ids[wrong].tolist())

    def problems(self) -> list[CocoProblem]:
        problems = []
        for kind, (severity, line) in KINDS.items():
            ids = self.found.get(kind)
            if kind == "mostly_faulty" and ids:
                line = f"{', '.join(map(str, ids))}: is this another format?"
            elif ids:
                different = list(dict.fromkeys(ids))
                more = ", ..." if len(different) > _EXAMPLES else ""
                line = f"{with_count(line, len(ids))}: {', '.join(map(str, different[:_EXAMPLES]))}{more}"
            if ids is not None:
                problems.append(CocoProblem(kind, severity, line, tuple(ids)))
        return problems


def load_coco(path: Path | str) -> dict[str, Any]:
    """The parsed file. Raises UsageError: unreadable, not JSON (with the position), not COCO."""
    path = Path(path)
    if not path.exists():
        raise UsageError(f"no annotation file {path}", "name it with data.val_annotations / data.train_annotations")
    hint = "if the position is the end of the file, it was cut short: copy or download it again"
    data = read_json(path, most=None, hint=hint)
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(_get(data, key), list)]
    if missing:
        raise UsageError(
            f"{path} is not a COCO instances file: it has no list {' and no list '.join(missing)}",
            'expected: {"images": [...], "annotations": [...], "categories": [...]}',
        )
    found: dict[str, Any] = data
    return found


def scan_coco(
    data: Mapping[str, Any],
    *,
    masks: bool,
    crowds_are_objects: bool = False,
    size_of: Callable[[str], Size | None] | None = None,
) -> CocoTable:
    """Columns and faults of the output of `load_coco`; entries that cannot be used are not in the columns.

    What is clear is mended, what costs one object drops it, and both are counted. Without `masks`, masks are not read
    and missing ones are no fault. `size_of` gives the (height, width) of an image file where the entry has none.
    """
    faults = _Faults()
    classes = _scan_categories(data["categories"], faults)
    images, lost = _scan_images(data["images"], faults, size_of)
    file_names, image_ids, sizes = images
    place = {key: at for at, key in enumerate(image_ids.tolist())}
    label = {key: at for at, key in enumerate(classes)}
    entries = _mended(data["annotations"], place, sizes, faults)
    good, (ids, rows, labels, boxes, areas, crowd) = _scan_annotations(entries, place, label, lost, faults)
    if crowds_are_objects:
        crowd[:] = False
    names = list(classes.values())
    table = CocoTable(list(classes), names, file_names, image_ids, sizes, ids, rows, labels, boxes, areas, crowd)
    if masks:
        _scan_segments(entries, good, table, faults)
    table = _without_bad_boxes(table, entries, good, faults)
    _judge(table, len(entries), len(data["images"]), faults)
    table.problems = faults.problems()
    return table


def _get(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, dict) else None


def _is_name(value: Any) -> bool:
    """Whether it can be a file name."""
    try:
        return isinstance(value, str) and value != "" and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _scan_categories(categories: list[Any], faults: _Faults) -> dict[int, str]:
    """Id -> name, sorted by id."""
    named = []
    for at, item in enumerate(categories):
        item = mended_category(item, at, faults)
        if is_whole(_get(item, "id")) and isinstance(item.get("name"), str) and item["name"]:
            named.append((item["id"], item["name"]))
        else:
            faults.add("bad_category", f"#{at + 1}")
    if not categories:
        faults.add("no_classes")
    faults.add_repeated("duplicate_category_id", (key for key, _ in named))
    faults.add_repeated("duplicate_category_name", (name for _, name in named))
    return dict(sorted(named))


def _scan_images(
    images: list[Any], faults: _Faults, size_of: Callable[[str], Size | None] | None
) -> tuple[tuple[list[str], NDArray[np.int64], NDArray[np.int32]], set[int]]:
    """File names, ids and sizes; and the ids of images that are dropped."""
    names, ids, sizes, lost = [], array("q"), array("q"), set()
    for at, item in enumerate(images):
        if not _has_whole_sides(item):
            item = mended_image(item, at, faults, size_of)
        key, name = _get(item, "id"), _get(item, "file_name")
        if not (_has_whole_sides(item) and _is_name(name)) or item["height"] * item["width"] >= 2**31:
            faults.add("bad_image", key if is_whole(key) else f"#{at + 1}")
            lost |= {key} if is_whole(key) else set()
            continue
        ids.append(key)
        names.append(name)
        sizes.extend((item["height"], item["width"]))
    if not images:
        faults.add("no_images")
    faults.add_repeated("duplicate_image_id", ids)
    return (names, np.array(ids, np.int64), np.array(sizes, np.int32).reshape(-1, 2)), lost


def _has_whole_sides(item: Any) -> bool:
    height, width = _get(item, "height"), _get(item, "width")
    return is_whole(_get(item, "id")) and is_whole(height) and is_whole(width) and height > 0 and width > 0


def _mended(annotations: list[Any], place: Mapping[int, int], sizes: NDArray[np.int32], faults: _Faults) -> list[Any]:
    """The annotations with plain values, None for those that are dropped; the same list if all are plain."""
    odd = [at for at, item in enumerate(annotations) if not is_plain_annotation(item)]
    if not odd:
        return annotations
    size = {key: (int(sizes[at, 0]), int(sizes[at, 1])) for key, at in place.items()}
    entries = list(annotations)
    for at in odd:
        entries[at] = mended_annotation(entries[at], at, faults, size)
    return entries


def _scan_annotations(
    entries: list[Any], place: Mapping[int, int], label: Mapping[int, int], lost: Collection[int], faults: _Faults
) -> tuple[list[int], list[NDArray[Any]]]:
    """Positions of the good annotations, then their columns of `CocoTable`: ids, images, labels, boxes, areas, crowd."""
    ids, images, labels, crowd = array("q"), array("q"), array("q"), array("b")
    boxes, areas = array("d"), array("d")
    good: list[int] = []
    unnamed: list[int] = []
    for at, item in enumerate(entries):
        if item is None or item["image_id"] in lost:
            continue
        key, image, category = item["id"], item["image_id"], item["category_id"]
        if image not in place:
            faults.add("missing_image", image)
        elif category not in label:
            faults.add("missing_category", category)
        else:
            if key is None:
                unnamed.append(len(good))
            good.append(at)
            ids.append(0 if key is None else key)
            images.append(place[image])
            labels.append(label[category])
            crowd.append(bool(item.get("iscrowd")))
            box, area = item["bbox"], item.get("area")
            boxes.extend(box)
            areas.append(box[2] * box[3] if area is None else area)
    columns = [np.array(column, np.int64) for column in (ids, images, labels)]
    columns[0] = _named(columns[0], unnamed, faults)
    return good, [*columns, np.array(boxes).reshape(-1, 4), np.array(areas), np.array(crowd, np.bool_)]


def _named(ids: NDArray[np.int64], unnamed: list[int], faults: _Faults) -> NDArray[np.int64]:
    """Ids that are all different: those without one, and all but the first of equal ones, get the next numbers."""
    fresh = np.zeros(len(ids), np.bool_)
    fresh[unnamed] = True
    _, first = np.unique(ids, return_index=True)
    again = np.ones(len(ids), np.bool_)
    again[first] = False
    again &= ~fresh
    if again.any():
        faults.add("duplicate_annotation_id", *np.unique(ids[again]).tolist())
    fresh |= again
    if fresh.any():
        last = int(ids[~fresh].max(initial=0))
        ids[fresh] = np.arange(last + 1, last + 1 + int(fresh.sum()))
    return ids


def _scan_segments(entries: list[Any], good: list[int], table: CocoTable, faults: _Faults) -> None:
    reader = SegmentReader()
    sizes = table.sizes[table.images].tolist()
    for at, key, (height, width) in zip(good, table.ids.tolist(), sizes, strict=True):
        if fault := reader.add(entries[at].get("segmentation"), height, width):
            faults.add(fault, key)
    table.segments, infinite = reader.finish()
    faults.add_rows("bad_polygon", table.ids, infinite)


@np.errstate(over="ignore")  # a box may be as large as numbers go
def _without_bad_boxes(table: CocoTable, entries: list[Any], good: list[int], faults: _Faults) -> CocoTable:
    """Report bad boxes and areas, replace the areas, and drop boxes without a pixel in the image."""
    boxes, sizes = table.boxes, table.sizes[table.images]
    finite = np.isfinite(boxes).all(1)
    turned = finite & (boxes[:, 2:] < 0).any(1)
    flat = finite & ~turned & (boxes[:, 2:] == 0).any(1)
    corner = boxes[:, :2] + boxes[:, 2:]
    limits = sizes[:, ::-1]
    usable = finite & ~turned & ~flat
    outside = usable & ((boxes[:, :2] >= limits) | (corner <= 0)).any(1)
    beyond = (boxes[:, :2] < -_CLIP_TOLERANCE) | (corner > limits + _CLIP_TOLERANCE)
    keep = usable & ~outside
    bad_area = keep & ~((table.areas >= 0) & np.isfinite(table.areas))
    no_area = keep & (table.areas == 0)
    no_area &= no_area.sum() > keep.sum() / 2
    for kind, wrong in (
        ("bad_box", ~finite),
        ("reversed_box", turned),
        ("zero_area", flat),
        ("outside", outside),
        ("clipped", usable & ~outside & beyond.any(1)),
        ("bad_area", bad_area),
        ("area_zero", no_area),
    ):
        faults.add_rows(kind, table.ids, wrong)
    for kind, wrong in odd_shapes(boxes[finite], sizes[finite]):
        faults.add_rows(kind, table.ids[finite], wrong)
    for row in np.flatnonzero(bad_area | no_area).tolist():
        area = mask_area(entries[good[row]].get("segmentation"), *sizes[row].tolist())
        table.areas[row] = area or boxes[row, 2] * boxes[row, 3]
    return table if keep.all() else table.take(keep)


def _judge(table: CocoTable, annotations: int, images: int, faults: _Faults) -> None:
    """Report what shows over the whole file."""
    if len(table.ids) and table.crowd.all():
        faults.add("all_crowd", *table.ids.tolist())
    dropped = max(COSTS_AN_OBJECT, key=lambda kind: len(faults.found.get(kind, ())))
    for kind, entries in ((dropped, annotations), ("bad_image", images)):
        if 2 * len(ids := faults.found.get(kind, [])) > entries:
            faults.add("mostly_faulty", f"{len(ids)} of {entries} {KINDS[kind][1].split(';')[0]}")
    if table.segments is not None:
        has_mask = table.segments.has_mask()
        if has_mask.any():  # a set with only boxes is no fault
            faults.add_rows("no_mask", table.ids, ~has_mask & ~table.crowd)
