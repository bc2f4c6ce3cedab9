"""Reads detection labels in YOLO's text files: boxes, and polygons of segmentation sets."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from pvtctl.data.convert.source import (
    AnnotatedImage,
    ConversionFindings,
    ImageIndex,
    LabelledObject,
    check_names,
    clip_to_image,
    files_below,
    read_names,
    split_of_folders,
)
from pvtctl.data.convert.splits import data_yaml
from pvtctl.errors import UsageError
from pvtctl.io.foreign import BadFile, read_text
from pvtctl.io.names import shown

_NOT_LABELS = {"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "notes.txt"}
_JUDGED = 3
"""Rows from which it is judged whether they are polygons or poses."""
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
    width and height; with `kpt_shape` in `data.yaml`, a box and its keypoints, which are left out. An image
    without a label file or with an empty one has no objects, by this layout's convention.
    Class names are `names`, else those of `data.yaml`, `classes.txt` or `obj.names` at the top of `source`.

    Faults and what was left out go to `findings`. Raises UsageError where there are no label files or no names.
    """
    labels = _LabelFiles(source)
    if not labels.paths:
        raise UsageError(f"no YOLO label file in {source}", "expected: labels/NAME.txt next to images/NAME.jpg")
    try:
        keypoints = _keypoints_in(source)
    except BadFile:
        if names is None:
            raise
        keypoints = None
    names = names if names is not None else _names_in(source)
    rows = _Rows(names, findings, keypoints)
    found: list[AnnotatedImage] = []
    used: set[Path] = set()
    for at, image in enumerate(index.paths, start=1):
        file = labels.of(image)
        if file is not None:
            used.add(file)
        objects = rows.read(file) if file is not None else []
        size = index.size_of(image, findings)
        if size is not None:
            inside_it = _in_pixels(objects, size, findings, file or image)
            found.append(AnnotatedImage(image, size, inside_it, findings.below(image)))
        if on_progress is not None:
            on_progress("labels", at, len(index.paths))
    rows.refuse_poses(source)
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
    if (stated := data_yaml(source)) is None:
        file = next((source / name for name in ("classes.txt", "obj.names") if (source / name).is_file()), None)
        if file is None:
            raise UsageError(
                f"no class names in {source}: neither data.yaml nor classes.txt",
                "give them with --classes FILE, one a line",
            )
        return read_names(file)
    file, names = stated[0], stated[1].get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UsageError(f"the names in {file} are not numbered 0 to {len(names) - 1}", "or give --classes FILE")
        names = [names[at] for at in range(len(names))]
    if not isinstance(names, list):
        raise UsageError(f"{file} has no `names`", "expected: names: [first, second], or give --classes FILE")
    if not all(isinstance(name, str | int | float) for name in names):
        raise UsageError(f"the names in {file} are not texts", "expected: names: [first, second]")
    return check_names([str(name) for name in names], file)


def _keypoints_in(source: Path) -> int | None:
    """Numbers after the box in a row, by `kpt_shape` of data.yaml; None without."""
    stated = data_yaml(source)
    shape = stated[1].get("kpt_shape") if stated is not None else None
    if stated is None or shape is None:
        return None
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(part) is int and part > 0 for part in shape):
        raise UsageError(
            f"kpt_shape in {stated[0]} is not [keypoints, 2] or [keypoints, 3]", "correct it, or remove it"
        )
    return int(shape[0] * shape[1])


class _Rows:
    """Reads label files, whose rows are of one kind: boxes and polygons, or boxes with `keypoints` numbers after them."""

    def __init__(self, names: list[str], findings: ConversionFindings, keypoints: int | None) -> None:
        self.names, self.findings, self.keypoints = names, findings, keypoints
        self._lengths: set[int] = set()
        self._like_poses = self._polygons = 0
        self._first: tuple[Path, int] | None = None

    def read(self, file: Path) -> list[LabelledObject]:
        """Objects in shares of the image; lines that cannot be used are reported."""
        try:
            lines = read_text(file).splitlines()
        except BadFile as error:
            self.findings.refused(error)
            return []
        objects = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                objects.append(self._row(line.split(), file, number))
            except ValueError as error:
                self.findings.fault(file, number, str(error))
        return objects

    def refuse_poses(self, source: Path) -> None:
        """Raise UsageError if what would be polygons looks like boxes with keypoints."""
        if self._polygons >= _JUDGED and len(self._lengths) == 1 and self._like_poses >= 0.9 * self._polygons:
            assert self._first is not None
            file, line = self._first
            raise UsageError(
                f"{self.findings.below(file)}:{line}: rows of {min(self._lengths)} numbers whose first four are a box "
                "around the others: poses, not polygons?",
                f"say it in {source / 'data.yaml'}: kpt_shape: [keypoints, 2] (or 3); or remove the keypoints",
            )

    def _row(self, words: list[str], file: Path, number: int) -> LabelledObject:
        """Raises ValueError with the reason."""
        name, values = _numbers(words, self.names)
        if self.keypoints is not None:
            if len(values) not in (4, 4 + self.keypoints):
                raise ValueError(f"{len(words)} numbers: expected class cx cy w h and {self.keypoints} of kpt_shape")
            if len(values) > 4:
                self.findings.note("keypoints", file)
            values = values[:4]
        elif len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise ValueError(
                f"{len(words)} numbers: expected class cx cy w h, or class x y x y x y ... of three points or more"
            )
        if len(values) != 4:
            self._polygons += 1
            self._lengths.add(len(words))
            self._like_poses += _is_like_pose(values)
            self._first = self._first or (file, number)
        if min(values) < -_FURTHEST or max(values) > 1 + _FURTHEST:
            raise ValueError(f"{max(values, key=abs):g} is not a share of the image: are these pixels?")
        if len(values) == 4:
            cx, cy, width, height = values
            return LabelledObject(name, (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2))
        xs, ys = values[::2], values[1::2]
        return LabelledObject(name, (min(xs), min(ys), max(xs), max(ys)), polygon=values)


def _numbers(words: list[str], names: list[str]) -> tuple[str, list[float]]:
    """Class name and numbers of a row. Raises ValueError with the reason."""
    try:
        label, *values = map(float, words)
    except ValueError:
        raise ValueError(f"{shown(' '.join(words), most=60)!r} is not a row of numbers") from None
    if not all(map(math.isfinite, (label, *values))):
        raise ValueError("a number is not finite")
    if label != int(label) or not 0 <= label < len(names):
        raise ValueError(f"class {words[0]} is not one of the {len(names)} classes, 0 to {len(names) - 1}")
    return names[int(label)], values


def _is_like_pose(values: list[float]) -> bool:
    """Whether the first four numbers are a box around all points after it; (0, 0) is a keypoint that is not seen."""
    cx, cy, width, height = values[:4]
    return any(
        len(values[4:]) % step == 0
        and all(
            (x == 0 and y == 0) or (abs(x - cx) <= width / 2 + 0.01 and abs(y - cy) <= height / 2 + 0.01)
            for x, y in zip(values[4::step], values[5::step], strict=True)
        )
        for step in (2, 3)
    )


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
