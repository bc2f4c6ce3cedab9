"""Converting, inspecting and verifying files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.models.backbones import build_backbone, build_classifier
from pvtctl.models.layers.shapes import without_values
from pvtctl.weights import convert as convert_module
from pvtctl.weights.convert import convert_file, model_of
from pvtctl.weights.inspect import inspect_file, verify_weights
from pvtctl.weights.read import Checkpoint, read_checkpoint, read_raw
from pvtctl.weights.recognise import identify
from pvtctl.weights.save import save_safetensors


@pytest.fixture
def resnet(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    import torchvision

    state = torchvision.models.resnet18(num_classes=3).state_dict()
    torch.save(state, tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth", state


def test_to_ours_and_back(tmp_path: Path, resnet: tuple[Path, dict[str, Tensor]]) -> None:
    source, state = resnet
    done = convert_file(source, tmp_path / "ours.safetensors")
    assert (done.backbone, done.format, done.classes, done.compared_with) == (
        "resnet18",
        "torchvision ResNet",
        3,
        "torchvision",
    )
    assert done.difference is not None
    assert done.difference < 1e-5
    meta = read_checkpoint(tmp_path / "ours.safetensors").meta
    assert (meta.backbone, meta.num_classes) == ("resnet18", 3)
    assert (meta.converted_from or {})["file"] == "theirs.pth"

    back = convert_file(tmp_path / "ours.safetensors", tmp_path / "back.pth", to="official")
    assert back.format == "pvtctl"
    raw, _ = read_raw(tmp_path / "back.pth")
    assert raw.keys() == state.keys()
    assert all(torch.equal(raw[key], state[key]) for key in state)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_official_pvt_round_trip(
    tmp_path: Path, original_state: Callable[[str], dict[str, Tensor]], suffix: str
) -> None:
    state = original_state("pvt_tiny")
    torch.save({"model": state}, tmp_path / "pvt.pth")
    assert convert_file(tmp_path / "pvt.pth", tmp_path / "ours.safetensors").backbone == "pvt_tiny"
    out = tmp_path / f"official.{suffix}"
    convert_file(tmp_path / "ours.safetensors", out, to="official")
    raw, _ = read_raw(out)
    assert raw.keys() == state.keys()
    assert all(torch.equal(raw[key], state[key]) for key in state)


def test_timm_file_is_compared_with_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="needs the timm extra")
    torch.save(timm.create_model("pvt_v2_b0", num_classes=3).state_dict(), tmp_path / "t.pth")
    done = convert_file(tmp_path / "t.pth", tmp_path / "o.safetensors")
    assert (done.backbone, done.compared_with) == ("pvt_v2_b0", "timm")


def test_differing_outputs_write_nothing(
    tmp_path: Path, resnet: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_module, "TOLERANCE", -1.0)
    with pytest.raises(PvtctlError, match="gives other outputs than torchvision"):
        convert_file(resnet[0], tmp_path / "ours.safetensors")
    assert not (tmp_path / "ours.safetensors").exists()


def test_existing_file_is_kept_unless_forced(tmp_path: Path, resnet: tuple[Path, dict[str, Tensor]]) -> None:
    out = tmp_path / "ours.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        convert_file(resnet[0], out)
    assert out.read_bytes() == b"mine"
    convert_file(resnet[0], out, overwrite=True)
    assert read_checkpoint(out).format == "pvtctl"


@pytest.mark.parametrize(
    ("out", "to", "backbone", "message"),
    [
        ("o.npz", "ours", None, "no known ending"),
        ("o.pth", "ours", None, "written as safetensors"),
        ("o.safetensors", "ours", "pvt_tiny", "holds resnet18, not pvt_tiny"),
    ],
)
def test_what_is_refused(
    tmp_path: Path,
    resnet: tuple[Path, dict[str, Tensor]],
    out: str,
    to: Literal["ours", "official"],
    backbone: str | None,
    message: str,
) -> None:
    with pytest.raises(UsageError, match=message):
        convert_file(resnet[0], tmp_path / out, to=to, backbone=backbone)


def test_unknown_model_is_refused(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(UsageError, match="holds no model that pvtctl knows"):
        convert_file(tmp_path / "a.pth", tmp_path / "o.safetensors")


def test_models_of_one_shape_are_told_by_the_user() -> None:
    with without_values():
        state = {f"backbone.{key}": value for key, value in build_backbone("vit_base_patch16").state_dict().items()}
    assert identify(state) == ["deit_base_patch16", "vit_base_patch16"]
    assert model_of(Checkpoint(state, "pvtctl"), "vit_base_patch16") == "vit_base_patch16"
    assert model_of(Checkpoint(state, "pvtctl", CheckpointMeta(backbone="vit_base_patch16"))) == "vit_base_patch16"
    assert model_of(Checkpoint(state, "pvtctl")) == "deit_base_patch16"


@pytest.mark.parametrize("name", ["pvt_small@0.25", "pvt_medium@0.25", "resnet50_gc_r4@0.25", "pvt_v2_b0@0.5"])
def test_narrower_models_are_known_by_their_shapes(name: str) -> None:
    with without_values():
        state = {f"backbone.{key}": value for key, value in build_backbone(name).state_dict().items()}
    assert identify(state)[0] == name
    state["backbone.one_more"] = torch.zeros(3)
    assert identify(state) == []


def test_inspection(tmp_path: Path) -> None:
    model = build_classifier("pvt_tiny", num_classes=5, image_size=96)
    with torch.no_grad():
        model.head.bias[1] = float("nan")
    save_safetensors(tmp_path / "w.safetensors", model, {"class_names": list("abcde")})
    found = inspect_file(tmp_path / "w.safetensors")
    assert (found.format, found.models, found.classes, found.image_size) == ("pvtctl", ["pvt_tiny"], 5, 96)
    assert found.params == sum(parameter.numel() for parameter in model.parameters())
    assert found.backbone_params == found.params - 5 * 513
    assert found.dtypes == {"float32": found.params}
    assert found.nonfinite == ["head.bias"]
    assert found.meta["class_names"] == list("abcde")
    assert found.largest[0]["name"].startswith("backbone.stages.3")


def test_buffers_are_no_parameters(resnet: tuple[Path, dict[str, Tensor]]) -> None:
    assert inspect_file(resnet[0]).params == 11_176_512 + 3 * 513


def test_verdicts(tmp_path: Path, resnet: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVTCTL_CACHE", str(tmp_path))
    assert verify_weights(str(resnet[0])).as_dict() == {
        "name": str(resnet[0]),
        "ok": True,
        "path": str(resnet[0]),
        "hash": "unknown",
        "models": ["resnet18"],
        "fault": None,
        "hint": None,
    }
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "pvt_v2_b0.pth").write_bytes(resnet[0].read_bytes())
    assert verify_weights("pvt_v2_b0").fault == "holds resnet18, not pvt_v2_b0"
    (folder / "resnet18-f37072fd.pth").write_bytes(resnet[0].read_bytes())
    wrong = verify_weights("resnet18")
    assert (wrong.ok, wrong.hash) == (False, "publisher")
    assert "wrong hash" in str(wrong.fault)
    assert not verify_weights("resnet50").ok
    torch.save(resnet[1] | {"fc.bias": torch.full((3,), float("inf"))}, tmp_path / "inf.pth")
    assert verify_weights(str(tmp_path / "inf.pth")).fault == "holds NaN or infinity in head.bias"
