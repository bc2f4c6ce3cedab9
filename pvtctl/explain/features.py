"""The feature pyramid of a checkpoint: the maps of the backbone and of the neck, if there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.errors import UsageError, nearest
from pvtctl.explain.backbone import BackbonePredictor
from pvtctl.models.necks.fpn import Fpn
from pvtctl.weights.build import model_from_checkpoint
from pvtctl.weights.describe import inspect_checkpoint

FIRST = 2
"""Levels are named by log2 of their stride: the first map, of stride 4, is C2."""


class PyramidPredictor(BackbonePredictor):
    """`BackbonePredictor` with the model's neck. `neck` is None if the model has none."""

    def __init__(
        self,
        weights: str | Path | None,
        backbone: str | None,
        device: torch.device,
        *,
        size: int | tuple[int, int] | None = None,
    ) -> None:
        """As `BackbonePredictor`."""
        super().__init__(weights, backbone, device, size=size)
        self.neck: Fpn | None = None
        if weights is None:
            return
        checkpoint = inspect_checkpoint(weights, backbone)
        if checkpoint.above is None:
            return
        whole: Any = model_from_checkpoint(checkpoint).to(device).eval()
        if whole.neck is not None:
            self.model, self.neck = whole.backbone, whole.neck

    @property
    def levels(self) -> list[str]:
        """C2 to C5, then the neck's: P3 to P7 of RetinaNet, P2 to P6 of Mask R-CNN, P2 to P5 of Semantic FPN."""
        names = [f"C{FIRST + at}" for at in range(4)]
        if self.neck is not None:
            first = FIRST + self.neck.start_level
            blocks = 4 - self.neck.start_level
            names += [f"P{first + at}" for at in range(blocks + _EXTRA[type(self.neck.extra_blocks).__name__])]
        return names

    def check_levels(self, wanted: list[str]) -> list[str]:
        """The `wanted` levels in the pyramid's order; all if it is empty. Raises UsageError for unknown names."""
        named = [name.strip().upper() for name in wanted]
        for name in named:
            if name not in self.levels:
                why = "" if self.neck is not None or not name.startswith("P") else ": the model has no neck"
                known = nearest(name, self.levels) if len(name) > 3 else f"one of: {', '.join(self.levels)}"
                raise UsageError(f"{self.name} has no level {name!r}{why}", known)
        return [name for name in self.levels if name in named or not named]

    def maps(self, resized: Tensor) -> dict[str, NDArray[np.float32]]:
        """Result of `resized` -> features (C, h, w) by level name."""
        with torch.inference_mode():
            found = list(self.model(self.batch_of(resized)))
            if self.neck is not None:
                found += self.neck(found)
        return {
            name: cast("NDArray[np.float32]", features[0].float().cpu().numpy())
            for name, features in zip(self.levels, found, strict=True)
        }


_EXTRA = {"NoneType": 0, "LastLevelMaxPool": 1, "P6P7": 2, "LastLevelP6P7": 2}
"""Coarser levels that a neck's last block adds."""
