"""Every layout gives, through the loader that users use, the outputs of the implementation that the file is from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pvtctl.models.backbones import backbone_names, build_backbone, build_classifier
from pvtctl.models.layers.shapes import without_values
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.recognise import _known_signature, convert_state, identify, to_publisher


def _shaken(model: nn.Module) -> nn.Module:
    """Every parameter and running statistic random, so that no two may be swapped unseen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator) * 0.02
                value.add_(noise.abs() if name.endswith("running_var") else noise)
    return model.eval()


def _outputs(theirs: nn.Module, name: str, source: Any = None, size: int = 224) -> tuple[Tensor, Tensor]:
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = theirs(image)
    expected = getattr(expected, "logits", expected)
    with without_values():  # the file's replace them all
        ours = build_classifier(name, num_classes=expected.shape[1]).eval()
    ours.to_empty(device="cpu").eval()
    report = load_checkpoint(ours, theirs.state_dict() if source is None else source)
    assert report.backbone_share == 1.0
    assert (report.head_kept, report.head_new) == (expected.shape[1], 0)
    assert report.model is not None
    assert name in report.model.split(" or ")
    assert not report.missing
    assert not report.unexpected
    with torch.inference_mode():
        return ours(image), expected


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("pvt_v2_b0", "pvt_v2_b0"),
        ("pvt_v2_b2_li", "pvt_v2_b2_li"),
        ("deit_tiny_patch16", "deit_tiny_patch16_224"),
        ("resnet18", "resnet18"),
    ],
)
def test_timm(name: str, theirs: str) -> None:
    timm = pytest.importorskip("timm", reason="needs the timm extra")
    size = 224 if "deit" in name else 96
    found, expected = _outputs(_shaken(timm.create_model(theirs, num_classes=7)), name, size=size)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("timm_name", ["resnet18", "pvt_v2_b0", "deit_tiny_patch16_224"])
def test_timm_file_into_timm_backbone(timm_name: str) -> None:
    timm = pytest.importorskip("timm", reason="needs the timm extra")
    theirs = _shaken(timm.create_model(timm_name, num_classes=7))
    ours = build_backbone(f"timm:{timm_name}").eval()
    report = load_checkpoint(ours, theirs.state_dict())
    assert report.backbone_share == 1.0
    assert {name for name, _ in report.dropped} >= ({"fc.weight"} if "resnet" in timm_name else {"timm.head.weight"})
    if timm_name == "resnet18":
        image = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(ours(image)[-1], theirs.forward_features(image))
    again = build_backbone(f"timm:{timm_name}")
    assert load_checkpoint(again, ours.state_dict()).backbone_share == 1.0
    classifier = build_classifier(f"timm:{timm_name}", num_classes=3)
    assert load_checkpoint(classifier, build_classifier(f"timm:{timm_name}", num_classes=3).state_dict()).head_kept == 3


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_torchvision(name: str) -> None:
    import torchvision

    found, expected = _outputs(_shaken(torchvision.models.get_model(name, num_classes=5)), name, size=96)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def _transformers(kind: str, **config: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="needs the hub extra")
    model = getattr(transformers, f"{kind}ForImageClassification")
    return _shaken(model(getattr(transformers, f"{kind}Config")(num_labels=6, **config)))


def test_transformers_pvt() -> None:
    found, expected = _outputs(_transformers("Pvt"), "pvt_tiny")
    # transformers uses eps 1e-6 in the norms where the original code, and ours, have 1e-5
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("pvt_v2_b0", {}),
        ("pvt_v2_b2_li", {"linear_attention": True, "hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 6, 3]}),
    ],
)
def test_transformers_pvt_v2(name: str, config: dict[str, Any]) -> None:
    found, expected = _outputs(_transformers("PvtV2", **config), name, size=96)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("as_bin", [False, True])
def test_transformers_folder(tmp_path: Path, as_bin: bool) -> None:
    model = _transformers("PvtV2")
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    if as_bin:
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    found, expected = _outputs(model, "pvt_v2_b0", tmp_path)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-4)
    assert read_checkpoint(tmp_path).meta.as_json()["model_type"] == "pvt_v2"


def test_transformers_bare_model() -> None:
    """`PvtModel` saves without the `pvt.` prefix and without a classifier."""
    state = {k.removeprefix("pvt."): v for k, v in _transformers("Pvt").state_dict().items() if "classifier" not in k}
    report = load_checkpoint(build_classifier("pvt_tiny", num_classes=4), state)
    assert report.backbone_share == 1.0
    assert report.head_note == "the file has no head"


PARITY_MODELS = [
    ("pvt_tiny", "pvt_tiny"),
    ("pvt_v2_b0", "pvt_v2_b0"),
    ("pvt_v2_b2_li", "pvt_v2_b2_li"),
    ("resnet18", "resnet18"),
    ("deit_tiny_patch16_224", "deit_tiny_patch16"),
]


@pytest.mark.parametrize(("manifest", "name"), PARITY_MODELS)
def test_original_layouts(original_state: Callable[[str], dict[str, Tensor]], manifest: str, name: str) -> None:
    state = original_state(manifest)
    converted = convert_state(state)
    assert identify(converted.state) == [name]
    back = to_publisher(converted.state)
    assert back.keys() == state.keys()
    assert all(back[key] is state[key] for key in state)
    for build in (build_classifier, build_backbone):
        with without_values():
            module = build(name)
        module.to_empty(device="cpu")
        report = load_checkpoint(module, state)
        assert report.backbone_share == 1.0
        assert not report.unexpected
        assert not report.missing


def test_official_dense_layout(original_state: Callable[[str], dict[str, Tensor]]) -> None:
    """The official detection code saves `backbone.*` beside `neck.*` and `bbox_head.*`, without a class token."""
    dense = {f"backbone.{key}": value for key, value in original_state("pvt_tiny_pyramid").items()}
    dense |= {"neck.fpn.weight": torch.zeros(3), "bbox_head.head.weight": torch.zeros(2)}
    module = build_backbone("pvt_tiny")
    report = load_checkpoint(module, {"module." + key: value for key, value in dense.items()})
    assert (report.format, report.model, report.backbone_share) == ("official PVT", "pvt_tiny", 1.0)
    assert [name for name, _ in report.dropped] == ["neck.fpn.weight", "bbox_head.head.weight"]
    torch.testing.assert_close(module.state_dict()["stages.3.pos_embed"], dense["backbone.pos_embed4"])


def test_class_token_is_left_out_of_dense_models(original_state: Callable[[str], dict[str, Tensor]]) -> None:
    report = load_checkpoint(build_backbone("pvt_tiny"), original_state("pvt_tiny"))
    reasons = dict(report.dropped)
    assert reasons["backbone.class_token"] == reasons["backbone.norm.weight"] == "for classification only"
    assert reasons["head.weight"] == "no classification head here"
    assert report.backbone_share == 1.0


def test_every_backbone_is_told_from_the_others() -> None:
    for name in backbone_names():
        shapes = _known_signature(name)  # those of the model, which takes long to build
        state = {f"backbone.{key}": torch.empty(shape, device="meta") for key, shape in shapes.items()}
        twins = ["deit_base_patch16", "vit_base_patch16"]  # one shape, two names
        assert identify(state) == (twins if name in twins else [name])
