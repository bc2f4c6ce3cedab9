"""What a few images tell of a set: EXIF rotations, and the range of 16-bit grey such as thermal and X-ray pictures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from pvtctl.data.base import SplitDataset, evenly
from pvtctl.data.images import ReadableImages, is_deep_grey, open_image, orientation_of, own_range
from pvtctl.errors import UsageError

_LOOKED_AT, _MEASURED = 8, 64
"""Images whose kind is looked at, and those whose values are, if some are deep grey; spread evenly."""


@dataclass(frozen=True)
class Survey:
    """Of a few images of a set."""

    looked_at: int
    turned: int
    """Images with an EXIF rotation."""
    grey: tuple[float, float] | None
    """The values that become black and white in all images of the set; None if none is grey of more than 8 bits."""


def survey(images: ReadableImages, count: int) -> Survey:
    """Look at a few of `count` images; those that cannot be read tell nothing."""
    looks = [_look(images, int(index)) for index in evenly(count, _LOOKED_AT)]
    ranges = [grey for _, grey in looks if grey is not None]
    if ranges:
        more = (_look(images, int(index))[1] for index in evenly(count, _MEASURED))
        ranges += [grey for grey in more if grey is not None]
    grey = own_range(min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None
    return Survey(len(looks), sum(turned for turned, _ in looks), grey)


Split = TypeVar("Split", bound=SplitDataset)


def as_in_training(opened: Callable[[str], Split], split: str) -> Split:
    """A split whose 16-bit grey images are read in the range that a run finds: that of its training images, if there are
    any. `opened` gives a split by name."""
    dataset = opened(split)
    for files in dataset.image_files():
        if files.reading.grey is None and (grey := survey(files, len(files)).grey) is not None:
            with suppress(UsageError):
                first = opened("train").image_files()[0]
                grey = survey(first, len(first)).grey or grey
            read_in_range(grey, dataset)
    return dataset


def read_in_range(grey: tuple[float, float], *splits: SplitDataset) -> None:
    """From now on the values `grey` of 16-bit grey images become black and white."""
    for dataset in splits:
        for files in dataset.image_files():
            files.reading = replace(files.reading, grey=grey)


def _look(images: ReadableImages, index: int) -> tuple[bool, tuple[float, float] | None]:
    """Whether an image has an EXIF rotation, and the smallest and largest value if it is grey of more than 8 bits."""
    try:
        image = open_image(images.read(index))
        turned = orientation_of(image) != 1
        if not is_deep_grey(image):
            return turned, None
        values = np.asarray(image)
        values = values[np.isfinite(values)]
        return turned, ((float(values.min()), float(values.max())) if values.size else None)
    except Exception:  # it cannot be read; PIL's plugins raise whatever broken data leads them to
        return False, None
