"""Metrics of image classification, exact: merged over ranks they are bit-identical to one pass over all images.

Counts are integers. Losses and confidences are summed as integers too (in units of 2**-24), because floating-point sums
depend on the order of the images, and the order depends on the number of ranks.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from pvtctl.tasks.classification.data import Batch

BINS = 15
_UNIT = 2.0**24
_MAX_LOSS = 1e4  # an infinite loss (fp16 overflow) still has to sum; a million images of it fit int64


class Miss(NamedTuple):
    """One image, ordered by its loss; `label` and `prediction` are positions in the head's class list."""

    loss: float
    id: str
    label: int
    prediction: int
    confidence: float


@dataclass(frozen=True)
class ClassAccuracy:
    """One class of the data."""

    name: str
    images: int
    top1: float
    """Fraction of the class's images classified correctly (0 without images)."""
    precision: float
    """Fraction of the images predicted to be this class that belong to it (0 without predictions)."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose confidence fell into (low, high]."""

    low: float
    high: float
    images: int
    confidence: float
    """Mean confidence of the bin's images."""
    accuracy: float


class ClassificationMetric:
    """top-1, top-5, loss, calibration, confusion and the worst images of a classifier.

    `class_names` are the head's K classes. `label_to_head`, (C,) int64, gives the head's class for each of the data's C
    classes if the two differ: predictions are then over all K classes, the usual practice for ImageNet subsets, and
    `top1_present` is the accuracy among the data's own classes only. Without it C equals K.

    Top-k with K < k counts every image. Equal logits are ranked by class index, as argmax does; an image with a
    non-finite logit is wrong in every count and is reported as `nonfinite`.
    """

    def __init__(self, class_names: Sequence[str], *, label_to_head: Tensor | None = None, worst: int = 32) -> None:
        self.class_names = list(class_names)
        self.num_worst = worst
        own = torch.arange(len(self.class_names))
        self.label_to_head = own if label_to_head is None else label_to_head.cpu().long()
        self.present = sorted(set(self.label_to_head.tolist()))
        """Head classes that the data has."""
        self.images = self.top1 = self.top5 = self.top1_present = self.nonfinite = 0
        self.loss = 0
        self.confusion: Counter[tuple[int, int]] = Counter()
        """Images by (true, predicted) head class; only pairs that occurred."""
        self.bin_images, self.bin_correct, self.bin_confidence = torch.zeros(3, BINS, dtype=torch.int64)
        self.worst_heap: list[Miss] = []

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Count a batch: `outputs` are logits (B, K)."""
        logits = outputs.detach().float().cpu()
        labels = self.label_to_head[batch.labels.cpu()]
        finite = torch.isfinite(logits).all(dim=1)
        logits = torch.where(finite[:, None], logits, torch.zeros(()))

        own = logits.gather(1, labels[:, None])
        before = torch.arange(logits.shape[1])[None] < labels[:, None]
        rank = ((logits > own) | ((logits == own) & before)).sum(dim=1)
        correct = (rank == 0) & finite
        confidence, prediction = logits.softmax(dim=1).max(dim=1)
        prediction = torch.where(correct, labels, prediction)
        loss = F.cross_entropy(logits, labels, reduction="none").double()
        loss = torch.where(finite, loss, torch.full((), float("inf"), dtype=torch.float64)).clamp(max=_MAX_LOSS)

        self.images += len(labels)
        self.nonfinite += int((~finite).sum())
        self.top1 += int(correct.sum())
        self.top5 += int(((rank < 5) & finite).sum())
        self.loss += int((loss * _UNIT).round().long().sum())
        if len(self.present) < len(self.class_names):
            present = torch.tensor(self.present)
            among = present[logits[:, present].argmax(dim=1)]
            self.top1_present += int(((among == labels) & finite).sum())
        self.confusion.update(zip(labels.tolist(), prediction.tolist(), strict=True))
        at = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
        self.bin_images.index_add_(0, at, torch.ones_like(at))
        self.bin_correct.index_add_(0, at, correct.long())
        self.bin_confidence.index_add_(0, at, (confidence.double() * _UNIT).round().long())
        rows = zip(
            loss.tolist(), batch.ids, labels.tolist(), prediction.tolist(), confidence.double().tolist(), strict=True
        )
        self.worst_heap = heapq.nlargest(self.num_worst, [*self.worst_heap, *(Miss(*row) for row in rows)])

    def state(self) -> dict[str, Any]:
        """Everything counted, picklable; what `merge` takes."""
        return {
            "counts": (self.images, self.top1, self.top5, self.top1_present, self.nonfinite, self.loss),
            "confusion": dict(self.confusion),
            "bins": torch.stack([self.bin_images, self.bin_correct, self.bin_confidence]),
            "worst": [tuple(miss) for miss in self.worst_heap],
        }

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Replace the counts by the sum of `states`, which include this metric's."""
        states = list(states)
        counts = [sum(column) for column in zip(*(state["counts"] for state in states), strict=True)]
        self.images, self.top1, self.top5, self.top1_present, self.nonfinite, self.loss = counts
        self.confusion = Counter()
        for state in states:
            self.confusion.update(state["confusion"])
        self.bin_images, self.bin_correct, self.bin_confidence = torch.stack([s["bins"] for s in states]).sum(0)
        rows = [Miss(*row) for state in states for row in state["worst"]]
        self.worst_heap = heapq.nlargest(self.num_worst, rows)

    def compute(self) -> dict[str, float]:
        """Fractions by name; `loss` is the mean cross entropy in nats, `ece` the expected calibration error."""
        images = max(self.images, 1)
        by_class = [score.top1 for score in self.per_class() if score.images]
        numbers = {
            "top1": self.top1 / images,
            "top5": self.top5 / images,
            "loss": self.loss / _UNIT / images,
            "ece": self.calibration_error(),
            "mean_class_top1": sum(by_class) / len(by_class) if by_class else 0.0,
            "images": float(self.images),
        }
        if len(self.present) < len(self.class_names):
            numbers["top1_present"] = self.top1_present / images
        if self.nonfinite:
            numbers["nonfinite"] = float(self.nonfinite)
        return numbers

    def calibration_error(self) -> float:
        """Expected calibration error over equal-width bins of the top-1 confidence (Guo et al. 2017, equation 3)."""
        gaps = (self.bin_confidence.double() / _UNIT - self.bin_correct.double()).abs()
        return float(gaps.sum()) / max(self.images, 1)

    def per_class(self) -> list[ClassAccuracy]:
        """A row for each class of the data, in the head's order."""
        true: Counter[int] = Counter()
        predicted: Counter[int] = Counter()
        for (label, prediction), images in self.confusion.items():
            true[label] += images
            predicted[prediction] += images
        rows = []
        for at in self.present:
            hits = self.confusion[at, at]
            top1, precision = hits / max(true[at], 1), hits / max(predicted[at], 1)
            rows.append(ClassAccuracy(self.class_names[at], true[at], top1, precision))
        return rows

    def confusion_matrix(self) -> Tensor:
        """(C, C + 1) int64 over the data's classes: row the true class, column the prediction, last column any other."""
        column = {head: at for at, head in enumerate(self.present)}
        matrix = torch.zeros(len(self.present), len(self.present) + 1, dtype=torch.int64)
        for (label, prediction), images in self.confusion.items():
            matrix[column[label], column.get(prediction, len(self.present))] += images
        return matrix

    def reliability(self) -> list[ReliabilityBin]:
        """The data of a reliability diagram, one row a bin, from low confidence to high."""
        counts = zip(self.bin_images.tolist(), self.bin_confidence.tolist(), self.bin_correct.tolist(), strict=True)
        return [
            ReliabilityBin(
                low=at / BINS,
                high=(at + 1) / BINS,
                images=images,
                confidence=confidence / _UNIT / max(images, 1),
                accuracy=correct / max(images, 1),
            )
            for at, (images, confidence, correct) in enumerate(counts)
        ]

    def worst(self) -> list[Miss]:
        """The images of the highest loss, worst first."""
        return list(self.worst_heap)
