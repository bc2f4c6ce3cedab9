"""The values of the parity kit's state dicts, made block by block, which is faster than the kit itself."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

BLOCK = 1 << 13
"""Numbers at a time, which stay in the processor's cache."""


class Values:
    """`kit.fill_state_dict`, which remembers the weights that it gave last.

    Both variants have the same weights, and models that follow each other share backbones.
    """

    def __init__(self, kit: ModuleType) -> None:
        self._kit = kit
        self._weights: dict[tuple[str, tuple[int, ...]], Any] = {}

    def __call__(self, shapes: Mapping[str, Sequence[int]], variant: str = "") -> dict[str, Any]:
        import torch

        before, self._weights, state = self._weights, {}, {}
        for key, size in shapes.items():
            shape = tuple(size)
            if self._kit.role(key, shape) != "weight":
                state[key] = torch.from_numpy(self._kit.fill_array(key, shape, variant))
                continue
            known = before.pop((key, shape), None)
            state[key] = torch.from_numpy(self.weight(key, shape)) if known is None else known
            self._weights[key, shape] = state[key]
        return state

    def weight(self, key: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """`kit.fill_array(key, shape)` of a weight, of either variant."""
        tag = f"parity-v{self._kit.VERSION}:param:{key}:{'x'.join(map(str, shape))}"
        seed = int.from_bytes(hashlib.sha256(tag.encode()).digest()[:16], "little")
        stream, values = np.random.Generator(np.random.Philox(counter=0, key=seed)), np.empty(shape, np.float32)
        flat, scale, block = values.reshape(-1), 2 * math.sqrt(3.0 / math.prod(shape[1:])), np.empty(BLOCK)
        for at in range(0, len(flat), BLOCK):
            part = block[: len(flat) - at]
            stream.random(out=part)  # the upper 53 of 64 bits, as the kit takes them
            part -= 0.5
            part *= scale
            flat[at : at + BLOCK] = part
        return values
