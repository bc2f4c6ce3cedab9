"""Recipe settings of segmentation data. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pvtctl.recipe.block import Positive, Rate, SettingsBlock, Side


class SegmentationData(SettingsBlock):
    """Sizes and augmentation of semantic segmentation. Images are resized within (short side, long side)."""

    short_side: Side = 512
    """Training: size before the random scale."""
    long_side: Side = 2048
    scale: tuple[Positive, Positive] = (0.5, 2.0)
    """Training: scale factor, drawn for each image."""
    crop: tuple[Side, Side] = (512, 512)
    """(height, width) of training; smaller images are padded, their labels with 255."""
    cat_max_ratio: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Crops with a larger share of one class are drawn again, up to ten times."""
    hflip: Rate = 0.5
    photometric: bool = True
    """Random changes of brightness, contrast, saturation and hue."""
    test_short_side: Side = 512
    test_long_side: Side = 2048
    align: Annotated[int, Field(ge=1, le=256)] = 32
    """Testing: both sides are rounded up to a multiple of this."""
    labels: Literal["auto", "plain", "shifted"] = "auto"
    """`shifted`: 0 is unlabelled and classes count from 1 (ADE20K); `plain`: they count from 0. auto: the class list's."""
    ignore: tuple[Annotated[int, Field(ge=0, le=255)], ...] | None = None
    """Raw label values without a class, besides 255; unset: the layout's, or those of `classes.txt`."""
    classes: str | None = None
    """File of class names; unset: `classes.txt` in the data's folder, or the layout's."""
