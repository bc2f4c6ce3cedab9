"""Shared by the readers of Pascal-VOC and YOLO labels: labelled objects, image look-up, findings."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from pvtctl.data.image_files import SUFFIXES
from pvtctl.errors import UsageError

_EXAMPLES = 5
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
    """All images below a folder, by name."""

    def __init__(self, root: Path) -> None:
        self.paths = files_below(root, SUFFIXES)
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in self.paths:
            self._by_name[path.name].append(path)
            self._by_name[path.stem].append(path)

    def find(self, name: str, beside: Path) -> list[Path]:
        """The images of this name, with or without its suffix; of several, those next to the label file, else those of
        its split."""
        found = self._by_name.get(name, [])
        for better in (
            [path for path in found if path.parent == beside.parent],
            [path for path in found if split_of_folders(path) == split_of_folders(beside)],
        ):
            if len(found) > 1 and better:
                found = better
        return found


def files_below(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files with one of these suffixes, in any case, in `root` and its folders, sorted; hidden ones are ignored.

    Linked folders are followed, each place once.
    """
    found: list[Path] = []
    seen: set[Path] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        place = Path(folder).resolve()
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(folder, name) for name in sorted(names) if name.lower().endswith(suffixes) and not name.startswith(".")
        ]
    return found


def split_of_folders(path: Path) -> str | None:
    """`train`, `val` or `test`: the name of the innermost such folder (`valid`, `train2017` count too)."""
    for part in reversed(path.parts[:-1]):
        for split, pattern in _SPLIT_WORDS:
            if re.fullmatch(pattern, part.lower()):
                return split
    return None


def size_of(path: Path) -> tuple[int, int] | None:
    """(height, width) from the file's header; None if PIL does not recognise an image."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:  # PIL's plugins raise whatever a broken header leads them to
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
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(
            f"cannot read class names from {path}: {reason}", "a text file with one name a line"
        ) from error
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
