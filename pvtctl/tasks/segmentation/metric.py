"""The metric of semantic segmentation: pixel counts by class, so that memory does not grow with the set.

Merged over ranks, results are bit-identical to one pass: counts are integers, and boundary scores are summed in units
of 2**-24.
"""

from __future__ import annotations

import heapq
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.models.structures import IGNORE_LABEL
from pvtctl.tasks.dense.data import DenseBatch

_UNIT = 2.0**24


class WorstImage(NamedTuple):
    """One image, ordered by its error."""

    badness: float
    """1 - the mean IoU of the classes in the image."""
    id: str
    pixel_acc: float
    png: bytes
    """The predicted label map, as a grey PNG of the data's labels."""

    @property
    def iou(self) -> float:
        return 1 - self.badness

    def labels(self) -> NDArray[np.uint8]:
        """The predicted label map, (H, W)."""
        with Image.open(io.BytesIO(self.png)) as picture:
            return np.array(picture)


@dataclass(frozen=True)
class ClassIou:
    """One class of the data; fractions, NaN for a zero denominator."""

    name: str
    pixels: int
    """Labelled pixels of this class."""
    predicted: int
    """Labelled pixels predicted as this class."""
    iou: float
    accuracy: float
    """Share of its pixels predicted as this class."""
    precision: float
    """Share of the pixels predicted as this class that belong to it."""
    boundary_f: float
    """Mean over the images with an outline of it, true or predicted."""


class SegmentationMetric:
    """IoU, accuracy and boundary F-score of label maps with the data's K classes, whose names are `class_names`.

    Counts are over all labelled pixels of the set, as mmsegmentation's do: `miou` is the mean over the classes that
    occur in ground truth or prediction, `mean_acc` over those in the ground truth; a class that does not occur is left
    out, not counted as 0. Pixels predicted as a class that the data does not have are wrong.

    The boundary score is that of Csurka et al. (BMVC 2013): F of each class in each image (see `boundary_scores`),
    averaged over images, then over classes. Images are also ranked by the mean IoU of their own true classes; of the
    `worst` ones the predicted maps are kept as PNG, some 10 kB each.
    """

    def __init__(self, class_names: Sequence[str], *, worst: int = 8) -> None:
        if not 0 < len(class_names) <= IGNORE_LABEL:
            raise UsageError(f"{len(class_names)} classes cannot be scored", f"1 to {IGNORE_LABEL} can")
        self.class_names = list(class_names)
        self.num_worst = worst
        classes = len(self.class_names)
        self.confusion = np.zeros((classes, classes + 1), np.int64)
        """Pixels by true class and prediction; the last column is any class that the data does not have."""
        self.images = 0
        self.unlabelled = 0
        """Images without a labelled pixel."""
        self.boundary_sum = np.zeros(classes, np.int64)
        self.boundary_images = np.zeros(classes, np.int64)
        self.worst_heap: list[WorstImage] = []

    def update(self, outputs: Sequence[Tensor], batch: DenseBatch) -> None:
        """Count a batch: `outputs` are uint8 (H, W) label maps in the original pixels, 255 for no class of the data's.

        Raises UsageError for true labels that are no class.
        """
        for output, target, name in zip(outputs, batch.targets, batch.ids, strict=True):
            self.add(output, target.to(output.device), name)

    def add(self, prediction: Tensor, truth: Tensor, name: str) -> None:
        """Count one image, listed as `name` among the worst, on its device. Raises UsageError as `update`."""
        if prediction.shape != truth.shape:
            raise ValueError(f"{name}: predicted {tuple(prediction.shape)}, but its labels are {tuple(truth.shape)}")
        classes = len(self.class_names)
        # unlabelled pixels are counted in a separate row: selecting the others takes longer
        codes = truth.int() * (classes + 1) + prediction.clamp(max=classes)
        table = torch.bincount(codes.flatten(), minlength=256 * (classes + 1)).reshape(256, classes + 1).cpu().numpy()
        if strange := np.flatnonzero(table[classes:IGNORE_LABEL].any(axis=1)).tolist():
            raise UsageError(
                f"{name} has the label {classes + strange[0]}, but there are {classes} classes from 0",
                "run: pvtctl data check",
            )
        self.images += 1
        counts = table[:classes]
        if not counts.any():
            self.unlabelled += 1
            return
        self.confusion += counts
        scores = boundary_scores(truth, prediction, truth != IGNORE_LABEL, classes).numpy()
        there = np.isfinite(scores)
        self.boundary_sum[there] += np.round(scores[there] * _UNIT).astype(np.int64)
        self.boundary_images += there
        self._rank(counts, prediction, name)

    def _rank(self, counts: NDArray[np.int64], prediction: Tensor, name: str) -> None:
        """Keep the image if it is among the worst; its map is packed only then."""
        true = counts.sum(axis=1)
        ious, _, _ = _ratios(counts)
        badness = 1 - float(ious[true > 0].mean())
        full = len(self.worst_heap) == self.num_worst
        if not self.num_worst or (full and (badness, name) < self.worst_heap[0][:2]):
            return
        packed = io.BytesIO()
        Image.fromarray(prediction.cpu().numpy()).save(packed, format="PNG", compress_level=1)
        right = float(np.trace(counts) / true.sum())
        (heapq.heapreplace if full else heapq.heappush)(
            self.worst_heap, WorstImage(badness, name, right, packed.getvalue())
        )

    def state(self) -> dict[str, Any]:
        """Everything counted, picklable; what `merge` takes."""
        return {
            "images": (self.images, self.unlabelled),
            "confusion": self.confusion,
            "boundary": np.stack([self.boundary_sum, self.boundary_images]),
            "worst": [tuple(image) for image in self.worst_heap],
        }

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Replace the counts by the sum of `states`, which include this metric's."""
        states = list(states)
        self.images, self.unlabelled = (sum(column) for column in zip(*(s["images"] for s in states), strict=True))
        self.confusion = np.sum([state["confusion"] for state in states], axis=0)
        self.boundary_sum, self.boundary_images = np.sum([state["boundary"] for state in states], axis=0)
        self.worst_heap = heapq.nlargest(self.num_worst, [WorstImage(*w) for s in states for w in s["worst"]])
        heapq.heapify(self.worst_heap)

    def compute(self) -> dict[str, float]:
        """Fractions, NaN if nothing was counted; `fw_iou` weights each class's IoU by its share of the pixels.

        Also `images` seen and `pixels` labelled.
        """
        ious, accuracies, _ = _ratios(self.confusion)
        true = self.confusion.sum(axis=1)
        pixels = int(true.sum())
        return {
            "miou": _mean(ious),
            "pixel_acc": float(np.trace(self.confusion)) / pixels if pixels else math.nan,
            "mean_acc": _mean(accuracies),
            "fw_iou": float((true[true > 0] * ious[true > 0]).sum()) / pixels if pixels else math.nan,
            "boundary_f": _mean(self._boundaries()),
            "images": float(self.images),
            "pixels": float(pixels),
        }

    def _boundaries(self) -> NDArray[np.float64]:
        return _divided(self.boundary_sum / _UNIT, self.boundary_images)

    def classes(self) -> list[ClassIou]:
        """One row per class, in the data's order."""
        columns = [*_ratios(self.confusion), self._boundaries()]
        counts = zip(self.confusion.sum(axis=1).tolist(), self.confusion.sum(axis=0).tolist(), strict=False)
        numbers = np.stack(columns, axis=1).tolist()
        return [
            ClassIou(name, pixels, predicted, *row)
            for name, (pixels, predicted), row in zip(self.class_names, counts, numbers, strict=True)
        ]

    def worst(self) -> list[WorstImage]:
        """The images of the lowest mean IoU, worst first."""
        return sorted(self.worst_heap, reverse=True)

    def why_missing(self, name: str) -> str:
        """Reason why the number `name` of `compute` is NaN."""
        if not self.images:
            return f"{name} is unknown: no image was read"
        if not self.confusion.any():
            return f"{name} is unknown: no image has a labelled pixel"
        return f"{name} is unknown: no class has an outline, each image is of one class"


def _ratios(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """IoU, accuracy and precision of each class, NaN for a zero denominator."""
    hits, true, found = np.diag(counts).astype(np.float64), counts.sum(axis=1), counts.sum(axis=0)[:-1]
    return _divided(hits, true + found - hits), _divided(hits, true), _divided(hits, found)


def _divided(part: NDArray[np.float64], whole: NDArray[Any]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(part), math.nan), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean without NaN."""
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else math.nan


TOLERANCE = 0.0075
"""Share of the image's diagonal within which outlines match (Csurka et al., BMVC 2013, section 3)."""
_SLOTS = 15
"""Classes that are dilated together, one per bit of int16."""


def boundary_scores(truth: Tensor, prediction: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Boundary F of each class in one image: float64 (K,) fractions on the CPU, NaN for a class without any outline.

    `truth` and `prediction` are (H, W) uint8 labels on one device; predictions from K on are of no class. `valid`
    (H, W) bool are the labelled pixels: elsewhere there is no outline, also of the prediction. A pixel is on the
    outline of its class if one of its four neighbours has another; the border of the image and that of unlabelled
    regions are no outlines. Precision is the share of the predicted outline within the tolerance of the true one,
    recall the reverse; a class with only one of the two outlines gets 0.
    """
    true_places, true_labels = _outline(truth, valid)
    found_places, found_labels = _outline(prediction, valid)
    true_counts, found_counts = (_counts(labels, num_classes) for labels in (true_labels, found_labels))
    both = torch.nonzero((true_counts > 0) & (found_counts > 0))[:, 0]
    recalled, precise = (torch.zeros(num_classes, dtype=torch.float64) for _ in range(2))
    radius = TOLERANCE * math.hypot(*truth.shape)
    for group in torch.split(both, _SLOTS):
        bits = torch.zeros(256, dtype=torch.int16)
        bits[group] = (1 << torch.arange(len(group))).to(torch.int16)
        bits = bits.to(truth.device)
        true_bits, found_bits = bits[true_labels], bits[found_labels]
        near_true = _dilated(_spread(true_places, true_bits, truth.shape), radius).flatten()
        near_found = _dilated(_spread(found_places, found_bits, truth.shape), radius).flatten()
        recalled += _counts(true_labels[(near_found[true_places] & true_bits) != 0], num_classes)
        precise += _counts(found_labels[(near_true[found_places] & found_bits) != 0], num_classes)
    recall, precision = recalled / true_counts.clamp(min=1), precise / found_counts.clamp(min=1)
    scores = 2 * precision * recall / (precision + recall).clamp(min=1e-300)
    return torch.where(true_counts + found_counts > 0, scores, math.nan)


def _outline(labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Flat positions of the pixels on outlines, and their labels, both int64."""
    edge = torch.zeros_like(valid)
    across = (labels[1:] != labels[:-1]) & valid[1:] & valid[:-1]
    edge[1:] |= across
    edge[:-1] |= across
    along = (labels[:, 1:] != labels[:, :-1]) & valid[:, 1:] & valid[:, :-1]
    edge[:, 1:] |= along
    edge[:, :-1] |= along
    places = torch.nonzero(edge.flatten())[:, 0]
    return places, labels.flatten()[places].long()


def _counts(labels: Tensor, num_classes: int) -> Tensor:
    return torch.bincount(labels, minlength=256)[:num_classes].cpu()


def _spread(places: Tensor, bits: Tensor, shape: torch.Size) -> Tensor:
    out = torch.zeros(shape, dtype=torch.int16, device=bits.device)
    out.view(-1)[places] = bits
    return out


def _dilated(bits: Tensor, radius: float) -> Tensor:
    """Dilate by a disk: each pixel gets the bits of all pixels within `radius`; row by row from the narrow ends."""
    height, width = bits.shape
    out, wide = torch.zeros_like(bits), bits.clone()
    reached = 0
    for up in range(math.floor(radius), -1, -1):
        half = math.isqrt(math.floor(radius * radius - up * up))
        for step in range(reached + 1, min(half, width - 1) + 1):
            wide[:, step:] |= bits[:, :-step]
            wide[:, :-step] |= bits[:, step:]
        reached = half
        if up == 0:
            out |= wide
        elif up < height:
            out[up:] |= wide[:-up]
            out[:-up] |= wide[up:]
    return out
