"""What a neck takes of a backbone, and what it was built with. Imports no neck, and so not torchvision."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pvtctl.models.backbones.base import Backbone
from pvtctl.models.registry import NeckOptions


def read_maps(neck: nn.Module | None, backbone: Backbone, images: Tensor) -> Sequence[Tensor]:
    """What a neck takes of a backbone: its four maps, unless the neck has a method `read(backbone, images)`."""
    read = getattr(neck, "read", None)
    maps: Sequence[Tensor] = backbone(images) if read is None else read(backbone, images)
    return maps


def asked_for(model: nn.Module) -> NeckOptions | None:
    """The option `neck` that a model was built with; None: the head's own."""
    found = getattr(getattr(model, "neck", None), "asked_for", None)
    return found if isinstance(found, NeckOptions) else None
