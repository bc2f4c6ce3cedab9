"""Reads label-map files into labels by the class list; unknown values are errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.images import BadImage, image_bytes, open_image
from pvtctl.errors import UsageError
from pvtctl.io.names import plural
from pvtctl.models.structures import IGNORE_LABEL
from pvtctl.tasks.segmentation.class_lists import CLASS_LIST_HINT, UNKNOWN, ClassList

Values = NDArray[Any]
"""(H, W) or (N,) integers."""

_PLACES = np.array([1 << 16, 1 << 8, 1], np.int32)
_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")
_COLOUR_MODES = ("RGB", "RGBA", "LA", "PA")


BINARY_ADVICE = "If 255 is a class, write its number into classes.txt: `0 background` and `255 object`"


class ColourError(UsageError):
    """Colours that no class has."""


def read_values(path: Path, classes: ClassList | None = None) -> Values:
    """A label-map file -> (H, W) raw values, of any integer type; for palette images, the index.

    Colours become the values of the classes that list them; if none are listed, colour-coded masks are not accepted.
    Raises BadImage if it is not an image, OSError, ColourError, and UsageError for unsupported pixel formats.
    """
    image = open_image(image_bytes(path))
    try:
        image.load()
    except Exception as error:  # PIL's plugins raise whatever broken data leads them to
        raise BadImage(str(error).strip() or "the pixels cannot be decoded") from error
    if image.mode in _INDEX_MODES:
        values = np.asarray(image)
        return values.astype(np.uint8) if values.dtype == np.bool_ else values
    if image.mode not in _COLOUR_MODES:
        raise UsageError(f"{path}: pixels of the kind {image.mode} are not labels", "masks are 8- or 16-bit PNG files")
    if classes is None or classes.palette is None:
        colours = np.asarray(image.convert("RGB"))
        if (colours == colours[:, :, :1]).all():
            raise ColourError(
                f"{path} is a label map saved in colour ({image.mode}): its three channels are equal",
                "save one channel: Image.open(mask).getchannel(0).save(mask)",
            )
        raise ColourError(
            f"{path} is a colour-coded mask ({image.mode}), and the class list has no colours",
            f"name each class's colour in classes.txt ({CLASS_LIST_HINT}), or save masks of one channel",
        )
    return from_colours(np.asarray(image.convert("RGB")), classes, path)


def from_colours(colours: NDArray[np.uint8], classes: ClassList, path: Path) -> Values:
    """(H, W, 3) -> (H, W): the value of the class with that colour, 255 for no class.

    Raises ColourError for unlisted colours.
    """
    assert classes.palette is not None
    listed = np.array([*classes.palette, *classes.ignored_colours], np.int32) @ _PLACES
    values = np.array(classes.values + [IGNORE_LABEL] * len(classes.ignored_colours))
    order = np.argsort(listed)
    packed = colours[:, :, 0].astype(np.int32) << 16 | colours[:, :, 1].astype(np.int32) << 8 | colours[:, :, 2]
    at = order[np.searchsorted(listed[order], packed).clip(max=len(listed) - 1)]
    unknown = listed[at] != packed
    if unknown.any():
        row, column = (int(places[0]) for places in np.nonzero(unknown))
        raise ColourError(
            f"{path}: the colour {tuple(colours[row, column].tolist())} at row {row}, column {column} is not one of the "
            f"{len(listed)} listed ones ({int(unknown.sum())} such pixels)",
            "list it in classes.txt, as a class or as `void`; masks must not be saved as JPEG or resized smoothly",
        )
    return values[at].astype(np.uint8 if values.max() < 256 else np.uint16)


def to_labels(values: Values, classes: ClassList, table: NDArray[np.uint8], path: Path) -> Tensor:
    """Raw values -> uint8 (H, W) labels from 0, IGNORE_LABEL for no class. Raises UsageError.

    `table` is that of `ClassList.table`.
    """
    if values.dtype == np.uint8:
        # a fifth of the time of indexing the table
        labels = np.frombuffer(bytearray(values).translate(table[:256].tobytes()), np.uint8).reshape(values.shape)
    else:
        wide = values.astype(np.int64)
        outside = (wide < 0) | (wide > 65535)
        labels = table[np.where(outside, 0, wide)]
        labels[outside] = UNKNOWN
    if (labels == UNKNOWN).any():
        raise unknown_values(values[labels == UNKNOWN], classes, path)
    return torch.from_numpy(labels)


def unknown_values(values: Values, classes: ClassList, path: Path) -> UsageError:
    """The error for values (N,) missing in the class list, with the setting to change."""
    found, counts = np.unique(values, return_counts=True)
    named = ", ".join(map(str, found[:5].tolist())) + (", ..." if len(found) > 5 else "")
    return UsageError(
        f"{path} has the value{'s' if len(found) > 1 else ''} {named} in {plural(int(counts.sum()), 'pixel')}: "
        f"the class list has {classes}",
        suggestion(found.tolist(), classes),
    )


def suggestion(unknown: Sequence[int], classes: ClassList) -> str:
    """The setting that would explain values missing in the class list."""
    first, last = min(classes.values), max(classes.values)
    if first == 0 and unknown == [last + 1]:
        return (
            "if 0 is unlabelled and classes count from 1: --set data.segmentation.labels=shifted; "
            f"if {last + 1} is no class: --set data.segmentation.ignore=[{last + 1}]"
        )
    if unknown == [0]:
        return (
            "if 0 is unlabelled: --set data.segmentation.labels=shifted, or --set data.segmentation.ignore=[0]; if classes count "
            "from 0: --set data.segmentation.labels=plain, and numbers from 0 where classes.txt has numbers"
        )
    few = ",".join(map(str, unknown[:8]))
    return (
        f"list these classes in classes.txt, or leave them out: --set data.segmentation.ignore=[{few}]; "
        "`pvtctl data check FOLDER` counts all values"
    )
