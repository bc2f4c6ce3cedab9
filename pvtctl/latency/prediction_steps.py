"""Timed steps of detectors and dense models: from photo to prediction, in three parts, or one training step.

A detector with random weights detects nothing, so post-processing would cost almost nothing. Therefore the score
threshold is set where CANDIDATES boxes an image pass it; these are decoded, filtered by NMS and, with Mask R-CNN, given
masks. DETR always has its fixed number of queries.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pvtctl.data.transforms import normalize, pad_images, resample
from pvtctl.inference.engines import Engine, EngineModel
from pvtctl.latency.steps import Case, compiled, inference, memory_format, training_step
from pvtctl.models.dense import DenseModel
from pvtctl.models.detector import STRIDE, Detector
from pvtctl.models.losses.cross_entropy import cross_entropy
from pvtctl.models.losses.depth import gradient_matching, ssi_trimmed
from pvtctl.models.structures import DetectOptions, Objects
from pvtctl.tasks.dense.inference import DepthInference, LabelInference

CANDIDATES = 1000
"""Boxes per image that reach NMS."""
PHOTO = (480, 640)
"""(height, width) of the images before preprocessing; COCO's most frequent size."""
OBJECTS = 7
"""Ground-truth objects per image in training: COCO has 7.3."""
PARTS = ("preprocess", "network", "postprocess")


def build_prediction_step(case: Case, model: nn.Module, device: torch.device, engine: Engine) -> Callable[[], object]:
    """The function to time for a Detector or DenseModel on `device`."""
    if isinstance(model, Detector):
        return (
            detector_training_step(case, model, device)
            if case["mode"] == "train"
            else DetectorForward(case, model, device, engine)
        )
    assert isinstance(model, DenseModel)
    return (
        dense_training_step(case, model, device)
        if case["mode"] == "train"
        else DenseForward(case, model, device, engine)
    )


class _PhotoForward:
    """Calls map uint8 images to predictions in the images' pixels; `seconds` holds the parts of the last call."""

    def __init__(self, case: Case, model: Any, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._case = case
        self._device = device
        self._model = model
        self._size: tuple[int, int] = tuple(case["size"])
        decoded = [torch.randint(0, 256, (*PHOTO, 3), dtype=torch.uint8) for _ in range(case["batch_size"])]
        self._photos = [photo.permute(2, 0, 1) for photo in decoded]  # laid out in memory as photos are
        self._network = 0.0
        self._kept: Any = None

    def __call__(self) -> object:
        start = self._now()
        shrunk = [resample(photo, self._size, "bilinear", antialias=False) for photo in self._photos]
        images = self._batch([normalize(photo) for photo in shrunk])
        images = images.to(self._device, memory_format=memory_format(self._case))
        ready = self._now()
        self._network = 0.0
        with inference(self._case, self._device):
            found = self._predict(images)
        total = self._now() - ready
        self.seconds = dict(zip(PARTS, (ready - start, self._network, total - self._network), strict=True))
        return found

    def _batch(self, images: list[Tensor]) -> Tensor:
        return torch.stack(images)

    def _predict(self, images: Tensor) -> object:
        raise NotImplementedError

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _timed(self, part: Callable[..., Any], *, keep: bool = False) -> Callable[..., Any]:
        """`part`, whose time counts as the network's; with `keep` its last output is `_kept`."""

        def run(*args: Any, **kwargs: Any) -> Any:
            start = self._now()
            out = part(*args, **kwargs)
            self._network += self._now() - start
            if keep:
                self._kept = out
            return out

        return run


class DetectorForward(_PhotoForward):
    """The network's time is that of the backbone with its neck, and of the network parts of the head: one by one, or the
    engine's graph and the parts that are not in it.
    """

    def __init__(self, case: Case, model: Detector, device: torch.device, engine: Engine | None = None) -> None:
        super().__init__(case, model, device)
        first, in_graph = model.head.network_parts[0], model.head.graph_parts if model.head.splits else ()
        self._runnable = model if engine is None else engine(model)
        if isinstance(self._runnable, EngineModel):
            self._runnable.network = self._timed(self._runnable.network, keep=first in in_graph)
        else:
            in_graph = ()
            self._model.features = self._timed(model.features)
        for part in model.head.network_parts:
            *inner, name = part.split(".")
            owner = functools.reduce(getattr, inner, model.head)
            if part not in in_graph:
                setattr(owner, name, self._timed(getattr(owner, name), keep=part == first))
        self._options = DetectOptions()
        self()
        scores = model.head.candidate_scores(self._kept)
        if scores is not None:
            wanted = min(CANDIDATES * len(self._photos), len(scores) - 1)
            self._options = DetectOptions(score_threshold=float(scores.kthvalue(len(scores) - wanted).values))

    def _batch(self, images: list[Tensor]) -> Tensor:
        return pad_images(images, STRIDE)

    def _predict(self, images: Tensor) -> object:
        number = len(images)
        return self._runnable(images, [self._size] * number, options=self._options, output_sizes=[PHOTO] * number)


class DenseForward(_PhotoForward):
    """Predictions are labels or depth."""

    def __init__(self, case: Case, model: DenseModel, device: torch.device, engine: Engine | None = None) -> None:
        super().__init__(case, model, device)
        self._run: Any = self._timed(model if engine is None else engine(model))
        self._inference = (DepthInference if model.gives_depth else LabelInference)(model)

    def _predict(self, images: Tensor) -> object:
        return self._inference.predict_batch(self._run, images, [PHOTO] * len(images))


def detector_training_step(case: Case, model: Detector, device: torch.device) -> Callable[[], object]:
    """Losses on OBJECTS boxes an image; masks where the head learns them."""
    height, width = case["size"]
    number = case["batch_size"]
    images = pad_images([torch.randn(3, height, width) for _ in range(number)], STRIDE)
    images = images.to(device, memory_format=memory_format(case))
    with_masks = model.spec is not None and model.spec.needs_masks
    targets = [_objects(height, width, with_masks).to(device) for _ in range(number)]
    model.train()
    return training_step(case, model, device, lambda: model(images, [(height, width)] * number, targets)["loss"])


def _objects(height: int, width: int, with_masks: bool) -> Objects:
    """Boxes of 2 % to 25 % of the image, spread along its diagonal."""
    shares = torch.linspace(0, 1, OBJECTS)
    extent = torch.tensor([width, height], dtype=torch.float32)
    sides = (0.14 + 0.36 * shares.flip(0))[:, None] * extent
    corners = shares[:, None] * (extent - sides)
    masks = None
    if with_masks:
        masks = torch.zeros(OBJECTS, height, width, dtype=torch.bool)
        for mask, (left, top), (wide, tall) in zip(masks, corners.long().tolist(), sides.long().tolist(), strict=True):
            mask[top : top + tall, left : left + wide] = True
    return Objects(torch.cat((corners, corners + sides), 1), torch.arange(OBJECTS), masks)


def dense_training_step(case: Case, model: DenseModel, device: torch.device) -> Callable[[], object]:
    """The papers' losses on a label or depth for every pixel, auxiliary maps included."""
    size: tuple[int, int] = tuple(case["size"])
    number = case["batch_size"]
    run = compiled(case, model.train())
    images = torch.randn(number, 3, *size, device=device).contiguous(memory_format=memory_format(case))
    if model.gives_depth:
        inverse = torch.rand(number, *size, device=device)
        known = torch.ones_like(inverse, dtype=torch.bool)
    else:
        labels = torch.randint(0, model.num_classes, (number, *size), dtype=torch.uint8, device=device)

    def loss_of(out: Tensor) -> Tensor:
        out = model.at_size(out, size)
        if not model.gives_depth:
            return cross_entropy(out, labels)
        out = out[:, 0].float()
        return ssi_trimmed(out, inverse, known) + 0.5 * gradient_matching(out, inverse, known)

    def loss() -> Tensor:
        out, others = run(images, True)
        total = loss_of(out)
        for other in others:
            total = total + model.head.auxiliary_weight * loss_of(other)
        return total

    return training_step(case, model, device, loss)
