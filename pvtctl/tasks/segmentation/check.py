"""Checks a set of label maps before training on it: the values in the masks, and the settings that fit them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
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
from pvtctl.data.images import AS_SHOWN, BadImage, Reading
from pvtctl.data.layouts import EXPECTED
from pvtctl.errors import UsageError
from pvtctl.io.foreign import require_folder
from pvtctl.io.names import plural
from pvtctl.models.structures import IGNORE_LABEL
from pvtctl.tasks.segmentation.class_lists import UNKNOWN, ClassList
from pvtctl.tasks.segmentation.data import find_classes
from pvtctl.tasks.segmentation.layouts import MaskPairs, common_affix, find_mask_pairs, has_split
from pvtctl.tasks.segmentation.masks import BINARY_ADVICE, ColourError, read_values, suggestion
from pvtctl.tasks.segmentation.settings import SegmentationData

SEGMENTATION_MEANING: Mapping[str, tuple[Severity, str]] = (
    MEANING
    | LABELLED
    | {
        "no_classes": ("error", "nothing says which class a value is"),
        "outside": ("error", "values that the class list does not have: a run stops at the first such mask"),
        "colours": ("error", "colour-coded masks whose colours the class list does not have"),
        "no_labels": ("error", "pixels that are not labels, such as floats: a run stops at the first such mask"),
        "no_mask": ("error", "images without a mask of their name: a run does not start"),
        "no_labels_at_all": ("error", "no mask of the split can be used"),
        "no_image": ("note", "masks without an image of their name: not used"),
        "bad_mask": ("warning", "masks that cannot be read: skipped in training, left out of scores"),
        "other_size": ("warning", "image and mask differ in size: skipped in training, left out of scores"),
        "looks_unlabelled": ("warning", "0 seems to mean unlabelled, and is learned as a class"),
        "looks_labelled": (
            "warning",
            "0 seems to be a class, and is taken for unlabelled: all labels would be off by one",
        ),
        "looks_binary": ("warning", "masks of 0 and 255: 255 is no class, so that only one is left to learn"),
        "only_in_val": ("warning", "class with pixels in val alone: never learned"),
        "only_in_train": ("note", "class with pixels in train alone: has no score"),
        "label_gap": ("note", "class of the list without a pixel in either split"),
        "no_class_at_all": ("error", "not one pixel of the split has a class"),
        "unlabelled": ("note", "not one pixel has a class: nothing is learned from it"),
    }
)
"""kind -> (severity, what it means for a run)."""

_ENOUGH, _DOUBTFUL = 20, 0.1
"""Number of masks, and share of unlabelled pixels, from which it is doubtful that 0 means unlabelled."""

_CLASS_ROWS = 60
"""Maximum number of classes shown."""


@dataclass(frozen=True)
class _Seen(Examination):
    """Findings for an image and its mask."""

    values: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    """Raw values and number of pixels of each."""


@dataclass
class ClassFigures:
    """Frequency of a class in the examined masks."""

    value: int
    """Raw value."""
    pixels: int
    share: float
    """Share of the labelled pixels."""
    images: int


@dataclass
class LabelFigures:
    """Statistics of a split's examined masks."""

    images: int
    pixels: int
    unlabelled_share: float
    """Share of pixels without a class."""
    classes: dict[str, ClassFigures]
    outside: dict[int, int]
    """Value missing in the class list -> pixels."""
    images_with: dict[int, int] = field(default_factory=dict)
    """Raw value -> number of masks with it."""


@dataclass
class LabelVerdict(DatasetVerdict):
    """Result of checking a set of label maps."""

    splits: dict[str, LabelFigures]
    advice: list[str]
    """Settings that would fix it."""

    def tables(self) -> list[CheckTable]:
        """The values in the masks."""
        rows = label_class_rows(self)
        if not rows:
            return []
        cells = [
            [row["value"], row["class"] or "(not a class)", *_shares(row, list(self.splits))]
            for row in rows
            if row["class"] == "" or any(row[split][1] for split in self.splits)
        ]
        left = len(cells) - _CLASS_ROWS
        more = f" {left} more are not shown: --json lists all." if left > 0 else ""
        return [
            CheckTable(
                ["value", "class", *(f"{split} {what}" for split in self.splits for what in ("share", "images"))],
                cells[:_CLASS_ROWS],
                f"Values as they lie; shares of the labelled pixels of the masks that were examined.{more}",
            )
        ]

    def lines(self) -> list[str]:
        """The unlabelled share of each split, and the settings that would fit the masks."""
        shares = [
            f"{split}: {100 * found.unlabelled_share:.1f} % of the pixels have no class"
            for split, found in self.splits.items()
            if found.pixels and found.classes
        ]
        return [*shares, *(f"setting: {each}" for each in self.advice)]


def check_segmentation_data(
    root: Path | str,
    *,
    name: str,
    settings: SegmentationData | None = None,
    reading: Reading = AS_SHOWN,
    **options: Any,
) -> LabelVerdict:
    """Check the pairs, sizes and values of a set: `ade20k`, `pascal_context`, `cityscapes` or `masks`.

    `settings` are a recipe's `data.segmentation`, `reading` follows its `data.exif`; `options`: see `DatasetCheck`.
    Raises UsageError when there is no such folder.
    """
    root = Path(root)
    require_folder(root, EXPECTED[name])
    check = DatasetCheck(SEGMENTATION_MEANING, **options)
    advice: list[str] = []
    pairs = check.find_splits(
        lambda split: find_mask_pairs(name, root, split), lambda split, error: not has_split(name, root, split)
    )
    classes = None
    try:
        train_ids = all(found.train_ids for found in pairs.values())
        classes = find_classes(name, root, settings or SegmentationData(), train_ids=train_ids)
    except UsageError as error:
        check.add("no_classes", "train", error.message)
        advice += [error.hint] if error.hint else []
    figures = {}
    for split, found in pairs.items():
        for kind, names in (("no_mask", found.without_mask), ("no_image", found.without_image)):
            for each in names:
                check.add(kind, split, each)
        if not found.images and (affix := common_affix(found.without_mask, found.without_image)):
            advice.append(f"the masks are called {affix}: rename them, or the images, so that both have one name")
        seen: list[_Seen] = []
        check.examine(split, found.images, partial(_Masks, found, classes, reading), note=seen.append)
        check.images[split] += len(found.without_mask)
        figures[split] = _figures(seen, classes)
        _judge_files(seen, found, split, classes, check)
    if classes is not None:
        _judge_classes(figures, classes, check, advice)
    elif values := sorted({value for found in figures.values() for value in found.outside}):
        few = ", ".join(map(str, values[:20])) + (", ..." if len(values) > 20 else "")
        advice.append(f"the masks hold the values {few}: write a line for each into classes.txt, NUMBER NAME")
    return check.verdict(
        LabelVerdict,
        root,
        0 if classes is None else len(classes.names),
        splits=figures,
        advice=list(dict.fromkeys(advice)),
    )


class _Masks(Examinations):
    """Reads each picked image with its mask."""

    def __init__(self, pairs: MaskPairs, classes: ClassList | None, reading: Reading, picks: NDArray[np.int64]) -> None:
        super().__init__(ImageFiles(pairs.image_folder, pairs.images), picks)
        self.pairs, self.classes, self.reading = pairs, classes, reading

    def __getitem__(self, at: int) -> _Seen:
        image = super().__getitem__(at)
        path = self.pairs.mask_folder / self.pairs.masks[image.index]
        values = None
        try:
            found = read_values(path, self.classes)
        except ColourError as error:
            image = replace(image, kinds=(*image.kinds, "colours"), detail=error.message)
        except UsageError as error:
            image = replace(image, kinds=(*image.kinds, "no_labels"), detail=error.message)
        except (BadImage, OSError) as error:
            image = replace(image, kinds=(*image.kinds, "bad_mask"), detail=f"mask: {error}")
        else:
            values = _counted(found)
            height, width = found.shape
            image = compared(image, (height, width), self.reading, f"its mask {width}x{height}")
        return _Seen(**vars(image), values=values)


def _counted(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if values.dtype == np.uint8:
        counts = np.bincount(values.reshape(-1), minlength=256)
        there = np.flatnonzero(counts)
        return there, counts[there]
    there, counts = np.unique(values, return_counts=True)
    return there.astype(np.int64), counts


def _figures(seen: Iterable[_Seen], classes: ClassList | None) -> LabelFigures:
    pixels: Counter[int] = Counter()
    masks: Counter[int] = Counter()
    images = 0
    for one in seen:
        if one.values is not None:
            images += 1
            values = one.values[0].tolist()
            masks.update(values)
            pixels.update(dict(zip(values, one.values[1].tolist(), strict=True)))
    total = sum(pixels.values())
    if classes is None:
        return LabelFigures(images, total, 0.0, {}, dict(sorted(pixels.items())), dict(sorted(masks.items())))
    labelled = sum(pixels[value] for value in classes.values)
    table = classes.table()
    outside = {value: count for value, count in sorted(pixels.items()) if _labels(value, table) == UNKNOWN}
    by_class = {
        each: ClassFigures(value, pixels[value], pixels[value] / max(1, labelled), masks[value])
        for each, value in zip(classes.names, classes.values, strict=True)
    }
    unlabelled = total - labelled - sum(outside.values())
    return LabelFigures(images, total, unlabelled / max(1, total), by_class, outside, dict(sorted(masks.items())))


def _labels(values: int | NDArray[np.int64], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels of raw values, UNKNOWN if not in the class list."""
    values = np.asarray(values)
    return np.where((values < 0) | (values > 65535), UNKNOWN, table[values.clip(0, 65535)])


def _judge_files(
    seen: Iterable[_Seen], pairs: MaskPairs, split: str, classes: ClassList | None, check: DatasetCheck
) -> None:
    """Report problems of single masks."""
    table = None if classes is None else classes.table()
    usable = unlabelled = total = 0
    for one in seen:
        total += 1
        if one.values is None:
            continue
        values, counts = one.values
        usable += "other_size" not in one.kinds
        if table is None:
            continue
        labels = _labels(values, table)
        name = pairs.masks[one.index]
        if (labels == UNKNOWN).any():
            wrong = [f"{value} ({plural(count, 'pixel')})" for value, count in zip(values, counts, strict=True)]
            wrong = [text for text, label in zip(wrong, labels, strict=True) if label == UNKNOWN]
            check.add("outside", split, f"{name}: {', '.join(wrong[:5])}{', ...' if len(wrong) > 5 else ''}")
        if (labels == IGNORE_LABEL).all():
            check.add("unlabelled", split, name)
            unlabelled += 1
    if usable and unlabelled == total:
        check.add("no_class_at_all", split, f"all {plural(total, 'mask')} examined")
    if total and not usable:
        check.add("no_labels_at_all", split, f"none of {plural(total, 'mask')} examined")


def _judge_classes(
    figures: Mapping[str, LabelFigures], classes: ClassList, check: DatasetCheck, advice: list[str]
) -> None:
    """Report problems of the values of whole splits."""
    outside = sorted({value for split in figures.values() for value in split.outside})
    if outside:
        advice.append(suggestion(outside, classes))
    _judge_ends(figures, classes, check, advice)
    present = {split: {name for name, row in found.classes.items() if row.pixels} for split, found in figures.items()}
    check.compare_classes(classes.names, present)


def _judge_ends(
    figures: Mapping[str, LabelFigures], classes: ClassList, check: DatasetCheck, advice: list[str]
) -> None:
    """Report if 0 seems misread: a class next to one value too many, or unlabelled with the last value unused."""
    last = max(classes.values)
    for split, found in figures.items():
        values = found.images_with
        if set(values) == {0, IGNORE_LABEL} and IGNORE_LABEL not in classes.values:
            check.add("looks_binary", split, f"all {plural(found.images, 'mask')} examined")
            advice.append(f"{BINARY_ADVICE[0].lower()}{BINARY_ADVICE[1:]}")
        elif 0 in classes.values and 0 in values and list(found.outside) == [last + 1]:
            check.add(
                "looks_unlabelled", split, f"values go from 0 to {last + 1}, for {plural(len(classes.names), 'class')}"
            )
        elif (
            0 in classes.ignored
            and last not in values
            and not found.outside
            and found.images >= _ENOUGH
            and found.unlabelled_share >= _DOUBTFUL
        ):
            share = f"{100 * found.unlabelled_share:.0f} % of the pixels, and {last} is in no mask"
            check.add("looks_labelled", split, f"0 is in {values.get(0, 0)} of {plural(found.images, 'mask')}, {share}")
            advice.append("if classes count from 0: --set data.segmentation.labels=plain")


def label_class_rows(verdict: LabelVerdict) -> list[dict[str, Any]]:
    """One row per class, in label order: value, name, and by split its share of the labelled pixels and its images.

    Values that the class list does not have come last, with their pixels' share of all.
    """
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for split, found in verdict.splits.items():
        for name, row in found.classes.items():
            rows.setdefault((row.value, name), {})[split] = (row.share, row.images)
    for split, found in verdict.splits.items():
        for value, pixels in found.outside.items():
            share = (pixels / max(1, found.pixels), found.images_with[value])
            rows.setdefault((value, ""), {})[split] = share
    return [{"value": value, "class": name} | by_split for (value, name), by_split in rows.items()]


def _shares(row: dict[str, Any], splits: list[str]) -> list[str]:
    cells = []
    for split in splits:
        share, images = row.get(split, (0.0, 0))
        cells += [f"{100 * share:.2f} %" if share else "-", str(images)]
    return cells
