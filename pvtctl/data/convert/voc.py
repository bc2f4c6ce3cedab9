"""Reads detection labels in Pascal-VOC XML."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element

from pvtctl.data.convert.source import (
    AnnotatedImage,
    ConversionFindings,
    ImageIndex,
    LabelledObject,
    clip_to_image,
    files_below,
)
from pvtctl.errors import UsageError, nearest
from pvtctl.io.foreign import BadFile, read_xml

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Refused(Exception):
    """The file cannot be used; the message says why, `line` where."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def read_voc(
    source: Path,
    index: ImageIndex,
    names: list[str] | None,
    findings: ConversionFindings,
    *,
    zero_based: bool,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[str], list[AnnotatedImage]]:
    """(class names, labelled images) of all XML files below `source`.

    The devkit counts pixels from 1 and names the first and the last one of a box: xmin 1, xmax W is the full width, so
    the box is xmin - 1 to xmax. With `zero_based` the numbers are edges, xmin to xmax, as many other tools write them.
    Classes are `names`, else those that occur, sorted. `difficult` objects become crowd, which is neither learned nor
    scored: the devkit leaves them out of its score too. Images without XML are left out.

    Faults and what was left out go to `findings`. Raises UsageError where there is no XML file.
    """
    files = files_below(source, (".xml",))
    if not files:
        raise UsageError(f"no XML file in {source}", "name the folder that holds the Pascal-VOC annotations")
    found: list[AnnotatedImage] = []
    seen: set[str] = set()
    used: set[Path] = set()
    for at, file in enumerate(files, start=1):
        try:
            root, lines = read_xml(file)
            item = _read_file(root, lines, file, index, names, findings, zero_based)
        except BadFile as error:
            findings.refused(error)
            item = None
        except _Refused as error:
            findings.fault(file, error.line, str(error))
            item = None
        if item is not None:
            if item.path in used:
                findings.fault(file, None, f"{findings.below(item.path)} is described by another file too")
            used.add(item.path)
            found.append(item)
            seen |= {labelled.name for labelled in item.objects}
        if on_progress is not None:
            on_progress("labels", at, len(files))
    labelled_names = {file.stem for file in files}
    for path in index.paths:
        if path not in used and path.stem not in labelled_names:
            findings.note("no_labels", path)
    return names if names is not None else sorted(seen), found


def _read_file(
    root: Element,
    lines: dict[Element, int],
    file: Path,
    index: ImageIndex,
    names: list[str] | None,
    findings: ConversionFindings,
    zero_based: bool,
) -> AnnotatedImage | None:
    if root.tag != "annotation":
        raise _Refused(f"not a Pascal-VOC annotation: the root is <{root.tag}>", lines[root])
    # before the image is looked for: errors in the XML are reported even if its image is missing
    labelled = [_read_object(each, lines, names, zero_based) for each in root.iter("object")]
    given = Path((root.findtext("filename") or "").replace("\\", "/").strip()).name
    # `filename` is often left from before a renaming
    images = index.find(file.stem, file, given) or index.find(given, file, given)
    if not images:
        findings.note("no_image", file)
        return None
    if len(images) > 1:
        raise _Refused(
            f"two images fit: {findings.below(images[0])} and {findings.below(images[1])} (--images names their folder)"
        )
    stated = _size_in(root)
    size = index.size_of(images[0], findings, stated)
    if size is None:
        return None
    if stated not in (None, size):
        findings.note("other_size", file)
    kept = []
    for each in labelled:
        if not zero_based and min(each.box[:2]) < 0:  # 0 in the file
            findings.note("from_zero", file)
        if (part := clip_to_image(each, size, findings, file)) is not None:
            kept.append(part)
            if part.crowd:
                findings.note("difficult", file)
    return AnnotatedImage(images[0], size, kept, findings.below(file))


def _size_in(root: Element) -> tuple[int, int] | None:
    """(height, width) from the XML, None if missing (some tools write zeros)."""
    try:
        height, width = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _read_object(each: Element, lines: dict[Element, int], names: list[str] | None, zero_based: bool) -> LabelledObject:
    line = lines[each]
    name = (each.findtext("name") or "").strip()
    if not name:
        raise _Refused("an object without a name", line)
    if names is not None and name not in names:
        raise _Refused(f"class {name!r} is not in the list of classes; {nearest(name, names)}", line)
    box = each.find("bndbox")
    if box is None:
        raise _Refused(f"{name} has no bndbox", line)
    numbers = []
    for corner in _CORNERS:
        text = box.findtext(corner)
        try:
            value = float(text or "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise _Refused(f"{corner} of {name} is {'missing' if text is None else repr(text)}", lines[box])
        numbers.append(value)
    offset = 0.0 if zero_based else 1.0
    x0, y0, x1, y1 = numbers
    crowd = (each.findtext("difficult") or "").strip() in ("1", "true", "True")
    return LabelledObject(name, (x0 - offset, y0 - offset, x1, y1), crowd)
