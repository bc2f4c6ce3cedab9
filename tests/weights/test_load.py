"""What `load_checkpoint` takes, refuses and reports."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pvtctl
from pvtctl.errors import ExitCode, PvtctlError, UsageError
from pvtctl.io.download import record_path
from pvtctl.io.files import sha256_of
from pvtctl.models.backbones import build_backbone, build_classifier
from pvtctl.models.layers.patches import resize_position_table
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.report import LoadReport
from pvtctl.weights.resolve import resolve_weights
from pvtctl.weights.save import save_safetensors

NAME = "pvt_v2_b0@0.25"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return build_classifier(NAME, num_classes=4).state_dict()


def _same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(found[key], expected[key]) for key in expected)


def test_own_file_round_trip(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "best.safetensors"
    meta = {"backbone": NAME, "num_classes": 4, "class_names": ["a", "b", "c", "d"], "image_size": 224, "score": 0.5}
    save_safetensors(path, state, meta)
    assert read_checkpoint(path).format == "pvtctl"
    assert read_checkpoint(path).meta.as_json() == meta | {"pvtctl_version": pvtctl.__version__}
    for source in (path, str(path), tmp_path, str(tmp_path)):  # the file, or the run folder
        model = build_classifier(NAME, num_classes=4)
        report = load_checkpoint(model, source)
        assert report.source == str(path)
        assert _same(model.state_dict(), state)
    assert resolve_weights(str(tmp_path)) == path


def test_run_without_best_weights_gives_its_newest_checkpoint(tmp_path: Path, state: dict[str, Tensor]) -> None:
    (tmp_path / "checkpoints").mkdir()
    for step in (9, 10):
        torch.save({"model": state, "step": step, "ema": None}, tmp_path / "checkpoints" / f"step-{step:08d}.pt")
    assert resolve_weights(str(tmp_path)) == tmp_path / "checkpoints" / "step-00000010.pt"
    assert load_checkpoint(build_classifier(NAME, num_classes=4), tmp_path).backbone_share == 1.0


def test_full_disk_keeps_the_file_that_was_there(
    tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.safetensors"
    path.write_bytes(b"before")

    def full(file: Path, content: bytes) -> None:
        with file.open("wb") as handle:
            handle.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PvtctlError, match="the disk is full"):
        save_safetensors(path, state, {})
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["best.safetensors"]


def test_metadata_that_is_not_quite_json(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_safetensors(tmp_path / "w.safetensors", state, {"score": float("nan")})
    assert read_checkpoint(tmp_path / "w.safetensors").meta.as_json()["score"] is None


def test_saving_takes_a_module_in_any_memory_format(tmp_path: Path) -> None:
    model = build_classifier("resnet18@0.25", num_classes=2).to(memory_format=torch.channels_last)
    save_safetensors(tmp_path / "a.safetensors", model, {})
    again = build_classifier("resnet18@0.25", num_classes=2)
    load_checkpoint(again, tmp_path / "a.safetensors")
    assert _same(again.state_dict(), model.state_dict())


def test_public_functions_load(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_safetensors(tmp_path / "w.safetensors", state, {})
    assert _same(pvtctl.create_classifier(NAME, 4, weights=tmp_path / "w.safetensors").state_dict(), state)
    backbone = pvtctl.create_backbone(NAME, weights=state)
    assert pvtctl.load_weights(backbone, tmp_path / "w.safetensors").backbone_share == 1.0


@pytest.mark.parametrize("wrap", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_are_taken_off(state: dict[str, Tensor], wrap: str) -> None:
    report = load_checkpoint(build_backbone(NAME), {wrap + key: value for key, value in state.items()})
    assert (report.format, report.model, report.backbone_share) == ("pvtctl", f"{NAME} or pvt_v2_b1@0.125", 1.0)


@pytest.mark.parametrize("inside", ["model", "state_dict", "model_ema"])
def test_training_checkpoints(tmp_path: Path, state: dict[str, Tensor], inside: str) -> None:
    import argparse

    torch.save({inside: state, "epoch": 7, "args": argparse.Namespace(lr=1.0)}, tmp_path / "checkpoint.pth")
    checkpoint = read_checkpoint(tmp_path / "checkpoint.pth")
    assert checkpoint.meta.as_json() == {"inside": inside, "epoch": 7}
    assert _same(checkpoint.state, state)


def test_plain_weights_are_preferred_to_averaged_ones_and_said_so(tmp_path: Path, state: dict[str, Tensor]) -> None:
    averaged = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({"model": state, "ema": {"module": averaged, "updates": 3}, "model_ema": None}, tmp_path / "step.pt")
    model = build_classifier(NAME, num_classes=4)
    report = load_checkpoint(model, tmp_path / "step.pt")
    assert _same(model.state_dict(), state)
    assert "note: taken from 'model'; the file also holds ema" in report.summary()


def test_another_model_is_named_and_nothing_changes() -> None:
    state, module = build_classifier("pvt_v2_b0", num_classes=4).state_dict(), build_backbone("pvt_v2_b1")
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(UsageError, match=r"holds pvt_v2_b0 \(pvtctl layout\), not pvt_v2_b1: \d") as caught:
        load_checkpoint(module, state)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "backbone.stages.3.blocks.0.mlp.fc2.weight (file 256x1024, here 512x2048)" in str(caught.value)
    assert "build pvt_v2_b0" in str(caught.value.hint)
    assert _same(module.state_dict(), before)


def test_deeper_model_of_the_same_widths_is_refused() -> None:
    """Each parameter of PVT-Tiny is in a PVT-Small file, and yet it is another model."""
    small = build_backbone("pvt_small@0.25").state_dict()
    with pytest.raises(UsageError, match=r"pvt_small@0.25 .*\(pvtctl layout\), not pvt_tiny@0.25: 140 of its tensors"):
        load_checkpoint(build_backbone("pvt_tiny@0.25"), small)
    assert load_checkpoint(build_backbone("pvt_tiny@0.25"), small, partial=True).backbone_share == 1.0


def test_partial_load_says_what_is_missing(state: dict[str, Tensor]) -> None:
    cut = {key: value for key, value in state.items() if "stages.3" not in key}
    with pytest.raises(UsageError, match=r"not in the file: backbone\.stages\.3\.patch_embed\.proj\.weight") as caught:
        load_checkpoint(build_classifier(NAME, num_classes=4), cut)
    assert "--partial" in str(caught.value.hint)
    report = load_checkpoint(build_classifier(NAME, num_classes=4), cut, partial=True)
    assert 0.1 < report.backbone_share < 0.95
    assert all("stages.3" in name for name, _ in report.missing)


def test_lost_running_statistics_are_refused() -> None:
    """They are no parameters, but a ResNet without them computes nonsense."""
    state = {k: v for k, v in build_backbone("resnet18@0.25").state_dict().items() if "running_var" not in k}
    with pytest.raises(UsageError, match="running_var"):
        load_checkpoint(build_backbone("resnet18@0.25"), state)


def test_file_of_no_known_model_is_refused_even_in_part() -> None:
    with pytest.raises(UsageError, match=r"no model that pvtctl knows \(1 tensor: trunk\.0\.weight"):
        load_checkpoint(build_backbone(NAME), {"trunk.0.weight": torch.zeros(3)}, partial=True)


def test_not_finite_weights_are_reported(state: dict[str, Tensor]) -> None:
    bad = dict(state) | {"head.bias": torch.tensor([0.0, float("nan"), 0.0, float("inf")])}
    report = load_checkpoint(build_classifier(NAME, num_classes=4), bad)
    assert report.nonfinite == ["head.bias"]
    assert "warning: NaN or infinity in head.bias" in report.summary()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_finite_weights_are_not_whatever_their_sum(state: dict[str, Tensor], dtype: torch.dtype) -> None:
    largest, infinite = torch.finfo(dtype).max, float("inf")
    for values, told in (([largest] * 4, []), ([infinite, -infinite, 0.0, 0.0], ["head.bias"])):
        mixed = dict(state) | {"head.bias": torch.tensor(values, dtype=dtype)}
        assert load_checkpoint(build_classifier(NAME, num_classes=4), mixed).nonfinite == told


def test_half_precision_file(state: dict[str, Tensor]) -> None:
    model = build_classifier(NAME, num_classes=4)
    load_checkpoint(model, {key: value.half() for key, value in state.items()})
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(model.head.weight, state["head.weight"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["pvt_tiny", "deit_tiny_patch16"])
def test_position_tables_of_another_image_size(name: str) -> None:
    source = build_classifier(name, num_classes=2, image_size=224)
    target = build_classifier(name, num_classes=2, image_size=384)
    report = load_checkpoint(target, source.state_dict())
    assert report.backbone_share == 1.0
    key, grid = ("backbone.stages.3.pos_embed", "7x7 to 12x12")
    if name.startswith("deit"):
        key, grid = ("backbone.pos_embed", "14x14 to 24x24")
    assert dict(report.resized)[key] == grid
    there, here = source.state_dict()[key], target.state_dict()[key]
    side, wanted = (7, 12) if "stages" in key else (14, 24)
    torch.testing.assert_close(here[:, :1], there[:, :1])
    torch.testing.assert_close(here[:, 1:], resize_position_table(there[:, 1:], (side, side), (wanted, wanted)))


def _heads(
    rows: int, class_names: list[str] | None, source: list[str] | None, *, state: dict[str, Tensor]
) -> tuple[LoadReport, Tensor, Tensor]:
    """The report, and the head's weight before and after."""
    model = build_classifier(NAME, num_classes=rows)
    before = model.head.weight.detach().clone()
    report = load_checkpoint(model, state, class_names=class_names, source_class_names=source)
    return report, before, model.head.weight.detach()


def test_head_rows_go_by_name(state: dict[str, Tensor]) -> None:
    report, before, after = _heads(3, ["d", "new", "a"], ["a", "b", "c", "d"], state=state)
    assert (report.head_kept, report.head_new, report.head_dropped) == (2, 1, 2)
    assert torch.equal(after[0], state["head.weight"][3])
    assert torch.equal(after[1], before[1])
    assert torch.equal(after[2], state["head.weight"][0])
    assert "head: 2 classes kept, 1 new, 2 dropped (by class name)" in report.summary()


def test_head_names_in_the_file_come_first(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_safetensors(tmp_path / "w.safetensors", state, {"class_names": ["w", "x", "y", "z"]})
    model = build_classifier(NAME, num_classes=2)
    report = load_checkpoint(
        model, tmp_path / "w.safetensors", class_names=["z", "w"], source_class_names=["a", "b", "c", "d"]
    )
    assert (report.head_kept, report.head_new, report.head_dropped) == (2, 0, 2)
    assert torch.equal(model.head.bias, state["head.bias"][[3, 0]])


def test_head_of_equal_size_without_names_is_taken_whole(state: dict[str, Tensor]) -> None:
    report, _, after = _heads(4, ["a", "b", "c", "d"], None, state=state)
    assert (report.head_kept, report.head_new, report.head_dropped) == (4, 0, 0)
    assert torch.equal(after, state["head.weight"])


def test_head_of_another_size_without_names_is_new(state: dict[str, Tensor]) -> None:
    report, before, after = _heads(3, None, None, state=state)
    assert (report.head_kept, report.head_new, report.head_dropped) == (0, 3, 4)
    assert torch.equal(after, before)
    assert "no names to match them by" in report.summary()


def test_names_that_do_not_number_the_files_head_are_not_used(state: dict[str, Tensor]) -> None:
    report, _, _ = _heads(2, ["a", "b"], [str(row) for row in range(1000)], state=state)
    assert report.head_kept == 0


def test_wrong_number_of_class_names(state: dict[str, Tensor]) -> None:
    with pytest.raises(UsageError, match="2 class names were given for a head of 3 classes"):
        _heads(3, ["a", "b"], None, state=state)


def test_resolve_says_nearest_names_and_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVTCTL_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="no weights 'pvt_smal'") as caught:
        resolve_weights("pvt_smal")
    assert "did you mean pvt_small" in str(caught.value.hint)
    with pytest.raises(UsageError, match="not on this machine") as caught:
        resolve_weights("pvt_small")
    assert "pvtctl weights fetch pvt_small" in str(caught.value.hint)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "pvt_small.pth").write_bytes(b"x")
    assert resolve_weights("pvt_small") == tmp_path / "weights" / "pvt_small.pth"
    with pytest.raises(UsageError, match="no weights"):
        resolve_weights("x" * 300)
    with pytest.raises(UsageError, match="there is no file or folder runs/mine") as caught:
        resolve_weights("runs/mine")
    assert "pvt_small" not in str(caught.value.hint)  # a path was meant, no name


def test_a_fetched_file_is_checked_whenever_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVTCTL_CACHE", str(tmp_path))
    path = tmp_path / "weights" / "pvt_small.pth"
    path.parent.mkdir()
    path.write_bytes(b"x")
    record_path(path).write_text(json.dumps({"url": "https://example.org", "sha256": sha256_of(path)}))
    assert resolve_weights("pvt_small") == path
    path.write_bytes(b"y")
    with pytest.raises(PvtctlError, match="wrong hash"):
        resolve_weights("pvt_small")


@pytest.mark.parametrize("wrap", ["checkpoint", "averaged", "framework"])
def test_state_dicts_as_training_scripts_wrap_them(wrap: str, state: dict[str, Tensor]) -> None:
    model = build_classifier(NAME, num_classes=4)
    wrapped: dict[str, Any] = {
        "checkpoint": {"model": state, "epoch": 3},
        "averaged": {"n_averaged": torch.tensor(2)} | {f"module.{key}": value for key, value in state.items()},
        "framework": {f"model.{key}": value for key, value in state.items()},
    }[wrap]
    assert load_checkpoint(model, wrapped).backbone_share == 1.0
    assert _same(model.state_dict(), state)


def test_what_holds_no_tensors_is_refused() -> None:
    with pytest.raises(UsageError, match="the state dict holds no weights"):
        load_checkpoint(build_classifier(NAME, num_classes=4), {})


def test_a_head_whose_parts_do_not_fit_each_other_is_left_out(state: dict[str, Tensor]) -> None:
    for odd in ({"head.bias": torch.zeros(3)}, {"head.weight": torch.tensor(1.0)}):
        report = load_checkpoint(build_classifier(NAME, num_classes=4), state | odd)
        assert (report.backbone_share, report.head_kept) == (1.0, 0)
        assert "the file's head is" in report.head_note


def test_halves_of_a_key_value_matrix_are_refused_in_words() -> None:
    key = "pvt.encoder.block.0.0.attention.self.key.weight"
    odd = {"pvt.encoder.patch_embeddings.0.projection.weight": torch.zeros(64, 3, 4, 4), key: torch.zeros(4, 4)}
    for more in ({}, {key.replace("key", "value"): torch.zeros(4, 3)}):
        with pytest.raises(UsageError, match="transformers Pvt"):
            load_checkpoint(build_classifier("pvt_tiny", num_classes=4), odd | more)


def test_an_empty_position_table_is_left_out() -> None:
    state = build_backbone("pvt_tiny").state_dict() | {"stages.3.pos_embed": torch.zeros(1, 0, 512)}
    report = load_checkpoint(build_backbone("pvt_tiny"), state)
    assert [name for name, _ in report.mismatched] == ["backbone.stages.3.pos_embed"]
