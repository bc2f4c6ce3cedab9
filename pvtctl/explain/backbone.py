"""The backbone of any checkpoint, for images of any size."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pvtctl.data.sizes import resized_size
from pvtctl.data.transforms import Normalization, normalize
from pvtctl.errors import UsageError
from pvtctl.models.backbones import Backbone, build_backbone
from pvtctl.models.fast_cpu import optimize_for_cpu
from pvtctl.models.registry import backbone_spec
from pvtctl.tasks.detection.transforms import resize_image
from pvtctl.tasks.registry import task_spec
from pvtctl.weights.build import backbone_from_checkpoint, model_from_checkpoint
from pvtctl.weights.describe import Inspected, inspect_checkpoint

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
        self.normalization: Normalization = "imagenet"
        self.trained = weights is not None
        if weights is None:
            assert backbone is not None
            self.name, self.what = backbone, f"{backbone} (random weights)"
            self.model = _fresh(backbone)
            own: int | tuple[int, int] = 224
        else:
            checkpoint = inspect_checkpoint(weights, backbone)
            self.name, self.what = checkpoint.backbone, f"{checkpoint.what} of {Path(weights).name or weights}"
            self.model = _built(checkpoint)
            own = _tested_at(checkpoint)
            if checkpoint.dense is not None:
                self.normalization = checkpoint.dense.normalization or "imagenet"
        self.size = own if size is None else size
        optimize_for_cpu(self.model).to(device).eval()

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
        return resize_image(pixels, size)

    def batch_of(self, resized: Tensor) -> Tensor:
        """Result of `resized` -> normalised float32 (1, 3, h, w) on the device."""
        return normalize(resized, self.normalization)[None].to(self.device)


def _fresh(name: str) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_backbone(name, class_token=backbone_spec(name).has_class_token)


def _built(checkpoint: Inspected) -> Backbone:
    if checkpoint.head is None or checkpoint.above is not None:
        return backbone_from_checkpoint(checkpoint)
    return model_from_checkpoint(checkpoint, image_size=checkpoint.position_size or 224).backbone


def _tested_at(checkpoint: Inspected) -> int:
    """The short side of the test size, in pixels."""
    side = task_spec(checkpoint.task or "classification").tested_side(checkpoint.meta)
    return int(side or checkpoint.position_size or 224)
