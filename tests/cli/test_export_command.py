"""`pvtctl export`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from onnx_of_torch import writes_batch_norm
from tiny_run import Cli

from pvtctl.models.backbones import build_classifier
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.save import save_safetensors

QUICK = ["--static", "--size", "64", "--repeats", "1"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow ResNet of a block a stage, three named classes, of pixels around 0.5: each layer takes time to trace."""
    name = "resnet18@0.125+depths=1,1,1,1"
    path = tmp_path_factory.mktemp("weights") / "things.safetensors"
    meta = {"class_names": ["ant", "bee", "cat"], "mean": [0.5] * 3, "std": [0.5] * 3, "image_size": 64}
    save_safetensors(path, build_classifier(name, num_classes=3), {"backbone": name, **meta})
    return path


def test_a_checkpoint_becomes_a_program(cli: Cli, checkpoint: Path) -> None:
    result = cli("export", checkpoint, "--format", "torch", *QUICK, "--with-normalization", "uint8", "--json")
    assert result.code == 0, result.err
    assert "exporting resnet18@0.125+depths=1,1,1,1, 3 classes" in result.err
    told = result.json
    assert (told["path"], told["inputs"], told["outputs"]) == ("things.pt2", "uint8", ["logits"])
    assert told["largest_difference"] < 1e-4
    assert set(told["timing"]["milliseconds"]) == {"eager", "program"}
    extra = {"pvtctl.json": ""}
    torch.export.load("things.pt2", extra_files=extra)
    said = json.loads(extra["pvtctl.json"])
    assert (said["class_names"], said["mean"], said["source"]) == (["ant", "bee", "cat"], [0.5] * 3, checkpoint.name)


@writes_batch_norm
def test_onnx_is_the_default(cli: Cli, checkpoint: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the export extra")
    result = cli("export", checkpoint, "--size", "64", "--repeats", "1")
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == "things.onnx"
    assert "open: batch" in result.err
    assert "height is fixed at 64, as asked for (--size)" in result.err
    session = onnxruntime.InferenceSession("things.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, 64, 64]
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == ["ant", "bee", "cat"]


def test_a_run_feeds_other_tools(cli: Cli, smoke_run: Path) -> None:
    result = cli("export", smoke_run, "--format", "transformers", "--out", "theirs", "--json")
    assert result.code == 0, result.err
    assert result.json["model"] == "PvtV2ForImageClassification"
    assert json.loads(Path("theirs/config.json").read_text())["num_labels"] == 12
    result = cli("export", smoke_run, "--out", "theirs.pth")
    assert result.code == 0, result.err
    assert result.out.strip() == "theirs.pth"
    assert "official layout; read back, its tensors are equal to the bit" in result.err
    ours = read_checkpoint(smoke_run / "best.safetensors").state
    assert all(torch.equal(value, ours[key]) for key, value in read_checkpoint("theirs.pth").state.items())


def test_the_backbone_of_a_detector(cli: Cli, detector_run: Path) -> None:
    result = cli("export", detector_run, "--backbone-only", "--format", "torch", *QUICK, "--out", "b.pt2", "--json")
    assert result.code == 0, result.err
    assert result.json["outputs"] == ["c2", "c3", "c4", "c5"]
    assert result.json["model"] == "pvt_v2_b0@0.25"


def test_random_weights_are_said(cli: Cli) -> None:
    result = cli("export", "--backbone", "resnet18", "--head", "none", "--format", "torch", *QUICK)
    assert result.code == 0, result.err
    assert "no SOURCE: the weights are random" in result.err
    assert result.out.splitlines()[-1] == "resnet18.pt2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to export"),
        (["--backbone", "pvt_smal"], "pvt_smal"),
        (["--backbone", "resnet18", "--head", "dtp"], "no head 'dtp'"),
        (["--backbone", "resnet18", "--head", "mask_rcnn"], "torchvision::nms"),
        (["--backbone", "resnet18", "--format", "onxx"], "did you mean onnx?"),
        (["--backbone", "resnet18", "--out", "there.onnx"], "there.onnx exists"),
        (["--backbone", "resnet18", "--out", "there.txt"], "there.txt does not tell the format"),
        (["--backbone", "resnet18", "--size", "16"], "between 32 and 8192"),
        (["--backbone", "resnet18", "--at-size"], "only segmentation and depth models"),
        (["--backbone", "resnet18", "--format", "official", "--size", "64"], "--size is for graphs"),
        (["--backbone", "resnet18", "--size", "64", "--check-sizes", "64"], "--check-sizes is for open sides"),
        (["half"], "a folder without weights"),
        (["nowhere.pth"], "nowhere.pth"),
    ],
)
def test_wrong_usage(cli: Cli, arguments: list[str], message: str) -> None:
    Path("there.onnx").touch()
    Path("half").mkdir()
    Path("half/run.json").write_text("{}", encoding="utf-8")
    result = cli("export", *arguments)
    assert result.code == 2, result.err
    assert message in result.err
    assert result.out == ""
    assert sorted(path.name for path in Path().iterdir()) == ["half", "there.onnx"]


def test_a_checkpoint_says_its_own_head(cli: Cli, checkpoint: Path) -> None:
    result = cli("export", checkpoint, "--head", "dpt")
    assert result.code == 2
    assert "--head and --num-classes are for random weights" in result.err


@writes_batch_norm
def test_outputs_that_differ_are_a_failure(cli: Cli, checkpoint: Path) -> None:
    result = cli("export", checkpoint, "--out", "x.onnx", *QUICK, "--tolerance", "1e-12")
    assert result.code == 1, result.err
    assert "--tolerance X accepts more" in result.err
    assert not Path("x.onnx").exists()


def test_what_torch_cannot_write_is_told_with_the_operation(
    cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="needs the export extra")

    def refuse(*_: object, **__: object) -> None:
        try:
            raise RuntimeError("Error when translating node %batch_norm : [num_users=1] = call_function[...]")
        except RuntimeError as error:
            raise torch.onnx.OnnxExporterError("Failed to convert.\nNext steps: ...") from error

    monkeypatch.setattr(torch.onnx, "export", refuse)
    result = cli("export", checkpoint, "--out", "x.onnx", *QUICK)
    assert result.code == 1, result.err
    assert "cannot write this model as ONNX: Error when translating node %batch_norm\n" in result.err
    assert "--format torch needs none" in result.err
    assert not Path("x.onnx").exists()
