"""COCO instances: compact annotations of images, and back to ground truth for scoring."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtctl.data.image_files import Names, images_below
from pvtctl.data.layouts import COCO_LAYOUT
from pvtctl.errors import UsageError
from pvtctl.io.foreign import found_instead, require_folder
from pvtctl.io.names import name_bytes, shown, with_count
from pvtctl.tasks.detection.annotations.kinds import KINDS
from pvtctl.tasks.detection.coco_file import CHECK_HINT, load_coco, scan_coco

_LARGEST_TO_LIST = 64 << 20
"""Bytes of an annotation file up to which it is read just to count classes."""


@dataclass(frozen=True)
class ImageObjects:
    """Objects of one image without crowds; pixels of the original image."""

    boxes: NDArray[np.float32]
    """(N, 4) xyxy, clipped to the image."""
    labels: NDArray[np.int64]
    """(N,), positions in the class names."""
    rows: NDArray[np.int64]
    """(N,), for `CocoAnnotations.masks`."""


class CocoAnnotations:
    """The annotations of a split as columns of numbers, so that loader processes share them instead of copying.

    Category ids, sparse in COCO, become labels 0 to K - 1 in the order of the ids. What is clear is mended, objects that
    cannot be used are dropped, boxes that reach beyond their image are clipped; `problems` counts all of it. Raises
    UsageError for a file with errors, with the first of them (`pvtctl.tasks.detection.coco_file.scan_coco` gives all,
    and explains the `options`). Without `masks` no mask is read or checked.
    """

    def __init__(
        self, data: dict[str, Any], *, masks: bool = True, name: str = "the annotations", **options: Any
    ) -> None:
        table = scan_coco(data, masks=masks, **options)
        errors = [problem for problem in table.problems if problem.severity == "error"]
        if errors:
            more = f" (and {len(errors) - 1} more kinds of fault)" if len(errors) > 1 else ""
            raise UsageError(f"{name}: {errors[0].message}{more}", CHECK_HINT)
        self.class_names: list[str] = table.class_names
        self.category_ids: list[int] = table.category_ids
        """COCO's id of each label."""
        self.file_names: Sequence[str] = Names(table.file_names)
        self.image_ids: NDArray[np.int64] = table.image_ids
        self.sizes: NDArray[np.int32] = table.sizes
        """(I, 2): height, width."""
        self.problems: dict[str, int] = {problem.kind: len(problem.ids) for problem in table.problems}
        warnings = (problem for problem in table.problems if problem.severity == "warning")
        self.cautions: list[str] = [with_count(KINDS[each.kind][1], len(each.ids)) for each in warnings]
        """What was mended, dropped or looks wrong."""
        counts = np.bincount(table.images, minlength=len(table.image_ids))
        self._first: NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        """(I + 1,): an image's annotations are the rows from its entry to the next."""
        rows = table.take(np.argsort(table.images, kind="stable"))
        self._ids, self._labels, self._crowd, self._areas = rows.ids, rows.labels, rows.crowd, rows.areas
        self._xywh, self._segments = rows.boxes, rows.segments
        limits = np.tile(table.sizes[rows.images][:, ::-1], 2)
        corners = np.concatenate([rows.boxes[:, :2], rows.boxes[:, :2] + rows.boxes[:, 2:]], 1)
        self._xyxy = np.clip(corners, 0, limits).astype(np.float32)

    @classmethod
    def read(cls, path: Path | str, *, masks: bool = True, **options: Any) -> CocoAnnotations:
        """Read from a file. Raises UsageError."""
        return cls(load_coco(path), masks=masks, name=str(path), **options)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def has_masks(self) -> bool:
        """Whether masks were read and some object has one."""
        return self._segments is not None and bool(self._segments.has_mask()[~self._crowd].any())

    def objects(self, index: int, *, with_masks: bool = False) -> ImageObjects:
        """The objects of an image without crowds; `with_masks` also drops those without a mask."""
        rows = np.arange(self._first[index], self._first[index + 1])
        keep = ~self._crowd[rows]
        if with_masks and self._segments is not None:
            keep &= self._segments[rows].has_mask()
        rows = rows[keep]
        return ImageObjects(self._xyxy[rows], self._labels[rows], rows)

    def masks(self, index: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool (len(rows), H, W) at the image's own size."""
        height, width = self.sizes[index].tolist()
        if self._segments is None:
            raise ValueError("read with masks=False")
        return self._segments.masks(rows, height, width)

    def num_objects(self, *, with_masks: bool = False) -> NDArray[np.int64]:
        """(I,): objects of each image as returned by `objects`."""
        keep = ~self._crowd
        if with_masks and self._segments is not None:
            keep &= self._segments.has_mask()
        return np.diff(np.concatenate([[0], np.cumsum(keep)])[self._first])

    def to_coco(self, indices: Iterable[int] | None = None) -> dict[str, Any]:
        """The ground truth of some images (all) as a COCO dictionary, for scoring.

        With the file's ids, boxes, areas and crowds, except dropped ones. Masks are included if they were read:
        polygons unchanged, run lengths compressed, a missing mask as an empty one. Annotations are renumbered if one
        has the id 0, which COCO's evaluation takes for "none".
        """
        chosen = range(len(self)) if indices is None else indices
        shift = int((self._ids == 0).any()) * (1 - int(self._ids.min(initial=0)))
        images, annotations = [], []
        for index in chosen:
            height, width = self.sizes[index].tolist()
            image_id = int(self.image_ids[index])
            images.append({"id": image_id, "file_name": self.file_names[index], "height": height, "width": width})
            for row in range(self._first[index], self._first[index + 1]):
                entry = {
                    "id": int(self._ids[row]) + shift,
                    "image_id": image_id,
                    "category_id": self.category_ids[self._labels[row]],
                    "bbox": self._xywh[row].tolist(),
                    "area": float(self._areas[row]),
                    "iscrowd": int(self._crowd[row]),
                }
                if self._segments is not None:
                    polygons = [part.tolist() for part in self._segments.polygons(row)]
                    entry["segmentation"] = polygons or self._segments.rle(row, height, width)
                annotations.append(entry)
        categories = [{"id": key, "name": name} for key, name in zip(self.category_ids, self.class_names, strict=True)]
        return {"images": images, "annotations": annotations, "categories": categories}

    def digest(self, indices: NDArray[np.int64]) -> str:
        """Hash of the classes, and of names, sizes and annotations of some images."""
        digest = hashlib.sha256(name_bytes(repr((self.class_names, self.category_ids))))
        for index in indices.tolist():
            rows = slice(int(self._first[index]), int(self._first[index + 1]))
            about = f"{self.file_names[index]}\0{self.image_ids[index]}\0{self.sizes[index].tolist()}\n"
            digest.update(name_bytes(about))
            for column in (self._labels, self._crowd, self._xywh, self._areas):
                digest.update(column[rows].tobytes())
        return digest.hexdigest()[:16]


def none_there(folder: Path, names: Sequence[str]) -> str:
    """Why none of the listed images is in a folder, as far as the first name tells."""
    first = names[0]
    if "\\" in first:
        why = ": its name is written with \\, as on Windows; write / in every file_name"
    elif ".." in Path(first).parts or Path(first).is_absolute():
        why = ": its name leads out of the folder; write every file_name as it is below it"
    else:
        why = ""
    return f"none of the {len(names)} images of the annotations is in {folder}; the first is {shown(first)}{why}"


def find_coco(
    root: Path | str | None,
    split: str,
    *,
    images: Path | str | None = None,
    annotations: Path | str | None = None,
    need_images: bool = True,
) -> tuple[Path, Path]:
    """(image folder, annotation file) of a split: the given pair, else the known layouts under `root`.

    Raises UsageError with the searched paths. Without `need_images` the folder may be missing and need not
    be given.
    """
    if annotations is not None:
        file = Path(annotations).expanduser()
        if not file.is_file():
            said = found_instead(file, "an annotation file") or f"no annotation file {file}"
            raise UsageError(said, "name a COCO instances JSON file")
        if images is None and need_images:
            raise UsageError(f"the annotations of {split} are named, but not their images", "name the folder too")
        folder = file.parent if images is None else Path(images).expanduser()
        if need_images:
            require_folder(folder, "name the folder that file_name in the annotations starts from", "image folder")
        return folder, file
    if images is not None:
        raise UsageError(f"the images of {split} are named, but not their annotations", "name the JSON file too")
    if root is None:
        raise UsageError("no data folder", COCO_LAYOUT)
    require_folder(root, COCO_LAYOUT)
    root = Path(root)
    files = [root / "annotations" / f"instances_{split}{year}.json" for year in ("2017", "")]
    file = next((place for place in files if place.is_file()), files[0])
    if not file.is_file():
        raise UsageError(f"no annotation file: looked for {' and '.join(map(str, files))}", COCO_LAYOUT)
    folders = [root / "images" / split, root / split]
    if file == files[0]:
        folders.insert(0, root / f"{split}2017")
    folder = next((place for place in folders if place.is_dir()), folders[0])
    if need_images and not folder.is_dir():
        raise UsageError(f"no image folder: looked for {' and '.join(map(str, folders))}", COCO_LAYOUT)
    return folder, file


def count_coco(name: str, place: Path, split: str) -> dict[str, int]:
    """Images of a split and, if its annotation file is small, classes, for `pvtctl data ls`. Raises PvtctlError, OSError."""
    folder, file = find_coco(place, split)
    row = {split: len(images_below(folder))}
    if file.stat().st_size <= _LARGEST_TO_LIST:
        row["classes"] = len(load_coco(file)["categories"])
    return row
