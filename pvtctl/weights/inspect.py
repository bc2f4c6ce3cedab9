"""What a checkpoint file holds, without building its model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pvtctl.weights.detectors import identify_detector, other_detector
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.recognise import identify

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Inspection:
    """What `pvtctl weights inspect` prints; `as_dict` is its JSON."""

    path: str
    bytes: int
    format: str
    models: list[str]
    """Our backbones with exactly these shapes; two where two models share them."""
    params: int
    """All parameters, buffers apart."""
    backbone_params: int
    detector: str | None
    """`retinanet`, `mask_rcnn` or `detr`, where the file holds one; in words for those of others that are not built here."""
    conventions: str | None
    """Of a detector: `papers` or `torchvision`."""
    classes: int | None
    """Of the classification head, or of the detector, background apart."""
    image_size: int | None
    """Side of the images that the position tables were learned on; None for models without such tables."""
    dtypes: dict[str, int]
    """Numbers of each type."""
    tensors: int
    largest: list[dict[str, Any]]
    nonfinite: list[str]
    meta: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect_file(path: Path | str, *, largest: int = 5) -> Inspection:
    """Read a checkpoint (see `read_checkpoint`, whose errors it raises) and describe it."""
    path = Path(path)
    checkpoint = read_checkpoint(path)
    state = checkpoint.state
    sizes: Counter[str] = Counter()
    for value in state.values():
        sizes[str(value.dtype).removeprefix("torch.")] += value.numel()
    parameters = {key: value for key, value in state.items() if not key.endswith(_BUFFERS)}
    biggest = sorted(state.items(), key=lambda item: -item[1].numel())[:largest]
    head = state.get("head.weight")
    detector = identify_detector(state, checkpoint.format)
    classes = head.shape[0] if head is not None else None
    return Inspection(
        path=str(path),
        bytes=_size_of(path),
        format=checkpoint.format,
        models=identify(state),
        params=sum(value.numel() for value in parameters.values()),
        backbone_params=sum(value.numel() for key, value in parameters.items() if key.startswith("backbone.")),
        detector=detector.head if detector else other_detector(checkpoint.raw),
        conventions=checkpoint.meta.get("conventions") or detector.conventions if detector else None,
        classes=detector.num_classes if detector else classes,
        image_size=image_size_of(state),
        dtypes=dict(sizes),
        tensors=len(state),
        largest=[{"name": key, "shape": list(value.shape)} for key, value in biggest],
        nonfinite=[key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()],
        meta=checkpoint.meta,
    )


def _size_of(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.iterdir() if each.is_file()]
    return sum(file.stat().st_size for file in files)


def image_size_of(state: Mapping[str, Tensor]) -> int | None:
    """Side in pixels of the square images that the position tables of `state` (our names) were learned on."""
    if (table := state.get("backbone.stages.0.pos_embed")) is not None:  # PVT v1: stride 4
        return 4 * math.isqrt(table.shape[1])
    table, patches = state.get("backbone.pos_embed"), state.get("backbone.patch_embed.proj.weight")
    if table is not None and patches is not None:  # ViT: the slots of its special tokens do not reach the next square
        patch = (
            16 if "backbone.patch_embed.stem.weight" in state else patches.shape[-1]
        )  # the hybrid's ResNet: stride 16
        return patch * math.isqrt(table.shape[1])
    return None
