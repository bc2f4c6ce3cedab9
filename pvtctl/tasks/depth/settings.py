"""What a recipe says of depth data and of the loss of depth. No torch."""

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
    """(height, width) that the network is trained at: resized as little as covers it, then cropped at random."""
    hflip: Rate = 0.5
    photometric: bool = False
    test_size: tuple[Side, Side] = (384, 384)
    """(height, width) to test at: resized as little as meets one of them, keeping the aspect (DPT)."""
    multiple: Annotated[int, Field(ge=1, le=256)] = 32
    """Testing: both sides are rounded to a multiple of this."""
    scale: Positive | None = None
    """What a depth file holds for a metre; unset: the layout's own (NYUv2 1000, KITTI 256; float files 1)."""
    invalid: tuple[float, ...] = ()
    """Values (as they lie) that are no depth, besides 0, those below 0, and what is not finite."""
    min_depth: Positive = 1e-3
    max_depth: Positive | None = None
    """Metres; what lies beyond is neither learned nor scored."""
    crop: Literal["none", "kb"] = "none"
    """`kb`: images and depth are first cut to 1216x352, bottom middle (KITTI's benchmark)."""
    split_file: str | None = None
    """KITTI: a list of `image depth focal` lines (the Eigen split) for validation; training takes `train_split_file`."""
    train_split_file: str | None = None
    mix: dict[str, MixedDepth] = {}
    """Depth sets by a name of one's own, for `data.name: mix`."""


class Loss(SettingsBlock):
    """What is minimised, where a task leaves a choice: depth."""

    name: Literal["ssi_trimmed", "silog"] = "ssi_trimmed"
    """`ssi_trimmed`: inverse depth up to scale and shift, the largest residuals left out (MiDaS, DPT); `silog`: the
    scale-invariant log error of metric depth (Eigen), which needs `model.head.scale_shift`."""
    trim: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """ssi_trimmed: share of the residuals that is left out."""
    gradient_weight: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the gradient matching over four scales; 0 leaves it out."""
    variance_focus: Rate = 0.85
    """silog: how much of the mean error is forgiven; 1 is scale-invariant, 0 plain."""
