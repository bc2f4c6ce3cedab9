"""Stored outputs of a frozen backbone, which models take in place of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as tree


@dataclass(frozen=True)
class Features:
    """What a model has read of its backbone (`model.read(images)`) for images of `shape`."""

    value: Any
    """Lists of tensors: maps (B, C, h, w), tokens (B, S, C), or pooled features (B, C)."""
    shape: tuple[int, int, int, int]
    """(B, 3, H, W) of the images."""
    dtype: torch.dtype = torch.float32

    @property
    def device(self) -> torch.device:
        """Of the tensors."""
        return next(leaf for leaf in tree.tree_leaves(self.value) if isinstance(leaf, Tensor)).device

    def to(self, device: Any, non_blocking: bool = False) -> Features:
        moved = tree.tree_map_only(Tensor, lambda part: part.to(device, non_blocking=non_blocking), self.value)
        return replace(self, value=moved)

    def pin_memory(self) -> Features:
        return replace(self, value=tree.tree_map_only(Tensor, Tensor.pin_memory, self.value))


def batched(parts: Sequence[Tensor]) -> Tensor:
    """One part of the features of several images, each (1, ...), as a batch; smaller maps are padded with zeros."""
    if parts[0].ndim != 4:
        return torch.cat(list(parts))
    height, width = (max(part.shape[side] for part in parts) for side in (2, 3))
    return torch.cat([F.pad(part, (0, width - part.shape[3], 0, height - part.shape[2])) for part in parts])
