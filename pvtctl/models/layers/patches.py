"""Between maps (B, C, H, W) and tokens (B, N, C) without copies, and the patch convolutions of the transformers.

Tokens are contiguous; the map of tokens is a channels_last view of the same memory, and so is the way back. The weights
of the convolutions here are kept in channels_last memory too (their shape is the usual one), so that the matmul that
replaces a convolution reads them in place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pvtctl.models.layers.linear import is_plain, linear

Size = tuple[int, int]

# torch 2.6 has no such question; what is right in a graph for export is right in any other there
is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def to_map(tokens: Tensor, size: Size) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W), a view."""
    # in this order: a view of the transposed tokens gets a batch stride, at batch 1, that hides the layout from convolutions
    return tokens.view(tokens.shape[0], *size, tokens.shape[2]).permute(0, 3, 1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H*W, C), a view when `x` is channels_last."""
    return x.flatten(2).transpose(1, 2)


def channels_last_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """`conv` with its weight moved to channels_last memory; shape and values stay."""
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    return conv


def conv_by_linear(x: Tensor, conv: nn.Conv2d) -> tuple[Tensor, Size]:
    """A convolution whose kernel equals its stride, as one matmul over gathered patches.

    `x` is (B, C, H, W); returns tokens (B, H//s * W//s, out) and their (H//s, W//s). Rows and columns beyond a multiple
    of the stride are left out, as the convolution leaves them out. A `conv` that is more than a convolution (see
    `is_plain`) is called; so is every one in `torch.export`, where the patches' sides would hold later images to sizes
    that divide as the example's do.
    """
    if is_exporting() or not is_plain(conv, nn.Conv2d):
        x = conv(x)
        return to_tokens(x), (x.shape[2], x.shape[3])
    stride = conv.weight.shape[-1]
    size = x.shape[2] // stride, x.shape[3] // stride
    batch, channels = x.shape[:2]
    x = x.permute(0, 2, 3, 1)[:, : size[0] * stride, : size[1] * stride]
    patches = x.view(batch, size[0], stride, size[1], stride, channels).transpose(2, 3)  # B h w s s C
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
    return linear(patches.flatten(3).flatten(1, 2), weight, conv.bias), size


class PatchEmbed(nn.Module):
    """Image or map to tokens of the next stage.

    A convolution with kernel = stride (PVT v1 section 3.2, ViT), or an overlapping one with kernel 2s-1 and padding s-1
    (PVT v2 section 3.3), then a LayerNorm (eps 1e-5) unless `norm` is off. Plain patches round odd sizes down,
    overlapping ones up.
    """

    def __init__(
        self, in_channels: int, dim: int, stride: int, *, overlapping: bool = False, norm: bool = True
    ) -> None:
        super().__init__()
        self.overlapping = overlapping
        self.of_images = in_channels == 3
        kernel, padding = (2 * stride - 1, stride - 1) if overlapping else (stride, 0)
        self.proj = channels_last_conv(nn.Conv2d(in_channels, dim, kernel, stride, padding))
        self.norm = nn.LayerNorm(dim, eps=1e-5) if norm else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Size]:
        """(B, C, H, W) -> tokens (B, h*w, dim) and (h, w)."""
        # Gathering patches is cheap where channels are innermost, as in our maps; from the three planes of an image it
        # costs more than the product, and the convolution takes half the time (measured at 224 and 800).
        if self.overlapping or self.of_images:
            x = self.proj(x)
            size = x.shape[2], x.shape[3]
            tokens = to_tokens(x)
        else:
            tokens, size = conv_by_linear(x, self.proj)
        return self.norm(tokens), size
