"""What the tests of the training commands share: the tiny run's settings, and what a command leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TINY = ["--set", "data.train_samples=24", "--set", "data.val_samples=12", "--set", "train.precision=fp32"]
"""Of profile smoke: 32 pixels, two epochs of three steps."""

TINY_DETECTOR = ["--backbone", "pvt_v2_b0@0.25", "--profile", "smoke", "--set", "data.train_samples=4"]
"""64 pixels, two epochs of two steps, four validation images; to be trained with `--weights`."""
NARROW_DETECTOR = [*TINY_DETECTOR, "--set", "model.head.width=32"]
"""The same with an eighth of RetinaNet's or Mask R-CNN's channels, which is half the time of such a run."""


@dataclass
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]
