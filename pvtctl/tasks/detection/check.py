"""Checks a detection set in COCO's format before training on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtctl.data.check import (
    LABELLED,
    MEANING,
    CheckTable,
    DatasetCheck,
    DatasetVerdict,
    Examination,
    Examinations,
    ImageFiles,
    Severity,
    compared,
)
from pvtctl.data.image_files import images_below, is_file
from pvtctl.data.images import AS_SHOWN, Reading, file_size
from pvtctl.data.layouts import COCO_LAYOUT
from pvtctl.errors import UsageError
from pvtctl.io.foreign import require_folder
from pvtctl.io.names import plural
from pvtctl.tasks.detection.annotations.kinds import KINDS
from pvtctl.tasks.detection.coco import find_coco, none_there
from pvtctl.tasks.detection.coco_file import CocoTable, load_coco, scan_coco
from pvtctl.tasks.detection.settings import MIN_TRAIN_SIDE

COCO_MEANING: Mapping[str, tuple[Severity, str]] = (
    MEANING
    | LABELLED
    | KINDS
    | {
        "no_class": ("error", "class of val that train does not list"),
        "no_class_in_val": ("error", "class of train that val does not list"),
        "class_order": ("error", "the category ids of val order the classes otherwise than those of train"),
        "class_ids": ("note", "class with another category id in val than in train"),
        "nothing_to_learn": ("error", "no image to train on: none has an object, or a side of 32 pixels"),
        "nothing_to_score": ("warning", "not one object to score: all scores will be empty, and no epoch is the best"),
        "absent": ("warning", "listed images that are not there: skipped in training, left out of scores"),
        "none_there": ("error", "none of the listed images is in the folder"),
        "listed_twice": ("warning", "file names that are listed more than once"),
        "other_size": ("warning", "another size than the annotations say: skipped, they belong to another file"),
        "only_in_val": ("warning", "class with objects in val alone: never learned"),
        "only_in_train": ("note", "class with objects in train alone: has no score"),
        "label_gap": ("note", "class of the list without an object in either split"),
        "no_objects": ("note", "images without objects: training leaves them out, scores count what is found there"),
        "tiny": ("note", "a side below 32 pixels: training leaves it out"),
        "not_listed": ("note", "images in the folder that the annotations do not list: not used"),
    }
)
"""kind -> (severity, what it means for a run)."""

_SMALL, _LARGE = 32**2, 96**2
"""Square pixels: COCO's limits between small, medium and large objects."""

_COLUMNS = ("images", "without_objects", "objects", "with_mask", "crowds", "small", "medium", "large")
"""Of the table of splits: fields of `SplitFigures`."""
_CLASS_ROWS = 40
"""Maximum number of classes shown."""


@dataclass
class SplitFigures:
    """Statistics of a split's annotations. Dropped boxes are not counted."""

    images: int
    objects: int
    """Without crowd regions."""
    crowds: int
    without_objects: int
    """Images."""
    with_mask: int
    small: int
    """Objects below 32 x 32 pixels of area."""
    medium: int
    large: int
    """Objects from 96 x 96 pixels of area."""
    classes: dict[str, int]
    """Objects of each class."""


@dataclass
class DetectionVerdict(DatasetVerdict):
    """Result of checking a detection set."""

    splits: dict[str, SplitFigures]

    def tables(self) -> list[CheckTable]:
        """Statistics of the annotations, by split and by class."""
        if not self.splits:
            return []
        rows = object_class_rows(self)
        left = len(rows) - _CLASS_ROWS
        return [
            CheckTable(
                ["split", *(column.replace("_", " ") for column in _COLUMNS)],
                [[split, *attrgetter(*_COLUMNS)(figures)] for split, figures in self.splits.items()],
                "small: below 32x32 pixels of area, large: from 96x96. Crowd regions are neither trained on nor scored.",
            ),
            CheckTable(
                ["class", *self.splits],
                [list(row.values()) for row in rows[:_CLASS_ROWS]],
                f"{left} rarer classes are not shown: --json lists all" if left > 0 else None,
            ),
        ]


def check_coco_data(
    root: Path | str | None,
    *,
    images: Path | str | None = None,
    annotations: Path | str | None = None,
    crowds_are_objects: bool = False,
    reading: Reading = AS_SHOWN,
    **options: Any,
) -> DetectionVerdict:
    """Check annotations, classes and images of a COCO set: the splits under `root`, or one pair of folder and file.

    Annotations are read whole, with the settings of a recipe: `data.detection.crowds` and `data.exif`; for `options`
    and the images see `DatasetCheck`. Raises UsageError when there is no such folder, or the pair is incomplete.
    """
    check = DatasetCheck(COCO_MEANING, **options)
    if images is not None or annotations is not None:
        folder, file = find_coco(None, "given", images=images, annotations=annotations)
        places = {file.stem: (folder, file)}
    else:
        places = _places(Path(root or "."), check)
    tables = {}
    for split, (folder, file) in places.items():
        sizes = partial(_size_in, folder, reading)
        if table := _read(file, split, check, crowds_are_objects=crowds_are_objects, size_of=sizes):
            tables[split] = table
    if "train" in tables and "val" in tables:
        _compare_classes(tables["train"], tables["val"], check)
    for split, table in tables.items():
        folder = places[split][0]
        there = _compare_files(folder, table, split, check)
        check.examine(
            split,
            table.file_names,
            partial(_Listed, folder, table, reading),
            among=there,
        )
    return check.verdict(
        DetectionVerdict,
        root if images is None else places[next(iter(places))][1],
        max((len(table.class_names) for table in tables.values()), default=0),
        splits={split: _figures(table) for split, table in tables.items()},
    )


def _places(root: Path, check: DatasetCheck) -> dict[str, tuple[Path, Path]]:
    """Split -> (image folder, annotation file), if they exist."""
    require_folder(root, COCO_LAYOUT)

    def is_absent(split: str, error: UsageError) -> bool:
        # annotations without images are a fault; a missing split may be intended
        return not any((root / "annotations" / f"instances_{split}{year}.json").is_file() for year in ("2017", ""))

    return check.find_splits(partial(find_coco, root), is_absent)


def _size_in(folder: Path, reading: Reading, name: str) -> tuple[int, int] | None:
    return file_size(folder / name, reading)


def _read(file: Path, split: str, check: DatasetCheck, **options: Any) -> CocoTable | None:
    """The file's columns; its faults go to `check`."""
    try:
        table = scan_coco(load_coco(file), masks=True, **options)
    except UsageError as error:
        check.add("layout", split, error.message)
        return None
    for problem in table.problems:
        for key in problem.ids or (problem.message,):
            check.add(problem.kind, split, str(key))
    for name, count in Counter(table.file_names).items():
        if count > 1:
            check.add("listed_twice", split, name)
    busy = np.zeros(len(table.image_ids), np.bool_)
    busy[table.images[~table.crowd]] = True
    for at in np.flatnonzero(~busy).tolist():
        check.add("no_objects", split, table.file_names[at])
    learned = busy & (table.sizes.min(1) >= MIN_TRAIN_SIDE)
    if split != "val" and len(busy) and not learned.any():
        kind = "nothing_to_learn" if split == "train" else "nothing_to_score"
        check.add(kind, split, f"{int(busy.sum())} of {plural(len(busy), 'image')} with objects")
    elif split == "val" and len(busy) and not busy.any():
        check.add("nothing_to_score", split, plural(len(busy), "image"))
    return table


def _compare_classes(train: CocoTable, val: CocoTable, check: DatasetCheck) -> None:
    ids, ids_of_val = (dict(zip(table.class_names, table.category_ids, strict=True)) for table in (train, val))
    for name in [name for name in ids_of_val if name not in ids]:
        check.add("no_class", "val", name)
    for name in [name for name in ids if name not in ids_of_val]:
        check.add("no_class_in_val", "val", name)
    both = [name for name in ids if name in ids_of_val]
    for name in both:
        if ids[name] != ids_of_val[name]:
            check.add("class_ids", "val", f"{name}: {ids_of_val[name]}, in train {ids[name]}")
    if len(both) == len(ids) == len(ids_of_val) and list(ids) != list(ids_of_val):
        moved = next(pair for pair in zip(ids, ids_of_val, strict=True) if pair[0] != pair[1])
        check.add("class_order", "val", f"{moved[1]} stands where train has {moved[0]}")
    counts = {split: _figures(table).classes for split, table in (("train", train), ("val", val))}
    check.compare_classes(both, {split: {name for name in both if of[name]} for split, of in counts.items()})


def _compare_files(folder: Path, table: CocoTable, split: str, check: DatasetCheck) -> NDArray[np.int64]:
    """Positions of the listed images that exist."""
    on_disk = set(images_below(folder))
    there = []
    for at, name in enumerate(table.file_names):
        if name in on_disk or is_file(folder / name):
            there.append(at)
        else:
            check.add("absent", split, name)
    if table.file_names and not there:
        check.add("none_there", split, none_there(folder, table.file_names))
    for name in sorted(on_disk.difference(table.file_names)):
        check.add("not_listed", split, name)
    return np.array(there, np.int64)


class _Listed(Examinations):
    """The listed images of a folder, whose sizes are compared with the annotations'."""

    def __init__(self, folder: Path, table: CocoTable, reading: Reading, picks: NDArray[np.int64]) -> None:
        super().__init__(ImageFiles(folder, table.file_names), picks)
        self.sizes, self.reading = table.sizes, reading

    def __getitem__(self, at: int) -> Examination:
        found = super().__getitem__(at)
        height, width = self.sizes[found.index].tolist()
        return compared(found, (height, width), self.reading, f"annotations for {width}x{height}")


def _figures(table: CocoTable) -> SplitFigures:
    objects = ~table.crowd
    areas = table.areas[objects]
    counts = np.bincount(table.labels[objects], minlength=len(table.class_names))
    busy = len(np.unique(table.images[objects]))
    masks = table.segments.has_mask()[objects] if table.segments is not None else np.zeros(0)
    return SplitFigures(
        images=len(table.image_ids),
        objects=int(objects.sum()),
        crowds=int(table.crowd.sum()),
        without_objects=len(table.image_ids) - busy,
        with_mask=int(masks.sum()),
        small=int((areas < _SMALL).sum()),
        medium=int(((areas >= _SMALL) & (areas < _LARGE)).sum()),
        large=int((areas >= _LARGE).sum()),
        classes={name: int(count) for name, count in zip(table.class_names, counts, strict=True)},
    )


def object_class_rows(verdict: DetectionVerdict) -> list[dict[str, Any]]:
    """One row per class, the most frequent in train first: its name and its objects by split."""
    names = dict.fromkeys(name for figures in verdict.splits.values() for name in figures.classes)
    rows = [
        {"class": name} | {split: figures.classes.get(name, 0) for split, figures in verdict.splits.items()}
        for name in names
    ]
    first = next(iter(verdict.splits), None)
    return sorted(rows, key=lambda row: -row[first]) if first is not None else []
