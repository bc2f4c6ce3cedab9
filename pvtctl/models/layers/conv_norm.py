"""Convolution, batch norm and ReLU: what the segmentation heads are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.layers.linear import is_plain, runs_in_one_pass
from pvtctl.models.layers.patches import channels_last_conv
from pvtctl.models.layers.winograd import is_large, winograd


class ConvNorm(nn.Module):
    """A convolution without bias that keeps the size of its map, `conv`, its batch norm, `bn`, and unless told not to a ReLU.

    Maps (B, in_channels, h, w) -> (B, out_channels, h, w); `kernel` is odd. Weights start as He's normal by fan out. For
    inference on a CPU the norm is folded into the convolution, whose maps are then gone through once instead of three
    times, and a 3x3 one over large maps runs by `winograd`. Raises UsageError where training has one value a channel.
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
        channels_last_conv(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        if self.bn.training and x.shape[0] * x.shape[2] * x.shape[3] == 1 and isinstance(self.bn, nn.BatchNorm2d):
            raise UsageError(
                "batch norm cannot train on one image of which this head sees one cell",
                "--set train.batch_size=2, or more",
            )
        if self._folds(x):
            out = self._folded(x)
        else:
            out = self.bn(self.conv(x))
        return F.relu(out, inplace=True) if self.relu else out

    def _folds(self, x: Tensor) -> bool:
        conv, bn = self.conv, self.bn
        plain = is_plain(conv, nn.Conv2d) and is_plain(bn, nn.BatchNorm2d)
        return plain and not bn.training and runs_in_one_pass(x, conv.weight, bn.weight, bn.running_var)

    def _folded(self, x: Tensor) -> Tensor:
        conv, bn = self.conv, self.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
        weight, bias = conv.weight * scale.view(-1, 1, 1, 1), bn.bias - bn.running_mean * scale
        if conv.kernel_size == (3, 3) and conv.dilation == (1, 1) and conv.groups == 1 and is_large(x, weight):
            return winograd(x, weight, bias)
        return F.conv2d(x, weight, bias, 1, conv.padding, conv.dilation, conv.groups)


class SeparableConvNorm(nn.Sequential):
    """A 3x3 `ConvNorm` of every channel by itself, and a 1x1 one across them (DeepLabV3+, section 3.1)."""

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1) -> None:
        super().__init__(
            ConvNorm(in_channels, in_channels, 3, dilation=dilation, groups=in_channels),
            ConvNorm(in_channels, out_channels),
        )
