"""Convert a checkpoint to another layout and verify the result."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic_core import to_jsonable_python
from torch import Tensor, nn

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.io.files import atomic_path, sha256_of
from pvtctl.models.registry import find_head
from pvtctl.weights.build import model_from_checkpoint
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.identify import HeadInfo, identify_head, plain
from pvtctl.weights.inspect import image_size_of
from pvtctl.weights.layouts.depth_anything import unstated
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.read import Checkpoint, read_raw, read_weights
from pvtctl.weights.recognise import convert_state, identify, strip_wrappers, to_publisher
from pvtctl.weights.save import save_safetensors
from pvtctl.weights.tensors import nonfinite, nonfinite_note, same_values
from pvtctl.weights.unknown import explain_unknown

TOLERANCE = 1e-4
"""Largest accepted difference between two implementations' outputs, relative to the largest output."""


@dataclass(frozen=True)
class CheckpointConversion:
    """Result of `convert_file`."""

    backbone: str
    head: str | None
    """Of a model for dense prediction: `retinanet`, `semantic_fpn`, `dpt` ...; None for classifiers and backbones."""
    format: str
    classes: int | None
    dropped: list[str]
    """Names in the file that do not belong to backbone, neck or head."""
    compared_with: str | None
    """Implementation that outputs were compared with; None where the original is not installed."""
    difference: float | None
    """Largest difference from the original's outputs, relative to the largest of them."""
    note: str = ""
    """Which weights of the file were taken, if there was a choice, and what it does not say of its head."""
    warning: str = ""
    """NaN or infinity in the file, whose outputs are not compared then."""


def convert_file(
    source: Path | str,
    out: Path | str,
    *,
    backbone: str | None = None,
    to: Literal["ours", "official"] = "ours",
    head_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> CheckpointConversion:
    """Write the checkpoint `source` to `out` in pvtctl's layout or in that of the model's publisher.

    `out` ends in .safetensors, or in .pth / .pt / .bin for a pickled state dict (official layout only). `backbone`
    chooses between models of the same shapes, and `head_options` are those of its head that the file does not say, for its
    header: the model is built with them. If the original implementation (torchvision, timm, transformers) is
    installed, outputs on one image are compared first, unless a weight is NaN or infinite; then the written file is read back and must give the same tensors.

    Raises UsageError for a file without a known model or with another one than `backbone`, options that its head does not
    have or that the file says otherwise, or an `out` that exists; PvtctlError when the outputs differ.
    """
    out = Path(out)
    _check_out(out, to, overwrite)
    checkpoint = read_weights(source)
    name = model_of(checkpoint, backbone)
    above = identify_head(checkpoint.state, checkpoint.format, checkpoint.meta)
    if head_options:
        above = _with_options(checkpoint, above, head_options, to)
    parts = ("backbone.", "neck.", "head.") if above else ("backbone.", "head.weight", "head.bias")
    state = {key: value for key, value in checkpoint.state.items() if key.startswith(parts)}
    meta = _meta(checkpoint, name).updated(**(_above_meta(checkpoint, above) if above else {}))
    if (
        to == "official"
        and (why := unwritable(meta.head, meta.conventions, (meta.head_options or {}).get("neck"))) is not None
    ):
        raise UsageError(f"{checkpoint.path} {why}", "leave --to out, to write ours")
    bad = nonfinite_note(nonfinite(state))
    compared_with, difference = (None, None) if bad else _compare(checkpoint, name, state)
    written = to_publisher(state) if to == "official" else state
    if out.suffix == ".safetensors":
        save_safetensors(out, written, meta)
    else:
        content = io.BytesIO()  # torch hides the error of a full disk when it writes a file itself
        tensors = {key: value.detach().clone() for key, value in written.items()}
        torch.save(_wrapped(tensors, meta) if above else tensors, content)
        with atomic_path(out) as temporary:
            temporary.write_bytes(content.getbuffer())
    _check_written(out, state)
    if head_options:
        _check_built(out)
    unsaid = "" if head_options else unstated(checkpoint.format, checkpoint.meta.head_options, checkpoint.state)
    return CheckpointConversion(
        backbone=name,
        head=above.head if above else None,
        format=checkpoint.format,
        classes=meta.num_classes,
        dropped=[*sorted(set(checkpoint.state) - set(state)), *checkpoint.left_out],
        note="; ".join(filter(None, (checkpoint.note, unsaid))),
        warning=bad and f"{checkpoint.path}: {bad}",
        compared_with=compared_with,
        difference=difference,
    )


def _with_options(
    checkpoint: Checkpoint, above: HeadInfo | None, options: Mapping[str, Any], to: Literal["ours", "official"]
) -> HeadInfo:
    """The head with options that its file does not say."""
    if above is None or to == "official":
        what = (
            "holds no head for dense prediction" if above is None else "has no place for options in its official layout"
        )
        raise UsageError(f"{checkpoint.path} {what}", "leave out --head-option (head_options)")
    chosen = above.spec.options({**above.options, **options})
    for key, value in options.items():
        if plain(own := above.options.get(key, value)) != plain(value):
            raise UsageError(f"{checkpoint.path} has {key} {plain(own)}, not {plain(value)}", f"leave {key} out")
    scale_shift = chosen.metric_scale or above.scale_shift
    return replace(above, options=to_jsonable_python(chosen.said()), scale_shift=scale_shift)


def _check_built(out: Path) -> None:
    """Build the model of a written file, whose options may not fit its backbone."""
    try:
        model_from_checkpoint(inspect_checkpoint(out))
    except UsageError:
        out.unlink()
        raise


def _wrapped(tensors: dict[str, Tensor], meta: CheckpointMeta) -> dict[str, Any]:
    """Wrap a state dict as facebookresearch's DETR, mmdetection and mmsegmentation save their models."""
    spec = find_head(meta.head or "")
    if spec is not None and spec.publisher == "DETR":
        return {"model": tensors}
    return {"meta": {"CLASSES": tuple(meta.class_names or ())}, "state_dict": tensors}


def unwritable(head: str | None, conventions: str | None = None, neck: object = None) -> str | None:
    """Why a model cannot be written in its publisher's layout, or None; `neck`: its head's option."""
    if neck is not None:
        return "has a neck of its own, which its head's publisher does not have"
    if conventions == "torchvision":
        return "is a detector with torchvision's conventions, which mmdetection's layout cannot say"
    spec = find_head(head or "")
    return spec.unpublished if spec is not None and spec.publisher is None else None


def _check_out(out: Path, to: str, overwrite: bool) -> None:
    if out.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise UsageError(f"{out} has no known ending", "end it in .safetensors (or .pth, with --to official)")
    if out.suffix != ".safetensors" and to == "ours":
        raise UsageError(
            f"our layout is written as safetensors, not {out.suffix}", f"{out.with_suffix('.safetensors')}"
        )
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists", "--force overwrites it")


def model_of(checkpoint: Checkpoint, backbone: str | None = None) -> str:
    """The name of the backbone in a checkpoint: that of its metadata, else, where two share its shapes, `backbone` or the
    first. Raises UsageError for a backbone unknown to pvtctl, or another one than `backbone`.
    """
    names = identify(checkpoint.state, checkpoint.meta.backbone)
    if not names:
        what, hint = explain_unknown(checkpoint.raw or checkpoint.state, checkpoint.format)
        raise UsageError(f"{checkpoint.path} {what}", hint)
    if backbone is not None and backbone not in names:
        raise UsageError(f"{checkpoint.path} holds {' or '.join(names)}, not {backbone}", "leave --backbone out")
    return backbone or names[0]


def _meta(checkpoint: Checkpoint, name: str) -> CheckpointMeta:
    head = checkpoint.state.get("head.weight")
    origin: dict[str, str] = {"format": checkpoint.format}
    if checkpoint.path is not None and checkpoint.path.is_file():
        origin |= {"file": checkpoint.path.name, "sha256": sha256_of(checkpoint.path)}
    kept = ("class_names", "image_size", "resize", "exif", "grey_range", "score")
    known = {key: value for key, value in checkpoint.meta.as_json().items() if key in kept}
    if (size := image_size_of(checkpoint.state)) is not None:
        known["image_size"] = size
    classes = head.shape[0] if head is not None else None
    meta = CheckpointMeta(**known, backbone=name, num_classes=classes, converted_from=origin)
    return meta if checkpoint.pixels.source is None else meta.with_pixels(checkpoint.pixels.normalization)


def _above_meta(checkpoint: Checkpoint, above: HeadInfo) -> dict[str, Any]:
    """Metadata of a pvtctl detector or dense model."""
    meta = checkpoint.meta
    names = meta.class_names or above.class_names
    told: dict[str, Any]
    if above.spec.detects:
        queries = above.options.get("num_queries")
        known = {"class_names": names, "category_ids": above.category_ids, "num_queries": queries}
        told = {"conventions": above.conventions} | ({"detection": meta.detection} if meta.detection else {})
        told |= {"head_options": said} if (said := above.spec.header_options(above.options)) else {}
    else:
        known = {
            "palette": meta.palette,
            "segmentation": meta.segmentation,
            "depth": meta.depth,
            "class_names": names,
            "scale_shift": list(above.scale_shift) if above.scale_shift else None,
            "output_stride": above.output_stride,
        }
        told = {"head_options": above.options}
    told |= {key: value for key, value in known.items() if value is not None}
    return told | {"task": above.task, "head": above.head, "num_classes": above.num_classes}


def _compare(checkpoint: Checkpoint, name: str, state: Mapping[str, Tensor]) -> tuple[str | None, float | None]:
    """Compare the outputs of the original and of pvtctl on one image; (None, None) without a head or the original."""
    if "head.weight" not in state:
        return None, None
    original = _original(checkpoint, name, state["head.weight"].shape[0])
    if original is None:
        return None, None
    from pvtctl.models.backbones import build_classifier
    from pvtctl.models.fast_cpu import optimize_for_cpu

    library, model = original
    size = image_size_of(state) or 224
    ours = build_classifier(name, num_classes=state["head.weight"].shape[0], image_size=size)
    load_checkpoint(optimize_for_cpu(ours), state)
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.eval()(image)
        expected = getattr(expected, "logits", expected)
        difference = float((ours.eval()(image) - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        raise PvtctlError(
            f"{checkpoint.path}: our {name} gives other outputs than {library} ({difference:.1e} of the largest)",
            "nothing was written; the file may be of a variant with the same shapes: please report it",
        )
    return library, difference


def _original(checkpoint: Checkpoint, name: str, classes: int) -> tuple[str, nn.Module] | None:
    """The original implementation with the file's weights; None where it is not installed."""
    raw = strip_wrappers(checkpoint.raw)
    if any(key.startswith("backbone.") for key in raw):
        return None  # a dense model's
    match checkpoint.format:
        case "torchvision ResNet":
            import torchvision

            if not hasattr(torchvision.models, name):
                return None
            model = torchvision.models.get_model(name, num_classes=classes)
            model.load_state_dict(raw)
            return "torchvision", model
        case "timm PVT v2" | "timm ViT / DeiT" if importlib.util.find_spec("timm") is not None:
            import timm

            theirs = name if name.startswith("pvt") else f"{name}_224"
            if not timm.is_model(theirs) or image_size_of(checkpoint.state) not in (None, 224):
                return None
            model = timm.create_model(theirs, num_classes=classes)
            model.load_state_dict(raw)
            return "timm", model
        case "transformers Pvt" | "transformers PvtV2" | "transformers ResNet" if (
            importlib.util.find_spec("transformers") is not None
        ):
            if checkpoint.path is None or not checkpoint.path.is_dir():
                return None  # a file alone does not say its configuration
            import transformers

            model = transformers.AutoModelForImageClassification.from_pretrained(checkpoint.path, local_files_only=True)
            return "transformers", model
        case _:
            return None


def _check_written(out: Path, state: Mapping[str, Tensor]) -> None:
    raw, _ = read_raw(out)
    back = convert_state(raw).state
    if back.keys() != state.keys() or not all(same_values(back[key], state[key]) for key in state):
        out.unlink()
        raise PvtctlError(f"{out} did not read back as it was written, and was removed", "try another disk")
