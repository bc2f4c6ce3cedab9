"""A trained classifier on images that belong to no data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from pvtctl.data.images import TensorPicture
from pvtctl.models.backbones import Classifier
from pvtctl.models.fast_cpu import optimize_for_cpu
from pvtctl.tasks.classification.transforms import EvalTransform
from pvtctl.weights.build import model_from_checkpoint
from pvtctl.weights.describe import Inspected

TOP = 5
"""Classes that a classifier names for an image."""


class ClassifierUse:
    """A checkpoint's classifier; `class_names` (K)."""

    def __init__(self, checkpoint: Inspected, device: torch.device, model: Classifier | None = None) -> None:
        """`model` is the checkpoint's, where it is built already. Raises UsageError for weights that do not fit."""
        assert checkpoint.head is not None
        classes = checkpoint.head.num_classes
        self.device = device
        self.class_names = checkpoint.head.names or [f"class {label}" for label in range(classes)]
        size = checkpoint.meta.get("image_size", 224)
        self.transform = EvalTransform(size, checkpoint.meta.get("resize", round(size * 256 / 224)))
        if model is None:
            model = cast("Classifier", model_from_checkpoint(checkpoint, image_size=size))
        self.model = optimize_for_cpu(model).to(device).eval()

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (3, H, W) -> float32 probabilities (K,), on the CPU."""
        image = self.transform(TensorPicture(pixels))
        with torch.inference_mode():
            return self.model(image[None].to(self.device))[0].float().softmax(0).cpu()


def likeliest(probabilities: Tensor, class_names: Sequence[str], count: int = TOP) -> list[tuple[str, float]]:
    """The `count` likeliest classes of (K,) probabilities, best first."""
    best = probabilities.topk(min(count, len(probabilities)))
    return [
        (class_names[label], score) for score, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
