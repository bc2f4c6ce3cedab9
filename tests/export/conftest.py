"""Narrow, shallow models: tracing takes time by the operation, more with open sides, and little by the channel.

PVT lies under the classifier and by itself (with open sides in `tests/contracts`); the heads lie on four convolutions, so that
a backbone's operations are not traced again below each.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_backbone import Tiny
from torch import nn

from pvtctl.models.backbones import Classifier, Pvt, PvtV2, ResNet
from pvtctl.models.dense import DenseModel
from pvtctl.models.detector import Detector
from pvtctl.models.heads.dpt import Dpt
from pvtctl.models.heads.retinanet import RetinaNet
from pvtctl.models.heads.semantic_fpn import SemanticFpn
from pvtctl.models.necks.fpn import Fpn
from pvtctl.models.variants import Four


def _pvt(*, class_token: bool = False, image_size: int = 64, depths: Four = (1, 1, 1, 1)) -> Pvt:
    return Pvt(
        embed_dims=(8, 16, 24, 32),
        depths=depths,
        num_heads=(1, 2, 3, 4),
        mlp_ratios=(2, 2, 2, 2),
        sr_ratios=(8, 4, 2, 1),
        class_token=class_token,
        image_size=image_size,
    )


def _pvt_v2(depths: Four = (1, 1, 1, 1)) -> PvtV2:
    return PvtV2(
        embed_dims=(8, 16, 24, 32),
        depths=depths,
        num_heads=(1, 2, 3, 4),
        mlp_ratios=(2, 2, 2, 2),
        sr_ratios=(8, 4, 2, 1),
    )


def _resnet() -> ResNet:
    return ResNet(block="basic", depths=(1, 1, 1, 1), base_width=8)


def _build(kind: str) -> nn.Module:
    match kind:
        case "classifier":
            return Classifier(_pvt(class_token=True), 5)
        case "tiny":
            return Classifier(Tiny(), 5)
        case "shallow":  # a block of each kind
            return Classifier(_pvt(class_token=True, depths=(1, 0, 0, 1)), 5)
        case "classifier_v2":
            return Classifier(_pvt_v2(), 5)
        case "shallow_v2":
            return Classifier(_pvt_v2(depths=(1, 0, 0, 1)), 5)
        case "classifier_resnet":
            return Classifier(_resnet(), 5)
        case "backbone":
            return _pvt()
        case "retinanet":
            body = Tiny()
            neck = Fpn(body.feature_channels, extra="p6p7", levels=(3, 7), out_channels=32)
            head = RetinaNet(3, in_channels=32)
            for tower in (head.classification_head, head.regression_head):
                tower.conv = tower.conv[:1]  # of four equal ones
            return Detector(body, neck, head, 3)
        case "semantic_fpn":
            body = Tiny()
            neck = Fpn(body.feature_channels, extra=None, levels=(2, 4), out_channels=16)
            head = SemanticFpn(4, in_channels=16, width=32, levels=3)
            return DenseModel(body, neck, head, task="segmentation", num_classes=4)
        case "dpt":
            body = Tiny()
            return DenseModel(body, None, Dpt(body, task="depth", width=16), task="depth")
        case _:
            raise ValueError(kind)


@pytest.fixture
def narrow() -> Callable[[str], nn.Module]:
    """`narrow("classifier")`: a small model with random weights and position tables that are not zero."""

    def build(kind: str) -> nn.Module:
        torch.manual_seed(0)
        model = _build(kind)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "pos_embed" in name:
                    parameter.normal_(std=0.5)
        return model

    return build
