"""A backbone with a linear head."""

from __future__ import annotations

from torch import Tensor, nn

from pvtctl.models.backbones.base import Backbone
from pvtctl.models.backbones.resnet import ResNet


class Classifier(nn.Module):
    """Images (B, 3, H, W) -> logits (B, num_classes): `head` on the pooled features of `backbone`.

    The head is initialised as its family's: truncated normal of std 0.02 and bias 0, or torch's default after a ResNet.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.head = nn.Linear(backbone.num_features, num_classes)
        if not isinstance(backbone, ResNet):
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone.pooled(images))
