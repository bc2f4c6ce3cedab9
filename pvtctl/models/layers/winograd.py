"""3x3 convolutions with a quarter of the products, for inference on a CPU.

Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308, section 4.3; its Y = A^T [(G g G^T) * (B^T d B)] A):
a tile of 4x4 outputs takes 36 products a channel pair instead of 144, and additions on the way in and out. cuDNN does so
unasked; oneDNN no longer does. Worth it where maps and channels are large, as in the towers of RetinaNet, which hold more
than half of that detector's arithmetic. Rounding differs from the plain sum by float32 noise (measured: 4e-5 of the output's
standard deviation at most, where oneDNN's own convolution has 1e-5).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvtctl.models.layers.linear import runs_in_one_pass
from pvtctl.models.layers.patches import channels_last_conv

MIN_CELLS, MIN_CHANNELS = 1024, 128
"""From that map size and those channels on; below, the transforms cost what the products save."""

WORKSPACE = 4 << 20
"""Floats of the largest intermediate, so that it stays within the cache."""


def _both_axes(rows: list[list[float]]) -> Tensor:
    """The matrix that applies `rows` along both axes of a flattened tile."""
    one = torch.tensor(rows, dtype=torch.float64, device="cpu")
    return torch.kron(one, one).float()


_INPUT = _both_axes(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = _both_axes(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OUTPUT = _both_axes([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


class Conv3x3(nn.Conv2d):
    """nn.Conv2d with a 3x3 kernel, stride 1, padding 1; by `winograd` where that is faster and nothing looks on.

    The weight lies in channels_last memory, so that oneDNN computes the rest in the layout that it likes.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)
        channels_last_conv(self)

    def forward(self, x: Tensor) -> Tensor:
        # in this order: a question about the size would hold an exported graph to the example's answer
        if runs_in_one_pass(x, self.weight, self.bias) and is_large(x, self.weight):
            return winograd(x, self.weight, self.bias)
        return super().forward(x)


def is_large(x: Tensor, weight: Tensor) -> bool:
    """Whether `winograd` of these is faster than the plain convolution."""
    return x.ndim == 4 and x.shape[2] * x.shape[3] >= MIN_CELLS and min(weight.shape[:2]) >= MIN_CHANNELS


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of x (B, C, H, W) with weight (out, C, 3, 3), stride 1, padding 1, plus bias (out,) if there is one.

    float32 on the CPU, without gradient. The result is channels_last.
    """
    batch, channels, height, width = x.shape
    out_channels = weight.shape[0]
    rows, columns = -(-height // 4), -(-width // 4)  # of tiles
    kernel = (_KERNEL @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, channels, out_channels)
    padded = x.new_zeros(batch, 4 * rows + 2, 4 * columns + 2, channels)
    padded[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
    out = x.new_empty(batch, rows, 4, columns, 4, out_channels)
    step = max(1, WORKSPACE // (36 * columns * max(channels, out_channels)))
    for image in range(batch):
        for top in range(0, rows, step):
            bottom = min(top + step, rows)
            strip = padded[image, 4 * top : 4 * bottom + 2]
            down, right, _ = strip.stride()
            tiles = strip.as_strided(
                (6, 6, bottom - top, columns, channels), (down, right, 4 * down, 4 * right, 1), strip.storage_offset()
            )
            spread = (_INPUT @ tiles.reshape(36, -1)).view(36, -1, channels)
            products = torch.bmm(spread, kernel).view(36, -1)
            sums = (_OUTPUT @ products).view(4, 4, bottom - top, columns, out_channels)
            done, into = sums.permute(2, 0, 3, 1, 4), out[image, top:bottom]
            if bias is None:
                into.copy_(done)
            else:
                torch.add(done, bias, out=into)
    whole = out.view(batch, 4 * rows, 4 * columns, out_channels)[:, :height, :width]
    return whole.contiguous().permute(0, 3, 1, 2)


def speed_up_convs(module: nn.Module) -> None:
    """Give the convolutions inside `module` channels_last weights, and make those that are 3x3 with stride 1, padding 1
    and a bias `Conv3x3`; names and values of parameters stay."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, nn.Conv2d):
                continue
            plain = child.kernel_size == (3, 3) and child.stride == child.dilation == (1, 1) and child.groups == 1
            if plain and child.padding == (1, 1) and child.padding_mode == "zeros" and child.bias is not None:
                with torch.device("meta"):  # no starting values to draw
                    conv = Conv3x3(child.in_channels, child.out_channels)
                conv.weight, conv.bias = child.weight, child.bias
                setattr(parent, name, conv)
                child = conv
            channels_last_conv(child)
