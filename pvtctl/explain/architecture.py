"""Architecture of a model by stage, for pictures: shapes at an input size, heads, reductions, tokens and cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pvtctl.cost.build import build_model, classes_of
from pvtctl.cost.counting import StageCost, count_model
from pvtctl.explain.attention import backbone_in
from pvtctl.explain.pictures.architecture import Box, Column
from pvtctl.models.backbones import Backbone, Vit, VitHybrid
from pvtctl.models.backbones.pvt import Pvt, PyramidTransformer
from pvtctl.models.backbones.resnet import ContextBlock, ResNet
from pvtctl.models.layers.attention import POOLED_SIDE, SelfAttention, SpatialReductionAttention
from pvtctl.models.layers.block import Mlp, TransformerBlock
from pvtctl.models.registry import PLAIN_HEADS, find_head

Shape = tuple[int, int, int]


def describe_architecture(
    name: str, size: tuple[int, int], *, head: str = "classifier", num_classes: int | None = None
) -> Column:
    """Boxes of backbone `name` with `head` on one image of `size`; names and costs as in `pvtctl.cost.counting.count`.

    The model is on the meta device, so nothing is computed. Raises UsageError for unknown names and options.
    """
    classes = classes_of(head, num_classes)
    with torch.device("meta"):
        model = build_model(name, head, num_classes)
        backbone = backbone_in(model)
        necks = _NeckShapes(getattr(model, "neck", None))
        with torch.no_grad():
            images = torch.empty(1, 3, *size)
            shapes: list[Shape] = [tuple(x.shape[1:]) for x in backbone(images)]
    cost = count_model(model, size, backbone=name, head=head, num_classes=classes)
    necks.close()
    parts = _Parts(cost.stages)
    boxes = _backbone_boxes(
        name, backbone, images, shapes, parts, pyramid=head != "classifier" and not _reads_tokens(head)
    )
    if head not in PLAIN_HEADS:
        boxes += _head_boxes(head, necks.shapes, parts, classes)
    elif head == "classifier":
        params, macs = parts.take("head")
        boxes.append(
            Box("Classifier", (f"{backbone.num_features} features, {classes} classes",), params, macs, kind="above")
        )
    return Column(name if head in PLAIN_HEADS else f"{name} + {head}", size, tuple(boxes), cost.params, cost.macs)


def _reads_tokens(head: str) -> bool:
    spec = find_head(head)
    return spec is not None and bool(spec.token_options)


class _NeckShapes:
    """Shapes of a neck's output maps, recorded by a hook."""

    def __init__(self, neck: nn.Module | None) -> None:
        self.shapes: list[Shape] = []
        self.hook = neck.register_forward_hook(self._keep) if neck is not None else None

    def _keep(self, module: nn.Module, arguments: object, out: object) -> None:
        if isinstance(out, list | tuple):
            self.shapes = [tuple(x.shape[1:]) for x in out]

    def close(self) -> None:
        if self.hook is not None:
            self.hook.remove()


class _Parts:
    """Cost of a model's parts by name, with or without the prefix `backbone.` of models with heads."""

    def __init__(self, stages: Sequence[StageCost]) -> None:
        self.left = {stage.name.removeprefix("backbone."): (stage.params, stage.macs) for stage in stages}

    def take(self, *starts: str) -> tuple[int, int]:
        """Parameters and MACs of all remaining parts with these prefixes, which are removed."""
        names = [name for name in self.left if name.startswith(starts)]
        taken = [self.left.pop(name) for name in names]
        return sum(params for params, _ in taken), sum(macs for _, macs in taken)


def _backbone_boxes(
    name: str, backbone: Backbone, images: Tensor, shapes: list[Shape], parts: _Parts, *, pyramid: bool
) -> list[Box]:
    match backbone:
        case PyramidTransformer():
            return [
                _pvt_stage(number, backbone, stage, shape, parts)
                for number, (stage, shape) in enumerate(zip(backbone.stages, shapes, strict=True), 1)
            ]
        case Vit():
            return _vit_boxes(backbone, images, shapes, parts, pyramid=pyramid)
        case ResNet():
            stem = "3 convolutions 3×3" if isinstance(backbone.conv1, nn.Sequential) else "convolution 7×7"
            boxes = [Box("Stem", (f"{stem}, max pooling: stride 4",), *parts.take("stem"))]
            return boxes + [_resnet_stage(number, backbone, shape, parts) for number, shape in enumerate(shapes, 1)]
        case _:
            lines = [f"stride {s}: {_by(shape)}" for s, shape in zip((4, 8, 16, 32), shapes, strict=True)]
            return [Box(name, tuple(lines), *parts.take("other"), shapes[-1])]


def _pvt_stage(number: int, backbone: PyramidTransformer, stage: nn.Module, shape: Shape, parts: _Parts) -> Box:
    blocks = cast("nn.ModuleList", stage.blocks)
    block = cast("TransformerBlock", blocks[0])
    attn, mlp = cast("SpatialReductionAttention", block.attn), cast("Mlp", block.mlp)
    patch = cast("nn.Conv2d", cast("nn.Module", stage.patch_embed).proj)
    rows, columns = attn.key_spans(shape[1:])
    keys = len(rows) * len(columns)
    special = number == 4 and isinstance(backbone, Pvt) and backbone.class_token is not None
    reduction = "keys unreduced"
    if attn.linear:
        reduction = f"keys pooled to {POOLED_SIDE}×{POOLED_SIDE}"
    elif attn.reduces:
        ratio = attn.sr.kernel_size[0]
        reduction = f"keys reduced {ratio}×{ratio}"
    kernel, stride = patch.kernel_size[0], patch.stride[0]
    table = ", position table" if hasattr(stage, "pos_embed") else ""
    lines = (
        f"patches {kernel}×{kernel}, step {stride}{table}",
        f"{_number(len(blocks), 'block')}, {_number(attn.num_heads, 'head')} of {shape[0] // attn.num_heads}",
        f"{_count(shape[1] * shape[2])}{' + 1' if special else ''} tokens, {reduction}: {_count(keys + special)}",
        f"feed-forward {mlp.fc1.out_features}" + (" with 3×3 convolution" if mlp.dwconv is not None else ""),
    )
    last = ("other",) if number == 4 else ()
    return Box(f"Stage {number}", lines, *parts.take(f"stage{number}", *last), shape)


def _vit_boxes(backbone: Vit, images: Tensor, shapes: list[Shape], parts: _Parts, *, pyramid: bool) -> list[Box]:
    grid = cast("Shape", tuple(backbone.read_taps(images, [backbone.depth])[0].map.shape[1:]))
    block = cast("TransformerBlock", backbone.blocks[0])
    attn, mlp = cast("SelfAttention", block.attn), cast("Mlp", block.mlp)
    tokens, special = _count(grid[1] * grid[2]), backbone.special_tokens
    patch = f"patches {backbone.patch_size}×{backbone.patch_size}"
    if isinstance(backbone, VitHybrid):
        patch = "a ResNet's map of stride 16, a token a cell"
    names = "a class token" if special == 1 else "a class and a distillation token"
    lines = (
        f"{attn.num_heads} heads of {backbone.embed_dim // attn.num_heads}, feed-forward {mlp.fc1.out_features}",
        f"{tokens} + {special} tokens, each attends to all",
    )
    boxes = [
        Box("Patch embedding", (patch, f"{names}, position table"), *parts.take("patch_embed", "other"), grid),
        Box(f"Blocks 1 to {backbone.depth}", lines, *parts.take("blocks"), grid),
    ]
    if pyramid:
        # DPT uses the blocks directly
        taps = ", ".join(
            f"block {t}" if isinstance(t, int) else f"ResNet stage {int(t[1]) + 1}" for t in backbone.default_taps
        )
        maps = tuple(f"stride {s}: {_by(shape)}" for s, shape in zip(backbone.feature_strides, shapes, strict=True))
        boxes.append(Box("Pyramid", (f"of {taps}", *maps), 0, 0))
    return boxes


def _resnet_stage(number: int, backbone: ResNet, shape: Shape, parts: _Parts) -> Box:
    blocks = cast("nn.Sequential", getattr(backbone, f"layer{number}"))
    convs = [
        module for module in blocks[-1].modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    conv = convs[-1]
    kind = "basic block" if len(convs) > 1 else "bottleneck"
    groups = f", {conv.groups} groups" if conv.groups > 1 else ""
    lines = [_number(len(blocks), kind), f"3×3 convolutions {conv.out_channels} wide{groups}"]
    if conv.dilation[0] > 1:
        lines.append(f"dilated by {conv.dilation[0]}")
    if any(isinstance(module, ContextBlock) for module in blocks.modules()):
        lines.append("a context block in each")
    return Box(f"Stage {number}", tuple(lines), *parts.take(f"stage{number}"), shape)


def _head_boxes(head: str, neck: list[Shape], parts: _Parts, num_classes: int | None) -> list[Box]:
    boxes = []
    if "neck" in parts.left:
        lines = [_by(shape) for shape in neck]
        boxes.append(Box("Neck (FPN)", tuple(lines), *parts.take("neck"), kind="above"))
    inside = {name.removeprefix("head."): parts.left[name] for name in list(parts.left) if name.startswith("head.")}
    classes = f"{num_classes} classes" if num_classes else "depth"
    lines = [
        f"{name}: {params / 1e6:.2f} M parameters, {macs / 1e9:.2f} GMACs" for name, (params, macs) in inside.items()
    ]
    boxes.append(
        Box(f"Head ({head})", (classes, *(line.replace("_", " ") for line in lines)), *parts.take(""), kind="above")
    )
    return boxes


def _by(shape: Shape) -> str:
    return " × ".join(map(str, shape))


def _count(number: int) -> str:
    return f"{number:,}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
