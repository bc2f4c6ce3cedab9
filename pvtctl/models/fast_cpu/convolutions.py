"""Convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.models.fast_cpu.choices import active
from pvtctl.models.fast_cpu.conditions import is_exporting, is_plain, is_plain_inference, is_unobserved
from pvtctl.models.fast_cpu.packed import convolve_packed, forget, is_packed, kept, pack_kernel
from pvtctl.models.fast_cpu.winograd import TrainedWinograd, winograd, winograd_factors, winograd_pays
from pvtctl.models.layers.conv_norm import ConvNorm
from pvtctl.models.layers.patches import to_map


class FastConv(nn.Conv2d):
    """A convolution with packed weights, over maps in channels-last layout: that of its result, as without."""

    def forward(self, x: Tensor) -> Tensor:
        if is_plain(self, type(self)) and is_plain_inference(x, self.weight, self.bias):
            packed = packed_kernel(self, self, x, self.weight, [self.weight])
            if packed is not None:
                return convolve_packed(x, packed, self.bias, self)
        else:
            forget(self)
        return super().forward(x)


def packed_kernel(layer: nn.Module, conv: nn.Conv2d, x: Tensor, weight: Tensor, sources: list[Tensor]) -> Tensor | None:
    """`weight`, which `layer` has from `sources`, as `convolve_packed` takes it for `conv` of x; None if it cannot be packed."""
    # where both layouts are the same memory, torch's result is contiguous
    tokens = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    common = conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    if not (active().packed and tokens and common):
        return None
    return kept(layer, sources, pack_kernel, weight, conv, x.shape, shape=x.shape)


class PatchConv(FastConv):
    """In training, a convolution whose kernel is its stride is one matmul over gathered patches. The result is channels_last.

    Rows and columns beyond a multiple of the stride are ignored, as in the convolution. Gathering is cheap where channels
    are innermost, as in the maps of tokens; from the three planes of an image it costs more than the product. In
    `torch.export` it would restrict later images to sizes that divide as the example's do.
    """

    def forward(self, x: Tensor) -> Tensor:
        trained = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if not trained or is_exporting() or not is_plain(self, PatchConv) or not active().patch_products:
            return super().forward(x)
        forget(self)
        stride = self.weight.shape[-1]
        size = x.shape[2] // stride, x.shape[3] // stride
        batch, channels = x.shape[:2]
        x = x.permute(0, 2, 3, 1)[:, : size[0] * stride, : size[1] * stride]
        patches = x.view(batch, size[0], stride, size[1], stride, channels).transpose(2, 3)  # B h w s s C
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return to_map(F.linear(patches.flatten(3).flatten(1, 2), weight, self.bias), size)


class FoldedConvNorm(ConvNorm):
    """The norm is folded into the convolution: one pass over the maps instead of three; a 3x3 one over large maps runs by
    `winograd`.
    """

    def forward(self, x: Tensor) -> Tensor:
        conv, bn = self.conv, self.bn
        plain = is_plain(conv, nn.Conv2d, FastConv, WinogradConv) and is_plain(bn, nn.BatchNorm2d)
        if not plain or bn.training or not is_plain_inference(x, conv.weight, bn.weight, bn.running_var):
            forget(self)
            return super().forward(x)
        assert bn.running_mean is not None
        assert bn.running_var is not None
        sources = [conv.weight, bn.weight, bn.bias, bn.running_mean, bn.running_var]
        weight, bias = kept(self, sources, fold_norm, conv, bn) or fold_norm(conv, bn)
        common = conv.kernel_size == (3, 3) and conv.dilation == (1, 1) and conv.groups == 1
        if common and winograd_pays(x, weight, active().winograd_from, kept=is_packed(self)):
            out = winograd(x, weight, bias, kept(self, sources, winograd_factors, weight))
        elif (packed := packed_kernel(self, conv, x, weight, sources)) is not None:
            out = convolve_packed(x, packed, bias, conv)
        else:
            out = F.conv2d(x, weight, bias, 1, conv.padding, conv.dilation, conv.groups)
        return F.relu(out, inplace=True) if self.relu else out


def fold_norm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that `conv` and then `bn` are in inference."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    return conv.weight * scale.view(-1, 1, 1, 1), bn.bias - bn.running_mean * scale


class WinogradConv(FastConv):
    """A 3x3 convolution of stride 1 and padding 1, by `winograd` where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        # in this order: a condition on the size would restrict an exported graph to the example's
        if is_unobserved(x, weight, bias):
            if torch.is_grad_enabled():
                if winograd_pays(x, weight, active().winograd_trained_from, kept=False):
                    forget(self)
                    return TrainedWinograd.apply(x, weight, bias)
            elif winograd_pays(x, weight, active().winograd_from, kept=is_packed(self)):
                return winograd(x, weight, bias, kept(self, [weight], winograd_factors, weight))
        return super().forward(x)
