"""Winograd's minimal filtering for 3x3 convolutions of stride 1 and padding 1: F(4x4, 3x3).

Lavin and Gray, arXiv 1509.09308, section 4.3; its Y = A^T [(G g G^T) * (B^T d B)] A. A tile of 4x4 outputs takes 36 products per
channel pair instead of 144, plus additions in the transforms. cuDNN does so by default, in training too; oneDNN no longer does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pvtctl.models.fast_cpu.packed import convolve_packed, pack_kernel, packing_works

WORKSPACE = 16 << 20
"""Floats of its largest intermediate, unless a row of tiles has more."""

TILES = 64
"""Number of 4x4 tiles computed at a time: always the same, as a packed kernel is fast for one shape."""

TRANSFORMS = 300
"""Number of channels whose products take as long as the transforms; a little more than measured."""

FACTORS = 1800
"""Multiply-adds that take as long as spreading and packing a number of a kernel."""

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


def winograd_pays(x: Tensor, weight: Tensor, least: int, *, kept: bool) -> bool:
    """Whether `winograd` is faster than the plain convolution for these tensors, of at least `least` channels (0: never).

    `kept`: whether it finds its factors ready.
    """
    if not (least and x.ndim == 4 and min(weight.shape[:2]) >= least):
        return False
    batch, _, height, width = x.shape
    tiles = batch * -(-height // 4) * -(-width // 4)
    outputs = -(-tiles // TILES) * TILES * 16
    cost = 36 / 16 * (1 + TRANSFORMS / min(weight.shape[:2])) * outputs + (0 if kept else FACTORS)
    return cost <= 9 * batch * height * width and packing_works()


def winograd_factors(weight: Tensor) -> Tensor:
    """What `winograd` multiplies tiles by, from weight (out, in, 3, 3): 36 matrices (out, in), packed."""
    spread = _KERNEL @ weight.permute(2, 3, 0, 1).reshape(9, -1)
    return pack_kernel(spread.view(-1, weight.shape[1], 1, 1), _PER_POSITION, (1, 36 * weight.shape[1], 1, TILES))


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None, factors: Tensor | None = None) -> Tensor:
    """The convolution of x (B, C, H, W) with weight (out, C, 3, 3), stride 1, padding 1, plus bias (out,) if given.

    Rounding differs from the plain sum by float32 noise (measured: 9e-5 of the output's standard deviation at most, where
    oneDNN's own convolution has 1e-5).

    float32 on the CPU, without gradient. The result is channels_last. `factors`: `winograd_factors(weight)`, if known.
    """
    out_channels, channels = weight.shape[:2]
    factors = winograd_factors(weight) if factors is None else factors
    tiles = _tiles(x, border=1)
    batch, rows, columns = tiles.shape[:3]
    out = torch.empty(batch, out_channels, 4 * rows, 4 * columns, device="cpu", memory_format=torch.channels_last)
    into = out.permute(0, 2, 3, 1).view(batch, rows, 4, columns, 4, out_channels)
    for part in _parts(tiles, max(channels, out_channels)):
        strip = tiles[part]
        sums = _tiles_by_winograd(strip.reshape(-1, 36, channels), factors, out_channels)
        done = sums.view(*strip.shape[:3], 4, 4, out_channels).transpose(2, 3)
        if bias is None:
            into[part].copy_(done)
        else:
            torch.add(done, bias, out=into[part])
    if out.shape[2:] == x.shape[2:]:
        return out
    # not a view, which autograd would not let a ReLU change in place
    return out[:, :, : x.shape[2], : x.shape[3]].clone(memory_format=torch.channels_last)


def _tiles(maps: Tensor, *, border: int) -> Tensor:
    """maps (B, C, H, W) -> (B, rows, columns, side, side, C): the 4x4 tiles that cover them, each with `border` more on each
    side; beyond the maps are zeros."""
    batch, channels, height, width = maps.shape
    rows, columns, side = -(-height // 4), -(-width // 4), 4 + 2 * border
    padded = maps.new_zeros(batch, 4 * rows + 2 * border, 4 * columns + 2 * border, channels)
    padded[:, border : height + border, border : width + border] = maps.permute(0, 2, 3, 1)
    image, down, right, _ = padded.stride()
    shape = (batch, rows, columns, side, side, channels)
    return padded.as_strided(shape, (image, 4 * down, 4 * right, down, right, 1))


def _parts(tiles: Tensor, channels: int) -> Iterator[tuple[slice, slice]]:
    """Images and rows of `tiles` that are computed at a time."""
    batch, rows, columns = tiles.shape[:3]
    most = WORKSPACE // (36 * channels)
    images, step = max(1, most // (rows * columns)), max(1, most // columns)
    for first in range(0, batch, images):
        for top in range(0, rows, step):
            yield slice(first, first + images), slice(top, top + step)


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


def winograd_weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient (out, C, 3, 3) of the weight of `winograd`, from its input x (B, C, H, W) and the gradient (B, out, H, W) of
    its result: dg = G^T [(A dY A^T) * (B^T d B)] G, summed over tiles before the last transform.
    """
    channels, out_channels = x.shape[1], grad.shape[1]
    inputs, outputs = _tiles(x, border=1), _tiles(grad, border=0)
    sums = x.new_zeros(36, out_channels, channels)
    for part in _parts(inputs, max(channels, out_channels)):
        above = outputs[part].reshape(-1, 16, out_channels)
        below = inputs[part].reshape(-1, 36, channels)
        above = torch.bmm(_OUTPUT.t().expand(len(above), 36, 16), above)
        below = torch.bmm(_INPUT.expand(len(below), 36, 36), below)
        sums.baddbmm_(above.permute(1, 2, 0), below.transpose(0, 1))
    return (_KERNEL.t() @ sums.flatten(1)).view(3, 3, out_channels, channels).permute(2, 3, 0, 1)


class TrainedWinograd(torch.autograd.Function):
    """`winograd` of x, weight and bias, whose gradients are computed in tiles too; second derivatives are torch's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return winograd(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        if torch.is_grad_enabled():
            geometry = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
            wanted = [by_x, by_weight, False]
            x_grad, weight_grad, _ = torch.ops.aten.convolution_backward(grad, x, weight, None, *geometry, wanted)
        else:
            x_grad = winograd(grad, weight.flip(2, 3).transpose(0, 1), None) if by_x else None
            weight_grad = winograd_weight_gradient(x, grad) if by_weight else None
        return x_grad, weight_grad, grad.sum((0, 2, 3)) if by_bias else None
