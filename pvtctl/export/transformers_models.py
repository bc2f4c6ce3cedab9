"""What transformers needs to build pvtctl's models: its class, configuration, image processor and parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.export.transformers_backbones import hybrid_config, pvt_config, resnet_config, vit_config
from pvtctl.models.backbones import Classifier, Pvt, PvtV2, ResNet
from pvtctl.models.backbones.timm_bridge import TimmBackbone
from pvtctl.models.backbones.vit import ResNetEmbed, Vit
from pvtctl.models.dense import DenseModel
from pvtctl.models.detector import Detector
from pvtctl.models.heads.detr import DEPTH, HIDDEN, NUM_HEADS, WIDTH, Detr
from pvtctl.models.heads.dpt import STRIDES as MAP_STRIDES
from pvtctl.models.heads.dpt import Dpt, power_of_two
from pvtctl.models.heads.midas import NEAREST
from pvtctl.weights.layouts.depth_anything import is_dinov2, to_transformers_depth_anything
from pvtctl.weights.layouts.detr import to_transformers_detr
from pvtctl.weights.layouts.transformers import (
    OWN_KEY,
    to_transformers_dpt,
    to_transformers_pvt,
    to_transformers_pvt_v2,
    to_transformers_vit,
)
from pvtctl.weights.layouts.transformers_resnet import to_transformers_resnet

_WRITTEN = "classifiers of PVT v1, v2, ViT, DeiT and ResNet, DPT on a ViT or DINOv2, and DETR on a ResNet or PVT v2"
_COCO_SIDES = 800, 1333
_RESNET_SIDE = 224


@dataclass(frozen=True)
class TransformersModel:
    """A model in transformers' terms."""

    name: str
    """Of the class."""
    config: dict[str, Any]
    state: dict[str, Tensor]
    preprocessor: dict[str, Any]
    """Of the image processor, without mean and standard deviation."""
    side: int
    """Pixels of a square image that it takes."""
    nearest: float = 0.0
    """Of a depth model that gives metres, clamped at that many before they are inverted; 0: it gives inverse depth."""


def transformers_model(
    model: nn.Module, class_names: Sequence[str] | None, sides: tuple[int, int] | None = None
) -> TransformersModel:
    """`model` in transformers' terms; `sides`: of a detector's images, the short one and at most the long one, unset 800 and
    1333. Raises UsageError for a model that no class of transformers is equal to.
    """
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    body = getattr(model, "backbone", None)
    if isinstance(model, Classifier) and isinstance(body, Pvt | PvtV2):
        return _pvt(body, state, _labels(model.num_classes, class_names))
    if isinstance(model, Classifier) and type(body) is Vit:
        return _vit(body, state, _labels(model.num_classes, class_names))
    if isinstance(model, Classifier) and isinstance(body, ResNet):
        return _resnet(body, state, _labels(model.num_classes, class_names))
    if isinstance(model, DenseModel) and isinstance(model.head, Dpt) and model.head.taps:
        labels = {} if model.gives_depth else _labels(model.num_classes, class_names)
        if isinstance(body, Vit):
            return _dpt(model, body, state, labels)
        if isinstance(body, TimmBackbone) and is_dinov2(state) and model.gives_depth:
            return _depth_anything(model, body, state)
    if isinstance(model, Detector) and isinstance(model.head, Detr) and isinstance(body, ResNet | PvtV2):
        labels = _labels(model.head.num_classes, class_names)
        return _detr(model.head, body, state, labels, sides or _COCO_SIDES)
    raise _no_class_for(model, body)


def _no_class_for(model: nn.Module, body: nn.Module | None) -> UsageError:
    spec = getattr(model, "spec", None)
    what = "a classifier" if isinstance(model, Classifier) else type(getattr(model, "head", model)).__name__
    what = what if spec is None else f"{spec.title} for {getattr(model, 'task', spec.tasks[0])}"
    over = "" if body is None else f" on {getattr(body, 'name', None) or type(body).__name__}"
    published = isinstance(model, Classifier) or (spec is not None and spec.publisher is not None)
    official = published and not isinstance(body, TimmBackbone)
    return UsageError(
        f"the transformers layout is written for {_WRITTEN}, not for {what}{over}",
        f"--format {'official or onnx writes' if official else 'onnx writes'} this model",
    )


def _labels(num_classes: int, class_names: Sequence[str] | None) -> dict[str, Any]:
    names = list(class_names) if class_names else [f"LABEL_{label}" for label in range(num_classes)]
    return {
        "num_labels": num_classes,
        "id2label": {str(label): name for label, name in enumerate(names)},
        "label2id": {name: label for label, name in enumerate(names)},
    }


_BILINEAR, _BICUBIC = 2, 3
"""PIL's numbers: classifiers and depth models of pvtctl are trained on bicubic images, the others on bilinear ones."""


def _processor(kind: str, size: dict[str, int], resample: int, **more: Any) -> dict[str, Any]:
    """Of images that are resized and normalised."""
    rescaled = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    return {"image_processor_type": kind, "do_resize": True, "size": size, "resample": resample, **rescaled, **more}


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _pvt(body: Pvt | PvtV2, state: dict[str, Tensor], labels: dict[str, Any]) -> TransformersModel:
    config = pvt_config(body)
    name = "PvtForImageClassification" if isinstance(body, Pvt) else "PvtV2ForImageClassification"
    named = to_transformers_pvt(state) if isinstance(body, Pvt) else to_transformers_pvt_v2(state)
    side = config["image_size"]
    processor = _processor("PvtImageProcessor", _square(side), _BICUBIC)
    return TransformersModel(name, {"architectures": [name], **config, **labels}, named, processor, side)


def _vit(body: Vit, state: dict[str, Tensor], labels: dict[str, Any]) -> TransformersModel:
    if body.norm is None:
        raise UsageError(
            "transformers' ViT classifies by its class token, and this one by its patches", "--format onnx writes it"
        )
    distilled = body.distillation_token is not None
    kind = "DeiT" if distilled else "ViT"
    name = "DeiTForImageClassificationWithTeacher" if distilled else "ViTForImageClassification"
    config = {"architectures": [name], "model_type": kind.lower(), **vit_config(body), **labels}
    side = config["image_size"]
    more = {"do_center_crop": False} if distilled else {}
    processor = _processor(f"{kind}ImageProcessor", _square(side), _BICUBIC, **more)
    return TransformersModel(name, config, to_transformers_vit(state), processor, side)


def _resnet(body: ResNet, state: dict[str, Tensor], labels: dict[str, Any]) -> TransformersModel:
    name = "ResNetForImageClassification"
    # resized so that the crop of 224 is 7/8 of the short side, as in pvtctl's evaluation
    size: dict[str, Any] = {"size": {"shortest_edge": _RESNET_SIDE}, "crop_pct": 0.875}
    processor = _processor("ConvNextImageProcessor", resample=_BICUBIC, **size)
    config = {"architectures": [name], **resnet_config(body), **labels}
    return TransformersModel(name, config, to_transformers_resnet(state), processor, _RESNET_SIDE)


def _dpt(model: DenseModel, body: Vit, state: dict[str, Tensor], labels: dict[str, Any]) -> TransformersModel:
    head: Any = model.head
    hybrid = isinstance(body.patch_embed, ResNetEmbed)
    _check_dpt(head, body, hybrid)
    name = "DPTForDepthEstimation" if model.gives_depth else "DPTForSemanticSegmentation"
    steps = [step for step in head.reassemble if hasattr(step, "readout")]
    taps = [0, 1, *head.taps[2:]] if hybrid else head.taps
    config = {
        "architectures": [name],
        "model_type": "dpt",
        **vit_config(body),
        "is_hybrid": hybrid,
        "readout_type": steps[0].readout,
        "backbone_out_indices": [at if hybrid and at < 2 else int(tap) - 1 for at, tap in enumerate(taps)],
        "reassemble_factors": [_factor(power_of_two(body.patch_size), stride) for stride in MAP_STRIDES],
        **_decoder_config(head),
        "use_batch_norm_in_fusion_residual": not model.gives_depth,
        "use_bias_in_fusion_residual": model.gives_depth,
        "use_auxiliary_head": head.auxiliary is not None,
        **(hybrid_config(body.patch_embed, body.grid[0]) if isinstance(body.patch_embed, ResNetEmbed) else {}),
        **({OWN_KEY: {"scale_shift": list(model.scale_shift)}} if model.scale_shift is not None else {}),
        **labels,
    }
    side = config["image_size"]
    resample = _BICUBIC if model.gives_depth else _BILINEAR
    processor = _processor("DPTImageProcessor", _square(side), resample, keep_aspect_ratio=False, ensure_multiple_of=1)
    return TransformersModel(name, config, to_transformers_dpt(state), processor, side)


def _check_dpt(head: Any, body: Vit, hybrid: bool) -> None:
    """Raise UsageError for what shows in no option of `DPTConfig`."""
    problem = None
    if body.special_tokens != 1:
        problem = "no distillation token"
    elif getattr(head.output, "max_depth", None) is not None:
        problem = "no sigmoid for metres (max_depth); its Depth Anything has"
    elif power_of_two(body.patch_size) != body.patch_size:
        problem = f"no patches of {body.patch_size} pixels; its Depth Anything has those of 14, on timm's DINOv2"
    elif hybrid and (head.taps[:2] != ("R0", "R1") or head.reassemble[2].readout != "project"):
        problem = "a hybrid with the taps R0, R1 and two blocks and the readout project only"
    if problem is not None:
        raise UsageError(f"transformers' DPT has {problem}", "--format onnx writes this model")


def _factor(patch_size: int, stride: int) -> float:
    """By which a map of patches is enlarged: a whole number, or the inverse of one."""
    return patch_size // stride if patch_size >= stride else patch_size / stride


def _decoder_config(head: Dpt) -> dict[str, Any]:
    narrow: list[Any] = list(head.decoder.narrow)
    return {
        "neck_hidden_sizes": [conv.in_channels for conv in narrow],
        "fusion_hidden_size": narrow[0].out_channels,
    }


def _depth_anything(model: DenseModel, body: TimmBackbone, state: dict[str, Tensor]) -> TransformersModel:
    head: Any = model.head
    net: Any = body.model.body
    largest = head.output.max_depth
    _check_depth_anything(model, head.reassemble[0].readout, largest)
    block = net.blocks[0]
    gated = block.mlp.fc1.out_features != block.mlp.fc2.in_features
    side = body.patch_size * net.patch_embed.grid_size[0]
    name = "DepthAnythingForDepthEstimation"
    config = {
        "architectures": [name],
        "model_type": "depth_anything",
        "backbone_config": {
            "model_type": "dinov2",
            "hidden_size": body.embed_dim,
            "num_hidden_layers": body.depth,
            "num_attention_heads": block.attn.num_heads,
            "mlp_ratio": 4,
            "use_swiglu_ffn": gated,
            "layer_norm_eps": block.norm1.eps,
            "image_size": side,
            "patch_size": body.patch_size,
            "out_indices": [int(tap) for tap in head.taps],
            "reshape_hidden_states": False,
        },
        "patch_size": body.patch_size,
        "reassemble_hidden_size": body.embed_dim,
        "reassemble_factors": [4, 2, 1, 0.5],
        **_decoder_config(head),
        "depth_estimation_type": "relative" if largest is None else "metric",
        "max_depth": 1 if largest is None else int(largest),
    }
    processor = _processor(
        "DPTImageProcessor", _square(side), _BICUBIC, keep_aspect_ratio=True, ensure_multiple_of=body.patch_size
    )
    named = to_transformers_depth_anything(state)
    return TransformersModel(name, config, named, processor, side, 0.0 if largest is None else NEAREST)


def _check_depth_anything(model: DenseModel, readout: str, largest: float | None) -> None:
    """Raise UsageError for what shows in no option of `DepthAnythingConfig`."""
    problem = None
    if readout != "ignore":
        problem = f"ignores the class token, and this model's readout is {readout}"
    elif largest is None and model.scale_shift is not None:
        problem = "has no scale and shift for metres, which this model needs"
    elif largest is not None and largest != int(largest):
        problem = f"takes a max_depth in whole metres, and this model's is {largest:g}"
    if problem is not None:
        raise UsageError(f"transformers' Depth Anything {problem}", "--format onnx writes this model")


def _detr(
    head: Detr,
    body: ResNet | PvtV2,
    state: dict[str, Tensor],
    labels: dict[str, Any],
    sides: tuple[int, int],
) -> TransformersModel:
    backbone = resnet_config(body) if isinstance(body, ResNet) else pvt_config(body)
    name = "DetrForObjectDetection"
    config = {
        "architectures": [name],
        "model_type": "detr",
        "backbone_config": backbone | {"out_features": ["stage4"]},
        "use_timm_backbone": False,
        "num_queries": head.query_embed.num_embeddings,
        "d_model": WIDTH,
        "encoder_layers": DEPTH,
        "decoder_layers": DEPTH,
        "encoder_attention_heads": NUM_HEADS,
        "decoder_attention_heads": NUM_HEADS,
        "encoder_ffn_dim": HIDDEN,
        "decoder_ffn_dim": HIDDEN,
        "activation_function": "relu",
        "position_embedding_type": "sine",
        **labels,
    }
    size = {"shortest_edge": sides[0], "longest_edge": sides[1]}
    processor = _processor("DetrImageProcessor", size, _BILINEAR, do_pad=True, format="coco_detection")
    return TransformersModel(name, config, to_transformers_detr(state), processor, 128)
