"""Detections in COCO's results format: writing, fast reading, and scoring a file without a model.

A results file is a list of `{"image_id", "category_id", "bbox": [x, y, width, height], "score"}`, with
`"segmentation": {"size": [H, W], "counts": "..."}` for masks, instead of the box or with it
(cocodataset.org/#format-results).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from pvtctl.errors import UsageError
from pvtctl.io.files import atomic_path
from pvtctl.io.foreign import BadFile, foreign, parse_json, read_foreign
from pvtctl.io.names import shown
from pvtctl.tasks.detection.metric import DetectionMetric
from pvtctl.tasks.detection.scoring.columns import COCO_LIMIT, Columns
from pvtctl.tasks.detection.scoring.fast_json import ParsedResults, read_table
from pvtctl.tasks.detection.segments import damaged_counts, of_masks, pack_masks

_LARGEST_ID = 2**63 - 1
_FORMAT = (
    'a results file is a list of {"image_id", "category_id", "bbox", "score"}, see cocodataset.org/#format-results'
)


def write_results(path: Path | str, found: Columns, category_ids: Sequence[int], truth: Mapping[str, Any]) -> Path:
    """Write the detections to `path` in COCO's results format; `truth` gives the masks' sizes.

    All numbers are read back bit-identical.
    """
    path = Path(path)
    categories = [int(key) for key in category_ids]
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    masks: Sequence[bytes | None] = [None] * len(found) if found.masks is None else found.masks
    columns = (found.image_ids.tolist(), found.labels.tolist(), found.scores.tolist(), found.boxes.tolist())
    rows = zip(*columns, masks, strict=True)
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii") as handle:
        handle.write("[")
        for at, (image, label, score, box, mask) in enumerate(rows):
            handle.write(",\n" if at else "\n")
            handle.write(
                f'{{"image_id":{image},"category_id":{categories[label]},'
                f'"bbox":[{box[0]},{box[1]},{box[2]},{box[3]}],"score":{score}'
            )
            if mask is not None:
                height, width = sizes[image]
                counts = json.dumps(mask.decode("ascii"))
                handle.write(f',"segmentation":{{"size":[{height},{width}],"counts":{counts}}}')
            handle.write("}")
        handle.write("\n]\n")
    return path


def read_results(path: Path | str, truth: Mapping[str, Any], category_ids: Sequence[int]) -> Columns:
    """The detections of a COCO results file, in the file's order; missing boxes are computed from the masks.

    `category_ids` are the data's, in the order of its labels. Raises UsageError if the file is no results
    file, or if an image, a category, a number or the size of a mask in it does not fit `truth`.
    """
    path = Path(path)
    table = _table(path)
    image_ids = np.asarray([image["id"] for image in truth["images"]], np.int64)
    _known(path, table.image_ids, image_ids, "images")
    categories = np.asarray(category_ids, np.int64)
    _known(path, table.category_ids, categories, "categories")
    order = np.argsort(categories)
    labels = order[np.searchsorted(categories[order], table.category_ids)].astype(np.int32)
    masks, boxes = None, table.boxes
    if table.counts is not None:
        masks, around = _masks(path, table, truth)
        boxes = around if boxes is None else boxes
    assert boxes is not None
    wrong = ~np.isfinite(table.scores) | ~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1)
    if wrong.any():
        at = int(wrong.argmax())
        raise UsageError(
            f"entry {at} of {path} has box {boxes[at].tolist()} and score {table.scores[at]}",
            f"boxes are x, y, width, height of finite numbers, no side below 0; {int(wrong.sum())} entries are not",
        )
    return Columns(table.image_ids, labels, table.scores, boxes, masks)


def score_results(
    class_names: Sequence[str],
    category_ids: Sequence[int],
    truth: Mapping[str, Any],
    path: Path | str,
    *,
    backend: str = "auto",
    max_detections: int | None = None,
) -> DetectionMetric:
    """The metric of a results file's detections; call `.compute()` for the numbers.

    Masks are scored if both the file and `truth` have them. Of an image its `max_detections` best count; None: the 100 best
    of each class, as in COCO. Raises UsageError as `read_results` does.
    """
    found = read_results(path, truth, category_ids)
    masks = found.masks is not None and any("segmentation" in each for each in truth["annotations"])
    if not masks:
        found.masks = None
    limit = max_detections or COCO_LIMIT
    metric = DetectionMetric(
        class_names, category_ids, truth, masks=masks, backend=backend, limit=limit, by_class=max_detections is None
    )
    metric.add(found if max_detections is None else found.best(max_detections, by_class=False))
    return metric


def _table(path: Path) -> ParsedResults:
    data = read_foreign(path, most=None, hint=_FORMAT)
    with foreign(path, _FORMAT):
        table = read_table(data)
        return _slow_table(path, data) if table is None else table


def _slow_table(path: Path, data: bytes) -> ParsedResults:
    """Any valid JSON, whatever its layout, entry by entry."""
    hint = "write or copy it again"
    if data.lstrip().startswith(b"[") and data.rstrip()[-1:] not in (b"]", b"}"):
        raise BadFile(path, "ends in the middle", hint)
    entries = parse_json(data, path, hint=hint)
    if not isinstance(entries, list):
        annotations = isinstance(entries, dict) and "annotations" in entries
        what = "is an annotation file, not detections" if annotations else "is not a list"
        raise BadFile(path, what, _FORMAT)
    rows = []
    for at, entry in enumerate(entries):
        try:
            rows.append(_row(entry))
        except KeyError as error:
            raise UsageError(f"entry {at} of {path} has no {error}", _FORMAT) from error
        except Exception as error:  # what the values of others lead to: numbers without end, words, lists
            raise UsageError(f"entry {at} of {path} is not a detection: {shown(entry, most=80)}", _FORMAT) from error
    images, categories, scores, boxes, masks = zip(*rows, strict=True) if rows else [()] * 5
    with_boxes, with_masks = None not in boxes, bool(rows) and None not in masks
    if not with_boxes and not with_masks:
        hint = "boxes for all entries, or masks for all of them"
        raise UsageError(f"entry {boxes.index(None)} of {path} has no 'bbox'", hint)
    return ParsedResults(
        np.asarray(images, np.int64),
        np.asarray(categories, np.int64),
        np.asarray(scores, np.float64),
        np.asarray(boxes, np.float64).reshape(-1, 4) if with_boxes else None,
        list(masks) if with_masks else None,
        None,
    )


def _row(entry: Any) -> tuple[int, int, float, list[float] | None, Any]:
    """(image, category, score, box, segmentation) of an entry; KeyError names the missing key."""
    image, category, score = entry["image_id"], entry["category_id"], entry["score"]
    if any(int(key) != key or abs(key) > _LARGEST_ID for key in (image, category)) or not _is_number(score):
        raise ValueError(entry)
    box, segmentation = entry.get("bbox") or None, entry.get("segmentation") or None
    if box is None and segmentation is None:
        raise KeyError("bbox")
    if box is not None and (not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box))):
        raise ValueError(entry)
    return int(image), int(category), float(score), box and [float(side) for side in box], segmentation


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _known(path: Path, used: NDArray[np.int64], known: NDArray[np.int64], what: str) -> None:
    """Raise UsageError with the first five ids missing in the annotations."""
    strange = np.unique(used[~np.isin(used, known)])
    if len(strange):
        first = ", ".join(str(each) for each in strange[:5].tolist())
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        raise UsageError(
            f"{path} has detections for {what} that the annotations do not have: {first}{more}",
            f"score it against the annotations it was made for; these have {len(known)} {what}",
        )


def _masks(path: Path, table: ParsedResults, truth: Mapping[str, Any]) -> tuple[list[bytes], NDArray[np.float64]]:
    """Compressed counts of every mask, and the boxes around them."""
    assert table.counts is not None
    by_image = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    sizes = [by_image[image] for image in table.image_ids.tolist()]
    if table.sizes is None:
        masks = _packed(path, table.counts, sizes)
    else:
        limits = np.asarray(sizes, np.int64).reshape(-1, 2)
        for at in np.flatnonzero((table.sizes != limits).any(axis=1))[:1].tolist():
            raise _of_other_size(path, at, table.sizes[at].tolist(), sizes[at])
        masks = list(table.counts)
        damaged, gaps = damaged_counts(masks, limits.prod(axis=1))
        if damaged.any():
            raise _damaged_mask(path, int(damaged.argmax()), int(damaged.sum()))
        for at in np.flatnonzero(gaps).tolist():
            masks[at] = _packed(path, [{"size": list(sizes[at]), "counts": masks[at].decode()}], [sizes[at]])[0]
    whole = [{"size": size, "counts": counts} for size, counts in zip(sizes, masks, strict=True)]
    return masks, of_masks(rle.toBbox, whole).reshape(-1, 4)


def _packed(path: Path, given: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[bytes]:
    """Masks of any form as compressed counts."""
    # the size may be left out
    whole = [
        {"size": list(s), **each} if isinstance(each, dict) else each for each, s in zip(given, sizes, strict=True)
    ]
    masks, faults = pack_masks(whole, sizes)
    if faults:
        at = min(faults)
        if faults[at] == "mask_size":
            raise _of_other_size(path, at, whole[at]["size"], sizes[at])
        raise _damaged_mask(path, at, len(faults))
    return masks


def _of_other_size(path: Path, at: int, given: Sequence[int], size: tuple[int, int]) -> UsageError:
    return UsageError(
        f"the mask of entry {at} of {path} is {'x'.join(map(str, given))} in an image of {size[0]}x{size[1]}",
        "masks have the size of the original image, height first",
    )


def _damaged_mask(path: Path, at: int, count: int) -> UsageError:
    more = f"; {count} entries are so" if count > 1 else ""
    return UsageError(
        f"the mask of entry {at} of {path} is not a run-length encoding that covers its image, nor polygons of finite "
        f"numbers{more}",
        _FORMAT,
    )
