"""`pvtctl weights` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pvtctl.cli.main import main
from pvtctl.models.backbones import build_classifier
from pvtctl.weights.save import save_safetensors


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PVTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PVTCTL_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache" / "weights"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    save_safetensors(path, build_classifier("pvt_v2_b0", num_classes=2), {"class_names": ["cat", "dog"]})
    return path


def test_inspect(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "inspect", str(file)]) == 0
    out = capsys.readouterr().out
    for word in ("pvtctl", "pvt_v2_b0", "3,410,274", "float32", "['cat', 'dog']", "none"):
        assert word in out


def test_inspect_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "inspect", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["models"], found["classes"], found["params"]) == (["pvt_v2_b0"], 2, 3_410_274)
    assert found["meta"]["class_names"] == ["cat", "dog"]


def test_web_page_is_one_error_and_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w.pth").write_text("<!DOCTYPE html><html></html>")
    assert main(["weights", "inspect", str(tmp_path / "w.pth")]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: {tmp_path / 'w.pth'} is a web page, not a checkpoint"
    assert hint.startswith("hint: ")


def test_convert(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "official.pth"
    assert main(["weights", "convert", str(file), str(out), "--to", "official"]) == 0
    assert "pvt_v2_b0 (pvtctl layout)" in capsys.readouterr().err
    assert "patch_embed1.proj.weight" in torch.load(out, weights_only=True)
    assert main(["weights", "convert", str(file), str(out), "--to", "official"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["weights", "convert", str(out), str(tmp_path / "o.safetensors"), "--to", "onnx"]) == 2
    assert "one of: ours, official" in capsys.readouterr().err


def test_ls(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "ls"]) == 0
    assert "pvt_v2_b2_li" in capsys.readouterr().out
    assert main(["weights", "ls", "--json"]) == 0
    entries = {each["name"]: each for each in json.loads(capsys.readouterr().out)["weights"]}
    assert entries["pvt_small"]["figures"] == {"top1": 79.8}
    assert entries["pvt_small"]["cached"] is None
    assert entries["deit_tiny_patch16"]["sha256"] == "a1311bcf"


def test_fetch_from_a_folder_then_list_and_verify(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(build_classifier("pvt_v2_b0").state_dict(), tmp_path / "pvt_v2_b0.pth")
    assert main(["weights", "fetch", "pvt_v2_b0", "--from", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(cache / "pvt_v2_b0.pth")
    assert main(["weights", "ls", "--json"]) == 0
    entries = {each["name"]: each for each in json.loads(capsys.readouterr().out)["weights"]}
    assert entries["pvt_v2_b0"]["sha256_from"] == "first fetch"
    assert main(["weights", "verify"]) == 0
    assert "first fetch" in capsys.readouterr().out

    with (cache / "pvt_v2_b0.pth").open("r+b") as handle:
        handle.seek(-1, 2)
        handle.write(b"x")
    assert main(["weights", "verify", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["weights"][0]["ok"] is False
    assert "error: 1 of 1 failed: pvt_v2_b0: pvt_v2_b0.pth has the wrong hash" in err


def test_verify_without_anything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "verify"]) == 0
    assert "nothing was fetched yet" in capsys.readouterr().err
    assert main(["weights", "verify", "no-such-file.pth"]) == 1


def test_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "fetch", "pvt_smal"]) == 2
    assert "did you mean pvt_small" in capsys.readouterr().err
