"""Shared by the readers of Pascal-VOC and YOLO labels: labelled objects, image look-up, findings."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pvtctl.data.image_files import SUFFIXES
from pvtctl.data.images import (
    AS_SHOWN,
    BadImage,
    Reading,
    image_header,
    in_frame_of,
    orientation_of,
    size_read,
)
from pvtctl.errors import UsageError
from pvtctl.io.foreign import BadFile, read_text, walk_files

_EXAMPLES = 5
_IMAGE_FOLDERS = ("jpegimages", "images")
_MASK_FOLDERS = ("segmentationclass", "segmentationclassraw", "segmentationobject", "masks", "labels", "annotations")
_SPLIT_WORDS = (("train", r"train(ing)?\d*"), ("val", r"val(id|idation)?\d*"), ("test", r"test(ing)?\d*"))

NOTES = {
    "test": "images of a test split: left out",
    "no_split": "images in neither train nor val: left out",
    "no_labels": "images without a label file: left out",
    "no_image": "label files without an image: left out",
    "unreadable": "images that cannot be read: left out",
    "other_size": "label files that give another size than the image has: the image's is taken",
    "difficult": "objects marked difficult: become crowd, which is neither trained on nor scored",
    "no_area": "objects without area inside the image: left out",
    "cut": "boxes that reach beyond the image: cut at its edge",
    "keypoints": "objects with keypoints, which are left out: their boxes are taken",
    "turned": "images with an EXIF rotation: labels are those of the picture as shown",
    "not_turned": "images with an EXIF rotation: labels are those of the picture as stored",
    "from_zero": "boxes start at 0, where the devkit counts from 1: --zero-based, if another tool wrote these files",
}
"""kind -> what was done. None of these stops a conversion."""


@dataclass
class LabelledObject:
    """One object of an image."""

    name: str
    """Its class."""
    box: tuple[float, float, float, float]
    """xyxy in pixels, (0, 0) the upper left corner of the image."""
    crowd: bool = False
    polygon: list[float] = field(default_factory=list)
    """x, y, x, y, ... in pixels; empty where there is only a box."""


@dataclass
class AnnotatedImage:
    """One image and its annotations."""

    path: Path
    size: tuple[int, int]
    """(height, width) of the file."""
    objects: list[LabelledObject]
    found_as: Path
    """The label file's path, or the image's, relative to the source: its folders may name a split."""


@dataclass(frozen=True)
class Note:
    """Something that was left out or corrected, and how often."""

    kind: str
    meaning: str
    count: int
    examples: list[str]


class ConversionFindings:
    """Collects what stops a conversion, with file and line, and what does not."""

    def __init__(self, *roots: Path) -> None:
        self._roots = roots
        self._faults: list[str] = []
        self._notes: dict[str, list[str]] = defaultdict(list)

    def fault(self, path: Path, line: int | None, what: str) -> None:
        self._faults.append(f"{self.below(path)}{f':{line}' if line else ''}: {what}")

    def refused(self, error: BadFile) -> None:
        """Record a label file that cannot be read."""
        line = f":{error.line}" if error.line else ""
        self._faults.append(f"{self.below(Path(str(error.path)))}{line} {error.reason}")

    def note(self, kind: str, path: Path) -> None:
        self._notes[kind].append(str(self.below(path)))

    def below(self, path: Path) -> Path:
        """The path relative to the source, or to the folder of the images."""
        return next((path.relative_to(root) for root in self._roots if path.is_relative_to(root)), path)

    def refuse(self) -> None:
        """Raise UsageError with the first faults, when there are any."""
        if self._faults:
            first, *others = self._faults[:_EXAMPLES]
            count = len(self._faults)
            hint = "correct or remove what is named; nothing was written"
            if others:
                hint = f"{count} faults in all, the next are:\n      " + "\n      ".join(others) + f"\n      {hint}"
            raise UsageError(first, hint)

    def notes(self) -> list[Note]:
        return [
            Note(kind, meaning, len(self._notes[kind]), list(dict.fromkeys(self._notes[kind]))[:_EXAMPLES])
            for kind, meaning in NOTES.items()
            if kind in self._notes
        ]


class ImageIndex:
    """All images below a folder, by name, and how they are read."""

    def __init__(self, root: Path, reading: Reading = AS_SHOWN) -> None:
        self.root, self.reading = root, reading
        self.paths = files_below(root, SUFFIXES)
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in self.paths:
            self._by_name[path.name].append(path)
            self._by_name[path.stem].append(path)

    def relative(self, path: Path) -> Path:
        """The path relative to the folder."""
        return path.relative_to(self.root) if path.is_relative_to(self.root) else path

    def find(self, name: str, beside: Path, given: str = "") -> list[Path]:
        """The images of this name, with or without its suffix; of several, the one of the `given` name, those next to the
        label file, those that are no masks, those of its split."""
        found = self._by_name.get(name, [])
        for better in (
            [path for path in found if path.parent == beside.parent],
            [path for path in found if path.name == given],
            [path for path in found if not self._is_of_masks(path)],
            [path for path in found if path.parent.name.lower() in _IMAGE_FOLDERS],
            [path for path in found if split_of_folders(path) == split_of_folders(beside)],
        ):
            if len(found) > 1 and better:
                found = [path for path in found if path in better]
        return found

    def ending_in(self, words: Sequence[str], root: Path | None = None) -> list[Path]:
        """The images whose path ends in most of these folders and this name, with or without its suffix; of several, those
        below `root` and those that are no masks."""
        name = words[-1]
        stem = name.rsplit(".", 1)[0] if name.lower().endswith(SUFFIXES) else name
        found = self._by_name.get(name) or self._by_name.get(stem, [])
        if root is not None:
            found = [path for path in found if path.is_relative_to(root)] or found
        alike = [_common_end(path.parent.parts, words[:-1]) for path in found]
        found = [path for path, length in zip(found, alike, strict=True) if length == max(alike)]
        return [path for path in found if not self._is_of_masks(path)] or found

    def below(self, folder: Path) -> list[Path]:
        """The images in a folder and the folders in it."""
        real = folder.resolve()
        top = os.path.normpath(folder.absolute())
        paths = [path for path in self.paths if Path(os.path.normpath(path.absolute())).is_relative_to(top)]
        return paths or [path for path in self.paths if path.resolve().is_relative_to(real)]

    def below_like(self, folder: str) -> list[Path]:
        """The images below the one folder whose path ends most like that of a folder on another machine."""
        words = [part for part in Path(folder).parts if part not in (".", "..", "/")]
        places = {place for path in self.paths for place in self.relative(path).parents}
        alike = {place: _common_end(place.parts, words) for place in places}
        best = [place for place, length in alike.items() if length and length == max(alike.values())]
        return [path for path in self.paths if self.relative(path).is_relative_to(best[0])] if len(best) == 1 else []

    def size_of(
        self, path: Path, findings: ConversionFindings, stated: tuple[int, int] | None = None
    ) -> tuple[int, int] | None:
        """(height, width) of an image in the frame of its labels: that of the `stated` size where this tells, else as
        `reading` says; None, noted, if it is no image."""
        try:
            with image_header(path) as image:
                reading = self.reading if stated is None else in_frame_of(stated, image, self.reading)
                size = size_read(image, reading)
                if orientation_of(image) != 1:
                    findings.note("turned" if reading.exif else "not_turned", path)
                return size
        except BadImage:
            findings.note("unreadable", path)
            return None

    def _is_of_masks(self, path: Path) -> bool:
        """Whether an image is in a folder of label maps or drawings, not one to learn from."""
        folders = [part.lower() for part in self.relative(path).parts[:-1]]
        return any(folder in _MASK_FOLDERS or folder.endswith("visualization") for folder in folders)


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    """Number of equal parts at the ends of two paths."""
    length = 0
    for ours, theirs in zip(reversed(one), reversed(other), strict=False):
        if ours != theirs:
            break
        length += 1
    return length


def files_below(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files with one of these suffixes, in any case, in `root` and its folders, sorted; hidden ones are ignored.

    Linked folders are followed, each place once. What cannot be read, and what is no file, is left out.
    """
    return list(walk_files(root, lambda path, reason: None, suffixes=suffixes, follow=True))


def split_of_folders(path: Path) -> str | None:
    """`train`, `val` or `test`: the name of the innermost such folder (`valid`, `train2017` count too)."""
    for part in reversed(path.parts[:-1]):
        for split, pattern in _SPLIT_WORDS:
            if re.fullmatch(pattern, part.lower()):
                return split
    return None


def clip_to_image(
    labelled: LabelledObject, size: tuple[int, int], findings: ConversionFindings, place: Path
) -> LabelledObject | None:
    """The object clipped to its image; None if nothing is left."""
    height, width = size
    x0, y0, x1, y1 = labelled.box
    cut = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        findings.note("no_area", place)
        return None
    if max(abs(a - b) for a, b in zip(labelled.box, cut, strict=True)) >= 1:  # less is rounding
        findings.note("cut", place)
    limits = (width, height)
    polygon = [min(max(value, 0.0), float(limits[at % 2])) for at, value in enumerate(labelled.polygon)]
    return LabelledObject(labelled.name, cut, labelled.crowd, polygon)


def read_names(path: Path) -> list[str]:
    """Class names, one a line. Raises UsageError: no such file, no names, a name twice."""
    lines = read_text(path, hint="class names are a text file with one name a line").splitlines()
    return check_names([line.strip() for line in lines if line.strip()], path)


def check_names(names: list[str], path: Path) -> list[str]:
    """The names; raises UsageError where there are none or one occurs twice."""
    if not names:
        raise UsageError(f"{path} holds no class names", "one name a line")
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UsageError(f"{path} names the class {repeated!r} twice", "every class has a name of its own")
    return names


def polygon_area(polygon: list[float]) -> float:
    """Square pixels inside x, y, x, y, ...; 0 for none."""
    xs, ys = polygon[::2], polygon[1::2]
    return abs(sum(xs[at - 1] * ys[at] - xs[at] * ys[at - 1] for at in range(len(xs)))) / 2
