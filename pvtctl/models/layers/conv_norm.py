"""Convolution, batch norm and ReLU, as used in the segmentation heads."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.layers.patches import use_channels_last


class ConvNorm(nn.Module):
    """A size-preserving convolution without bias, `conv`, its batch norm, `bn`, and by default a ReLU.

    Maps (B, in_channels, h, w) -> (B, out_channels, h, w); `kernel` is odd. Initial weights: He normal by fan out.
    Raises UsageError in training on one value per channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.relu = relu
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, padding=padding, dilation=dilation, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        use_channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        if self.bn.training and x.shape[0] * x.shape[2] * x.shape[3] == 1 and isinstance(self.bn, nn.BatchNorm2d):
            raise UsageError(
                "batch norm cannot train on one image of which this head sees one cell",
                "--set train.batch_size=2, or more",
            )
        out = self.bn(self.conv(x))
        return F.relu(out, inplace=True) if self.relu else out


class SeparableConvNorm(nn.Sequential):
    """A 3x3 `ConvNorm` per channel, and a 1x1 one across channels (DeepLabV3+, section 3.1)."""

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1) -> None:
        super().__init__(
            ConvNorm(in_channels, in_channels, 3, dilation=dilation, groups=in_channels),
            ConvNorm(in_channels, out_channels),
        )
