"""Feature pyramid network (arXiv 1612.03144): four backbone maps -> up to five of equal width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from pvtctl.models.layers.patches import use_channels_last


class P6P7(ExtraFPNBlock):  # type: ignore[misc]  # torchvision has no types
    """RetinaNet's two coarse levels as in the papers' configurations.

    P6 is a 3x3 convolution of stride 2 on the backbone's last map, P7 one on P6, with no ReLU between. torchvision's block
    has one, and uses the pyramid's last map instead if the widths are equal (pvt_v2_b0 ends in 256 channels).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Append P6 and P7 to `results` and `names`; `x` are the backbone's maps."""
        p6 = _halved(self.p6, x[-1])
        return [*results, p6, _halved(self.p7, p6)], [*names, "p6", "p7"]


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
    `start_level` is the first backbone map used. `extra` adds coarser levels: `p6p7` two by convolution (RetinaNet),
    `pool` one by taking every second cell (Mask R-CNN), None none (Semantic FPN). With `torchvision` conventions P6 uses
    the last pyramid map and a ReLU precedes P7, as in its published RetinaNet.

    Initial weights are Xavier uniform, biases 0. They are in channels_last memory, so that on a CPU all convolutions of
    neck and head run in oneDNN's layout, for any layout of the backbone's maps.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        extra: Literal["p6p7", "pool"] | None,
        start_level: int,
        conventions: Literal["papers", "torchvision"] = "papers",
        out_channels: int = 256,
    ) -> None:
        blocks: ExtraFPNBlock | None
        match extra, conventions:
            case None, _:
                blocks = None
            case "pool", _:
                blocks = LastLevelMaxPool()
            case _, "papers":
                blocks = P6P7(channels[-1], out_channels)
            case _:
                blocks = LastLevelP6P7(out_channels, out_channels)
        super().__init__(list(channels[start_level:]), out_channels, blocks)
        self.start_level = start_level
        self.out_channels = out_channels
        use_channels_last(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The backbone's four maps -> five (four without `extra`, from `start_level` 0)."""
        return list(super().forward({str(i): x for i, x in enumerate(maps[self.start_level :])}).values())
