"""What `load_checkpoint` does with segmentation and depth models: what it takes, matches by class name, and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pvtctl.api import create_depth_model, create_segmenter
from pvtctl.errors import UsageError
from pvtctl.io.normalization import HALF
from pvtctl.models.backbones import build_backbone, build_classifier
from pvtctl.models.dense import DenseModel, build_depth_model, build_segmenter
from pvtctl.models.detector import build_detector
from pvtctl.models.layers.patches import resize_position_table
from pvtctl.models.layers.shapes import without_values
from pvtctl.weights import read
from pvtctl.weights.catalogue import find_published, published_with_hash
from pvtctl.weights.convert import convert_file
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.files.pixels import Pixels
from pvtctl.weights.identify import identify_head
from pvtctl.weights.inspect import inspect_file, verify_weights
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.recognise import to_publisher
from pvtctl.weights.save import save_safetensors

BACKBONE = "pvt_v2_b0"
NAMES = ["sky", "tree", "road"]
State = dict[str, Tensor]
# backbone, head, task, options
MODELS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "semantic_fpn": (BACKBONE, "semantic_fpn", "segmentation", {}),
    "trans2seg": (BACKBONE, "trans2seg", "segmentation", {"embed_dim": 128, "depth": 2}),
    "deeplabv3plus": ("resnet18c", "deeplabv3plus", "segmentation", {"width": 32, "auxiliary_weight": 0.4}),
    "dpt": (BACKBONE, "dpt", "segmentation", {}),
    "dpt_depth": ("deit_tiny_patch16", "dpt", "depth", {}),
    "midas": ("resnet18", "midas", "depth", {}),
}


def _build(kind: str, classes: int = 3, **options: Any) -> DenseModel:
    backbone, head, task, own = MODELS[kind]
    name: Any = head
    if task == "depth":
        return build_depth_model(backbone, name, head_options=own | options)
    return build_segmenter(backbone, name, num_classes=classes, head_options=own | options)


def _blank(kind: str, classes: int = 3, **options: Any) -> DenseModel:
    """Without starting values, which take longest: all 7."""
    with without_values():
        model = _build(kind, classes, **options)
    return _filled(model)


def _filled(model: Any) -> Any:
    model.to_empty(device="cpu")
    with torch.no_grad():
        for value in model.state_dict().values():
            value.fill_(7)
    return model


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    """A model of each kind with random numbers."""
    found = {}
    for kind in MODELS:
        torch.manual_seed(0)
        with without_values():
            shapes = _build(kind).state_dict()
        found[kind] = {
            key: torch.rand(value.shape) + 0.1
            if value.is_floating_point()
            else torch.zeros(value.shape, dtype=value.dtype)
            for key, value in shapes.items()
        }
    return found


def _same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("kind", MODELS)
def test_own_file_round_trip(kind: str, states: dict[str, State], tmp_path: Path) -> None:
    backbone, head, task, _ = MODELS[kind]
    meta: dict[str, Any] = {"backbone": backbone, "head": head, "task": task, "mean": [0.5] * 3, "std": [0.5] * 3}
    meta |= {"scale_shift": [0.5, 0.25]} if task == "depth" else {"class_names": NAMES}
    save_safetensors(tmp_path / "best.safetensors", states[kind], meta)
    model = _blank(kind)
    report = load_checkpoint(model, tmp_path, class_names=NAMES if task == "segmentation" else None)
    assert _same(model.state_dict(), states[kind])
    assert (report.backbone_share, report.above_share) == (1.0, 1.0)
    assert report.head_kept == (3 if task == "segmentation" else 0)
    assert not any((report.missing, report.unexpected, report.mismatched, report.dropped, report.nonfinite))
    assert "neck and head: 100.0 %" in report.summary()
    assert ("note: the file's metres are made with the scale_shift 0.5, 0.25" in report.summary()) == (task == "depth")
    checkpoint = read_checkpoint(tmp_path / "best.safetensors")
    found = identify_head(checkpoint.state, checkpoint.format, checkpoint.meta)
    assert found is not None
    assert (found.head, found.task, checkpoint.pixels) == (head, task, Pixels(HALF, "its metadata"))
    assert found.backbones == [backbone]
    assert found.scale_shift == ((0.5, 0.25) if task == "depth" else None)
    assert found.class_names == (NAMES if task == "segmentation" else None)


def _table(state: State, kind: str) -> list[tuple[Tensor, int]]:
    """(the parameters that have rows for classes, in which dimension)"""
    names = {
        "semantic_fpn": ["head.classifier.weight", "head.classifier.bias"],
        "trans2seg": ["head.cls_embed"],
        "deeplabv3plus": ["head.classifier.weight", "head.auxiliary.2.weight", "head.auxiliary.2.bias"],
        "dpt": ["head.output.last.weight", "head.output.last.bias", "head.auxiliary.last.weight"],
    }
    return [(state[name], 1 if name == "head.cls_embed" else 0) for name in names[kind]]


@pytest.mark.parametrize("kind", ["semantic_fpn", "trans2seg", "deeplabv3plus", "dpt"])
def test_rows_of_classes_go_by_name(kind: str, states: dict[str, State]) -> None:
    model = _blank(kind, classes=4)
    report = load_checkpoint(model, states[kind], class_names=["road", "car", "sky", "bus"], source_class_names=NAMES)
    assert (report.head_kept, report.head_new, report.head_dropped) == (2, 2, 1)
    for (ours, dim), (theirs, _) in zip(_table(model.state_dict(), kind), _table(states[kind], kind), strict=True):
        assert torch.equal(ours.select(dim, 0), theirs.select(dim, 2))
        assert torch.equal(ours.select(dim, 2), theirs.select(dim, 0))
        assert bool((ours.select(dim, 1) == 7).all())
        assert bool((ours.select(dim, 3) == 7).all())
    unnamed = load_checkpoint(_blank(kind, classes=4), states[kind])
    assert (unnamed.head_kept, unnamed.above_share) == (0, 1.0)
    with pytest.raises(UsageError, match="2 class names were given for a head of 3 classes"):
        load_checkpoint(_blank(kind), states[kind], class_names=["a", "b"])


def test_classifier_fills_the_backbone_alone() -> None:
    source = build_classifier(BACKBONE, num_classes=5)
    model = _blank("semantic_fpn")
    report = load_checkpoint(model, source.state_dict(), class_names=NAMES)
    assert _same(model.backbone.state_dict(), source.backbone.state_dict())
    assert all(bool((value == 7).all()) for value in model.head.state_dict().values())
    assert (report.above_loaded, report.head_kept, report.head_new) == (0, 0, 3)
    assert "neck and head: start fresh (the file holds no segmentation model)" in report.summary()


def test_dpt_from_a_classifier_with_another_grid() -> None:
    torch.manual_seed(0)
    source = build_classifier("deit_tiny_patch16", num_classes=3, image_size=64)
    model = build_depth_model("deit_tiny_patch16", "dpt", backbone_options={"image_size": 96})
    report = load_checkpoint(model, source.state_dict())
    assert report.resized == [("backbone.pos_embed", "4x4 to 6x6")]
    theirs, ours = source.backbone.state_dict()["pos_embed"], model.backbone.state_dict()["pos_embed"]
    assert torch.equal(ours[:, :1], theirs[:, :1])
    torch.testing.assert_close(ours[:, 1:], resize_position_table(theirs[:, 1:], (4, 4), (6, 6)))
    assert "the file holds no depth model" in report.summary()


def test_tables_of_a_distilled_model_have_two_more_slots() -> None:
    with without_values():
        source = build_backbone("deit_base_distilled_patch16", image_size=32, drop_path_rate=0.0).state_dict()
        target = build_backbone("deit_base_distilled_patch16", image_size=48)
    state = {f"backbone.{key}": torch.rand(value.shape) for key, value in source.items()}
    report = load_checkpoint(_filled(target), state)
    assert report.resized == [("backbone.pos_embed", "2x2 to 3x3")]
    assert torch.equal(target.state_dict()["pos_embed"][:, :2], state["backbone.pos_embed"][:, :2])
    assert report.model == "deit_base_distilled_patch16"


@pytest.mark.parametrize("kind", ["semantic_fpn", "dpt"])
def test_dense_model_gives_its_backbone(kind: str, states: dict[str, State]) -> None:
    expected = {key: value for key, value in states[kind].items() if key.startswith("backbone.")}
    backbone = build_backbone(BACKBONE)
    report = load_checkpoint(backbone, states[kind])
    assert _same({f"backbone.{key}": value for key, value in backbone.state_dict().items()}, expected)
    assert not report.unexpected
    classifier = build_classifier(BACKBONE, num_classes=4)
    assert load_checkpoint(classifier, states[kind]).head_kept == 0


def _detector() -> nn.Module:
    with without_values():
        model = build_detector(BACKBONE, "retinanet", num_classes=3)
    filled: nn.Module = _filled(model)
    return filled


def test_other_heads_and_tasks_are_refused(states: dict[str, State]) -> None:
    cases: list[tuple[nn.Module, State, str, str]] = [
        (
            _blank("semantic_fpn"),
            states["dpt"],
            "holds a DPT for segmentation of pvt_v2_b0 (pvtctl layout), and this is a Semantic FPN",
            "build that (--head dpt), or ",
        ),
        (
            _blank("semantic_fpn"),
            _detector().state_dict(),
            "holds a RetinaNet of pvt_v2_b0 (pvtctl layout), and this is a Semantic FPN",
            "build that (--head retinanet), or ",
        ),
        (
            _detector(),
            states["semantic_fpn"],
            "holds a Semantic FPN of pvt_v2_b0 (pvtctl layout), and this is a RetinaNet",
            "build that (--head semantic_fpn), or ",
        ),
        (
            _blank("dpt"),
            states["dpt_depth"],
            "holds a DPT for depth of deit_tiny_patch16 (pvtctl layout), and this is a DPT for segmentation",
            "build that (--head dpt), or ",
        ),
    ]
    for model, state, message, hint in cases:
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(UsageError) as error:
            load_checkpoint(model, state)
        assert error.value.message == f"a state dict {message}"
        assert error.value.hint == f"{hint}pass --partial (partial=True) to take its backbone alone"
        assert _same(model.state_dict(), before)
    model = _blank("semantic_fpn")
    report = load_checkpoint(model, states["dpt"], partial=True)
    assert (report.backbone_share, report.above_loaded) == (1.0, 0)
    assert "neck and head: start fresh (the file holds a DPT for segmentation" in report.summary()


def test_heads_of_others_are_refused_by_name() -> None:
    source = build_classifier(BACKBONE, num_classes=5).state_dict()
    state = {key: value for key, value in source.items() if key.startswith("backbone.")}
    state["decode_head.psp_modules.0.1.conv.weight"] = torch.zeros(1)
    with pytest.raises(UsageError, match="UPerNet or PSPNet, which is not a pvtctl segmentation model") as error:
        load_checkpoint(_blank("semantic_fpn"), state)
    assert error.value.hint == "pass --partial (partial=True) to take its backbone alone"
    assert load_checkpoint(_blank("semantic_fpn"), state, partial=True).backbone_share == 1.0


def test_a_head_of_another_make_is_refused_with_its_options(states: dict[str, State]) -> None:
    with pytest.raises(UsageError, match=r"of another make: .* of neck and head would be loaded") as error:
        load_checkpoint(_blank("deeplabv3plus", width=64), states["deeplabv3plus"])
    assert error.value.hint == "build it with width=32, or pass --partial (partial=True) to load what fits"
    with pytest.raises(UsageError) as error:
        load_checkpoint(_blank("trans2seg", depth=3), states["trans2seg"])
    assert error.value.hint == "build it with depth=2, or pass --partial (partial=True) to load what fits"


def test_taps_that_the_file_states_must_agree(states: dict[str, State], tmp_path: Path) -> None:
    meta = {"backbone": "deit_tiny_patch16", "task": "depth", "head": "dpt", "head_options": {"taps": [6, 8, 10, 12]}}
    save_safetensors(tmp_path / "a.safetensors", states["dpt_depth"], meta)
    with pytest.raises(UsageError, match="with the taps 6, 8, 10, 12, and this one has 3, 6, 9, 12") as error:
        load_checkpoint(_blank("dpt_depth"), tmp_path / "a.safetensors")
    assert str(error.value.hint).startswith("build it with taps=6, 8, 10, 12, or ")
    model = _blank("dpt_depth", taps=[6, 8, 10, 12])
    assert load_checkpoint(model, tmp_path / "a.safetensors").above_share == 1.0


@pytest.mark.parametrize("readout", ["ignore", "add"])
def test_a_file_without_the_layers_of_a_readout_has_another(readout: str, states: dict[str, State]) -> None:
    """They are few enough to be missing otherwise, and the outputs would be noise."""
    plain = {key: value for key, value in states["dpt_depth"].items() if ".read." not in key}
    with pytest.raises(UsageError, match="with the readout ignore or add, and this one has project"):
        load_checkpoint(_blank("dpt_depth"), plain)
    assert load_checkpoint(_blank("dpt_depth", readout=readout), plain).above_share == 1.0


def test_the_auxiliary_head_may_be_missing_on_either_side(states: dict[str, State]) -> None:
    plain = {key: value for key, value in states["deeplabv3plus"].items() if not key.startswith("head.auxiliary.")}
    model = _blank("deeplabv3plus")
    report = load_checkpoint(model, plain)
    assert report.above_share == 1.0
    assert {reason for _, reason in report.missing} == {"for training only, starts fresh"}
    assert bool((model.state_dict()["head.auxiliary.2.weight"] == 7).all())
    report = load_checkpoint(_blank("deeplabv3plus", auxiliary_weight=0.0), states["deeplabv3plus"])
    assert report.above_share == 1.0
    assert {reason for name, reason in report.dropped} == {"for training only"}


def test_scale_and_shift_come_with_the_published_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nyu, kitti = find_published("dpt_hybrid_nyu"), find_published("dpt_hybrid_kitti")
    assert nyu is not None
    assert kitti is not None
    assert (nyu.scale_shift, kitti.scale_shift) == ((3.05e-4, 0.1378), (6.016e-5, 0.00579))
    assert published_with_hash("2ce69ec7" + 56 * "0") is nyu
    assert published_with_hash(64 * "0") is None
    original = {
        "scratch.refinenet1.out_conv.weight": torch.zeros(1),
        "scratch.output_conv.2.weight": torch.zeros(1),
        "pretrained.act_postprocess4.3.weight": torch.zeros(1),
        "pretrained.model.pos_embed": torch.zeros(1),
    }
    torch.save(original, tmp_path / "any name.pt")
    assert "scale_shift" not in read_checkpoint(tmp_path / "any name.pt").meta.as_json()
    monkeypatch.setattr(read, "published_with_hash", lambda _: nyu)
    checkpoint = read_checkpoint(tmp_path / "any name.pt")
    assert checkpoint.meta.scale_shift == [3.05e-4, 0.1378]
    assert checkpoint.pixels == Pixels(HALF, "its publisher's code")


def test_google_vits_of_384_have_pixels_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "published_with_hash", lambda _: find_published("vit_base_patch16_384"))
    source = build_backbone("deit_tiny_patch16", image_size=384).state_dict()
    theirs = {key.replace("class_token", "cls_token"): value for key, value in source.items()}
    torch.save(theirs, tmp_path / "vit.pth")
    found = inspect_checkpoint(tmp_path / "vit.pth")
    assert (found.backbone, found.pixels) == ("deit_tiny_patch16", Pixels(HALF, "its publisher's code"))
    convert_file(tmp_path / "vit.pth", tmp_path / "ours.safetensors")
    assert read_checkpoint(tmp_path / "ours.safetensors").pixels == Pixels(HALF, "its metadata")


def test_class_names_of_mmsegmentation_lose_their_blanks(states: dict[str, State], tmp_path: Path) -> None:
    content = {"meta": {"CLASSES": ("sky", "bed ", "road")}, "state_dict": to_publisher(states["semantic_fpn"])}
    torch.save(content, tmp_path / "a.pth")
    report = load_checkpoint(_blank("semantic_fpn", 2), tmp_path / "a.pth", class_names=["bed", "sky"])
    assert (report.format, report.head_kept) == ("mmsegmentation Semantic FPN", 2)


def test_inspect_convert_and_verify(states: dict[str, State], tmp_path: Path) -> None:
    content = {"meta": {"CLASSES": tuple(NAMES)}, "state_dict": to_publisher(states["deeplabv3plus"])}
    torch.save(content, tmp_path / "a.pth")
    found = inspect_file(tmp_path / "a.pth")
    assert (found.models, found.head, found.task, found.classes) == (["resnet18c"], "deeplabv3plus", "segmentation", 3)
    assert (found.class_names, found.output_stride) == (NAMES, 8)
    done = convert_file(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert (done.head, done.backbone, done.classes) == ("deeplabv3plus", "resnet18c", 3)
    again = inspect_file(tmp_path / "a.safetensors")
    assert (again.format, again.class_names, again.output_stride) == ("pvtctl", NAMES, 8)
    assert again.head_options == {"width": 32, "projection": 1}
    assert (again.normalization["name"], again.normalization["source"]) == ("imagenet", "its metadata")
    convert_file(tmp_path / "a.safetensors", tmp_path / "b.pth", to="official")
    assert _same(read_checkpoint(tmp_path / "b.pth").state, read_checkpoint(tmp_path / "a.pth").state)
    assert verify_weights(str(tmp_path / "a.safetensors")).ok
    save_safetensors(tmp_path / "dpt.safetensors", states["dpt_depth"], {"scale_shift": [1.0, 2.0]})
    depth = inspect_file(tmp_path / "dpt.safetensors")
    assert (depth.task, depth.head, depth.classes, depth.scale_shift) == ("depth", "dpt", None, (1.0, 2.0))
    with pytest.raises(UsageError, match="whose original has further, unused layers") as error:
        convert_file(tmp_path / "dpt.safetensors", tmp_path / "c.pth", to="official")
    assert error.value.hint == "leave --to out, to write ours"


def test_the_public_functions(states: dict[str, State], tmp_path: Path) -> None:
    save_safetensors(tmp_path / "metric.safetensors", states["dpt_depth"], {"scale_shift": [0.25, 0.5]})
    assert create_depth_model("deit_tiny_patch16", weights=tmp_path / "metric.safetensors").scale_shift == (0.25, 0.5)
    segmenter = create_segmenter(BACKBONE, "semantic_fpn", 3, weights=states["semantic_fpn"], drop_path_rate=0.1)
    assert _same(segmenter.state_dict(), states["semantic_fpn"])
    depth = create_depth_model("deit_tiny_patch16", weights=states["dpt_depth"], scale_shift=(0.5, 0.1))
    assert depth.scale_shift == (0.5, 0.1)
    assert _same(depth.state_dict(), states["dpt_depth"])
