"""Describe and verify checkpoint files without building their models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pvtctl.errors import PvtctlError
from pvtctl.io.download import check_hash, recorded_sha256
from pvtctl.io.foreign import foreign
from pvtctl.io.normalization import NORMALIZATIONS, Normalization
from pvtctl.models.registry import SEGMENTATION
from pvtctl.weights.catalogue import find_published
from pvtctl.weights.files.pixels import Pixels
from pvtctl.weights.identify import identify_head
from pvtctl.weights.layouts.depth_anything import unstated
from pvtctl.weights.layouts.unsupported import unsupported_model
from pvtctl.weights.read import Checkpoint, read_weights
from pvtctl.weights.recognise import identify
from pvtctl.weights.resolve import find_weights_file
from pvtctl.weights.tensors import nonfinite, nonfinite_note
from pvtctl.weights.unknown import explain_unknown

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The output of `pvtctl weights inspect`; `as_dict` is its JSON."""

    path: str
    bytes: int
    format: str
    models: list[str]
    """pvtctl's backbones with exactly these shapes; two where two models share them."""
    unknown: str | None
    """What the file holds where that is no model of pvtctl, and what to do."""
    params: int
    """All parameters, without buffers."""
    backbone_params: int
    task: str | None = None
    """`classification`, `detection`, `segmentation` or `depth`; None for a bare backbone or an unsupported model."""
    head: str | None = None
    """Of a model for dense prediction: `retinanet`, `semantic_fpn`, `dpt` ..."""
    foreign: str | None = None
    """Description of a dense prediction model that pvtctl cannot build."""
    classes: int | None = None
    """Of the classification head, the detector (without background) or the segmentation model."""
    class_names: list[str] | None = None
    """The file's own; else COCO's, ADE20K's or Pascal Context's, for third-party files with as many classes."""
    conventions: str | None = None
    """Of a detector: `papers` or `torchvision`."""
    head_options: dict[str, Any] = field(default_factory=dict)
    """Known options of a segmentation or depth head, as for `build_segmenter` and `build_depth_model`."""
    unstated: str | None = None
    """What the file does not say of its head and no shape shows, and how it can be said; null if there is nothing."""
    output_stride: int | None = None
    """Of a ResNet in a segmentation model, if known."""
    scale_shift: tuple[float, float] | None = None
    """Of a metric depth model: metres = 1 / (a x + b)."""
    left_out: list[str]
    """Names outside the prefix that was taken."""
    normalization: dict[str, Any]
    """Of the pixels in training: `mean` and `std` of values between 0 and 1, channel `order`, its `name` if it has one, and
    the `source` that says so, null where ImageNet's are assumed."""
    image_size: int | None
    """Side of the images that the position tables were trained on; None without such tables."""
    dtypes: dict[str, int]
    """Number of values of each type."""
    tensors: int
    largest: list[dict[str, Any]]
    nonfinite: list[str]
    meta: dict[str, Any]

    @property
    def pixels(self) -> Pixels:
        """`normalization` in words."""
        how = self.normalization
        return Pixels(Normalization(how["mean"], how["std"], how["order"]), how["source"])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect_file(path: Path | str, *, largest: int = 5) -> Inspection:
    """Read a checkpoint (see `read_weights`, whose errors it raises) and describe it."""
    checkpoint = read_weights(path)
    assert checkpoint.path is not None
    path = checkpoint.path
    with foreign(path):
        return _describe(path, checkpoint, largest)


def _describe(path: Path, checkpoint: Checkpoint, largest: int) -> Inspection:
    state = checkpoint.state
    files = [path] if path.is_file() else [each for each in path.iterdir() if each.is_file()]
    sizes: Counter[str] = Counter()
    for value in state.values():
        sizes[str(value.dtype).removeprefix("torch.")] += value.numel()
    parameters = {key: value for key, value in state.items() if not key.endswith(_BUFFERS)}
    biggest = sorted(state.items(), key=lambda item: -item[1].numel())[:largest]
    return Inspection(
        path=str(path),
        bytes=sum(file.stat().st_size for file in files),
        format=checkpoint.format,
        models=(models := identify(state, checkpoint.meta.backbone)),
        unknown=None if models else "; ".join(explain_unknown(checkpoint.raw, checkpoint.format)),
        params=sum(value.numel() for value in parameters.values()),
        backbone_params=sum(value.numel() for key, value in parameters.items() if key.startswith("backbone.")),
        **_told(checkpoint),
        left_out=list(checkpoint.left_out),
        normalization=_normalization(checkpoint),
        image_size=image_size_of(state),
        dtypes=dict(sizes),
        tensors=len(state),
        largest=[{"name": key, "shape": list(value.shape)} for key, value in biggest],
        nonfinite=nonfinite(state),
        meta=checkpoint.meta.as_json(),
    )


def _normalization(checkpoint: Checkpoint) -> dict[str, Any]:
    how = checkpoint.pixels.normalization
    name = str(how) if str(how) in NORMALIZATIONS else None
    return {**how._asdict(), "name": name, "source": checkpoint.pixels.source}


def _told(checkpoint: Checkpoint) -> dict[str, Any]:
    """Describe neck and head."""
    above, meta = identify_head(checkpoint.state, checkpoint.format, checkpoint.meta), checkpoint.meta
    if above is None:
        head = checkpoint.state.get("head.weight")
        classifier = {} if head is None else {"task": "classification", "classes": head.shape[0]}
        return {"foreign": unsupported_model(checkpoint.names), "class_names": meta.class_names, **classifier}
    found = {"head": above.head, "class_names": above.class_names or meta.class_names, "task": above.task}
    if above.spec.detects:
        return found | {
            "classes": above.num_classes,
            "conventions": above.conventions,
            "head_options": above.options,
        }
    return found | {
        "classes": above.num_classes if above.task == SEGMENTATION else None,
        "head_options": above.options,
        "unstated": unstated(checkpoint.format, meta.head_options, checkpoint.state) or None,
        "output_stride": above.output_stride,
        "scale_shift": above.scale_shift,
    }


def image_size_of(state: Mapping[str, Tensor]) -> int | None:
    """Side in pixels of the square images that the position tables of `state` (pvtctl's names) were trained on."""
    if (table := state.get("backbone.stages.0.pos_embed")) is not None:  # PVT v1: stride 4
        return 4 * math.isqrt(table.shape[1])
    table, patches = state.get("backbone.pos_embed"), state.get("backbone.patch_embed.proj.weight")
    if table is not None and patches is not None:  # ViT: special tokens are too few to reach the next square
        hybrid = "backbone.patch_embed.stem.weight" in state  # the patches are cells of a ResNet's map of stride 16
        patch = 16 if hybrid else patches.shape[-1]
        return patch * math.isqrt(table.shape[1])
    return None


@dataclass(frozen=True)
class WeightsVerdict:
    """The result for one file."""

    name: str
    ok: bool
    path: str | None = None
    hash: str = "unknown"
    """What the hash was compared with: "publisher", "first fetch", or "unknown" without a reference."""
    models: list[str] = field(default_factory=list)
    fault: str | None = None
    hint: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify_weights(text: str) -> WeightsVerdict:
    """Check the hash and the contents of a published checkpoint's file, or of any checkpoint.

    A file passes when its hash agrees with the known ones, it can be read, its shapes are those of a pvtctl model (of the
    published one, for a name), and no value is NaN or infinite.
    """
    path, compared = None, "unknown"
    entry = find_published(text)
    try:
        path = find_weights_file(text)
        if path.is_file():
            prefix = entry.sha256 if entry is not None else None
            compared = "publisher" if prefix else "first fetch" if recorded_sha256(path) else "unknown"
            hint = entry.get_again if entry is not None else None
            check_hash(path, known_as=path, prefix=prefix, hint=hint)
        found = inspect_file(path)
    except PvtctlError as error:
        return WeightsVerdict(text, False, str(path) if path else None, compared, fault=error.message, hint=error.hint)
    fault = None
    if not found.models:
        fault = found.unknown
    elif entry is not None and entry.backbone not in found.models:
        fault = f"holds {' or '.join(found.models)}, not {entry.backbone}"
    elif found.nonfinite:
        fault = f"holds {nonfinite_note(found.nonfinite)}"
    hint = f"`pvtctl weights inspect {text}` shows what is in it" if fault else None
    return WeightsVerdict(text, fault is None, str(path), compared, found.models, fault, hint)
