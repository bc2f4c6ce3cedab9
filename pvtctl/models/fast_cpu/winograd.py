"""Winograd's minimal filtering for 3x3 convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvtctl.models.fast_cpu.choices import active
from pvtctl.models.fast_cpu.packed import convolve_packed, pack_kernel, packing_works

WORKSPACE = 16 << 20
"""Floats of its largest intermediate, unless a row of tiles has more."""

TILES = 64
"""Number of 4x4 tiles computed at a time: always the same, as a packed kernel is fast for one shape."""

TRANSFORMS = 300
"""Number of channels whose products take as long as the transforms; a little more than measured."""

_PER_POSITION = nn.Conv2d(36, 36, 1, groups=36, device="meta")
"""Geometry of the products: one for each position in a tile."""


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


def winograd_pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `winograd` is faster than the plain convolution for these tensors."""
    least = active().winograd_from
    if not (least and x.ndim == 4 and min(weight.shape[:2]) >= least):
        return False
    batch, _, height, width = x.shape
    tiles = batch * -(-height // 4) * -(-width // 4)
    outputs = -(-tiles // TILES) * TILES * 16
    faster = 36 / 16 * (1 + TRANSFORMS / min(weight.shape[:2])) * outputs <= 9 * batch * height * width
    return faster and packing_works()


def winograd_factors(weight: Tensor) -> Tensor:
    """What `winograd` multiplies tiles by, from weight (out, in, 3, 3): 36 matrices (out, in), packed."""
    spread = _KERNEL @ weight.permute(2, 3, 0, 1).reshape(9, -1)
    return pack_kernel(spread.view(-1, weight.shape[1], 1, 1), _PER_POSITION, (1, 36 * weight.shape[1], 1, TILES))


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None, factors: Tensor | None = None) -> Tensor:
    """The convolution of x (B, C, H, W) with weight (out, C, 3, 3), stride 1, padding 1, plus bias (out,) if given.

    Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308, section 4.3; its Y = A^T [(G g G^T) * (B^T d B)]
    A): a tile of 4x4 outputs takes 36 products per channel pair instead of 144, plus additions in the transforms. cuDNN does
    so by default; oneDNN no longer does. Rounding differs from the plain sum by float32 noise (measured: 9e-5 of the output's
    standard deviation at most, where oneDNN's own convolution has 1e-5).

    float32 on the CPU, without gradient. The result is channels_last. `factors`: `winograd_factors(weight)`, if known.
    """
    batch, channels, height, width = x.shape
    out_channels = weight.shape[0]
    factors = winograd_factors(weight) if factors is None else factors
    rows, columns = -(-height // 4), -(-width // 4)  # of tiles
    padded = x.new_zeros(batch, 4 * rows + 2, 4 * columns + 2, channels)
    padded[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
    image, down, right, _ = padded.stride()
    tiles = padded.as_strided((batch, rows, columns, 6, 6, channels), (image, 4 * down, 4 * right, down, right, 1))
    out = x.new_empty(batch, rows, 4, columns, 4, out_channels)
    most = WORKSPACE // (36 * max(channels, out_channels))
    images, step = max(1, most // (rows * columns)), max(1, most // columns)
    for first in range(0, batch, images):
        for top in range(0, rows, step):
            part = slice(first, first + images), slice(top, top + step)
            strip, into = tiles[part], out[part]
            sums = _tiles_by_winograd(strip.reshape(-1, 36, channels), factors, out_channels)
            done = sums.view(*strip.shape[:3], 4, 4, out_channels).transpose(2, 3)
            if bias is None:
                into.copy_(done)
            else:
                torch.add(done, bias, out=into)
    whole = out.view(batch, 4 * rows, 4 * columns, out_channels)[:, :height, :width]
    return whole.contiguous().permute(0, 3, 1, 2)


def _tiles_by_winograd(tiles: Tensor, factors: Tensor, out_channels: int) -> Tensor:
    """tiles (N, 36, C) of 6x6 inputs -> (N, 16, out) of 4x4 outputs."""
    number, _, channels = tiles.shape
    spread = tiles.new_empty(-(-number // TILES) * TILES, 36, channels)
    torch.bmm(_INPUT.expand(number, 36, 36), tiles, out=spread[:number])
    spread[number:] = 0
    sums = []
    for some in spread.view(-1, 1, 1, TILES, 36 * channels):
        products = convolve_packed(some.permute(0, 3, 1, 2), factors, None, _PER_POSITION).permute(0, 2, 3, 1)
        sums.append(torch.bmm(_OUTPUT.expand(TILES, 16, 36), products.view(TILES, 36, out_channels)))
    return torch.cat(sums)[:number]
