"""Read what building a checkpoint's model requires: backbone, head and classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from pvtctl.data.class_names import imagenet_classes
from pvtctl.errors import UsageError
from pvtctl.extensions import require
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.io.foreign import foreign
from pvtctl.models.backbone_names import TIMM_PREFIX
from pvtctl.models.backbones import build_backbone
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.registry import Conventions, backbone_spec, find_backbone, find_head
from pvtctl.models.variants import STRIDES
from pvtctl.weights.files.pixels import Pixels, for_backbone
from pvtctl.weights.identify import HeadInfo, identify_head
from pvtctl.weights.layouts.unsupported import unsupported_model
from pvtctl.weights.read import Checkpoint, read_weights
from pvtctl.weights.recognise import identify
from pvtctl.weights.unknown import family_of_others


@dataclass(frozen=True)
class HeadClasses:
    """The classes of an evaluated model, where they come from its checkpoint and not from the data."""

    num_classes: int
    names: list[str] | None
    conventions: Conventions = "papers"
    """Detectors: conventions of the anchors and sampling used in training."""


def head_class_names(names: Sequence[str] | None, num_classes: int) -> list[str] | None:
    """A head's class names: the given ones, ImageNet's for 1000 classes without names, else None."""
    if names is not None and len(names) == num_classes:
        return list(names)
    return list(imagenet_classes()) if num_classes == 1000 else None


@dataclass(frozen=True)
class Inspected:
    """A checkpoint's model, classes and metadata."""

    path: Path
    backbone: str
    head: HeadClasses | None
    """The classes of its model; None for a bare backbone."""
    meta: CheckpointMeta
    above: HeadInfo | None = None
    """Neck and head of a detector, segmentation or depth model; None for classifiers and backbones."""
    position_size: int | None = None
    """Side in pixels of the square images that the backbone's position table was made for, where it has one."""
    foreign: str | None = None
    """Description of a dense model that pvtctl cannot build."""
    pixels: Pixels = field(default_factory=Pixels)
    source: str = ""
    """What to name as weights to load the same: the path, with the part of the file that was asked for."""
    features_only: bool = False
    """A classifier on a timm model's last map, without the layers of timm's own, as they were built before 0.3."""

    @property
    def detector(self) -> HeadInfo | None:
        """`above` of a detector."""
        return self.above if self.above is not None and self.above.spec.detects else None

    @property
    def dense(self) -> HeadInfo | None:
        """`above` of a segmentation or depth model."""
        return self.above if self.above is not None and not self.above.spec.detects else None

    @property
    def antialias(self) -> bool:
        """Whether images were shrunk antialiased in training."""
        usual = "antialias" if self.above is None else "bilinear"
        return (self.meta.detection or {}).get("resize", usual) == "antialias"

    @property
    def task(self) -> str | None:
        """The task that it can be evaluated on; None for a bare backbone."""
        if self.above is not None:
            return self.above.task
        return "classification" if self.head is not None else None

    @property
    def head_name(self) -> str | None:
        """Name of a dense head."""
        return self.above.head if self.above is not None else None

    @property
    def what(self) -> str:
        """`pvt_small + retinanet`, or the backbone of a classifier."""
        return f"{self.backbone} + {self.head_name}" if self.head_name else self.backbone


def inspect_checkpoint(source: str | Path, backbone: str | None = None) -> Inspected:
    """Read a checkpoint (file, run directory, published name) and identify its backbone and classes.

    `backbone` is required for models outside pvtctl (`timm:NAME`), and must agree with the file's own, if stated.
    Raises UsageError: no checkpoint, another backbone, or an unknown one.
    """
    checkpoint = read_weights(source, backbone)
    path = checkpoint.path
    assert path is not None
    require(checkpoint.meta.modules, path.parent)
    with foreign(path):
        return _inspected(path, checkpoint, backbone)


def _inspected(path: Path, checkpoint: Checkpoint, backbone: str | None) -> Inspected:
    stated = checkpoint.meta.backbone
    shapes = identify(checkpoint.state, stated)
    candidates = [stated] if stated is not None else shapes
    if backbone is None:
        if not candidates:
            other = family_of_others(checkpoint.raw) if checkpoint.format == "unknown" else None
            what, hint = other or ("does not say which backbone it holds", "name it with --backbone")
            raise UsageError(f"{path} {what}", hint)
        backbone = candidates[0]
    elif candidates and backbone_spec(backbone).name not in candidates:
        raise UsageError(f"{path} holds {' or '.join(candidates)}, not {backbone}", f"use --backbone {candidates[0]}")
    side = _position_size(checkpoint.state, backbone)
    above = identify_head(checkpoint.state, checkpoint.format, checkpoint.meta)
    pixels = for_backbone(checkpoint.pixels, backbone)
    if above is not None:
        head = HeadClasses(above.num_classes, above.class_names, above.conventions)
        return Inspected(path, backbone, head, checkpoint.meta, above, side, None, pixels, checkpoint.source)
    classes: HeadClasses | None = None
    if (weight := checkpoint.state.get("head.weight")) is not None and weight.ndim == 2:
        rows = int(weight.shape[0])
        classes = HeadClasses(rows, head_class_names(checkpoint.meta.class_names, rows))
    unknown = _unknown_head(checkpoint)
    features_only = classes is not None and _without_timms_classifier(checkpoint.state, backbone)
    return Inspected(
        path, backbone, classes, checkpoint.meta, None, side, unknown, pixels, checkpoint.source, features_only
    )


def _without_timms_classifier(state: Mapping[str, Tensor], backbone: str) -> bool:
    if not backbone.startswith(TIMM_PREFIX) or not any(name.startswith("backbone.net.") for name in state):
        return False
    with without_values():
        whole = build_backbone(backbone, classifier=True).state_dict()
    return not state.keys() >= {f"backbone.{name}" for name in whole}


def _position_size(state: Mapping[str, Tensor], backbone: str) -> int | None:
    spec = find_backbone(backbone)
    if spec is not None and spec.patch_size and (table := state.get("backbone.pos_embed")) is not None:
        # with one or two class tokens a square grid does not reach the next square
        return math.isqrt(int(table.shape[1])) * spec.patch_size
    if (table := state.get("backbone.stages.0.pos_embed")) is not None:
        return math.isqrt(int(table.shape[1])) * STRIDES[0]
    return None


def _unknown_head(checkpoint: Checkpoint) -> str | None:
    """Description of a model that pvtctl cannot build: of another project, or with an unregistered head."""
    stated = checkpoint.meta.head
    if checkpoint.format == "pvtctl" and stated is not None and find_head(stated) is None:
        return f"a model with the head {stated!r}, which is not registered"
    return unsupported_model(checkpoint.names)
