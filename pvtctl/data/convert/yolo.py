"""Reads detection labels in YOLO's text files: boxes, and polygons of segmentation sets."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pvtctl.data.convert.source import (
    AnnotatedImage,
    ConversionFindings,
    ImageIndex,
    LabelledObject,
    check_names,
    clip_to_image,
    files_below,
    read_names,
    size_of,
    split_of_folders,
)
from pvtctl.errors import UsageError

_NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "classes.txt", "obj.names")
_NOT_LABELS = {*_NAME_FILES, "train.txt", "val.txt", "test.txt", "notes.txt"}
_FURTHEST = 0.5
"""How far outside the image a coordinate may be, as a share of its side; larger values are taken for pixels."""


def read_yolo(
    source: Path,
    index: ImageIndex,
    names: list[str] | None,
    findings: ConversionFindings,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[str], list[AnnotatedImage]]:
    """(class names, labelled images) of the images in `index`.

    The labels of `.../images/.../NAME.jpg` are in `.../labels/.../NAME.txt`, else next to the image. A line is
    `class cx cy w h` (centre and size) or, for a polygon, `class x1 y1 x2 y2 x3 y3 ...`, as shares of the image's
    width and height. An image without a label file or with an empty one has no objects, by this layout's convention.
    Class names are `names`, else those of `data.yaml`, `classes.txt` or `obj.names` at the top of `source`.

    Faults and what was left out go to `findings`. Raises UsageError where there are no label files or no names.
    """
    labels = _LabelFiles(source)
    if not labels.paths:
        raise UsageError(f"no YOLO label file in {source}", "expected: labels/NAME.txt next to images/NAME.jpg")
    names = names if names is not None else _names_in(source)
    found: list[AnnotatedImage] = []
    used: set[Path] = set()
    for at, image in enumerate(index.paths, start=1):
        file = labels.of(image)
        if file is not None:
            used.add(file)
        objects = _read_file(file, names, findings) if file is not None else []
        size = size_of(image)
        if size is None:
            findings.note("unreadable", image)
        else:
            inside_it = _in_pixels(objects, size, findings, file or image)
            found.append(AnnotatedImage(image, size, inside_it, findings.below(image)))
        if on_progress is not None:
            on_progress("labels", at, len(index.paths))
    for path in sorted(labels.paths - used):
        findings.note("no_image", path)
    return names, found if used else []  # if no image has a label file, these are the wrong images


class _LabelFiles:
    """All label files below the source."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self.paths = {path for path in files_below(source, (".txt",)) if path.name not in _NOT_LABELS}
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(self.paths):
            self._by_stem[path.stem].append(path)

    def of(self, image: Path) -> Path | None:
        beside = image.with_suffix(".txt")
        parts = list(beside.parts)
        if "images" in parts[:-1]:
            at = len(parts) - 1 - parts[::-1].index("images")
            there = Path(*parts[:at], "labels", *parts[at + 1 :])
            if there in self.paths:
                return there
        if beside in self.paths:
            return beside
        if image.is_relative_to(self._source):
            return None
        # images of a folder elsewhere: by their names, and by the split where names repeat
        found = self._by_stem.get(image.stem, [])
        if len(found) > 1:
            found = [path for path in found if split_of_folders(path) == split_of_folders(image)]
        return found[0] if len(found) == 1 else None


def _names_in(source: Path) -> list[str]:
    file = next((source / name for name in _NAME_FILES if (source / name).is_file()), None)
    if file is None:
        raise UsageError(
            f"no class names in {source}: neither data.yaml nor classes.txt",
            "give them with --classes FILE, one a line",
        )
    if file.suffix not in (".yaml", ".yml"):
        return read_names(file)
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {file}: {' '.join(str(error).split())}", "or give --classes FILE") from error
    names: Any = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UsageError(f"the names in {file} are not numbered 0 to {len(names) - 1}", "or give --classes FILE")
        names = [names[at] for at in range(len(names))]
    if not isinstance(names, list):
        raise UsageError(f"{file} has no `names`", "expected: names: [first, second], or give --classes FILE")
    return check_names([str(name) for name in names], file)


def _read_file(file: Path, names: list[str], findings: ConversionFindings) -> list[LabelledObject]:
    """Objects in shares of the image; lines that cannot be used are reported to `findings`."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "not text"
        findings.fault(file, None, reason)
        return []
    objects = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            objects.append(_read_line(line.split(), names))
        except ValueError as error:
            findings.fault(file, number, str(error))
    return objects


def _read_line(words: list[str], names: list[str]) -> LabelledObject:
    """Raises ValueError with the reason."""
    try:
        label, *values = map(float, words)
    except ValueError:
        raise ValueError(f"{' '.join(words)[:60]!r} is not a row of numbers") from None
    if not all(map(math.isfinite, (label, *values))):
        raise ValueError("a number is not finite")
    if label != int(label) or not 0 <= label < len(names):
        raise ValueError(f"class {words[0]} is not one of the {len(names)} classes, 0 to {len(names) - 1}")
    name = names[int(label)]
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            f"{len(words)} numbers: expected class cx cy w h, or class x y x y x y ... of three points or more"
        )
    if min(values) < -_FURTHEST or max(values) > 1 + _FURTHEST:
        raise ValueError(f"{max(values, key=abs):g} is not a share of the image: are these pixels?")
    if len(values) == 4:
        cx, cy, width, height = values
        return LabelledObject(name, (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2))
    xs, ys = values[::2], values[1::2]
    return LabelledObject(name, (min(xs), min(ys), max(xs), max(ys)), polygon=values)


def _in_pixels(
    shares: list[LabelledObject], size: tuple[int, int], findings: ConversionFindings, place: Path
) -> list[LabelledObject]:
    height, width = size
    scale = (width, height)
    kept = []
    for each in shares:
        x0, y0, x1, y1 = each.box
        box = (x0 * width, y0 * height, x1 * width, y1 * height)
        polygon = [value * scale[at % 2] for at, value in enumerate(each.polygon)]
        if (
            part := clip_to_image(LabelledObject(each.name, box, each.crowd, polygon), size, findings, place)
        ) is not None:
            kept.append(part)
    return kept
