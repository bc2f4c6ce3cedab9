"""Which segmentation or depth model a state dict in our names is, and what it must be built with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, nn

from pvtctl.data.class_names import ADE20K_CLASSES, PASCAL_CONTEXT_CLASSES
from pvtctl.models.heads.dpt import Dpt, Reassemble
from pvtctl.models.heads.refinement import WIDTH
from pvtctl.weights.identify_detector import fpn_width
from pvtctl.weights.layouts.ours import DENSE_MARKS, DenseHeadName, DenseTask
from pvtctl.weights.recognise import Format, identify
from pvtctl.weights.remap_classes import Layout, class_tables

TITLES = {
    "semantic_fpn": "Semantic FPN",
    "trans2seg": "Trans2Seg",
    "deeplabv3plus": "DeepLabV3+",
    "dpt": "DPT",
    "midas": "MiDaS",
}
_PUBLISHED_CLASSES = {
    150: list(ADE20K_CLASSES),
    60: list(PASCAL_CONTEXT_CLASSES),
    59: list(PASCAL_CONTEXT_CLASSES[1:]),  # without the background
}
"""Classes by their number, for files of others that do not say them."""
AUXILIARY = "head.auxiliary."
"""What only training looks at: files may do without."""


@dataclass(frozen=True)
class DenseInfo:
    """What names, shapes and metadata of a segmentation or depth model tell."""

    backbones: list[str]
    """Ours with exactly these shapes: none for others', two where two share them."""
    head: DenseHeadName
    task: DenseTask
    num_classes: int
    """1 for depth."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the head, for `build_segmenter` and `build_depth_model`: those that shapes, metadata or the layout tell."""
    output_stride: int | None = None
    """Of a ResNet's last map; None where nobody says."""
    scale_shift: tuple[float, float] | None = None
    """Of a metric depth model: metres = 1 / (a x + b)."""
    normalization: Literal["imagenet", "half"] | None = None
    """The pixels that it was trained on; None where nobody says."""
    class_names: list[str] | None = None

    @property
    def kind(self) -> str:
        return f"{self.task} model"

    @property
    def name(self) -> str:
        """`DPT for depth`, `Semantic FPN`."""
        return f"{TITLES[self.head]} for {self.task}" if self.head == "dpt" else TITLES[self.head]

    @property
    def title(self) -> str:
        """`Semantic FPN of pvt_small`."""
        return f"{self.name} of {' or '.join(self.backbones) or 'a backbone that is none of ours'}"

    @property
    def tables(self) -> dict[str, Layout]:
        """The parameters that have rows for classes."""
        return class_tables(self.head) if self.task == "segmentation" else {}


def identify_dense(
    state: Mapping[str, Tensor], format: Format = "pvtctl", meta: Mapping[str, Any] | None = None
) -> DenseInfo | None:
    """The segmentation or depth model that `state`, in our names, holds; None when there is none of ours in it.

    `format` is the layout that it came in, which tells conventions; `meta` what the file says of itself, which counts
    where it fits the shapes.
    """
    found = next((each for each in DENSE_MARKS if each[2] | {each[3]} <= state.keys()), None)
    if found is None:
        return None
    head, task, _, rows = found
    classes = int(state[rows].shape[1] if head == "trans2seg" else state[rows].shape[0])
    backbones = identify(state)
    stride = _output_stride(state, head, format) if "resnet" in "".join(backbones) else None
    info = DenseInfo(backbones, head, task, classes, _options(state, head), stride)
    if format != "pvtctl":
        info = _with_conventions(info, format)
    return _with_meta(info, meta or {})


def _options(state: Mapping[str, Tensor], head: DenseHeadName) -> dict[str, Any]:
    """The head's options that shapes tell."""
    match head:
        case "trans2seg":
            width, channels = state["head.cls_embed"].shape[-1], state["head.lay1.depthwise.weight"].shape[0]
            return {
                "embed_dim": width,
                "depth": sum(name.startswith("head.encoder.") and name.endswith(".norm1.weight") for name in state),
                "num_heads": channels - width,
            }
        case "deeplabv3plus":
            projection = state["head.projection.conv.weight"]
            return {"width": projection.shape[0], "projection": projection.shape[-1]}
        case "dpt" if any(name.endswith(".read.weight") for name in state):
            return {"readout": "project"} | _decoder_width(state)
        case "semantic_fpn":
            wide = fpn_width(state)
            return {} if wide is None else {"width": wide}
        case _:
            return _decoder_width(state)


def _decoder_width(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Of DPT and MiDaS, where it is not the originals'."""
    narrow = state.get("head.decoder.narrow.0.weight")
    return {} if narrow is None or narrow.shape[0] == WIDTH else {"width": int(narrow.shape[0])}


def _output_stride(state: Mapping[str, Tensor], head: DenseHeadName, format: Format) -> int | None:
    """Trans2Seg's cells are counted at 512 pixels; published DeepLabV3+ of mmsegmentation is of stride 8 ("d8")."""
    if head == "trans2seg":
        return 512 // math.isqrt(state["head.pos_embed"].shape[1] - 1)
    return 8 if format == "mmsegmentation DeepLabV3+" else None


def _with_conventions(info: DenseInfo, format: Format) -> DenseInfo:
    """What is so for the published files of a layout, and which they do not say."""
    return replace(
        info,
        normalization="half" if format in ("isl-org DPT", "transformers DPT") else "imagenet",
        class_names=_PUBLISHED_CLASSES.get(info.num_classes),
    )


def _with_meta(info: DenseInfo, meta: Mapping[str, Any]) -> DenseInfo:
    names, scale_shift = meta.get("class_names"), meta.get("scale_shift")
    stated = meta.get("head_options") if meta.get("head") == info.head else None
    return replace(
        info,
        options=dict(stated or {}) | info.options,
        output_stride=meta.get("output_stride") or info.output_stride,
        scale_shift=(float(scale_shift[0]), float(scale_shift[1])) if scale_shift else info.scale_shift,
        normalization=meta.get("normalization") or info.normalization,
        class_names=list(names) if names and len(names) == info.num_classes else info.class_names,
    )


# (a part of a parameter's name, what has it); the first that is found counts
_OTHERS = (
    ("decode_head.psp_modules.", "mmsegmentation's UPerNet or PSPNet"),
    ("decode_head.fusion_conv.", "mmsegmentation's SegFormer"),
    ("decode_head.linear_fuse.", "SegFormer"),
    ("decode_head.", "another segmentation model of mmsegmentation"),
    ("segmentation_head.", "a segmentation model of segmentation_models_pytorch"),
    ("scratch.refinenet4.", "another model of MiDaS' or DPT's authors"),
    ("depth_head.scratch.", "Depth Anything"),
    ("neck.reassemble_stage.", "transformers' DPT over another backbone, or Depth Anything"),
)


def other_dense(names: Mapping[str, Tensor]) -> str | None:
    """What a state dict under its own names is, where that is a segmentation or depth model which pvtctl does not build."""
    return next((title for part, title in _OTHERS if any(part in name for name in names)), None)


def unseen_options(head: nn.Module) -> dict[str, Any]:
    """The options of a head that shapes do not tell, or not always, and outputs depend on."""
    if not isinstance(head, Dpt) or not head.taps:
        return {}
    readouts = [step.readout for step in head.reassemble if isinstance(step, Reassemble)]
    return {"taps": head.taps, "readout": readouts[-1]}


def plain(value: Any) -> str:
    """An option's value as a recipe has it: `project`, `3, 6, 9, 12`."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
