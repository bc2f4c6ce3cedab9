"""Timed steps of a segmentation or depth model: from image to map, in three parts, or one training step."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pvtctl.data.transforms import normalize
from pvtctl.latency.detector_step import PARTS, PHOTO
from pvtctl.models.dense import DenseModel
from pvtctl.models.losses.cross_entropy import cross_entropy
from pvtctl.models.losses.depth import gradient_matching, ssi_trimmed
from pvtctl.tasks.detection.transforms import resize_image

CLASSES_AT_ONCE = 16
"""Number of classes whose logits are resized to the image's size at a time, as in evaluation."""


class DenseForward:
    """Calls map uint8 images to labels or depth at the images' size. `seconds` holds the parts of the last call."""

    def __init__(self, case: dict[str, Any], model: DenseModel, device: torch.device, guard: Callable[[], Any]) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._guard = guard
        self._size: tuple[int, int] = tuple(case["size"])
        self._layout = torch.channels_last if case["channels_last"] else torch.contiguous_format
        self._model = model.to(memory_format=self._layout)
        self._network: Any = torch.compile(self._model) if case["compile"] else self._model
        self._photos = [torch.randint(0, 256, (3, *PHOTO), dtype=torch.uint8) for _ in range(case["batch_size"])]

    def __call__(self) -> object:
        start = self._now()
        images = torch.stack([normalize(resize_image(photo, self._size)) for photo in self._photos])
        images = images.to(self._device, memory_format=self._layout)
        ready = self._now()
        with self._guard():
            out = self._network(images)
            done = self._now()
            # one image at a time: maps of all classes at full image size are large
            found = [self._answer(out[at : at + 1].float()) for at in range(len(out))]
        end = self._now()
        self.seconds = dict(zip(PARTS, (ready - start, done - ready, end - done), strict=True))
        return found

    def _answer(self, out: Tensor) -> Tensor:
        """A raw map (1, K, h, w) -> (H, W): the class of each pixel of an image, or its depth."""
        if self._model.gives_depth:
            return self._model.at_size(out, self._size, PHOTO)[0, 0]
        best: list[tuple[Tensor, Tensor]] = []
        for first in range(0, out.shape[1], CLASSES_AT_ONCE):
            score, label = self._model.at_size(out[:, first : first + CLASSES_AT_ONCE], self._size, PHOTO)[0].max(0)
            best.append((score, label + first))
        return functools.reduce(_better, best)[1]

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _better(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Scores and labels of two groups of classes -> those of the higher score per pixel."""
    wins = other[0] > one[0]
    return torch.where(wins, other[0], one[0]), torch.where(wins, other[1], one[1])


def dense_training_step(
    case: dict[str, Any], model: DenseModel, device: torch.device, guard: Callable[[], Any]
) -> Callable[[], object]:
    """The papers' losses on a label or depth for every pixel, auxiliary maps included, backward and an AdamW step."""
    layout = torch.channels_last if case["channels_last"] else torch.contiguous_format
    model = model.train().to(memory_format=layout)
    network: Any = torch.compile(model) if case["compile"] else model
    size: tuple[int, int] = tuple(case["size"])
    number = case["batch_size"]
    images = torch.randn(number, 3, *size, device=device).contiguous(memory_format=layout)
    loss_of = _depth_loss(number, size, device) if model.gives_depth else _label_loss(number, size, model, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=case["dtype"] == "fp16")

    def step() -> object:
        with guard():
            out, others = network(images, True)
            loss = loss_of(model.at_size(out, size))
            for other in others:
                loss = loss + model.head.auxiliary_weight * loss_of(model.at_size(other, size))
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return loss

    return step


def _label_loss(
    number: int, size: tuple[int, int], model: DenseModel, device: torch.device
) -> Callable[[Tensor], Tensor]:
    labels = torch.randint(0, model.num_classes, (number, *size), dtype=torch.uint8, device=device)
    return lambda out: cross_entropy(out, labels)


def _depth_loss(number: int, size: tuple[int, int], device: torch.device) -> Callable[[Tensor], Tensor]:
    inverse = torch.rand(number, *size, device=device)
    known = torch.ones_like(inverse, dtype=torch.bool)

    def loss(out: Tensor) -> Tensor:
        out = out[:, 0].float()
        return ssi_trimmed(out, inverse, known) + 0.5 * gradient_matching(out, inverse, known)

    return loss
