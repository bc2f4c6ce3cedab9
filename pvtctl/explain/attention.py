"""Attention weights of a backbone's blocks, recomputed from their inputs, and attention rollout.

The model runs with fused attention as usual; hooks keep the inputs of the chosen blocks, from which the weights are
computed (`pvtctl.models.layers.attention.MultiHeadAttention.weights`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from pvtctl.errors import UsageError, nearest
from pvtctl.models.backbones import Backbone, Vit
from pvtctl.models.backbones.pvt import PyramidTransformer
from pvtctl.models.backbones.resnet import ContextBlock, ResNet
from pvtctl.models.layers.attention import MultiHeadAttention, Span
from pvtctl.models.layers.patches import Size

SpecialToken = Literal["class", "distillation"]
Query = tuple[int, int] | SpecialToken
"""Pixel (x, y) of the model's input image, or a special token."""


@dataclass(frozen=True)
class AttendingBlock:
    """A block of a backbone with attention weights."""

    name: str
    """`stage1.block1` of a pyramid, `block1` of a plain transformer; counted from 1."""
    module: MultiHeadAttention | ContextBlock
    stage: int
    """Counted from 1; 1 for all blocks of a plain transformer."""
    stride: int
    """Side of one position of its map, in pixels."""

    @property
    def heads(self) -> int:
        """Number of heads; 1 for a context block."""
        return self.module.num_heads if isinstance(self.module, MultiHeadAttention) else 1


@dataclass(frozen=True)
class AttentionMaps:
    """Attention weights of a block, for each query and key.

    `weights` (B, heads, Q, S + M): rows sum to 1. The first S keys are the special tokens `special`; the M others form
    a grid in row-major order: row i covers the rows `key_rows[i]` (start, stop) of the block's map of `size` (H, W),
    column j the columns `key_columns[j]`. One position of the map is `stride` x `stride` pixels. `queries` are the Q
    rows: (row, column) of the map, or a special token; a context block has one row, for all positions.
    """

    block: str
    weights: Tensor
    queries: tuple[tuple[int, int] | SpecialToken | Literal["all"], ...]
    special: tuple[SpecialToken, ...]
    size: Size
    key_rows: list[Span]
    key_columns: list[Span]
    stride: int

    @property
    def heads(self) -> int:
        return int(self.weights.shape[1])

    def on_places(self) -> Tensor:
        """(B, heads, Q, H, W): at each position of the map the weight of the key that covers it, the mean if there are
        several, NaN without one (the remainder that a reduction leaves out)."""
        # the remainder that a reduction leaves out is after its last key
        rows = _covers(self.key_rows, self.size[0])[:, : self.key_rows[-1][1]]
        columns = _covers(self.key_columns, self.size[1])[:, : self.key_columns[-1][1]]
        grid = self._grid()
        values = torch.einsum("...ij,ih,jw->...hw", grid, rows / rows.sum(0), columns / columns.sum(0))
        places = torch.full((*values.shape[:-2], *self.size), float("nan"))
        places[..., : values.shape[-2], : values.shape[-1]] = values
        return places

    def between_keys(self) -> Tensor:
        """As `on_places`, but linearly interpolated between the centres of keys."""
        rows, columns = _bends(self.key_rows, self.size[0]), _bends(self.key_columns, self.size[1])
        return torch.einsum("...ij,ih,jw->...hw", self._grid(), rows, columns)

    def _grid(self) -> Tensor:
        keys = self.weights[..., len(self.special) :]
        return keys.reshape(*keys.shape[:-1], len(self.key_rows), len(self.key_columns))


def attending_blocks(model: nn.Module) -> list[AttendingBlock]:
    """The blocks with attention weights of the backbone in `model` (a Backbone, or a model with one), in order.

    Raises UsageError for backbones without attention, and for those of timm, whose structure is not known.
    """
    backbone = backbone_in(model)
    match backbone:
        case PyramidTransformer():
            return [
                AttendingBlock(f"stage{s}.block{b}", block.attn, s, backbone.feature_strides[s - 1])  # type: ignore[arg-type]
                for s, stage in enumerate(backbone.stages, 1)
                for b, block in enumerate(cast("nn.ModuleList", stage.blocks), 1)
            ]
        case Vit():
            return [
                AttendingBlock(f"block{b}", block.attn, 1, backbone.patch_size)  # type: ignore[arg-type]
                for b, block in enumerate(backbone.blocks, 1)
            ]
        case ResNet():
            found = [
                AttendingBlock(f"stage{s}.block{b}", block.context_block, s, backbone.feature_strides[s - 1])
                for s in (1, 2, 3, 4)
                for b, block in enumerate(getattr(backbone, f"layer{s}"), 1)
                if isinstance(getattr(block, "context_block", None), ContextBlock)
            ]
            if found:
                return found
            raise UsageError(
                "a ResNet has no attention to draw",
                "PVT, ViT and DeiT have; so do ResNets with context blocks (resnet50_gc ...). "
                "pvtctl visualize features shows what others find",
            )
        case _:
            raise UsageError(
                f"the inside of a {type(backbone).__name__} is not known here",
                "attention is drawn of PVT, PVT v2, ViT and DeiT",
            )


def backbone_in(model: nn.Module) -> Backbone:
    """`model` if it is a backbone, or the backbone of a classifier, detector or dense model. Raises UsageError."""
    found = next((module for module in model.modules() if isinstance(module, Backbone)), None)
    if found is None:
        raise UsageError(f"{type(model).__name__} has no backbone of pvtctl's", "build it with pvtctl.create_backbone")
    return found


def find_block(model: nn.Module, name: str) -> AttendingBlock:
    """The block called `name`; `last` is the last one, `stage3` the last of a stage. Raises UsageError."""
    blocks = attending_blocks(model)
    by_name = {block.name: block for block in blocks} | {"last": blocks[-1]}
    if blocks[0].name.startswith("stage"):
        by_name |= {f"stage{block.stage}": block for block in blocks}
    if name not in by_name:
        names = [block.name for block in blocks]
        listed = ", ".join(names) if len(names) <= 12 else _by_stage(blocks)
        raise UsageError(f"no block {name!r}; this backbone has {listed}", nearest(name, list(by_name)))
    return by_name[name]


def attention_maps(
    model: nn.Module, images: Tensor, blocks: Sequence[AttendingBlock], queries: Sequence[Query] | None = None
) -> list[AttentionMaps]:
    """The weights of `blocks` (of `find_block`) for normalised images (B, 3, H, W), from one pass of the backbone.

    For `queries`, or by default for all: special tokens first, then all positions in row-major order. The model must be
    in eval mode. Raises UsageError for a pixel outside of the images, and a token that a block does not have.
    """
    with torch.inference_mode(), _inputs_of(blocks) as inputs:
        backbone_in(model)(images)
        return [_maps_of(block, inputs[block.name], images, queries) for block in blocks]


def rollout_maps(
    model: nn.Module, images: Tensor, block: AttendingBlock, queries: Sequence[Query] | None = None
) -> AttentionMaps:
    """Attention rollout (Abnar and Zuidema 2020) from `block` back to the first block of its stage.

    Each block's output is taken as half its input (the residual) and half its attention averaged over heads, and these
    matrices are multiplied over the blocks. Weights of keys of a spatial reduction are distributed over the positions
    that they cover, so that rows sum to 1 on the block's map; earlier stages are not included. In a plain transformer
    all blocks are one stage.
    """
    blocks = attending_blocks(model)
    blocks = [each for each in blocks if each.stage == block.stage]
    blocks = blocks[: [each.name for each in blocks].index(block.name) + 1]
    if isinstance(block.module, ContextBlock):
        raise UsageError("a context block adds one summary to all places: there is nothing to roll out", "leave it out")
    with torch.inference_mode(), _inputs_of(blocks) as inputs:
        backbone_in(model)(images)
        tokens, size = cast("tuple[Tensor, Size]", inputs[block.name])
        special = _special_tokens(tokens, size)
        names, indices = _indices(block, queries, special, size, images)
        count = tokens.shape[1]
        # rows of the product are computed from the last block to the first, without a matrix of all pairs
        rows = torch.eye(count, device=tokens.device)[indices].expand(len(images), -1, -1)
        for each in reversed(blocks):
            module = cast("MultiHeadAttention", each.module)
            entered, _ = cast("tuple[Tensor, Size]", inputs[each.name])
            mixed = rows @ module.weights(entered, size).mean(1)
            rows = (rows + _shared_out(mixed, module, size, len(special))) / 2
            rows = rows / rows.sum(-1, keepdim=True)
    return AttentionMaps(block.name, rows[:, None].cpu(), names, special, size, *_cells(size), block.stride)


def place_of(pixel: tuple[int, int], size: Size, stride: int) -> tuple[int, int]:
    """Row and column, in a map of `size`, of the position that contains the pixel (x, y); the nearest one for a pixel
    in the remainder that patches leave out."""
    x, y = pixel
    return min(y // stride, size[0] - 1), min(x // stride, size[1] - 1)


def _maps_of(
    block: AttendingBlock, found: tuple[Tensor, ...], images: Tensor, queries: Sequence[Query] | None
) -> AttentionMaps:
    if isinstance(block.module, ContextBlock):
        (x,) = found
        size = (int(x.shape[2]), int(x.shape[3]))
        for query in queries or ():
            _check_query(query, images, (), block)
        weights = block.module.weights(x)[:, None].cpu()
        return AttentionMaps(block.name, weights, ("all",), (), size, *_cells(size), block.stride)
    tokens, size = cast("tuple[Tensor, Size]", found)
    special = _special_tokens(tokens, size)
    names, indices = _indices(block, queries, special, size, images)
    weights = block.module.weights(tokens, size, indices if queries is not None else None)
    rows, columns = block.module.key_spans(size)
    return AttentionMaps(block.name, weights.cpu(), names, special, size, rows, columns, block.stride)


def _indices(
    block: AttendingBlock,
    queries: Sequence[Query] | None,
    special: tuple[SpecialToken, ...],
    size: Size,
    images: Tensor,
) -> tuple[tuple[tuple[int, int] | SpecialToken, ...], Tensor]:
    """Names of the queries, and the indices of their tokens."""
    if queries is None:
        places = [(row, column) for row in range(size[0]) for column in range(size[1])]
        return (*special, *places), torch.arange(len(special) + len(places), device=images.device)
    names: list[tuple[int, int] | SpecialToken] = []
    indices = []
    for query in queries:
        _check_query(query, images, special, block)
        if isinstance(query, str):
            names.append(query)
            indices.append(special.index(query))
        else:
            row, column = place_of(query, size, block.stride)
            names.append((row, column))
            indices.append(len(special) + row * size[1] + column)
    return tuple(names), torch.tensor(indices, device=images.device)


def _check_query(query: Query, images: Tensor, special: tuple[SpecialToken, ...], block: AttendingBlock) -> None:
    if isinstance(query, str):
        if query not in special:
            raise UsageError(f"{block.name} has no {query} token", "name a point of the image, as 112,80")
        return
    height, width = images.shape[2:]
    if not (0 <= query[0] < width and 0 <= query[1] < height):
        raise UsageError(
            f"the query point {query[0]},{query[1]} is outside of the image, which is {width} wide and {height} high",
            f"x from 0 to {width - 1}, y from 0 to {height - 1}",
        )


def _special_tokens(tokens: Tensor, size: Size) -> tuple[SpecialToken, ...]:
    names: tuple[SpecialToken, ...] = ("class", "distillation")
    return names[: tokens.shape[1] - size[0] * size[1]]


def _shared_out(mixed: Tensor, module: MultiHeadAttention, size: Size, special: int) -> Tensor:
    """Weights (B, Q, S + M) of keys -> (B, Q, S + N) of the positions that they cover, distributed by area."""
    rows, columns = (_covers(spans, side).to(mixed) for spans, side in zip(module.key_spans(size), size, strict=True))
    rows, columns = rows / rows.sum(1, keepdim=True), columns / columns.sum(1, keepdim=True)
    grid = mixed[..., special:].reshape(*mixed.shape[:2], len(rows), len(columns))
    places = torch.einsum("bqij,ih,jw->bqhw", grid, rows, columns).flatten(2)
    return torch.cat((mixed[..., :special], places), -1)


def _cells(size: Size) -> tuple[list[Span], list[Span]]:
    """The spans of keys that are single positions."""
    return [(at, at + 1) for at in range(size[0])], [(at, at + 1) for at in range(size[1])]


def _covers(spans: list[Span], side: int) -> Tensor:
    """(keys, side): 1 where a key covers a position."""
    covers = torch.zeros(len(spans), side)
    for at, (start, stop) in enumerate(spans):
        covers[at, start:stop] = 1
    return covers


def _bends(spans: list[Span], side: int) -> Tensor:
    """(keys, side): weight of each key at each position in linear interpolation between the keys' centres."""
    middles = [(start + stop) / 2 for start, stop in spans]
    rows = [np.interp(np.arange(side) + 0.5, middles, np.eye(len(spans))[at]) for at in range(len(spans))]
    return torch.from_numpy(np.stack(rows)).float()


def _by_stage(blocks: Sequence[AttendingBlock]) -> str:
    """`stage1.block1 to stage1.block3, stage2.block1 to ...`."""
    parts = []
    for stage in dict.fromkeys(block.stage for block in blocks):
        own = [block.name for block in blocks if block.stage == stage]
        parts.append(own[0] if len(own) == 1 else f"{own[0]} to {own[-1]}")
    return ", ".join(parts)


@contextmanager
def _inputs_of(blocks: Sequence[AttendingBlock]) -> Iterator[dict[str, tuple[Tensor, ...]]]:
    """Block name -> the arguments of the last call of its module."""
    inputs: dict[str, tuple[Tensor, ...]] = {}

    def keep(name: str) -> object:
        return lambda module, arguments: inputs.update({name: arguments})

    hooks = [block.module.register_forward_pre_hook(keep(block.name)) for block in blocks]  # type: ignore[arg-type]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()
