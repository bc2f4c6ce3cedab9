"""Weighted training on several depth sets, like the papers' MIX."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.randomness import generator_for
from pvtctl.data.samplers import Draw
from pvtctl.tasks.dense.data import DenseDataset, DenseSource, DenseTransform


class MixedSource:
    """Concatenation of several sets; names start with a set's name."""

    def __init__(self, parts: Mapping[str, DenseSource], weights: Mapping[str, float]) -> None:
        self.class_names: list[str] = []
        self.palette: list[tuple[int, int, int]] | None = None
        self.parts, self.weights = dict(parts), dict(weights)
        self.starts = [0, *accumulate(len(part) for part in self.parts.values())]
        """Position of each part's first image, then the number of all."""

    def __len__(self) -> int:
        return self.starts[-1]

    def name(self, index: int) -> str:
        key, place = self._at(index)
        return f"{key}/{self.parts[key].name(place)}"

    def pixels(self, index: int) -> Tensor:
        key, place = self._at(index)
        return self.parts[key].pixels(place)

    def target(self, index: int) -> Tensor:
        key, place = self._at(index)
        return self.parts[key].target(place)

    def digest(self, indices: NDArray[np.int64]) -> str:
        digests = []
        for (key, part), (start, end) in zip(self.parts.items(), pairwise(self.starts), strict=True):
            own = indices[(indices >= start) & (indices < end)] - start
            digests.append(f"{key}*{self.weights[key]:g}:{part.digest(own)}")
        return "+".join(digests)

    def _at(self, index: int) -> tuple[str, int]:
        number = bisect_right(self.starts, index) - 1
        return list(self.parts)[number], index - self.starts[number]


class MixedDataset(DenseDataset):
    """A `MixedSource` whose training epochs sample each set by its weight.

    An epoch has as many draws as the sets have images. A set's draws go through its images in a shuffled order
    that continues over epochs, so that all images are seen equally often, however large the set. The image of a draw
    depends only on (seed, epoch, index). Evaluation shows every image once.
    """

    def __init__(self, source: MixedSource, transform: DenseTransform, **settings: Any) -> None:
        super().__init__(source, transform, **settings)
        bounds = np.searchsorted(self.kept, source.starts)
        self._orders = [
            start + torch.randperm(end - start, generator=generator_for(self.seed, "mix", key)).numpy()
            for key, (start, end) in zip(source.parts, pairwise(bounds.tolist()), strict=True)
        ]
        """Of each set, the positions in `kept`, shuffled."""
        weights = np.array(
            [source.weights[key] * (len(order) > 0) for key, order in zip(source.parts, self._orders, strict=True)]
        )
        self._ends = np.round(np.cumsum(weights) / weights.sum() * len(self)).astype(np.int64)
        """(sets,): end of each set's draws in an epoch."""

    def chosen(self, draw: Draw, step: int) -> int:
        if not self.training:
            return super().chosen(draw, step)
        number = int(np.searchsorted(self._ends, draw.index, "right"))
        start = int(self._ends[number - 1]) if number else 0
        order = self._orders[number]
        return int(order[(draw.epoch * (int(self._ends[number]) - start) + draw.index - start + step) % len(order)])
