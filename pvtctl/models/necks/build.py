"""Build the neck that a recipe names, for a head that reads levels of a pyramid."""

from __future__ import annotations

from torch import nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones.base import Backbone
from pvtctl.models.necks.fpn import Coarse, Fpn
from pvtctl.models.necks.simple_pyramid import SimplePyramid
from pvtctl.models.registry import COARSEST, Conventions, Levels, NeckOptions


def build_neck(
    backbone: Backbone,
    options: NeckOptions | None,
    *,
    levels: Levels,
    extra: Coarse | None,
    width: int,
    conventions: Conventions = "papers",
) -> tuple[nn.Module, Levels]:
    """The neck of a head's `options` (None: an FPN), and the levels that it makes.

    Args:
        backbone: Whose maps it takes.
        options: The head's option `neck`.
        levels: Where `options` name none.
        extra: How levels beyond the backbone's last map are made; None: the head reads none.
        width: Channels of each level.
        conventions: Those of detectors.

    Raises:
        UsageError: Levels or a neck that do not fit the head, the backbone or the conventions.
    """
    chosen = options or NeckOptions()
    named = chosen.levels or levels
    if conventions == "torchvision" and (chosen.name != "fpn" or named != levels):
        raise UsageError("torchvision's conventions go with its FPN", "leave the neck out, or take the papers'")
    if named[1] > COARSEST and extra is None:
        raise UsageError(f"this head reads levels up to {COARSEST}, not {named[1]}", f"neck.levels: [{named[0]}, 5]")
    neck: nn.Module
    if chosen.name == "simple_pyramid":
        neck = SimplePyramid(backbone, extra=extra, levels=named, out_channels=width)
    else:
        channels = backbone.feature_channels
        neck = Fpn(channels, extra=extra, levels=named, conventions=conventions, out_channels=width)
    neck.asked_for = options
    return neck, named
