"""Feature pyramid network (arXiv 1612.03144): four backbone maps -> levels of equal width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork, LastLevelP6P7

from pvtctl.errors import UsageError
from pvtctl.models.layers.patches import use_channels_last
from pvtctl.models.registry import COARSEST, FINEST, Levels

Coarse = Literal["p6p7", "pool"]
"""How levels beyond the backbone's last map are made."""


class CoarseByConvolution(ExtraFPNBlock):  # type: ignore[misc]  # torchvision has no types
    """RetinaNet's coarse levels as in the papers' configurations: P6, and P7 if `number` is 2.

    P6 is a 3x3 convolution of stride 2 on the backbone's last map, P7 one on P6, with no ReLU between. torchvision's block
    has one, and uses the pyramid's last map instead if the widths are equal (pvt_v2_b0 ends in 256 channels).
    """

    def __init__(self, in_channels: int, out_channels: int, number: int = 2) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1) if number > 1 else None

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Append P6 and P7 to `results` and `names`; `x` are the backbone's maps."""
        more = [_halved(self.p6, x[-1])]
        if self.p7 is not None:
            more.append(_halved(self.p7, more[0]))
        return [*results, *more], [*names, *("p6", "p7")[: len(more)]]


class CoarseByPooling(ExtraFPNBlock):  # type: ignore[misc]  # torchvision has no types
    """Mask R-CNN's coarse levels: every second cell of the level before."""

    def __init__(self, number: int = 1) -> None:
        super().__init__()
        self.number = number

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Append P6 and P7 to `results` and `names`."""
        more = list(results)
        for _ in range(self.number):
            more.append(F.max_pool2d(more[-1], 1, 2))
        return more, [*names, *("pool", "pool2")[: self.number]]


def coarse_levels(
    extra: Coarse | None, in_channels: int, out_channels: int, number: int
) -> CoarseByConvolution | CoarseByPooling | None:
    """The block that makes `number` levels beyond the backbone's last; None for 0. Raises UsageError without `extra`."""
    if not number:
        return None
    if extra is None:
        raise UsageError("this head reads no levels beyond P5", "let neck.levels end at 5")
    return CoarseByPooling(number) if extra == "pool" else CoarseByConvolution(in_channels, out_channels, number)


def _halved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """`conv` of `x`. Maps one cell high or wide are padded with zeros explicitly: in bf16, oneDNN leaves the weight gradient
    of taps that see only its own padding uninitialised.
    """
    if 1 not in x.shape[-2:]:
        return conv(x)
    return F.conv2d(F.pad(x, (1, 1, 1, 1)), conv.weight, conv.bias, stride=2)


class Fpn(FeaturePyramidNetwork):  # type: ignore[misc]  # torchvision has no types
    """Backbone maps of `channels` -> maps (B, out_channels, h, w), finest first; any sizes, odd ones too.

    Lateral 1x1 convolutions, top-down addition by nearest upsampling, a 3x3 convolution each; no norm, no activation.
    `levels` are the first and last that it makes, of stride 2^level: 2 to 5 are those of the backbone's maps. `extra` says
    how coarser ones are made: `p6p7` by convolution (RetinaNet), `pool` by taking every second cell (Mask R-CNN), None not
    at all (Semantic FPN). With `torchvision` conventions P6 uses the last pyramid map and a ReLU precedes P7, as in its
    published RetinaNet.

    Initial weights are Xavier uniform, biases 0. They are in channels_last memory, so that on a CPU all convolutions of
    neck and head run in oneDNN's layout, for any layout of the backbone's maps.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        extra: Coarse | None,
        levels: Levels,
        conventions: Literal["papers", "torchvision"] = "papers",
        out_channels: int = 256,
    ) -> None:
        first, last = levels
        used = list(channels[first - FINEST : last - FINEST + 1])
        blocks: ExtraFPNBlock | None
        if extra == "p6p7" and conventions == "torchvision":
            blocks = LastLevelP6P7(out_channels, out_channels)
        else:
            blocks = coarse_levels(extra, used[-1], out_channels, max(last - COARSEST, 0))
        super().__init__(used, out_channels, blocks)
        self.levels = levels
        self.out_channels = out_channels
        use_channels_last(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The backbone's four maps -> one for each level."""
        first, last = self.levels
        used = maps[first - FINEST : last - FINEST + 1]
        return list(super().forward({str(i): x for i, x in enumerate(used)}).values())
