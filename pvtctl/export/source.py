"""Find the model to export from a checkpoint or names, with the metadata of its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pvtctl.cost.build import build_model, classes_of
from pvtctl.errors import UsageError
from pvtctl.io.names import plural
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.models.dense import DenseModel
from pvtctl.models.fast_cpu import optimize_for_cpu
from pvtctl.models.structures import ImageSize
from pvtctl.weights.build import backbone_from_checkpoint, model_from_checkpoint
from pvtctl.weights.describe import inspect_checkpoint


@dataclass(frozen=True)
class ExportSource:
    """A model to export and its description."""

    model: nn.Module
    what: str
    """Description: `pvt_small + retinanet, 80 classes`."""
    path: Path | None = None
    """The checkpoint; None for random weights."""
    class_names: Sequence[str] | None = None
    normalization: Normalization = IMAGENET
    size: ImageSize | None = None
    """Square images that the position tables, or the training, were made for; None where any size will do."""
    sides: tuple[int, int] | None = None
    """Of a detector's images in evaluation, the short one and at most the long one; None where the file does not say."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Further metadata of an exported file: backbone, head, class names, the checkpoint's name."""


def from_checkpoint(source: str, *, backbone: str | None = None, backbone_only: bool = False) -> ExportSource:
    """The model of a checkpoint file, run directory or published name.

    Raises UsageError for files that are not checkpoints, models that pvtctl does not build, and another backbone.
    """
    found = inspect_checkpoint(source, backbone)
    if found.foreign is not None and not backbone_only:
        raise UsageError(
            f"{found.path} holds {found.foreign}, which is not a pvtctl model", "--backbone-only exports its backbone"
        )
    bare = backbone_only or found.task is None
    model: nn.Module = backbone_from_checkpoint(found) if bare else model_from_checkpoint(found).eval()
    gives_depth = isinstance(model, DenseModel) and model.gives_depth
    names = found.head.names if found.head is not None and not backbone_only and not gives_depth else None
    side = found.meta.image_size if found.above is None and found.head is not None else None
    what = found.backbone if backbone_only else found.what
    if names:
        what = f"{what}, {plural(len(names), 'class')}"
    meta: dict[str, Any] = {
        "backbone": found.backbone,
        "head": found.head_name if not backbone_only else None,
        "class_names": list(names) if names else None,
        "category_ids": found.detector.category_ids if found.detector and not backbone_only else None,
        "antialias": found.antialias if not bare else None,
        "source": found.path.name if found.path.is_file() else found.path.resolve().name,
        "recipe": found.meta.recipe,
        "score": found.meta.score,
    }
    side = side or found.position_size
    return ExportSource(
        model=model,
        what=what,
        path=Path(found.source),
        class_names=meta["class_names"],
        normalization=found.pixels.normalization,
        size=(int(side), int(side)) if side else None,
        sides=_sides(found.meta.detection or {}),
        meta={key: value for key, value in meta.items() if value is not None},
    )


def _sides(detection: dict[str, Any]) -> tuple[int, int] | None:
    stated = detection.get("test_short_side"), detection.get("test_long_side")
    short, long = (side if isinstance(side, int) and side > 0 else None for side in stated)
    return None if short is None or long is None else (short, long)


def from_names(backbone: str, head: str, num_classes: int | None, *, seed: int = 0) -> ExportSource:
    """A model with random weights from seed `seed`. `head` is `classifier`, `none` or a dense head.

    Raises UsageError for unknown names.
    """
    classes = classes_of(head, num_classes if head != "none" else None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(backbone, head, classes)
    what = backbone if head == "none" else f"{backbone} + {head}"
    what = f"{what}, {plural(classes, 'class')}, random weights" if classes else f"{what}, random weights"
    meta = {"backbone": backbone, "head": head, "source": "random weights"}
    return ExportSource(
        model=optimize_for_cpu(model), what=what, meta={key: value for key, value in meta.items() if value != "none"}
    )
