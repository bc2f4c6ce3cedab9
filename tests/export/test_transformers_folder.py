"""Folders for transformers: its models give our outputs, and the folders read back, with all that they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pvtctl.errors import UsageError
from pvtctl.export import export_layout
from pvtctl.export.exportable import raw_model
from pvtctl.io.normalization import HALF, IMAGENET, NORMALIZATIONS, Normalization
from pvtctl.models.backbones import Backbone, Classifier, PvtV2, ResNet, Vit, VitHybrid
from pvtctl.models.dense import DenseModel, build_segmenter
from pvtctl.models.detector import Detector, build_detector
from pvtctl.models.heads.detr import Detr
from pvtctl.models.heads.dpt import Dpt
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.layouts.detr import to_transformers_detr
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.recognise import convert_state

transformers = pytest.importorskip("transformers", reason="needs the hub extra")

NAMES = ["ant", "bee", "cat"]
SIDE = 64


def _vit(**more: Any) -> Vit:
    return Vit(**({"patch_size": 16, "embed_dim": 32, "depth": 4, "num_heads": 2, "image_size": SIDE} | more))


def _hybrid() -> Vit:
    widths = {"stem_blocks": (1, 2, 1), "stem_widths": (64, 128, 256)}
    return VitHybrid(embed_dim=32, depth=4, num_heads=2, image_size=SIDE, **widths)  # type: ignore[arg-type]


def _resnet(**more: Any) -> ResNet:
    return ResNet(**({"block": "basic", "depths": (1, 1, 2, 1), "base_width": 8} | more))


def _pvt_v2() -> PvtV2:
    sizes: Any = {"depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 4), "mlp_ratios": (2,) * 4, "sr_ratios": (8, 4, 2, 1)}
    return PvtV2(embed_dims=(8, 16, 24, 32), **sizes)


def _dpt(task: Any, body: Backbone, **options: Any) -> DenseModel:
    classes = 1 if task == "depth" else len(NAMES)
    head = Dpt(body, task=task, num_classes=classes, width=16, **options)
    return DenseModel(body, None, head, task=task, num_classes=classes)


def _detr(body: Backbone) -> Detector:
    return Detector(body, None, Detr(body.feature_channels[-1], len(NAMES), num_queries=7), len(NAMES))


def _shaken(model: nn.Module) -> nn.Module:
    """Values that training starts from 0 or 1 are others; variances stay above 0."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.add_(torch.rand_like(value) - (0 if "running_var" in name else 0.5), alpha=0.1)
    return model.eval()


MODELS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "vit": ("ViTForImageClassification", lambda: Classifier(_vit(class_token=True), 3)),
    "distilled": (
        "DeiTForImageClassificationWithTeacher",
        lambda: Classifier(_vit(class_token=True, distilled=True), 3),
    ),
    "resnet": ("ResNetForImageClassification", lambda: Classifier(_resnet(), 3)),
    "resnet-bottleneck": (
        "ResNetForImageClassification",
        lambda: Classifier(_resnet(block="bottleneck", base_width=16), 3),
    ),
    "depth": ("DPTForDepthEstimation", lambda: _dpt("depth", _vit(), taps=(1, 2, 3, 4), readout="add")),
    "depth-patch8": ("DPTForDepthEstimation", lambda: _dpt("depth", _vit(patch_size=8, qkv_bias=False))),
    "depth-hybrid": ("DPTForDepthEstimation", lambda: _dpt("depth", _hybrid())),
    "segmentation": ("DPTForSemanticSegmentation", lambda: _dpt("segmentation", _vit(depth=6), taps=(1, 2, 4, 6))),
    "segmentation-no-auxiliary": (
        "DPTForSemanticSegmentation",
        lambda: _dpt("segmentation", _vit(), auxiliary_weight=0, readout="ignore"),
    ),
    "detr": ("DetrForObjectDetection", lambda: _detr(_resnet(block="bottleneck"))),
    "detr-pvt_v2": ("DetrForObjectDetection", lambda: _detr(_pvt_v2())),
}


@pytest.mark.parametrize("kind", MODELS)
def test_transformers_gives_our_outputs_and_the_folder_reads_back(tmp_path: Path, kind: str) -> None:
    name, build = MODELS[kind]
    model, folder = _shaken(build()), tmp_path / "out"
    names = None if "Depth" in name else NAMES
    report = export_layout(model, folder, "transformers", class_names=names, normalization=NORMALIZATIONS["clip"])
    assert (report.model, report.compared_with) == (name, "transformers")
    theirs = getattr(transformers, name).from_pretrained(folder).eval()
    other = {"DPT": (96, 96), "Detr": (64, 128)}  # than the folder says; theirs of DPT are square
    size = (SIDE, SIDE) if kind == "depth-hybrid" else next((other[key] for key in other if key in name), (SIDE, SIDE))
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    ours = raw_model(model, pixels="normalized", normalization=IMAGENET, at_size=isinstance(model, DenseModel))
    with torch.inference_mode():
        found = theirs(images)
    expected = ours.eager(images)
    outputs = [found.predicted_depth[:, None]] if names is None else [found.logits]
    outputs += [found.pred_boxes] if "Detr" in name else []
    for there, here in zip(outputs, expected, strict=True):
        assert float(here.std()) > 1e-3
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4 * float(here.abs().max()))
    again = build()
    loaded = load_checkpoint(again, folder)
    assert not loaded.missing
    assert all(
        torch.equal(value, again.state_dict()[key])
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    )
    checkpoint = read_checkpoint(folder)
    assert checkpoint.pixels.normalization == NORMALIZATIONS["clip"]
    assert checkpoint.meta.class_names == names
    if isinstance(model, DenseModel):
        assert isinstance(model.head, Dpt)
        options = checkpoint.meta.head_options or {}
        assert tuple(options["taps"]) == model.head.taps
        assert options["readout"] == model.head.reassemble[3].readout


@pytest.mark.parametrize("kind", ["depth", "segmentation"])
def test_what_ours_have_not_is_never_used(tmp_path: Path, kind: str) -> None:
    name, build = MODELS[kind]
    export_layout(_shaken(build()), tmp_path / "out", "transformers")
    file = tmp_path / "out" / "model.safetensors"
    tensors = load_file(file)
    images = torch.randn(1, 3, SIDE, SIDE)
    outputs = []
    for change in (0.0, 1.0):
        for key, value in tensors.items():
            if key.startswith(("dpt.layernorm.", "neck.fusion_stage.layers.0.residual_layer1.")):
                value.add_(int(change))
        save_file(tensors, file, metadata={"format": "pt"})
        theirs = getattr(transformers, name).from_pretrained(tmp_path / "out").eval()
        with torch.inference_mode():
            outputs.append(theirs(images)[0])
    assert torch.equal(outputs[0], outputs[1])


def test_scale_and_shift_of_metres_are_kept(tmp_path: Path) -> None:
    model = _shaken(_dpt("depth", _vit()))
    assert isinstance(model, DenseModel)
    model.scale_shift = (3e-4, 0.125)
    folder = tmp_path / "out"
    export_layout(model, folder, "transformers", normalization=HALF)
    assert read_checkpoint(folder).meta.scale_shift == [3e-4, 0.125]
    saved = tmp_path / "saved"
    transformers.DPTForDepthEstimation.from_pretrained(folder).save_pretrained(saved)
    assert read_checkpoint(saved).meta.scale_shift == [3e-4, 0.125]
    config = json.loads((folder / "config.json").read_text())
    config["pvtctl"]["scale_shift"] = ["near", 2]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="scale_shift"):
        read_checkpoint(folder)


def test_a_detector_is_recognised_with_its_classes_and_sizes(tmp_path: Path) -> None:
    model, folder = build_detector("resnet18@0.125", "detr", num_classes=3), tmp_path / "out"
    export_layout(model, folder, "transformers", class_names=NAMES, sides=(320, 512))
    found = inspect_checkpoint(folder)
    assert (found.backbone, found.head_name, found.head and found.head.names) == ("resnet18@0.125", "detr", NAMES)
    assert found.antialias
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert dict(processor.size) == {"shortest_edge": 320, "longest_edge": 512}


def test_models_without_a_class_are_refused(tmp_path: Path) -> None:
    bgr = Normalization(IMAGENET.mean, IMAGENET.std, "bgr")
    dilated = _detr(_resnet(block="bottleneck", base_width=64, output_stride=16))
    for model, message, hint in (
        (
            build_detector("resnet18@0.125", "retinanet", num_classes=3),
            "not for RetinaNet for detection on ResNet",
            "official",
        ),
        (build_segmenter("resnet18@0.125", "trans2seg", num_classes=3), "not for Trans2Seg for segmentation", "onnx"),
        (Classifier(_resnet(block="bottleneck", base_width=64, deep_stem=32), 3), "has no deep stem", "official"),
        (Classifier(_hybrid(), 3), "not for a classifier on VitHybrid", "official"),
        (Classifier(_vit(), 3), "classifies by its class token", "onnx"),
        (_dpt("depth", _vit(distilled=True)), "no distillation token", "onnx"),
        (_dpt("depth", _vit(), max_depth=10.0), "no sigmoid for metres", "onnx"),
        (_dpt("depth", _vit(patch_size=14)), "no patches of 14 pixels", "onnx"),
        (_dpt("depth", _hybrid(), taps=(1, 2, 3, 4)), "a hybrid with the taps R0, R1", "onnx"),
        (_dpt("depth", _vit(), reads="maps"), "not for Dpt on Vit", "onnx"),
        (dilated, "transformers' ResNet has no dilation", "official"),
        (_detr(_resnet(block="bottleneck", base_width=64, groups=32, width_per_group=4)), "has no groups", "official"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            export_layout(model, tmp_path / "x", "transformers")
        assert hint in (error.value.hint or "")
    with pytest.raises(UsageError, match="no BGR order"):
        export_layout(_dpt("depth", _vit()), tmp_path / "x", "transformers", normalization=bgr)
    assert list(tmp_path.iterdir()) == []


def test_detr_on_a_resnet_of_timm_is_read_and_its_relatives_are_not(tmp_path: Path) -> None:
    """Published files have timm's ResNet, whose names are torchvision's; a dilated one has the same names and shapes."""
    model = build_detector("resnet18@0.125", "detr", num_classes=3)
    state, body = model.state_dict(), "model.backbone.conv_encoder.model."
    theirs = {key: value for key, value in to_transformers_detr(state).items() if not key.startswith(body)}
    theirs |= {key.replace("backbone.", body, 1): value for key, value in state.items() if key.startswith("backbone.")}
    found = convert_state(theirs)
    assert found.format == "transformers DETR"
    assert found.state.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in found.state.items())
    assert convert_state(theirs | {"model.encoder.layernorm.weight": torch.ones(256)}).format == "unknown"
    save_file({key: value.clone() for key, value in theirs.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "detr", "dilation": True}))
    with pytest.raises(UsageError, match="dilat"):
        load_checkpoint(model, tmp_path)


def test_resnets_of_other_strides_are_refused_and_bare_ones_are_read(tmp_path: Path) -> None:
    model, folder = Classifier(_resnet(block="bottleneck"), 3), tmp_path / "out"
    export_layout(model, folder, "transformers", class_names=NAMES)
    bare = tmp_path / "bare"
    transformers.ResNetModel.from_pretrained(folder).save_pretrained(bare)
    again = Classifier(_resnet(block="bottleneck"), 3)
    assert {name for name, _ in load_checkpoint(again, bare).missing} == {"head.weight", "head.bias"}
    assert torch.equal(again.backbone.layer4[0].conv2.weight, model.backbone.layer4[0].conv2.weight)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"downsample_in_bottleneck": True}))
    with pytest.raises(UsageError, match="downsample_in_bottleneck True"):
        read_checkpoint(folder)
