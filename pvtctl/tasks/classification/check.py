"""Checks a classification set before training on it."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pvtctl.data.check import MEANING, DatasetCheck, DatasetVerdict, Examinations, Severity
from pvtctl.data.image_files import SUFFIXES, images_below
from pvtctl.data.images import AS_STORED, Reading
from pvtctl.errors import UsageError
from pvtctl.io.foreign import require_folder
from pvtctl.io.names import plural
from pvtctl.io.remote import file_system
from pvtctl.io.urls import MOST_SHARDS, is_url, with_secrets
from pvtctl.tasks.base import SPLITS
from pvtctl.tasks.classification.layouts import ImageFolder, class_folders
from pvtctl.tasks.classification.remote_shards import RemoteShards
from pvtctl.tasks.classification.settings import Shards
from pvtctl.tasks.classification.shards import ShardFolder, ShardSamples, has_shards

_SHARDS_LOOKED_AT = 4
"""Shards of a split at a URL that are fetched, unless all are asked for."""


def check_data(
    root: Path | str, *, reading: Reading = AS_STORED, shards: Shards | None = None, **options: Any
) -> DatasetVerdict:
    """Check the layout, the classes and the images of a data set in the ImageNet layout or in tar shards, a folder or a URL.

    With a `reading` that turns images by their EXIF orientation, that is said. `options`: see
    `DatasetCheck`. Raises UsageError when `root` is no folder.
    """
    turned: dict[str, tuple[Severity, str]] = {"exif_rotation": ("note", "turned, as data.exif says")}
    few: dict[str, tuple[Severity, str]] = {"few_shards": ("note", "looked at; all of them with --full")}
    check = DatasetCheck(MEANING | (turned if reading.exif else {}) | (few if is_url(root) else {}), **options)
    if is_url(root):
        return _check_url(str(root), shards, check)
    root = Path(root)
    require_folder(root, "give a folder that holds train/ and val/")
    classes: set[str] = set()
    splits = [split for split in SPLITS if (root / split).is_dir() or has_shards(root, split, shards)]
    for split in SPLITS:
        if split not in splits:
            check.add("missing_split" if splits else "layout", split, f"no folder {root / split}")
    for split in splits:
        source = _open(root, split, check, shards)
        if source is None:
            check.images[split] = check.examined[split] = 0
            continue
        classes |= set(source.class_names)
        _check_classes(source, split, check)
        check.examine(split, source.ids, partial(Examinations, source))
    return check.verdict(DatasetVerdict, root, len(classes))


def _check_url(root: str, shards: Shards | None, check: DatasetCheck) -> DatasetVerdict:
    """Every shard is looked up; a few, or with `full` all, are fetched, and their images examined."""
    names: set[str] = set()
    file_system(with_secrets(root))  # what no set can be read without is no fault of this one
    for split in SPLITS:
        check.images[split] = check.examined[split] = 0
        try:
            source = RemoteShards(root, split, shards=shards, only=MOST_SHARDS if check.full else _SHARDS_LOOKED_AT)
        except UsageError as error:
            check.add("layout", split, error.message)
            continue
        names |= set(source.class_names)
        if len(source.files) == source.total:
            _check_classes(source, split, check)
        else:
            check.add("few_shards", split, f"{len(source.files)} of {plural(source.total, 'shard')}")
        check.examine(split, source.ids, partial(Examinations, source))
    return check.verdict(DatasetVerdict, root, len(names))


def _open(root: Path, split: str, check: DatasetCheck, shards: Shards | None) -> ImageFolder | ShardFolder | None:
    """Open the split as training would; if that fails, faults go to `check` and the rest is examined."""
    try:
        if has_shards(root, split, shards):
            return ShardFolder(root, split, shards=shards)
        names = class_folders(root / split)
    except UsageError as error:
        check.add("layout", split, error.message)
        return None
    if split == "val" and (root / "train").is_dir() and not has_shards(root, "train", shards):
        entries = (root / "train").iterdir()
        train_names = {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
        for name in sorted(set(names) - train_names):
            check.add("not_in_train", split, name)
        for name in sorted(train_names - set(names)):
            check.add("not_in_val", split, name)
    filled = []
    for name in names:
        if images_below(root / split / name):
            filled.append(name)
        else:
            check.add("empty_class", split, name)
        for entry in sorted((root / split / name).iterdir()):
            if entry.is_file() and not entry.name.lower().endswith(SUFFIXES):
                check.add("other_files", split, f"{name}/{entry.name}")
    return ImageFolder(root, split, class_names=filled) if filled else None


def _check_classes(source: ImageFolder | ShardSamples, split: str, check: DatasetCheck) -> None:
    present = set(np.unique(source.labels).tolist())
    for label, name in enumerate(source.class_names):
        if label not in present:
            check.add("label_gap", split, f"{label} ({name})")
    numbers = [re.fullmatch(r"(\D*)(\d+)", name) for name in source.class_names]
    parts = [(match[1], int(match[2])) for match in numbers if match]
    if len(parts) == len(numbers) and parts != sorted(parts):
        at = next(i for i in range(len(parts) - 1) if parts[i] > parts[i + 1])
        check.add("class_order", split, f"{source.class_names[at]} comes before {source.class_names[at + 1]}")
