"""What must be known of a checkpoint before a model can be built for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pvtctl.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from pvtctl.errors import UsageError
from pvtctl.models.detector import Conventions, HeadName
from pvtctl.models.variants import STRIDES, VitVariant, known_variant
from pvtctl.tasks.classes import Head, head_class_names
from pvtctl.weights import Checkpoint, read_checkpoint, resolve_weights
from pvtctl.weights.identify_dense import DenseInfo, identify_dense, other_dense
from pvtctl.weights.identify_detector import coco_ids, identify_detector, names_without_meta, other_detector
from pvtctl.weights.recognise import identify


@dataclass(frozen=True)
class DetectorInfo:
    """What a detector's checkpoint tells of neck and head."""

    head: HeadName
    num_classes: int
    class_names: list[str] | None
    """The file's own, or COCO's for a file of others without any and with COCO's number of classes."""
    category_ids: list[int] | None
    """Label -> category id of the annotations that it was trained on, where the file or COCO's names tell."""
    conventions: Conventions
    num_queries: int | None
    """DETR's."""
    width: int | None = None
    """Channels of FPN and head; None: the papers' 256, or no FPN."""


@dataclass(frozen=True)
class Inspected:
    """A checkpoint's own account of itself."""

    path: Path
    backbone: str
    head: Head | None
    """The classes of a classifier or detector; None where the file holds a backbone alone."""
    meta: dict[str, Any]
    """What our own files say besides: image_size, resize, data, score ...; empty for most foreign ones."""
    detector: DetectorInfo | None = None
    """None for classifiers and backbones."""
    dense: DenseInfo | None = None
    """None where the file holds no segmentation or depth model."""
    position_size: int | None = None
    """Side in pixels of the square images that the backbone's position table was made for, where it has one."""
    foreign: str | None = None
    """What it is, in words, where it is a dense model that pvtctl does not build."""

    @property
    def task(self) -> str | None:
        """What it can be scored on; None where the file holds a backbone alone."""
        if self.dense is not None:
            return self.dense.task
        if self.detector is not None:
            return "detection"
        return "classification" if self.head is not None else None

    @property
    def head_name(self) -> str | None:
        """Of a dense head."""
        above = self.dense or self.detector
        return above.head if above is not None else None

    @property
    def what(self) -> str:
        """`pvt_small + retinanet`, or the backbone of a classifier."""
        return f"{self.backbone} + {self.head_name}" if self.head_name else self.backbone


def inspect_checkpoint(source: str | Path, backbone: str | None = None, *, scored: bool = True) -> Inspected:
    """Read a checkpoint (file, run folder, published name) and tell its backbone and classes.

    `backbone` is needed for models that are none of ours (`timm:NAME`), and must agree where the file says its own.
    Raises UsageError: no checkpoint, another backbone, an unknown one, or, where it will be `scored` as it is, pixels
    normalised otherwise than ours.
    """
    path = resolve_weights(str(source))
    checkpoint = read_checkpoint(path)
    stated = checkpoint.meta.get("backbone")
    shapes = identify(checkpoint.state)
    candidates = [stated] if isinstance(stated, str) else shapes
    if backbone is None:
        if not candidates:
            raise UsageError(f"{path} does not say which backbone it holds", "name it with --backbone")
        backbone = candidates[0]
    elif candidates and backbone not in candidates:
        raise UsageError(f"{path} holds {' or '.join(candidates)}, not {backbone}", f"use --backbone {candidates[0]}")
    head: Head | None = None
    side = _position_size(checkpoint.state, backbone)
    if (dense := identify_dense(checkpoint.state, checkpoint.format, checkpoint.meta)) is not None:
        head = Head(dense.num_classes, dense.class_names)
        return Inspected(path, backbone, head, checkpoint.meta, dense=dense, position_size=side)
    if scored:
        _check_normalisation(path, checkpoint.meta)
    if (detector := _detector(checkpoint)) is not None:
        head = Head(detector.num_classes, detector.class_names, detector.conventions)
        return Inspected(path, backbone, head, checkpoint.meta, detector, position_size=side)
    if (weight := checkpoint.state.get("head.weight")) is not None:
        rows = int(weight.shape[0])
        head = Head(rows, head_class_names(checkpoint.meta.get("class_names"), rows))
    foreign = other_detector(checkpoint.raw) or other_dense(checkpoint.raw)
    return Inspected(path, backbone, head, checkpoint.meta, position_size=side, foreign=foreign)


def _position_size(state: Mapping[str, Tensor], backbone: str) -> int | None:
    variant = known_variant(backbone)
    if isinstance(variant, VitVariant) and (table := state.get("backbone.pos_embed")) is not None:
        # one or two class tokens beside a square grid do not reach the next square
        return math.isqrt(int(table.shape[1])) * variant.patch_size
    if (table := state.get("backbone.stages.0.pos_embed")) is not None:
        return math.isqrt(int(table.shape[1])) * STRIDES[0]
    return None


def _detector(checkpoint: Checkpoint) -> DetectorInfo | None:
    found = identify_detector(checkpoint.state, checkpoint.format)
    if found is None:
        return None
    names = checkpoint.meta.get("class_names")
    if names is None or len(names) != found.num_classes:
        names = names_without_meta(found, checkpoint.format)
    conventions = checkpoint.meta.get("conventions") or found.conventions
    ids = checkpoint.meta.get("category_ids") or coco_ids(names)
    return DetectorInfo(found.head, found.num_classes, names, ids, conventions, found.num_queries, found.width)


def _check_normalisation(path: Path, meta: dict[str, Any]) -> None:
    for key, ours in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        theirs = meta.get(key)
        if theirs is not None and list(theirs) != list(ours):
            raise UsageError(
                f"{path} was trained with pixels of {key} {theirs}, and images are read with ImageNet's {list(ours)}",
                "its scores would be wrong",
            )
