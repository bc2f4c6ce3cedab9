"""Reads and checks a COCO annotation file: all faults, and the rest as columns of numbers."""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pvtctl.errors import UsageError
from pvtctl.tasks.detection.segments import SegmentReader, Segments

CHECK_HINT = "`pvtctl data check FOLDER` lists every fault"

_EXAMPLES = 5
_CLIP_TOLERANCE = 0.01
"""Pixels: COCO's own boxes are rounded to two decimals, and may end slightly outside their images."""


@dataclass(frozen=True)
class CocoProblem:
    """One kind of fault of a file. An `error` makes it unusable; for a `warning` something was dropped or corrected."""

    kind: str
    severity: Literal["error", "warning"]
    message: str
    """One line with the number and the first five ids."""
    ids: tuple[int | str, ...]
    """All ids concerned, of annotations, images or categories by kind; `#N` is the Nth in its list."""


KINDS: dict[str, tuple[Literal["error", "warning"], str]] = {
    "no_images": ("error", "no images in the list"),
    "no_classes": ("error", "no categories: there is nothing to learn or to score"),
    "bad_category": ("error", "categories without a whole number as id or a text as name"),
    "duplicate_category_id": ("error", "category ids that occur twice"),
    "duplicate_category_name": ("error", "categories of the same name"),
    "bad_image": ("error", "images without a whole number as id, a file_name, or a width and height above 0"),
    "duplicate_image_id": ("error", "image ids that occur twice"),
    "bad_annotation": ("error", "annotations without whole numbers as id, image_id and category_id"),
    "duplicate_annotation_id": ("error", "annotation ids that occur twice"),
    "missing_image": ("error", "annotations for images that the file does not list"),
    "missing_category": ("error", "annotations of categories that the file does not list"),
    "bad_box": ("error", "boxes that are not four finite numbers [x, y, width, height]"),
    "reversed_box": ("error", "boxes of negative width or height"),
    "bad_area": ("error", "areas that are not a finite number from 0"),
    "bad_polygon": ("error", "polygons with fewer than three points, or that are not x, y pairs of finite numbers"),
    "bad_mask": ("error", "run-length masks that cannot be decoded"),
    "mask_size": ("error", "masks of another size than their image"),
    "zero_area": ("warning", "boxes without area; dropped"),
    "outside": ("warning", "boxes wholly outside of their image; dropped"),
    "clipped": ("warning", "boxes partly outside of their image; clipped"),
    "no_mask": ("warning", "objects without a mask; left out where masks are learned"),
}
"""kind -> (severity, what is wrong). Of the kinds from `bad_box` on, the ids are those of annotations."""


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
            if ids:
                different = list(dict.fromkeys(ids))
                more = ", ..." if len(different) > _EXAMPLES else ""
                line = f"{len(ids)} {line}: {', '.join(map(str, different[:_EXAMPLES]))}{more}"
            if ids is not None:
                problems.append(CocoProblem(kind, severity, line, tuple(ids)))
        return problems


def load_coco(path: Path | str) -> dict[str, Any]:
    """The parsed file. Raises UsageError: unreadable, not JSON (with the position), not COCO."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = json.load(file)
    except FileNotFoundError as error:
        raise UsageError(
            f"no annotation file {path}", "name it with data.val_annotations / data.train_annotations"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        size = path.stat().st_size
        raise UsageError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno} "
            f"(character {error.pos} of {size} bytes)",
            "if the position is the end of the file, it was cut short: copy or download it again",
        ) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or numbers of thousands of digits
        raise UsageError(f"{path} is not valid JSON: {error}", "a COCO instances file is JSON text in UTF-8") from error
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(_get(data, key), list)]
    if missing:
        raise UsageError(
            f"{path} is not a COCO instances file: it has no list {' and no list '.join(missing)}",
            'expected: {"images": [...], "annotations": [...], "categories": [...]}',
        )
    found: dict[str, Any] = data
    return found


def scan_coco(data: Mapping[str, Any], *, masks: bool) -> CocoTable:
    """Columns and faults of the output of `load_coco`. Rows with errors are not in the columns.

    Without `masks`, `segmentation` is ignored.
    """
    faults = _Faults()
    classes = _scan_categories(data["categories"], faults)
    file_names, image_ids, sizes = _scan_images(data["images"], faults)
    place = {key: at for at, key in enumerate(image_ids.tolist())}
    label = {key: at for at, key in enumerate(classes)}
    good, (ids, images, labels, boxes, areas, crowd) = _scan_annotations(data["annotations"], place, label, faults)
    names = list(classes.values())
    table = CocoTable(list(classes), names, file_names, image_ids, sizes, ids, images, labels, boxes, areas, crowd)
    if masks:
        _scan_segments(data["annotations"], good, table, faults)
    table = _without_bad_boxes(table, faults)
    if table.segments is not None and not any(KINDS[kind][0] == "error" for kind in faults.found):
        has_mask = table.segments.has_mask()
        if has_mask.any():  # a set with only boxes is no fault
            faults.add_rows("no_mask", table.ids, ~has_mask & ~table.crowd)
    table.problems = faults.problems()
    return table


def _get(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, dict) else None


def _is_whole(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) is float or _is_whole(value)


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
        if _is_whole(_get(item, "id")) and isinstance(item.get("name"), str) and item["name"]:
            named.append((item["id"], item["name"]))
        else:
            faults.add("bad_category", f"#{at + 1}")
    if not categories:
        faults.add("no_classes")
    faults.add_repeated("duplicate_category_id", (key for key, _ in named))
    faults.add_repeated("duplicate_category_name", (name for _, name in named))
    return dict(sorted(named))


def _scan_images(images: list[Any], faults: _Faults) -> tuple[list[str], NDArray[np.int64], NDArray[np.int32]]:
    """File names, ids and sizes."""
    names, ids, sizes = [], array("q"), array("q")
    for at, item in enumerate(images):
        key, name = _get(item, "id"), _get(item, "file_name")
        height, width = _get(item, "height"), _get(item, "width")
        usable = _is_whole(key) and _is_whole(height) and _is_whole(width) and _is_name(name)
        if not usable or height < 1 or width < 1 or height * width >= 2**31:
            faults.add("bad_image", key if _is_whole(key) else f"#{at + 1}")
            continue
        ids.append(key)
        names.append(name)
        sizes.extend((height, width))
    if not images:
        faults.add("no_images")
    faults.add_repeated("duplicate_image_id", ids)
    return names, np.array(ids, np.int64), np.array(sizes, np.int32).reshape(-1, 2)


def _scan_annotations(
    annotations: list[Any], place: Mapping[int, int], label: Mapping[int, int], faults: _Faults
) -> tuple[list[int], list[NDArray[Any]]]:
    """Positions of the good annotations, then their columns of `CocoTable`: ids, images, labels, boxes, areas, crowd."""
    ids, images, labels, crowd = array("q"), array("q"), array("q"), array("b")
    boxes, areas, good = array("d"), array("d"), []
    for at, item in enumerate(annotations):
        key, image, category = _get(item, "id"), _get(item, "image_id"), _get(item, "category_id")
        if not (_is_whole(key) and _is_whole(image) and _is_whole(category)):
            faults.add("bad_annotation", key if _is_whole(key) else f"#{at + 1}")
            continue
        box, area = item.get("bbox"), item.get("area")
        if image not in place:
            faults.add("missing_image", image)
        elif category not in label:
            faults.add("missing_category", category)
        elif not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            faults.add("bad_box", key)
        elif area is not None and not _is_number(area):
            faults.add("bad_area", key)
        else:
            good.append(at)
            ids.append(key)
            images.append(place[image])
            labels.append(label[category])
            crowd.append(bool(item.get("iscrowd")))
            boxes.extend(box)
            areas.append(box[2] * box[3] if area is None else area)
    faults.add_repeated("duplicate_annotation_id", ids)
    columns = [np.array(column, np.int64) for column in (ids, images, labels)]
    return good, [*columns, np.array(boxes).reshape(-1, 4), np.array(areas), np.array(crowd, np.bool_)]


def _scan_segments(annotations: list[Any], good: list[int], table: CocoTable, faults: _Faults) -> None:
    reader = SegmentReader()
    sizes = table.sizes[table.images].tolist()
    for at, key, (height, width) in zip(good, table.ids.tolist(), sizes, strict=True):
        if fault := reader.add(annotations[at].get("segmentation"), height, width):
            faults.add(fault, key)
    table.segments, infinite = reader.finish()
    faults.add_rows("bad_polygon", table.ids, infinite)


def _without_bad_boxes(table: CocoTable, faults: _Faults) -> CocoTable:
    """Report bad boxes and drop those without a pixel in the image."""
    boxes, sizes = table.boxes, table.sizes[table.images]
    finite = np.isfinite(boxes).all(1)
    turned = finite & (boxes[:, 2:] < 0).any(1)
    flat = finite & ~turned & (boxes[:, 2:] == 0).any(1)
    corner = boxes[:, :2] + boxes[:, 2:]
    limits = sizes[:, ::-1]
    usable = finite & ~turned & ~flat
    outside = usable & ((boxes[:, :2] >= limits) | (corner <= 0)).any(1)
    beyond = (boxes[:, :2] < -_CLIP_TOLERANCE) | (corner > limits + _CLIP_TOLERANCE)
    bad_area = finite & ~turned & ~((table.areas >= 0) & np.isfinite(table.areas))
    for kind, wrong in (
        ("bad_box", ~finite),
        ("reversed_box", turned),
        ("bad_area", bad_area),
        ("zero_area", flat),
        ("outside", outside),
        ("clipped", usable & ~outside & beyond.any(1)),
    ):
        faults.add_rows(kind, table.ids, wrong)
    keep = usable & ~outside & ~bad_area
    return table if keep.all() else table.take(keep)
