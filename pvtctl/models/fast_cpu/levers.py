"""Which layers are replaced by which kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from pvtctl.models.backbones.base import Backbone
from pvtctl.models.backbones.resnet import ResNet
from pvtctl.models.backbones.vit import ResNetEmbed
from pvtctl.models.fast_cpu.attention import FastPrototypeAttention, FastSelfAttention, FastSpatialReductionAttention
from pvtctl.models.fast_cpu.choices import Choices, active
from pvtctl.models.fast_cpu.convolutions import FastConv, FoldedConvNorm, PatchConv, WinogradConv
from pvtctl.models.fast_cpu.linears import FastLinear, FastMlp, SplitReassemble
from pvtctl.models.fast_cpu.packed import pack
from pvtctl.models.heads.dpt import Reassemble
from pvtctl.models.heads.trans2seg import PrototypeAttention
from pvtctl.models.layers.attention import SelfAttention, SpatialReductionAttention
from pvtctl.models.layers.block import Mlp
from pvtctl.models.layers.conv_norm import ConvNorm
from pvtctl.models.layers.patches import ModuleT, PatchEmbed, use_channels_last


@dataclass(frozen=True)
class Lever:
    """One group of kernel replacements."""

    kernels: dict[type[nn.Module], type[nn.Module]]
    """Plain class -> its replacement."""
    find: Callable[[nn.Module], Iterator[nn.Module]]
    """The layers of a model to replace."""
    taken: Callable[[Choices], object]
    """Whether the choices use it."""


_PATCH_CONVS = {PatchEmbed: "proj", SpatialReductionAttention: "sr", ResNetEmbed: "proj", Reassemble: "project"}


def _patch_convs(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        for owner, name in _PATCH_CONVS.items():
            conv = getattr(module, name, None) if isinstance(module, owner) else None
            if type(conv) is nn.Conv2d and conv.kernel_size == conv.stride and conv.in_channels != 3:
                yield conv


def _convs_3x3(model: nn.Module) -> Iterator[nn.Module]:
    """Those of necks and heads."""
    of_backbones = {inner for module in model.modules() if isinstance(module, Backbone) for inner in module.modules()}
    for conv in model.modules():
        if type(conv) is not nn.Conv2d or conv in of_backbones or conv.kernel_size != (3, 3):
            continue
        if conv.stride == conv.dilation == conv.padding == (1, 1) and conv.groups == 1 and conv.padding_mode == "zeros":
            yield conv


def _of(kernels: dict[type[nn.Module], type[nn.Module]], taken: Callable[[Choices], object]) -> Lever:
    """For all layers of exactly these classes."""
    return Lever(kernels, lambda model: (module for module in model.modules() if type(module) in kernels), taken)


LEVERS = (
    _of({nn.Linear: FastLinear}, lambda choices: choices.packed or choices.onednn_products),
    _of({Mlp: FastMlp}, lambda choices: choices.packed or choices.mlp_bytes),
    _of({Reassemble: SplitReassemble}, lambda choices: choices.split_readout),
    Lever({nn.Conv2d: PatchConv}, _patch_convs, lambda choices: choices.patch_products),
    _of({ConvNorm: FoldedConvNorm}, lambda choices: choices.folded_norms),
    Lever(
        {nn.Conv2d: WinogradConv}, _convs_3x3, lambda choices: choices.winograd_from or choices.winograd_trained_from
    ),
    _of({nn.Conv2d: FastConv}, lambda choices: choices.packed),
    _of(
        {
            SelfAttention: FastSelfAttention,
            SpatialReductionAttention: FastSpatialReductionAttention,
            PrototypeAttention: FastPrototypeAttention,
        },
        lambda choices: choices.plain_from or choices.plain_bf16 or choices.split_queries,
    ),
)

PLAIN_OF = {fast: plain for lever in LEVERS for plain, fast in lever.kernels.items()}
"""Replacement -> plain class."""


def take(model: ModuleT, choices: Choices) -> ModuleT:
    """Give each layer of `model` the kernel of `choices`, or make it plain; in place."""
    for module in model.modules():
        if type(module) in PLAIN_OF:
            module.__class__ = PLAIN_OF[type(module)]
    for lever in LEVERS:
        if lever.taken(choices):
            for module in lever.find(model):
                module.__class__ = lever.kernels[type(module)]
    return model


def lay_out(model: ModuleT, device: torch.device) -> ModuleT:
    """Before inference on `device` with weights that no longer change: `pack` them, and put the ResNets in `model` into
    channels-last layout, where that is faster on this CPU; in place, and return it.

    Necks, heads and tokens are in channels-last layout anyway. On a GPU the precision decides, and in training the recipe's
    `train.channels_last`.
    """
    if device.type == "cpu" and active().packed:
        pack(model)
        for module in model.modules():
            if isinstance(module, ResNet):
                use_channels_last(module)
    return model
