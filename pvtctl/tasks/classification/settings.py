"""Recipe settings of classification's training transforms. No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pvtctl.recipe.block import Positive, Rate, SettingsBlock


class Augment(SettingsBlock):
    """The training transforms of DeiT as in the papers' code."""

    crop_scale: tuple[Positive, Positive] = (0.08, 1.0)
    crop_ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    hflip: Rate = 0.5
    rand_augment: bool = True
    rand_augment_magnitude: Annotated[float, Field(ge=0, le=10)] = 9.0
    rand_augment_std: Annotated[float, Field(ge=0)] = 0.5
    rand_augment_prob: Rate = 0.5
    rand_augment_ops: Annotated[int, Field(ge=0, le=15)] = 2
    erasing: Rate = 0.25
    mixup_alpha: Annotated[float, Field(ge=0)] = 0.8
    cutmix_alpha: Annotated[float, Field(ge=0)] = 1.0
    mixup_prob: Rate = 1.0
    mixup_switch_prob: Rate = 0.5
    label_smoothing: Rate = 0.1
    repeats: Annotated[int, Field(ge=1, le=16)] = 3
    """Repeated augmentation: copies of an image in an epoch (1 switches it off)."""
