"""Learned position embeddings of a backbone, original and resized, and the similarity of their cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.explain.attention import backbone_in
from pvtctl.models.backbones import PvtV2, ResNet, Vit, VitHybrid
from pvtctl.models.backbones.pvt import Pvt, PvtStage
from pvtctl.models.layers.patches import Size, resize_position_table


@dataclass(frozen=True)
class PositionTable:
    """The table of a stage (`stage1` ...) or of a plain transformer (`patches`): `values` (1, h*w, C), learned on
    `grid` (h, w), without special tokens. A cell is `stride` x `stride` pixels; odd sides are rounded up or down."""

    name: str
    values: Tensor
    grid: Size
    stride: int
    rounds_up: bool = False

    def grid_at(self, size: Size) -> Size:
        """The grid for images of `size` pixels."""
        height, width = (-(-side // self.stride) if self.rounds_up else side // self.stride for side in size)
        return height, width

    def resized(self, grid: Size) -> PositionTable:
        """The table resized as in the backbone."""
        with torch.no_grad():
            values = resize_position_table(self.values, self.grid, grid)
        return PositionTable(self.name, values, grid, self.stride, self.rounds_up)

    def similarity(self, places: list[tuple[int, int]]) -> NDArray[np.float32]:
        """(Q, h, w): the cosine of the angle between each of Q `places` (row, column) and all cells."""
        with torch.no_grad():
            unit = F.normalize(self.values[0].float(), dim=-1).cpu()
            rows = torch.tensor([row * self.grid[1] + column for row, column in places])
            alike: NDArray[np.float32] = (unit[rows] @ unit.T).view(len(places), *self.grid).numpy()
        return alike


def position_tables(model: nn.Module) -> list[PositionTable]:
    """The tables of the backbone in `model`. If there are none, raises UsageError with the source of positions."""
    backbone = backbone_in(model)
    match backbone:
        case Pvt():
            tables = []
            for number, (stage, stride) in enumerate(zip(backbone.stages, backbone.feature_strides, strict=True), 1):
                assert isinstance(stage, PvtStage)
                values = stage.pos_embed.detach()[:, int(stage.class_slot) :]
                tables.append(PositionTable(f"stage{number}", values, stage.grid, stride))
            return tables
        case Vit():
            values = backbone.pos_embed.detach()[:, backbone.special_tokens :]
            return [
                PositionTable(
                    "patches", values, backbone.grid, backbone.patch_size, rounds_up=isinstance(backbone, VitHybrid)
                )
            ]
        case PvtV2():
            why = (
                "PVT v2 has none: its positions come from the zero padding of its overlapping patches and convolutions"
            )
        case ResNet():
            why = "a ResNet has none: its positions come from the zero padding of its convolutions"
        case _:
            why = f"none that is known here, in a {type(backbone).__name__}"
    raise UsageError(
        f"no position embeddings: {why}",
        "PVT v1, ViT, DeiT and vit_hybrid have them: --weights pvt_small",
    )


def spread_places(grid: Size, count: int) -> list[tuple[int, int]]:
    """`count` x `count` cells spread evenly over a grid, in row-major order; fewer if it has fewer rows or columns."""
    rows, columns = (
        sorted({int((at + 0.5) * side / min(count, side)) for at in range(min(count, side))}) for side in grid
    )
    return [(row, column) for row in rows for column in columns]
