"""Recipe settings of depth data and of the depth loss. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pvtctl.recipe.block import Positive, Rate, SettingsBlock, Side


class MixedDepth(SettingsBlock):
    """One of several depth sets that are trained on together."""

    name: Literal["nyu", "kitti", "depth"] = "depth"
    path: str
    weight: Positive = 1.0
    """Share of the draws, relative to the others."""
    scale: Positive | None = None
    inverse: bool = False
    """The files hold inverse depth (disparity) of an unknown scale."""


class DepthData(SettingsBlock):
    """Sizes, units and augmentation of depth."""

    size: tuple[Side, Side] = (384, 384)
    """(height, width) of training: resized as little as possible to cover it, then cropped at random."""
    hflip: Rate = 0.5
    photometric: bool = False
    test_size: tuple[Side, Side] = (384, 384)
    """(height, width) to test at: resized as little as possible to match one of them, keeping the aspect (DPT)."""
    multiple: Annotated[int, Field(ge=1, le=256)] = 32
    """Testing: both sides are rounded to a multiple of this."""
    scale: Positive | None = None
    """Value per metre in depth files; unset: the layout's (NYUv2 1000, KITTI 256; float files 1)."""
    invalid: tuple[float, ...] = ()
    """Raw values that mean no depth, besides 0, negative and non-finite values."""
    min_depth: Positive = 1e-3
    max_depth: Positive | None = None
    """Metres; larger depth is neither trained on nor scored."""
    crop: Literal["none", "kb"] = "none"
    """`kb`: images and depth are first cut to 1216x352, bottom centre (KITTI's benchmark)."""
    split_file: str | None = None
    """KITTI: a list of `image depth focal` lines (the Eigen split) for validation; training takes `train_split_file`."""
    train_split_file: str | None = None
    mix: dict[str, MixedDepth] = {}
    """Depth sets by a name of your choice, for `data.name: mix`."""


class Loss(SettingsBlock):
    """Choice of the loss, for tasks that have one: depth."""

    name: Literal["ssi_trimmed", "silog"] = "ssi_trimmed"
    """`ssi_trimmed`: inverse depth up to scale and shift, the largest residuals left out (MiDaS, DPT); `silog`: the
    scale-invariant log error of metric depth (Eigen), which needs `model.head.scale_shift`."""
    trim: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """ssi_trimmed: share of the residuals that is left out."""
    gradient_weight: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the gradient matching over four scales; 0 disables it."""
    variance_focus: Rate = 0.85
    """silog: factor of the squared mean log error that is subtracted; 1 is scale-invariant, 0 plain."""
