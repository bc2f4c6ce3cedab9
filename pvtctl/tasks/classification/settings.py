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


class Shards(SettingsBlock):
    """Tar shards, in a folder or at a URL."""

    train: str = "train/*.tar"
    """The shards of a split, below `data.path`: `{00000..00099}` counts, `{a,b}` lists, and `*` matches where the files can
    be listed (a folder, `s3://`, `gs://`, a web server that shows its folders)."""
    val: str = "val/*.tar"
    mix: Annotated[int, Field(ge=1)] | None = None
    """Shards whose samples are shuffled together, one such group after the other, in an order of each epoch's own. Unset: all
    of a folder, 8 of a URL."""
    cache_gb: Positive = 50.0
    """URLs: the disk space for fetched shards, in 10^9 bytes, in the user's cache folder (`$PVTCTL_CACHE`)."""

    def pattern(self, split: str) -> str:
        """That of a split, train or val."""
        return self.train if split == "train" else self.val
