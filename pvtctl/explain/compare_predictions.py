"""What a model answers beside what is true, image by image: a picture, and how good the answer is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.class_names import readable_name
from pvtctl.models.structures import IGNORE_LABEL, Detections, Objects
from pvtctl.recipe.schema import Recipe
from pvtctl.runs.load_run import ClassScores, DepthMap, LabelMap, LoadedRun
from pvtctl.tasks.build_dense import depth_scoring
from pvtctl.tasks.classes import match_classes
from pvtctl.tasks.classification.data import ClassificationDataset
from pvtctl.tasks.classification.pictures import Guess
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.depth.metric import DepthMetric
from pvtctl.tasks.depth.report import depth_comparison
from pvtctl.tasks.detection.data import DetectionDataset
from pvtctl.tasks.segmentation.metric import SegmentationMetric
from pvtctl.tasks.splits import Split

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""

# Matplotlib takes a second to import: the views are imported where something is drawn.


@dataclass(frozen=True)
class Shown:
    """An answer, ready to be drawn."""

    id: str
    goodness: float
    """More is better, for the choice of the worst and best; NaN where nothing is true to compare with."""
    verdict: str
    """The same for people: `AbsRel 0.123`."""
    draw: Callable[[], Pixels | list[Guess]]
    """A picture; of classifiers the classes, with the image in `image`."""
    image: Pixels


class BesideTruth:
    """A model and a split of data, whose classes are matched by name; `len` of the split's images."""

    def __init__(self, loaded: LoadedRun, recipe: Recipe, split: Split, *, threshold: float) -> None:
        """`recipe` says how depth is scored; `threshold` from which score on detections count. Raises UsageError for data
        with classes that the model does not have."""
        self.loaded, self.split, self.threshold = loaded, split, threshold
        self.names = split.ids
        self.metric: DepthMetric | None = None
        if isinstance(split, DenseDataset) and loaded.task == "depth":
            self.metric = depth_scoring(recipe, split)()
        else:
            count = len(loaded.class_names)
            self.to_head = match_classes(split.class_names, self._head_names(split), count)

    def _head_names(self, split: Split) -> list[str] | None:
        names = self.loaded.class_names
        unnamed = all(name == f"class {label}" for label, name in enumerate(names))
        return None if unnamed and len(names) == len(split.class_names) else names

    def __len__(self) -> int:
        return len(self.names)

    def __call__(self, index: int) -> Shown:
        """The answer to an image of the split, by its position. Raises BadImage, OSError."""
        match self.split:
            case ClassificationDataset():
                return self._class(self.split, index)
            case DetectionDataset():
                return self._objects(self.split, index)
            case DenseDataset():
                pixels, target = self.split.read(index)
                answer: Any = self.loaded.predict(pixels)
                if isinstance(answer, LabelMap):
                    return self._labels(self.split, index, pixels, target, answer)
                return self._depth(index, pixels, target, answer)
            case _:
                assert_never(self.split)

    def _class(self, split: ClassificationDataset, index: int) -> Shown:
        picture = split.source.picture(int(split.kept[index]))
        pixels = picture.resized((0, 0, picture.height, picture.width), (picture.height, picture.width))
        answer: Any = self.loaded.predict(pixels)
        assert isinstance(answer, ClassScores)
        label = int(self.to_head[int(split.labels[index])])
        loss = -math.log(max(float(answer.probabilities[label]), 1e-12))
        guesses = guesses_of(answer, truth=label)
        right = int(answer.probabilities.argmax()) == label
        return Shown(
            self.names[index], -loss, f"{'right' if right else 'wrong'}, loss {loss:.2f}", lambda: guesses, _rgb(pixels)
        )

    def _objects(self, split: DetectionDataset, index: int) -> Shown:
        place = int(split.kept[index])
        image = split.original(index)
        answer: Any = self.loaded.predict(torch.from_numpy(image).permute(2, 0, 1))
        assert isinstance(answer, Detections)
        true = split.source.objects(place, with_masks=split.with_masks)
        truth = Objects(true.boxes, self.to_head[true.labels], true.masks)

        from pvtctl.tasks.detection.pictures import draw_side_by_side, rights

        found, wrong = rights(truth, answer, self.threshold)
        # the F1 score: of all that should be there or is said to be, how much is right
        total = found + wrong + len(truth)
        goodness = 2 * found / total if total else 1.0
        verdict = f"{found} of {len(truth)} found, {wrong} wrong"
        names = self.loaded.class_names
        return Shown(
            self.names[index],
            goodness,
            verdict,
            lambda: draw_side_by_side(image, truth, answer, names, threshold=self.threshold),
            image,
        )

    def _labels(self, split: DenseDataset, index: int, pixels: Tensor, target: Tensor, answer: LabelMap) -> Shown:
        from pvtctl.tasks.segmentation.pictures import draw_comparison
        from pvtctl.views.class_colours import class_colours

        to_data = np.full(256, IGNORE_LABEL, np.uint8)  # classes that the data does not have count as wrong
        for label, of_head in enumerate(self.to_head.tolist()):
            to_data[of_head] = label
        found = to_data[answer.labels]
        own = SegmentationMetric(split.class_names, worst=1)
        own.add(torch.from_numpy(found), target, self.names[index])
        iou = own.worst()[0].iou if own.worst() else math.nan
        verdict = f"mean IoU of its classes {100 * iou:.1f} %" if math.isfinite(iou) else "nothing labelled"
        colours = class_colours(len(split.class_names), split.source.palette)
        image = _rgb(pixels)
        return Shown(
            self.names[index],
            iou,
            verdict,
            lambda: draw_comparison(image, target.numpy(), found, split.class_names, colours),
            image,
        )

    def _depth(self, index: int, pixels: Tensor, target: Tensor, answer: DepthMap) -> Shown:
        metric = self.metric
        assert metric is not None
        metres = metric.metres(torch.from_numpy(answer.depth), target)
        valid = metric.valid(target)
        relative = float(((metres - target).abs() / target)[valid].mean()) if bool(valid.any()) else math.nan
        verdict = f"AbsRel {relative:.3f}" if math.isfinite(relative) else "no true depth"
        return Shown(
            self.names[index],
            -relative,
            verdict,
            lambda: depth_comparison(pixels, target, metres.numpy(), metric),
            _rgb(pixels),
        )


def guesses_of(answer: ClassScores, truth: int | None = None) -> list[Guess]:
    """The likeliest classes of an image with their shares, and the true one behind them where it is none of them."""
    best = answer.probabilities.topk(min(5, len(answer.probabilities)))
    labels = best.indices.tolist()
    if truth is not None and truth not in labels:
        labels.append(truth)
    return [
        Guess(readable_name(answer.class_names[label]), float(answer.probabilities[label]), label == truth)
        for label in labels
    ]


def draw_answer(image: Pixels, answer: Any, loaded: LoadedRun, *, threshold: float) -> Pixels:
    """What a detector, segmentation or depth model says of an image without truth, as a picture."""
    if isinstance(answer, Detections):
        from pvtctl.tasks.detection.pictures import draw_detections
        from pvtctl.tasks.detection.predict import above

        return draw_detections(image, above(answer, threshold), loaded.class_names)
    if isinstance(answer, LabelMap):
        from pvtctl.tasks.segmentation.pictures import draw_overlay
        from pvtctl.views.class_colours import class_colours

        colours = class_colours(len(answer.class_names), loaded.palette)
        return draw_overlay(image, answer.labels, answer.class_names, colours)
    assert isinstance(answer, DepthMap)
    from pvtctl.tasks.depth.pictures import draw_beside

    return draw_beside(image, answer.depth, answer.space)


def in_words(answer: Any, threshold: float) -> str:
    """An answer without truth in a line."""
    if isinstance(answer, ClassScores):
        ((name, share),) = answer.top(1)
        return f"{readable_name(name)}, {100 * share:.0f} %"
    if isinstance(answer, Detections):
        return f"{int((answer.scores >= threshold).sum())} found with a score of {threshold:g} or more"
    if isinstance(answer, LabelMap):
        return f"{len(np.unique(answer.labels))} classes"
    assert isinstance(answer, DepthMap)
    if answer.space == "inverse":
        return "inverse depth, without a unit"
    low, high = np.quantile(answer.depth, [0.01, 0.99])
    return f"{low:.1f} to {high:.1f} m"


def _rgb(pixels: Tensor) -> Pixels:
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
