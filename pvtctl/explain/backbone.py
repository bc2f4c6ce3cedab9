"""The backbone of any checkpoint, or its feature pyramid, for images of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.sizes import resized_size
from pvtctl.data.transforms import normalize, resample
from pvtctl.errors import UsageError, nearest
from pvtctl.io.normalization import IMAGENET
from pvtctl.models.backbones import Backbone, build_backbone
from pvtctl.models.fast_cpu import optimize_for_cpu
from pvtctl.models.necks.fpn import Fpn
from pvtctl.models.necks.reading import read_maps
from pvtctl.models.necks.simple_pyramid import SimplePyramid
from pvtctl.models.registry import backbone_spec
from pvtctl.tasks.registry import task_spec
from pvtctl.weights.build import backbone_from_checkpoint, model_from_checkpoint
from pvtctl.weights.describe import Inspected, inspect_checkpoint

FIRST = 2
"""Levels are named by log2 of their stride: the first map, of stride 4, is C2."""
LONGEST = 4096
"""Maximum long side in pixels, for any aspect ratio."""


class BackbonePredictor:
    """The backbone of a checkpoint. Attributes: `name`, `model` (in eval mode, on `device`), `trained`, `what` (a
    description) and `size`, the short side or (height, width) that images are resized to."""

    def __init__(
        self,
        weights: str | Path | None,
        backbone: str | None,
        device: torch.device,
        *,
        size: int | tuple[int, int] | None = None,
    ) -> None:
        """Without `weights`, `backbone` with random weights of a fixed seed. The backbone of a classifier keeps its
        class token; that of a detector or dense model has none, as in those models.

        Raises UsageError when neither is given, for unknown names, and for weights that do not fit.
        """
        if weights is None and backbone is None:
            raise UsageError(
                "which model? neither --weights nor --backbone is given", "for example: --weights pvt_small"
            )
        self.device = device
        self.normalization = IMAGENET
        self.trained, self.antialias = weights is not None, True
        if weights is None:
            assert backbone is not None
            self.name, self.what = backbone, f"{backbone} (random weights)"
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.model = build_backbone(backbone, **backbone_spec(backbone).for_classifier)
            own: int | tuple[int, int] = 224
        else:
            checkpoint = inspect_checkpoint(weights, backbone)
            self.name, self.what = checkpoint.backbone, f"{checkpoint.what} of {Path(weights).name or weights}"
            self.model = self._loaded(checkpoint)
            self.antialias = checkpoint.antialias
            side = task_spec(checkpoint.task or "classification").tested_side(checkpoint.meta)
            own = int(side or checkpoint.position_size or 224)
            self.normalization = checkpoint.pixels.normalization
        self.size = own if size is None else size
        optimize_for_cpu(self.model).to(device).eval()

    def _loaded(self, checkpoint: Inspected) -> Backbone:
        if checkpoint.head is None or checkpoint.above is not None:
            return backbone_from_checkpoint(checkpoint)
        return model_from_checkpoint(checkpoint, image_size=checkpoint.position_size or 224).backbone

    @property
    def size_in_words(self) -> str:
        """Of `size`."""
        if isinstance(self.size, int):
            return f"images at a short side of {self.size} pixels"
        return f"images at {self.size[0]}x{self.size[1]} pixels"

    def resized(self, pixels: Tensor) -> Tensor:
        """uint8 (3, H, W) -> uint8 (3, h, w) of `size`."""
        if isinstance(self.size, int):
            size = resized_size((int(pixels.shape[1]), int(pixels.shape[2])), self.size, LONGEST)
            size = (max(size[0], 32), max(size[1], 32))
        else:
            size = self.size
        return resample(pixels, size, "bilinear", antialias=self.antialias)

    def batch_of(self, resized: Tensor) -> Tensor:
        """Result of `resized` -> normalised float32 (1, 3, h, w) on the device."""
        return normalize(resized, self.normalization)[None].to(self.device)


class PyramidPredictor(BackbonePredictor):
    """`BackbonePredictor` with the model's neck. `neck` is None if the model has none."""

    neck: Fpn | SimplePyramid | None = None

    def _loaded(self, checkpoint: Inspected) -> Backbone:
        if checkpoint.above is None:
            return super()._loaded(checkpoint)
        whole: Any = model_from_checkpoint(checkpoint)
        if whole.neck is None:
            return super()._loaded(checkpoint)
        self.neck = whole.neck.to(self.device).eval()
        backbone: Backbone = whole.backbone
        return backbone

    @property
    def levels(self) -> list[str]:
        """C2 to C5, then the neck's: P3 to P7 of RetinaNet, P2 to P6 of Mask R-CNN, P2 to P5 of Semantic FPN."""
        names = [f"C{FIRST + at}" for at in range(4)]
        if self.neck is not None:
            first, last = self.neck.levels
            names += [f"P{level}" for level in range(first, last + 1)]
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
            batch = self.batch_of(resized)
            found = list(self.model(batch))
            if self.neck is not None:
                found += self.neck(read_maps(self.neck, self.model, batch) if hasattr(self.neck, "read") else found)
        return {
            name: cast("NDArray[np.float32]", features[0].float().cpu().numpy())
            for name, features in zip(self.levels, found, strict=True)
        }
