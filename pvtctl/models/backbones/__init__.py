"""Backbones: images -> four maps of strides 4, 8, 16, 32. Built by name (`pvtctl.models.registry`)."""

from pvtctl.models.backbones.base import Backbone
from pvtctl.models.backbones.build import (
    Classifier,
    as_backbone,
    backbone_names,
    build_backbone,
    build_classifier,
    layer_depths,
    prepare_backbones,
    set_activation_checkpointing,
)
from pvtctl.models.backbones.pvt import Pvt, PvtV2
from pvtctl.models.backbones.resnet import ResNet
from pvtctl.models.backbones.timm_bridge import TimmBackbone
from pvtctl.models.backbones.vit import Vit, VitHybrid

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
    "prepare_backbones",
    "set_activation_checkpointing",
]
