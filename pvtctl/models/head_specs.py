"""Specs of the built-in heads: options, builder, checkpoints, costs. No torch.

A head's network is in the file of its name in `heads`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import Field, model_validator

from pvtctl.errors import UsageError
from pvtctl.models.registry import (
    DEPTH,
    DETECTION,
    SEGMENTATION,
    HeadMark,
    HeadOptions,
    HeadSpec,
    NeckOptions,
    ScaleShift,
    State,
    Target,
)

if TYPE_CHECKING:
    from torch import nn

    from pvtctl.models.backbones.base import Backbone

Width = Annotated[int, Field(ge=8, le=4096)]
Dropout = Annotated[float, Field(ge=0.0, le=1.0)]
AuxiliaryWeight = Annotated[float, Field(ge=0)]
PAPER_WIDTH = 256
PAPER_SIDE = 512
"""Side of the papers' training images, for which Trans2Seg's cells are counted."""
TABLE_7 = frozenset({"bias", "batch_norm"})
"""Counted in PVT v1, Table 7."""


def _class_counter(name: str, *, background: int = 0) -> Callable[[State], int]:
    """Return a function that counts the classes of a parameter with one row per class and `background` more."""
    return lambda state: int(state[name].shape[0]) - background if name in state else 0


def _width_of(name: str, axis: int = 0) -> Callable[[State], dict[str, Any]]:
    """Return a function that gives a side of a parameter as `width`, if it is not the papers' 256."""

    def options_of(state: State) -> dict[str, Any]:
        weight = state.get(name)
        if weight is None or weight.ndim <= axis or weight.shape[axis] == PAPER_WIDTH:
            return {}
        return {"width": int(weight.shape[axis])}

    return options_of


_FPN = "neck.inner_blocks.0.0.weight"
_decoder_width = _width_of("head.decoder.narrow.0.weight")


# --- detection

_CLASSES, _BOXES = "head.classification_head.cls_logits", "head.regression_head.bbox_reg.weight"
_MASKS, _SCORES = "head.mask_predictor.mask_fcn_logits", "head.box_predictor.cls_score"
_QUERIES = "head.query_embed.weight"


class RetinaNetOptions(HeadOptions):
    width: Width | None = None
    """Channels of the FPN and of all convolutions after it; unset: 256."""
    neck: NeckOptions | None = None
    """Unset: an FPN on levels 3 to 7."""


def _build_retinanet(backbone: Backbone, options: RetinaNetOptions, target: Target) -> tuple[nn.Module, nn.Module]:
    from pvtctl.models.heads.retinanet import RetinaNet
    from pvtctl.models.necks.build import build_neck

    width = options.width or PAPER_WIDTH
    neck, levels = build_neck(
        backbone, options.neck, levels=(3, 7), extra="p6p7", width=width, conventions=target.conventions
    )
    return neck, RetinaNet(target.num_classes, conventions=target.conventions, in_channels=width, levels=levels)


def _count_retinanet(state: State) -> int:
    boxes = state.get(_BOXES)
    anchors = boxes.shape[0] // 4 if boxes is not None else 9
    return state[f"{_CLASSES}.weight"].shape[0] // anchors if anchors else 0


RETINANET = HeadSpec(
    name="retinanet",
    tasks=(DETECTION,),
    title="RetinaNet",
    Options=RetinaNetOptions,
    build=_build_retinanet,
    marks=(HeadMark(DETECTION, frozenset({f"{_CLASSES}.weight"}), _count_retinanet, beside=frozenset({_FPN})),),
    class_tables={_CLASSES: "anchors"},
    options_of=_width_of(f"{_CLASSES}.weight", axis=1),
    publisher="mmdetection",
    recipes={DETECTION: "coco_retinanet_1x"},
    parts={"classification_head": "classification", "regression_head": "regression"},
)


class MaskRcnnOptions(HeadOptions):
    rois_per_image: Annotated[int, Field(ge=4, le=10_000)] = 512
    """Proposals per image that the second stage trains on, at most a quarter of them objects."""
    width: Width | None = None
    """Channels of the FPN and of all convolutions after it; the box head has four times as many; unset: 256."""
    neck: NeckOptions | None = None
    """Unset: an FPN on levels 2 to 6."""


def _build_mask_rcnn(backbone: Backbone, options: MaskRcnnOptions, target: Target) -> tuple[nn.Module, nn.Module]:
    from pvtctl.models.heads.mask_rcnn import MaskRcnn
    from pvtctl.models.necks.build import build_neck

    width = options.width or PAPER_WIDTH
    neck, levels = build_neck(
        backbone, options.neck, levels=(2, 6), extra="pool", width=width, conventions=target.conventions
    )
    return neck, MaskRcnn(
        target.num_classes,
        conventions=target.conventions,
        in_channels=width,
        rois_per_image=options.rois_per_image,
        levels=levels,
    )


MASK_RCNN = HeadSpec(
    name="mask_rcnn",
    tasks=(DETECTION,),
    title="Mask R-CNN",
    Options=MaskRcnnOptions,
    build=_build_mask_rcnn,
    marks=(
        HeadMark(
            DETECTION,
            frozenset({f"{_MASKS}.weight"}),
            _class_counter(f"{_SCORES}.weight", background=1),
            beside=frozenset({_FPN}),
        ),
    ),
    class_tables={_SCORES: "background", "head.box_predictor.bbox_pred": "boxes", _MASKS: "plain"},
    options_of=_width_of("head.mask_predictor.conv5_mask.weight"),
    publisher="mmdetection",
    needs_masks=True,
    unexportable=(
        "its box and mask heads run on what NMS (torchvision::nms) leaves of the RPN's proposals and RoIAlign "
        "(torchvision::roi_align) cuts out for them, another number for every image"
    ),
    recipes={DETECTION: "coco_mask_rcnn_1x"},
    parts={"rpn": "rpn", "box_head": "box", "box_predictor": "box", "mask_head": "mask", "mask_predictor": "mask"},
)


class DetrOptions(HeadOptions):
    num_queries: Annotated[int, Field(ge=1, le=10_000)] = 100
    dropout: Dropout | None = None
    """Unset: 0.1."""


def _build_detr(backbone: Backbone, options: DetrOptions, target: Target) -> tuple[None, nn.Module]:
    from pvtctl.models.heads.detr import Detr

    if target.conventions != "papers":
        raise UsageError("torchvision has no DETR", "leave conventions out")
    return None, Detr(backbone.feature_channels[-1], target.num_classes, **options.said())


DETR = HeadSpec(
    name="detr",
    tasks=(DETECTION,),
    title="DETR",
    Options=DetrOptions,
    build=_build_detr,
    marks=(
        HeadMark(
            DETECTION,
            frozenset({"head.class_embed.weight"}),
            _class_counter("head.class_embed.weight", background=1),
            beside=frozenset({_QUERIES}),
        ),
    ),
    class_tables={"head.class_embed": "background"},
    options_of=lambda state: {"num_queries": int(state[_QUERIES].shape[0])} if _QUERIES in state else {},
    publisher="DETR",
    has_nms=False,
    candidates="100 queries an image",
    recipes={DETECTION: "coco_detr_50e"},
    parts={"transformer.encoder": "encoder", "transformer.decoder": "decoder"},
)


# --- segmentation

_CLASSIFIER = "head.classifier.weight"
_PROTOTYPES = "head.cls_embed"


class SemanticFpnOptions(HeadOptions):
    dropout: Dropout | None = None
    """Unset: 0.1, the papers'."""
    width: Width | None = None
    """Channels of the FPN; the head has half; unset: 256."""
    neck: NeckOptions | None = None
    """Unset: an FPN on levels 2 to 5."""


def _build_semantic_fpn(backbone: Backbone, options: SemanticFpnOptions, target: Target) -> tuple[nn.Module, nn.Module]:
    from pvtctl.models.heads.semantic_fpn import SemanticFpn
    from pvtctl.models.necks.build import build_neck

    width = options.width or PAPER_WIDTH
    neck, (first, last) = build_neck(backbone, options.neck, levels=(2, 5), extra=None, width=width)
    sizes = {"in_channels": width, "width": width // 2, "levels": last - first + 1}
    own = options.said()
    own.pop("neck", None)
    return neck, SemanticFpn(target.num_classes, **own | sizes)


SEMANTIC_FPN = HeadSpec(
    name="semantic_fpn",
    tasks=(SEGMENTATION,),
    title="Semantic FPN",
    Options=SemanticFpnOptions,
    build=_build_semantic_fpn,
    marks=(
        HeadMark(
            SEGMENTATION, frozenset({"head.scale_heads.0.0.conv.weight", _CLASSIFIER}), _class_counter(_CLASSIFIER)
        ),
    ),
    class_tables={"head.classifier": "plain"},
    options_of=_width_of("head.scale_heads.0.0.conv.weight", axis=1),
    publisher="mmsegmentation",
    recipes={SEGMENTATION: "ade20k_semantic_fpn"},
    sizes={SEGMENTATION: 512},
    counts_batch_norm=False,
    parts={"scale_heads": "levels", "classifier": "classifier"},
)


class Trans2SegOptions(HeadOptions):
    dropout: Dropout | None = None
    """Unset: 0."""
    embed_dim: Width | None = None
    """Unset: 256."""
    depth: Annotated[int, Field(ge=1, le=64)] | None = None
    """Layers of the encoder, and of the decoder; unset: 4."""
    num_heads: Annotated[int, Field(ge=1, le=64)] | None = None
    """Unset: 8."""


def _build_trans2seg(backbone: Backbone, options: Trans2SegOptions, target: Target) -> tuple[None, nn.Module]:
    from pvtctl.models.heads.trans2seg import Trans2Seg

    grid = PAPER_SIDE // backbone.feature_strides[-1]
    return None, Trans2Seg(backbone.feature_channels, target.num_classes, grid=grid, **options.said())


def _trans2seg_options(state: State) -> dict[str, Any]:
    width, channels = state[_PROTOTYPES].shape[-1], state["head.lay1.depthwise.weight"].shape[0]
    depth = sum(name.startswith("head.encoder.") and name.endswith(".norm1.weight") for name in state)
    return {"embed_dim": width, "depth": depth, "num_heads": channels - width}


TRANS2SEG = HeadSpec(
    name="trans2seg",
    tasks=(SEGMENTATION,),
    title="Trans2Seg",
    Options=Trans2SegOptions,
    build=_build_trans2seg,
    marks=(
        HeadMark(
            SEGMENTATION,
            frozenset({"head.answers.fc_q.weight", _PROTOTYPES}),
            lambda state: int(state[_PROTOTYPES].shape[1]),
        ),
    ),
    class_tables={_PROTOTYPES: "tokens"},
    options_of=_trans2seg_options,
    stride_of=lambda state: PAPER_SIDE // math.isqrt(state["head.pos_embed"].shape[1] - 1),
    unpublished="is a model with trans2seg, whose original has further, unused layers",
    map_per_class=True,
    recipes={SEGMENTATION: "ade20k_trans2seg"},
    sizes={SEGMENTATION: 512},
    bottleneck_stride=16,
    counted=TABLE_7,
    parts={
        **dict.fromkeys(("embed", "encoder"), "encoder"),
        **dict.fromkeys(("decoder", "answers"), "decoder"),
        **dict.fromkeys(("conv_c1", "lay1", "lay2", "lay3", "pred"), "class_maps"),
    },
)


class DeepLabV3PlusOptions(HeadOptions):
    dropout: Dropout | None = None
    """Unset: 0.1, the papers'."""
    width: Width | None = None
    """Channels of its pyramid pooling; unset: 256."""
    projection: Literal[1, 3] | None = None
    """Kernel size of the convolution that joins its pyramid pooling; unset: 1. mmsegmentation: 3, width 512."""
    auxiliary_weight: AuxiliaryWeight | None = None
    """Weight of the auxiliary head's loss, 0 leaves it out; unset: 0."""


def _build_deeplab(backbone: Backbone, options: DeepLabV3PlusOptions, target: Target) -> tuple[None, nn.Module]:
    from pvtctl.models.heads.deeplabv3plus import DeepLabV3Plus

    stride = backbone.feature_strides[-1]
    return None, DeepLabV3Plus(backbone.feature_channels, target.num_classes, stride=stride, **options.said())


def _deeplab_options(state: State) -> dict[str, Any]:
    projection = state["head.projection.conv.weight"]
    return {"width": projection.shape[0], "projection": projection.shape[-1]}


DEEPLABV3PLUS = HeadSpec(
    name="deeplabv3plus",
    tasks=(SEGMENTATION,),
    title="DeepLabV3+",
    Options=DeepLabV3PlusOptions,
    build=_build_deeplab,
    marks=(
        HeadMark(SEGMENTATION, frozenset({"head.low_level.conv.weight", _CLASSIFIER}), _class_counter(_CLASSIFIER)),
    ),
    class_tables={"head.classifier": "plain", "head.auxiliary.2": "plain"},
    options_of=_deeplab_options,
    publisher="mmsegmentation",
    recipes={SEGMENTATION: "ade20k_trans2seg"},
    sizes={SEGMENTATION: 512},
    bottleneck_stride=16,
    counted=TABLE_7,
    parts={
        **dict.fromkeys(("pool", "branches", "projection"), "pyramid_pooling"),
        **{name: name for name in ("classifier", "decoder", "auxiliary")},
    },
)


# --- depth

_MIX, _LAST = "head.decoder.fusions.0.mix.weight", "head.output.last.weight"
_READS_TOKENS = "head.reassemble.3.project.weight"
"""Present in DPT on a ViT, not on a pyramid."""


class DptOptions(HeadOptions):
    dropout: Dropout | None = None
    """Segmentation; unset: 0.1, the papers'."""
    width: Width | None = None
    """Channels of the decoder; unset: 256."""
    auxiliary_weight: AuxiliaryWeight | None = None
    """Segmentation: weight of the auxiliary head's loss, 0 leaves it out; unset: 0.2."""
    readout: Literal["ignore", "add", "project"] | None = None
    """With a class token: how it is used; unset: project."""
    taps: tuple[str | int, ...] | None = None
    """On a ViT: four layers that it reads, counted from 1 (R0, R1: stages of the hybrid's ResNet); unset: DPT's."""
    channels: tuple[Width, Width, Width, Width] | None = None
    """On a ViT: of the maps made of the four layers; unset: DPT's for the ViT's width."""
    reads: Literal["tokens", "maps"] | None = None
    """On a ViT: maps reads its four resized maps, as of a pyramid; unset: tokens, where the backbone has them."""
    max_depth: Annotated[float, Field(gt=0)] | None = None
    """Depth: metres are sigmoid x max_depth of the network's output (Depth Anything V2); unset: a final ReLU."""
    scale_shift: ScaleShift | None = None
    """Depth: metres = 1 / (scale x + shift) of the network's output; unset: inverse depth of an unknown scale."""

    @property
    def metric_scale(self) -> tuple[float, float] | None:
        return self.scale_shift if self.max_depth is None else (1.0, 0.0)

    @model_validator(mode="after")
    def _one_way_to_metres(self) -> Self:
        if self.max_depth is not None and self.scale_shift not in (None, (1.0, 0.0)):
            raise ValueError("gives metres already: leave scale_shift out")
        return self


def _build_dpt(backbone: Backbone, options: DptOptions, target: Target) -> tuple[None, nn.Module]:
    from pvtctl.models.heads.dpt import Dpt

    task = cast("Literal['segmentation', 'depth']", target.task)
    return None, Dpt(backbone, task=task, num_classes=target.num_classes, **options.said())


def _dpt_options(state: State) -> dict[str, Any]:
    found = _decoder_width(state) | _dpt_channels(state)
    if any(name.endswith(".read.weight") for name in state):
        found["readout"] = "project"
    table = state.get("backbone.net.model.pos_embed", state.get("backbone.pos_embed"))
    if table is not None and not any(name.startswith("head.reassemble.") for name in state):
        found["reads"] = "maps"  # a ViT's maps, as heads on timm's were built before 0.3
    return found


def _dpt_channels(state: State) -> dict[str, Any]:
    """The channels of the maps made of tokens, where they are not DPT's own for the ViT's width."""
    from pvtctl.models.heads.dpt import usual_channels

    projects = [state.get(f"head.reassemble.{level}.project.weight") for level in range(4)]
    narrow = [state.get(f"head.decoder.narrow.{level}.weight") for level in range(4)]
    if projects[3] is None or any(weight is None for weight in narrow):
        return {}
    found = [int(weight.shape[1]) for weight in narrow if weight is not None]
    width = int(projects[3].shape[1])
    usual = usual_channels(width) if projects[0] is not None else [*found[:2], width, width]  # of the hybrid's ResNet
    return {} if found == usual else {"channels": found}


def _dpt_unlike(head: Any, options: Mapping[str, Any], state: State) -> tuple[str, str, str] | None:
    """Difference in taps or readout between a file and this head: "ignore" and "add" have no parameters."""
    if not head.taps:
        return None
    readouts = [step.readout for step in head.reassemble if hasattr(step, "readout")]
    for option, own in (("taps", head.taps), ("readout", readouts[-1])):
        stated, ours = options.get(option), _plain(own)
        if stated is None and ours == "project" and _READS_TOKENS in state:
            stated = "ignore or add"  # the file does not say which; "project" would have parameters
        if stated is not None and _plain(stated) != ours:
            return option, _plain(stated), ours
    return None


def _plain(value: Any) -> str:
    """An option's value as in recipes: `project`, `3, 6, 9, 12`."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


DPT = HeadSpec(
    name="dpt",
    tasks=(SEGMENTATION, DEPTH),
    title="DPT",
    Options=DptOptions,
    build=_build_dpt,
    marks=(
        HeadMark(SEGMENTATION, frozenset({_MIX, _LAST, "head.output.first.conv.weight"}), _class_counter(_LAST)),
        HeadMark(DEPTH, frozenset({_MIX, _LAST, "head.output.second.weight"}), _class_counter(_LAST)),
    ),
    class_tables={"head.output.last": "plain", "head.auxiliary.last": "plain"},
    options_of=_dpt_options,
    unlike=_dpt_unlike,
    unpublished="is a model with dpt, whose original has further, unused layers",
    token_options=("readout", "taps", "channels", "reads"),
    only_for={"dropout": SEGMENTATION, "auxiliary_weight": SEGMENTATION, "max_depth": DEPTH},
    recipes={SEGMENTATION: "dpt_ade20k", DEPTH: "dpt_nyu"},
    sizes={SEGMENTATION: 480, DEPTH: 384},
    parts={name: name for name in ("decoder", "reassemble", "output", "auxiliary")},
)


class MidasOptions(HeadOptions):
    width: Width | None = None
    """Channels of the decoder; unset: 256."""
    scale_shift: ScaleShift | None = None
    """metres = 1 / (scale x + shift) of the network's output; unset: inverse depth of an unknown scale."""


def _build_midas(backbone: Backbone, options: MidasOptions, target: Target) -> tuple[None, nn.Module]:
    from pvtctl.models.heads.midas import Midas

    return None, Midas(backbone.feature_channels, **options.said())


MIDAS = HeadSpec(
    name="midas",
    tasks=(DEPTH,),
    title="MiDaS",
    Options=MidasOptions,
    build=_build_midas,
    marks=(HeadMark(DEPTH, frozenset({"head.decoder.narrow.0.weight", _LAST}), _class_counter(_LAST)),),
    options_of=_decoder_width,
    unpublished="is pvtctl's MiDaS, which no other project publishes in one layout",
    recipes={DEPTH: "dpt_backbones"},
    sizes={DEPTH: 384},
    parts={"decoder": "decoder", "output": "output"},
)

HEADS = (RETINANET, MASK_RCNN, DETR, SEMANTIC_FPN, TRANS2SEG, DEEPLABV3PLUS, DPT, MIDAS)
"""The first head of a task is its default. MiDaS's mark is part of DPT's, hence it comes last."""
