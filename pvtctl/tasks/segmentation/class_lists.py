"""Class lists of segmentation sets: the known ones, and the class file of a folder of masks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pvtctl.data.class_names import ADE20K_CLASSES, PASCAL_CONTEXT_CLASSES
from pvtctl.errors import UsageError
from pvtctl.io.foreign import BadFile, read_text
from pvtctl.io.names import plural
from pvtctl.models.structures import IGNORE_LABEL

Colour = tuple[int, int, int]

MAX_CLASSES = 254
"""Label maps are bytes: 255 is no class, and 254 marks a value not in the class list."""

UNKNOWN = 254

VOID_NAMES = ("void", "unlabelled", "unlabeled", "ignore", "ignored", "no label", "unknown")
"""Classes with these names are neither trained on nor scored."""

CLASS_LIST_HINT = "one class a line: NAME, or NUMBER NAME, or NUMBER NAME R G B (0 sky 128 128 128)"


_CITYSCAPES: tuple[tuple[int, str, Colour], ...] = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
"""Number in `labelIds` files, name, colour; the position in this list is the number in `labelTrainIds` files."""

CITYSCAPES_VALUES = 34
"""`labelIds` run from 0 to 33; unlisted ones have no class."""


@dataclass(frozen=True)
class ClassList:
    """The classes of a set and their values in its files."""

    names: list[str]
    values: list[int]
    """Raw values, one for each name; label k of a map is entry k."""
    palette: list[Colour] | None = None
    ignored: tuple[int, ...] = ()
    """Further raw values without a class; so is 255, unless a class is listed with it."""
    ignored_colours: tuple[Colour, ...] = ()

    def table(self) -> NDArray[np.uint8]:
        """(65536,): raw value -> label from 0, IGNORE_LABEL, or UNKNOWN."""
        table = np.full(65536, UNKNOWN, np.uint8)
        table[[*self.ignored, IGNORE_LABEL]] = IGNORE_LABEL
        table[self.values] = np.arange(len(self.values))
        return table

    def __str__(self) -> str:
        first, last = min(self.values), max(self.values)
        solid = last - first + 1 == len(self.values)
        which = f"{first} to {last}" if solid else ", ".join(map(str, self.values))
        rest = f", without a class {', '.join(map(str, self.ignored))}" if self.ignored else ""
        return f"{plural(len(self.names), 'class')}, values {which}{rest}"


def class_list(
    names: Sequence[str],
    *,
    shifted: bool,
    numbers: Sequence[int] | None = None,
    colours: Sequence[Colour | None] | None = None,
    ignore: Collection[int] | None = None,
    void: Collection[str] = (),
    where: str = "the class list",
) -> ClassList:
    """Create a class list with the classes' values in the files.

    `numbers` are those values; without them classes count from 0, or when `shifted` from 1. `shifted` also says that 0
    is unlabelled: numbers that start at 0 are then one less than the values. `ignore` gives the values without a class;
    unset, classes with a name of `void` have none. Raises UsageError for fewer than two classes and more than 254, and for
    names, numbers or colours that are listed twice.
    """
    if isinstance(names, str):
        raise UsageError(f"{where} is a text ({names[:40]!r}), not a list", CLASS_LIST_HINT)
    offset = int(shifted and (numbers is None or 0 in numbers))
    values = [number + offset for number in (range(len(names)) if numbers is None else numbers)]
    left_out = {0} if shifted else set()
    if ignore is None:
        left_out |= {value for value, name in zip(values, names, strict=True) if name.lower() in void}
    else:
        left_out |= set(ignore)
    rows = sorted(
        (value, name, colour) for value, name, colour in zip(values, names, colours or [None] * len(names), strict=True)
    )
    kept = [row for row in rows if row[0] not in left_out]
    for kind, column in (("name", [row[1] for row in kept]), ("number", [row[0] for row in rows])):
        twice = next((entry for at, entry in enumerate(column) if entry in column[:at]), None)
        if twice is not None:
            raise UsageError(f"{where} has the {kind} {twice!r} twice", CLASS_LIST_HINT)
    if not 2 <= len(kept) <= MAX_CLASSES:
        few = len(kept) < 2
        raise UsageError(
            f"{where} has {plural(len(kept), 'class')}"
            f"{': nothing to distinguish' if few else f', more than {MAX_CLASSES}'}",
            f"{CLASS_LIST_HINT}; list the background too" if few else "label maps are bytes",
        )
    palette = None
    if colours is not None and all(colour is not None for colour in colours):
        palette = [colour for _, _, colour in rows if colour is not None]
        twice = next((entry for at, entry in enumerate(palette) if entry in palette[:at]), None)
        if twice is not None:
            raise UsageError(f"{where} has the colour {twice} twice", CLASS_LIST_HINT)
    return ClassList(
        [name for _, name, _ in kept],
        [value for value, _, _ in kept],
        [colour for _, _, colour in kept if colour is not None] if palette is not None else None,
        tuple(sorted(left_out)),
        tuple(colour for value, _, colour in rows if value in left_out and colour is not None),
    )


_LINE = re.compile(r"^(?:(\d+)[\s:,;]+)?(.*?)(?:[\s,;:]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3}))?$")


def read_class_list(path: Path | str, *, shifted: bool | None, ignore: Collection[int] | None = None) -> ClassList:
    """The classes of a text file (`CLASS_LIST_HINT`); empty lines and those that start with # are skipped.

    Numbers are the raw values in the masks, by default the position in the file. With `shifted`
    unset, numbers that start above 0 mean that 0 is unlabelled. ADE20K's objectInfo150.txt, whose numbers do, is accepted too.
    Raises UsageError.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except BadFile as error:
        raise UsageError(
            f"the class list {str(path)!r} {error.reason}", f"data.segmentation.classes names a file: {CLASS_LIST_HINT}"
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if lines and lines[0].split()[0] == "Idx":
        names = [line.split("\t")[-1].split(",")[0].strip() for line in lines[1:]]
        return class_list(names, shifted=shifted is not False, ignore=ignore, where=str(path))
    rows = [match.groups() for line in lines if (match := _LINE.match(line))]
    for line, row in zip(lines, rows, strict=True):
        if not row[1] or "," in row[1]:
            raise UsageError(f"{path}: no class name in the line {line[:60]!r}", CLASS_LIST_HINT)
        if any(part is not None and int(part) > 255 for part in row[2:]):
            raise UsageError(f"{path}: no colour in the line {line[:60]!r}", "R, G and B go from 0 to 255")
    numbered = [row[0] is not None for row in rows]
    if any(numbered) and not all(numbered):
        raise UsageError(f"{path}: some classes have a number, some have none", CLASS_LIST_HINT)
    numbers = [int(row[0]) for row in rows] if rows and all(numbered) else None
    if numbers is not None and max(numbers) > 65535:
        raise UsageError(f"{path}: no mask holds the value {max(numbers)}", "16 bits hold values up to 65535")
    coloured = [row[2] is not None for row in rows]
    if any(coloured) and not all(coloured):
        raise UsageError(f"{path}: some classes have a colour, some have none", CLASS_LIST_HINT)
    colours = [(int(row[2]), int(row[3]), int(row[4])) for row in rows] if all(coloured) else None
    return class_list(
        [row[1] for row in rows],
        shifted=(numbers is not None and min(numbers) > 0) if shifted is None else shifted,
        numbers=numbers,
        colours=colours,
        ignore=ignore,
        void=VOID_NAMES,
        where=str(path),
    )


def cityscapes_classes(*, train_ids: bool, ignore: Collection[int] | None = None) -> ClassList:
    """The 19 classes of Cityscapes' benchmark, in files of `labelTrainIds` or of `labelIds`."""
    values = [place if train_ids else number for place, (number, _, _) in enumerate(_CITYSCAPES)]
    left_out = set(() if train_ids else range(CITYSCAPES_VALUES)).difference(values).union(ignore or ())
    kept = [(value, row) for value, row in zip(values, _CITYSCAPES, strict=True) if value not in left_out]
    return ClassList(
        [name for _, (_, name, _) in kept],
        [value for value, _ in kept],
        [colour for _, (_, _, colour) in kept],
        tuple(sorted(left_out)),
    )


KNOWN: Mapping[str, tuple[str, ...]] = {"ade20k": ADE20K_CLASSES, "pascal_context": PASCAL_CONTEXT_CLASSES}
"""Names of sets whose files number classes as the list does; ADE20K's start at 1, with 0 for unlabelled."""
