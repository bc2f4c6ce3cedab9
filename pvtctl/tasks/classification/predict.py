"""Prediction with a trained classifier on images outside a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pvtctl.data.class_names import readable_name
from pvtctl.data.images import RgbImage, TensorPicture
from pvtctl.io.names import plural
from pvtctl.models.backbones import Classifier
from pvtctl.tasks.base import PredictionRequest
from pvtctl.tasks.classification.transforms import EvalTransform
from pvtctl.tasks.predict import Images
from pvtctl.weights.build import model_from_checkpoint
from pvtctl.weights.describe import Inspected

TOP = 5
"""Number of classes that a classifier lists for an image."""


@dataclass(frozen=True)
class Guess:
    """A class that an image may show."""

    name: str
    share: float
    """Its probability."""
    true: bool = False


@dataclass(frozen=True)
class ClassScores:
    """A classifier's prediction for one image."""

    probabilities: Tensor
    """float32 (K,), by class."""
    class_names: list[str]

    def top(self, count: int = TOP) -> list[tuple[str, float]]:
        """The most probable classes with their probabilities, best first."""
        best = self.probabilities.topk(min(count, len(self.probabilities)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [(self.class_names[label], score) for score, label in pairs]

    def guesses(self, truth: int | None = None) -> list[Guess]:
        """The most probable classes, then the true one if it is not among them."""
        labels = self.probabilities.topk(min(TOP, len(self.probabilities))).indices.tolist()
        if truth is not None and truth not in labels:
            labels.append(truth)
        return [
            Guess(readable_name(self.class_names[label]), float(self.probabilities[label]), label == truth)
            for label in labels
        ]


class ClassifierPredictor:
    """A checkpoint's classifier; `class_names` (K)."""

    palette: list[tuple[int, int, int]] | None = None

    def __init__(self, request: PredictionRequest, model: Classifier | None = None) -> None:
        """`model`: the checkpoint's, if it is built already. Raises UsageError for weights that do not fit."""
        checkpoint = request.checkpoint
        assert checkpoint.head is not None
        self.device = request.device
        self.class_names = checkpoint.head.names or [f"class {label}" for label in range(checkpoint.head.num_classes)]
        size = checkpoint.meta.image_size or 224
        resize = checkpoint.meta.resize or round(size * 256 / 224)
        self.transform = EvalTransform(size, resize, request.normalization)
        model = model or cast("Classifier", model_from_checkpoint(checkpoint, image_size=size))
        self.model = model
        self.runnable = request.runnable(model)

    def __call__(self, pixels: Tensor) -> ClassScores:
        """uint8 (3, H, W) -> probabilities, on the CPU."""
        image = self.transform(TensorPicture(pixels))
        with torch.inference_mode():
            scores = self.runnable(image[None].to(self.device))[0].float().softmax(0).cpu()
        return ClassScores(scores, self.class_names)

    def in_words(self, prediction: ClassScores, threshold: float) -> str:
        """The most probable class."""
        ((name, share),) = prediction.top(1)
        return f"{readable_name(name)}, {100 * share:.0f} %"

    def draw(self, path: Path, image: RgbImage, prediction: ClassScores, title: str, threshold: float) -> None:
        """The image next to bars of its most probable classes."""
        from pvtctl.tasks.classification.pictures import draw_guesses

        draw_guesses(path, image, prediction.guesses(), title)


class ClassesWriter:
    """`pvtctl predict` with a classifier: a line an image, no files."""

    def __init__(self, checkpoint: Inspected, predictor: ClassifierPredictor, images: Images) -> None:
        self.checkpoint, self.predictor, self.images = checkpoint, predictor, images
        self.found: dict[str, list[tuple[str, float]]] = {}

    @property
    def description(self) -> str:
        return f"{self.checkpoint.backbone}, {plural(len(self.predictor.class_names), 'class')}"

    def add(self, name: str, number: int, pixels: Tensor) -> None:
        self.found[name] = self.predictor(pixels).top()

    def __len__(self) -> int:
        return len(self.found)

    def finish(self) -> dict[str, Path]:
        return {}

    def table(self) -> tuple[str, list[str], list[list[Any]]]:
        most = max(len(best) for best in self.found.values())
        rows: list[list[Any]] = [
            [name, *(f"{label} {100 * score:.1f} %" for label, score in best)] for name, best in self.found.items()
        ]
        return (
            f"The likeliest classes of {plural(len(self.found), 'image')}",
            ["image", *map(str, range(1, most + 1))],
            rows,
        )

    def remark(self) -> str | None:
        return None

    def document(self) -> dict[str, Any]:
        listed = [
            {
                "file": str(self.images.folder / name),
                "classes": [{"class": label, "score": round(score, 5)} for label, score in best],
            }
            for name, best in self.found.items()
        ]
        return {"images": listed}

    def places(self, files: Mapping[str, Path]) -> dict[str, Any]:
        return {}
