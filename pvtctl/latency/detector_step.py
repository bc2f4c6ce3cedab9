"""Timed steps of a detector: from image to detections, in three parts, or one training step.

A model with random weights detects nothing, so post-processing would cost almost nothing. Therefore the score threshold
is set where CANDIDATES boxes an image pass it; these are decoded, filtered by NMS and, with Mask R-CNN, given masks.
DETR always has its fixed number of queries.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, cast

import torch

from pvtctl.cost.build import NUM_CLASSES, build_as_papers, build_own
from pvtctl.data.transforms import normalize, pad_images
from pvtctl.models.detector import Detector
from pvtctl.models.fast_cpu import optimize_for_cpu
from pvtctl.models.registry import DETECTION
from pvtctl.models.structures import DetectOptions, Objects
from pvtctl.tasks.detection.transforms import resize_image

CANDIDATES = 1000
"""Boxes per image that reach NMS."""
PHOTO = (480, 640)
"""(height, width) of the images before preprocessing; COCO's most frequent size."""
OBJECTS = 7
"""Ground-truth objects per image in training: COCO has 7.3."""
PARTS = ("preprocess", "network", "postprocess")


class DetectorForward:
    """Calls map uint8 images to detections in the images' pixels; `seconds` holds the parts of the last call."""

    def __init__(self, case: dict[str, Any], device: torch.device, guard: Callable[[], Any]) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._guard = guard
        self._size: tuple[int, int] = tuple(case["size"])
        self._layout = torch.channels_last if case["channels_last"] else torch.contiguous_format
        self._detector = optimize_for_cpu(_detector(case)).to(device)
        self._detector = self._detector.to(memory_format=self._layout)
        number = case["batch_size"]
        self._photos = [torch.randint(0, 256, (3, *PHOTO), dtype=torch.uint8) for _ in range(number)]
        self._sizes = [self._size] * number
        self._network = 0.0
        self._kept: Any = None
        self._time_parts()
        self._options = DetectOptions()
        self._options = self._with_candidates()

    def __call__(self) -> object:
        start = self._now()
        images = pad_images([normalize(resize_image(photo, self._size)) for photo in self._photos], 32)
        images = images.to(self._device, memory_format=self._layout)
        ready = self._now()
        self._network = 0.0
        with self._guard():
            found = self._detector(images, self._sizes, options=self._options, output_sizes=[PHOTO] * len(images))
        total = self._now() - ready
        self.seconds = dict(zip(PARTS, (ready - start, self._network, total - self._network), strict=True))
        return found

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _time_parts(self) -> None:
        """Time the backbone with its neck, and the network parts of the head."""
        detector: Any = self._detector
        detector.features = self._timed(detector.features)
        for at, part in enumerate(detector.head.network_parts):
            *inner, name = part.split(".")
            owner = functools.reduce(getattr, inner, detector.head)
            setattr(owner, name, self._timed(getattr(owner, name), keep=at == 0))

    def _timed(self, part: Callable[..., Any], *, keep: bool = False) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = self._now()
            out = part(*args, **kwargs)
            self._network += self._now() - start
            if keep:
                self._kept = out
            return out

        return run

    def _with_candidates(self) -> DetectOptions:
        """Options whose threshold lets CANDIDATES boxes an image pass, from the outputs of one call."""
        self()
        scores = self._detector.head.candidate_scores(self._kept)
        if scores is None:
            return DetectOptions()
        wanted = min(CANDIDATES * len(self._photos), len(scores) - 1)
        return DetectOptions(score_threshold=float(scores.kthvalue(len(scores) - wanted).values))


def detector_training_step(
    case: dict[str, Any], device: torch.device, guard: Callable[[], Any]
) -> Callable[[], object]:
    """Losses on OBJECTS boxes an image, backward and an AdamW step; masks where the head learns them."""
    detector = optimize_for_cpu(_detector(case)).to(device).train()
    layout = torch.channels_last if case["channels_last"] else torch.contiguous_format
    detector = detector.to(memory_format=layout)
    height, width = case["size"]
    images = pad_images([torch.randn(3, height, width) for _ in range(case["batch_size"])], 32)
    images = images.to(device, memory_format=layout)
    with_masks = detector.spec is not None and detector.spec.needs_masks
    targets = [_objects(height, width, with_masks).to(device) for _ in range(len(images))]
    optimizer = torch.optim.AdamW([p for p in detector.parameters() if p.requires_grad], lr=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=case["dtype"] == "fp16")

    def step() -> object:
        with guard():
            loss = detector(images, [(height, width)] * len(images), targets)["loss"]
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return loss

    return step


def _detector(case: dict[str, Any]) -> Detector:
    if case["options"]:
        classes = case["num_classes"] or NUM_CLASSES[DETECTION]
        return cast("Detector", build_own(case["backbone"], case["head"], classes, case["options"]))
    model = build_as_papers(case["backbone"], case["head"], case["num_classes"], case["output_stride"])
    return cast("Detector", model)


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
