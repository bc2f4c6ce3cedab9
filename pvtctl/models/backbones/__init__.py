"""Backbones: images -> four maps of strides 4, 8, 16, 32. Built by name (`pvtctl.models.registry`).

Names are imported on first use, so that `pvtctl.models.backbones.specs` loads without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvtctl.models.backbones.base import Backbone
    from pvtctl.models.backbones.build import (
        as_backbone,
        backbone_names,
        build_backbone,
        build_classifier,
        layer_depths,
        set_activation_checkpointing,
    )
    from pvtctl.models.backbones.pvt import Pvt, PvtV2
    from pvtctl.models.backbones.resnet import ResNet
    from pvtctl.models.backbones.timm_bridge import TimmBackbone
    from pvtctl.models.backbones.vit import Vit, VitHybrid
    from pvtctl.models.classifier import Classifier

__all__ = [
    "Backbone",
    "Classifier",
    "Pvt",
    "PvtV2",
    "ResNet",
    "TimmBackbone",
    "Vit",
    "VitHybrid",
    "as_backbone",
    "backbone_names",
    "build_backbone",
    "build_classifier",
    "layer_depths",
    "set_activation_checkpointing",
]

_HOME = {
    "Backbone": "backbones.base",
    "Classifier": "classifier",
    "Pvt": "backbones.pvt",
    "PvtV2": "backbones.pvt",
    "ResNet": "backbones.resnet",
    "TimmBackbone": "backbones.timm_bridge",
    "Vit": "backbones.vit",
    "VitHybrid": "backbones.vit",
}
"""Modules of the names that are not in `build`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pvtctl.models.backbones' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pvtctl.models.{_HOME.get(name, 'backbones.build')}"), name)
