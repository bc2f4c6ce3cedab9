"""Build backbones and classifiers by name; settings and layer depths of the backbone inside a model."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones.base import Backbone, in_eval
from pvtctl.models.backbones.resnet import ResNet
from pvtctl.models.features import Features
from pvtctl.models.registry import backbone_spec, backbone_specs
from pvtctl.models.variants import MIN_SIDE, STRIDES

_SIDE = 64
"""Side in pixels of the image that a custom backbone is tested with."""


def backbone_names() -> list[str]:
    """The registered names, without `timm:NAME`."""
    return [spec.name for spec in backbone_specs()]


def build_backbone(name: str, **options: Any) -> Backbone:
    """Build a backbone with initial weights; `NAME@F`: F times as wide; `NAME+option=value`: with other sizes.

    Args:
        name: From `pvtctl models ls`, `timm:NAME`, or a registered one.
        **options: `image_size` (pixels; sizes position tables, if any: every family takes other sizes too),
            `drop_path_rate` (all but ResNets), `class_token` (PVT v1, ViT: needed by their classifiers),
            `frozen_stages`, `freeze_norm`, `output_stride` (8 or 16: the last stages are dilated) (ResNets), and its
            sizes, which a name may set too (`sr_ratios`, `depths` ...; `pvtctl models show NAME` prints them).

    Raises:
        UsageError: An unknown name (with the nearest), or an option that the backbone does not have.
    """
    spec = backbone_spec(name)
    if spec.vary is not None:
        sizes = {key: value for key, value in options.items() if key in spec.option_names}
        spec = spec.with_options(sizes)
        options = {key: value for key, value in options.items() if key not in sizes}
    rate, size = options.get("drop_path_rate", 0.0), options.get("image_size", 224)
    if not 0.0 <= rate < 1.0:
        raise UsageError(f"drop_path_rate {rate} is out of range", "use 0 <= rate < 1, usually 0.1 to 0.3")
    if size < MIN_SIDE:
        raise UsageError(f"image size {size} is too small", f"use at least {MIN_SIDE} pixels")
    backbone = checked_backbone(spec.build(spec.options(options)))
    backbone.parts = backbone.parts or spec.parts
    backbone.built_as = spec.name
    if spec.is_foreign:
        _check_maps(backbone)
    return backbone


def as_backbone(backbone: str | Backbone, options: dict[str, Any]) -> Backbone:
    """`build_backbone` of a name; a built module is checked and returned unchanged. Raises UsageError."""
    if isinstance(backbone, str):
        return build_backbone(backbone, **options)
    if options:
        raise UsageError("a built backbone takes no options", f"build it with {', '.join(options)}")
    _check_maps(checked_backbone(backbone))
    return backbone


def checked_backbone(backbone: Any) -> Backbone:
    """`backbone`, if it has the interface that heads need. Raises UsageError."""
    what = f"{type(backbone).__name__} is no backbone"
    if not isinstance(backbone, Backbone):
        raise UsageError(
            f"{what}: it does not derive from pvtctl.models.backbones.Backbone",
            "class Mine(Backbone), with super().__init__(feature_channels) and a forward that returns four maps",
        )
    channels = getattr(backbone, "feature_channels", ())
    if len(channels) != 4 or not all(isinstance(each, int) and each > 0 for each in channels):
        raise UsageError(f"{what}: its feature_channels are {channels}", "the channels of its four maps")
    if len(backbone.feature_strides) != 4 or tuple(backbone.feature_strides[:2]) != STRIDES[:2]:
        raise UsageError(
            f"{what}: its feature_strides are {tuple(backbone.feature_strides)}",
            "4, 8, 16, 32 (dilated ones keep a finer stride in the last two)",
        )
    return backbone


def _check_maps(backbone: Backbone) -> None:
    """Raise UsageError unless a small image gives four maps of the stated channels and strides."""
    first = next(backbone.parameters(), torch.empty(0))
    with torch.no_grad(), in_eval(backbone):
        maps = list(backbone(torch.zeros(1, 3, _SIDE, _SIDE, device=first.device, dtype=first.dtype)))
    strides = zip(backbone.feature_channels, backbone.feature_strides, strict=True)
    wanted = [(1, channels, _SIDE // stride, _SIDE // stride) for channels, stride in strides]
    if [tuple(one.shape) for one in maps] != wanted:
        given, right = (
            ", ".join("x".join(map(str, each[1:])) for each in shapes)
            for shapes in ([tuple(one.shape) for one in maps], wanted)
        )
        raise UsageError(
            f"{type(backbone).__name__} gives the maps {given} of an image of {_SIDE} pixels, and not {right}",
            "its feature_channels and feature_strides say what heads get",
        )


class Classifier(nn.Module):
    """Images (B, 3, H, W) -> logits (B, num_classes): `head` on the pooled features of `backbone`.

    The head is initialised as its family's: truncated normal of std 0.02 and bias 0, or torch's default after a ResNet.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.head = nn.Linear(backbone.num_features, num_classes)
        if not isinstance(backbone, ResNet):
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def read(self, images: Tensor | Features) -> Tensor:
        """Pooled features (B, num_features) of the images, or those that were read before."""
        return cast("Tensor", images.value) if isinstance(images, Features) else self.backbone.pooled(images)

    def forward(self, images: Tensor | Features) -> Tensor:
        return self.head(self.read(images))


def build_classifier(backbone: str | Backbone, *, num_classes: int = 1000, **options: Any) -> Classifier:
    """A `Classifier` with a built backbone, or with `build_backbone(name, ...)` and the layers that its classifier needs."""
    if num_classes < 1:
        raise UsageError(f"num_classes {num_classes} is out of range", "a classifier needs at least one class")
    if isinstance(backbone, str):
        options |= backbone_spec(backbone).for_classifier
    return Classifier(as_backbone(backbone, options), num_classes)


def set_activation_checkpointing(model: nn.Module, on: bool) -> None:
    """Set activation checkpointing of every backbone in `model`; UsageError where the family does not support it."""
    for module in model.modules():
        if isinstance(module, Backbone):
            module.set_activation_checkpointing(on)


def prepare_backbones(model: nn.Module, size: tuple[int, int]) -> list[str]:
    """`Backbone.prepare` of every backbone in `model`, for images of `size` (height, width): what users must know."""
    return [text for module in model.modules() if isinstance(module, Backbone) for text in module.prepare(size)]


def layer_depths(model: nn.Module) -> tuple[dict[str, int], int]:
    """Depth of every parameter of a model with one backbone, and the depth of the head, for layer-wise learning rates.

    0 is the backbone's first embedding or stem, then one per block; all parameters outside the backbone have the second
    number. Raises UsageError for a model without a backbone, or one whose family does not number its layers.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Backbone)]
    if not found:
        raise UsageError(f"{type(model).__name__} has no backbone", "set layer_decay to 1")
    name, backbone = found[0]
    prefix = f"{name}." if name else ""
    head = backbone.num_layers
    depths = {
        parameter: backbone.layer_of(parameter.removeprefix(prefix)) if parameter.startswith(prefix) else head
        for parameter, _ in model.named_parameters()
    }
    return depths, head
