"""Architecture of a model by stage, and its picture: shapes at an input size, heads, reductions, tokens and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import Tensor, nn

from pvtctl.cost.build import build_model, classes_of
from pvtctl.cost.counting import StageCost, count_model
from pvtctl.explain.attention import backbone_in
from pvtctl.io.names import plural
from pvtctl.models.backbones import Backbone, Vit, VitHybrid
from pvtctl.models.backbones.pvt import Pvt, PyramidTransformer
from pvtctl.models.backbones.resnet import ContextBlock, ResNet
from pvtctl.models.layers.attention import POOLED_SIDE, SelfAttention, SpatialReductionAttention
from pvtctl.models.layers.block import Mlp, TransformerBlock
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.registry import PLAIN_HEADS, find_head
from pvtctl.views.figure import BLUE, GREY, ORANGE, new_figure

Shape = tuple[int, int, int]


def describe_architecture(
    name: str, size: tuple[int, int], *, head: str = "classifier", num_classes: int | None = None
) -> Column:
    """Boxes of backbone `name` with `head` on one image of `size`; names and costs as in `pvtctl.cost.counting.count`.

    The model is on the meta device, so nothing is computed. Raises UsageError for unknown names and options.
    """
    classes = classes_of(head, num_classes)
    with without_values():
        model = build_model(name, head, num_classes)
        backbone = backbone_in(model)
        out: dict[str, Any] = {}
        if (neck := getattr(model, "neck", None)) is not None:
            neck.register_forward_hook(lambda module, maps, found: out.update(neck=found))
        with torch.no_grad():
            images = torch.empty(1, 3, *size)
            shapes: list[Shape] = [tuple(x.shape[1:]) for x in backbone(images)]
    cost = count_model(model, size, backbone=name, head=head, num_classes=classes)
    parts = _Parts(cost.stages)
    spec = find_head(head)
    pyramid = head != "classifier" and not (spec and spec.token_options)
    boxes = _backbone_boxes(name, backbone, images, shapes, parts, pyramid=pyramid)
    if head not in PLAIN_HEADS:
        maps = out["neck"] if isinstance(out.get("neck"), list | tuple) else ()
        boxes += _head_boxes(head, [tuple(x.shape[1:]) for x in maps], parts, classes)
    elif head == "classifier":
        lines = (f"{backbone.num_features} features, {plural(classes or 0, 'class')}",)
        boxes.append(Box("Classifier", lines, *parts.take("head"), kind="above"))
    return Column(name if head in PLAIN_HEADS else f"{name} + {head}", size, tuple(boxes), cost.params, cost.macs)


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
        f"{plural(len(blocks), 'block')}, {plural(attn.num_heads, 'head')} of {shape[0] // attn.num_heads}",
        f"{shape[1] * shape[2]:,}{' + 1' if special else ''} tokens, {reduction}: {keys + special:,}",
        f"feed-forward {mlp.fc1.out_features}" + (" with 3×3 convolution" if mlp.dwconv is not None else ""),
    )
    last = ("other",) if number == 4 else ()
    return Box(f"Stage {number}", lines, *parts.take(f"stage{number}", *last), shape)


def _vit_boxes(backbone: Vit, images: Tensor, shapes: list[Shape], parts: _Parts, *, pyramid: bool) -> list[Box]:
    grid = cast("Shape", tuple(backbone.read_taps(images, [backbone.depth])[0].map.shape[1:]))
    block = cast("TransformerBlock", backbone.blocks[0])
    attn, mlp = cast("SelfAttention", block.attn), cast("Mlp", block.mlp)
    tokens, special = f"{grid[1] * grid[2]:,}", backbone.special_tokens
    patch = f"patches {backbone.patch_size}×{backbone.patch_size}"
    if isinstance(backbone, VitHybrid):
        patch = "a ResNet's map of stride 16, a token a cell"
    names = "a class token" if special == 1 else "a class and a distillation token"
    lines = (
        f"{plural(attn.num_heads, 'head')} of {backbone.embed_dim // attn.num_heads}, "
        f"feed-forward {mlp.fc1.out_features}",
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
    convs = [each for each in blocks[-1].modules() if isinstance(each, nn.Conv2d) and each.kernel_size == (3, 3)]
    conv = convs[-1]
    kind = "basic block" if len(convs) > 1 else "bottleneck"
    groups = f", {conv.groups} groups" if conv.groups > 1 else ""
    lines = [plural(len(blocks), kind), f"3×3 convolutions {conv.out_channels} wide{groups}"]
    if conv.dilation[0] > 1:
        lines.append(f"dilated by {conv.dilation[0]}")
    if any(isinstance(module, ContextBlock) for module in blocks.modules()):
        lines.append("a context block in each")
    return Box(f"Stage {number}", tuple(lines), *parts.take(f"stage{number}"), shape)


def _head_boxes(head: str, neck: list[Shape], parts: _Parts, num_classes: int | None) -> list[Box]:
    boxes = []
    if "neck" in parts.left:
        boxes.append(Box("Neck", tuple(map(_by, neck)), *parts.take("neck"), kind="above"))
    lines = [plural(num_classes, "class") if num_classes else "depth"]
    lines += [
        f"{name.removeprefix('head.').replace('_', ' ')}: {params / 1e6:.2f} M parameters, {macs / 1e9:.2f} GMACs"
        for name, (params, macs) in parts.left.items()
        if name.startswith("head.")
    ]
    return [*boxes, Box(f"Head ({head})", tuple(lines), *parts.take(""), kind="above")]


def _by(shape: Shape) -> str:
    return " × ".join(map(str, shape))


_WIDTH, _GAP, _BETWEEN = 3.9, 0.26, 0.55
_LINE, _PADDING, _BAR = 0.185, 0.1, 0.085
_TOP, _BOTTOM = 0.95, 0.34
_MAP, _BAR_LENGTH = 0.95, 1.35
"""In inches: a box, the gaps, lines of text, the square for a map's size, the longest bar."""


_LEGEND = ("Bars: orange parameters, blue GMACs; one scale each.", "Squares: the map in the image at half its size.")


@dataclass(frozen=True)
class Box:
    """A part of a model. `shape` (channels, height, width) of its output; None if that is not a map."""

    title: str
    lines: tuple[str, ...]
    params: int
    macs: int
    shape: tuple[int, int, int] | None = None
    kind: str = "backbone"
    """`backbone`, or `above` for neck, head or classifier."""


@dataclass(frozen=True)
class Column:
    """A model on one image of `size` (height, width): its boxes in order of execution, and its totals."""

    name: str
    size: tuple[int, int]
    boxes: tuple[Box, ...]
    params: int
    macs: int


def draw_architectures(columns: Sequence[Column]) -> Figure:
    """Draw all `columns`, with common scales of the bars for parameters and for MACs."""
    height = max(_TOP + sum(_height(box) + _GAP for box in column.boxes) + _BOTTOM for column in columns)
    width = len(columns) * (_WIDTH + _BETWEEN) + 0.1
    figure = new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for at, text in enumerate(_LEGEND):
        axes.text(0.3, height - _BOTTOM + 0.17 * at, text, fontsize=8, color=GREY, va="bottom")
    boxes = [box for column in columns for box in column.boxes]
    most = max(box.params for box in boxes) or 1, max(box.macs for box in boxes) or 1
    for at, column in enumerate(columns):
        _draw_column(axes, 0.3 + at * (_WIDTH + _BETWEEN), column, most)
    return figure


def _draw_column(axes: Axes, x: float, column: Column, most: tuple[int, int]) -> None:
    axes.text(x, 0.24, column.name, fontsize=13, fontweight="bold", va="center", parse_math=False)
    sums = f"{_parameters(column.params)} parameters, {_giga(column.macs)} GMACs"
    axes.text(x, 0.48, sums, fontsize=10, va="center")
    y = _TOP
    axes.text(x, 0.7, f"image, 3 × {column.size[0]} × {column.size[1]}", fontsize=9, color=GREY, va="center")
    for at, box in enumerate(column.boxes):
        if at:
            axes.add_patch(
                FancyArrowPatch(
                    (x + _WIDTH / 2, y - _GAP), (x + _WIDTH / 2, y), arrowstyle="-|>", mutation_scale=9, color=GREY
                )
            )
        _draw_box(axes, x, y, box, column.size, most)
        y += _height(box) + _GAP


def _height(box: Box) -> float:
    bars = 2 * (_BAR + 0.06) + 0.06 if box.params or box.macs else 0.0
    return 2 * _PADDING + _LINE * (1 + len(box.lines)) + bars


def _draw_box(axes: Axes, x: float, y: float, box: Box, size: tuple[int, int], most: tuple[int, int]) -> None:
    height = _height(box)
    face, edge = ("#f4f8fb", BLUE) if box.kind == "backbone" else ("#fdf7ec", ORANGE)
    axes.add_patch(Rectangle((x, y), _WIDTH, height, facecolor=face, edgecolor=edge, linewidth=1.1))
    line = y + _PADDING + _LINE / 2
    axes.text(x + 0.12, line, box.title, fontsize=10, fontweight="bold", va="center", parse_math=False)
    if box.shape is not None:
        shape = " × ".join(map(str, box.shape))
        axes.text(x + _WIDTH - 0.12, line, shape, fontsize=10, va="center", ha="right", fontweight="bold")
        _draw_map(axes, x + _WIDTH - 0.12, y + height - _PADDING, height - 2 * _PADDING - _LINE - 0.08, box.shape, size)
    for text in box.lines:
        line += _LINE
        axes.text(x + 0.12, line, text, fontsize=8.5, va="center", parse_math=False)
    bar = line + _LINE / 2 + 0.06
    for value, largest, colour, words in (
        (box.params, most[0], ORANGE, f"{_parameters(box.params)} parameters"),
        (box.macs, most[1], BLUE, f"{_giga(box.macs)} GMACs"),
    ):
        if box.params or box.macs:
            length = max(_BAR_LENGTH * value / largest, 0.01)
            axes.add_patch(Rectangle((x + 0.12, bar), length, _BAR, facecolor=colour, linewidth=0))
            axes.text(x + 0.12 + length + 0.06, bar + _BAR / 2, words, fontsize=7.5, va="center")
            bar += _BAR + 0.06


def _draw_map(
    axes: Axes, right: float, bottom: float, room: float, shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    """Draw the image's outline and the map in it, as large as its side relative to an image at stride 2."""
    unit = min(_MAP / size[1], room / size[0])
    height, width = size[0] * unit, size[1] * unit
    axes.add_patch(Rectangle((right - width, bottom - height), width, height, fill=False, edgecolor="#c5ccd3", lw=0.7))
    inner = 2 * shape[2] * unit, 2 * shape[1] * unit
    axes.add_patch(Rectangle((right - inner[0], bottom - inner[1]), *inner, facecolor="#8fb8d6", linewidth=0))


def _parameters(count: int) -> str:
    return f"{count / 1e6:.3g} M" if count >= 1e5 else f"{count / 1e3:.3g} k"


def _giga(count: int) -> str:
    return f"{count / 1e9:.3g}" if count >= 1e7 else f"{count / 1e9:.1g}"
