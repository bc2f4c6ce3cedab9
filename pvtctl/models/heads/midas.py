"""The fully convolutional decoder of MiDaS (Ranftl et al., arXiv 1907.01341), DPT's own baseline (Tables 1, 8 and 9)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pvtctl.models.heads.dense import DenseHead
from pvtctl.models.heads.refinement import WIDTH, DepthOutput, RefinementDecoder


class Midas(DenseHead):
    """Four maps of `channels`, strides 4 to 32 -> inverse depth (B, 1, H, W) of an unknown scale, never below 0.

    DPT's decoder without batch norms and without the 1x1 convolutions of its fusions. As in MiDaS's code the shortcuts of
    the residual units start after their first ReLU, and the last resize does not align corners.
    """

    upsampling = "bicubic"

    def __init__(self, channels: Sequence[int], *, width: int = WIDTH) -> None:
        super().__init__()
        self.decoder = RefinementDecoder(channels, norm=False, mixing=False, rectified=True, width=width)
        self.output = DepthOutput(align_corners=False, width=width)

    def forward(self, features: Sequence[Tensor], auxiliary: bool = False) -> tuple[Tensor, Sequence[Tensor]]:
        return self.output(self.decoder(features)[0]), ()
