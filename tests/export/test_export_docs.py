"""docs/export.md is true: its commands run as written, its Python runs after them, its list of models is whole."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from onnx_of_torch import writes_batch_norm
from same_detections import assert_same_detections

from pvtctl.cli.export import FORMATS
from pvtctl.cli.main import main
from pvtctl.models.registry import head_specs

TEXT = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@writes_batch_norm
@pytest.mark.slow
def test_commands_and_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the export extra")
    pytest.importorskip("onnxscript", reason="needs the export extra")
    pytest.importorskip("transformers", reason="needs the hub extra")
    monkeypatch.chdir(tmp_path)
    (block,) = _blocks("sh")
    for line in block.splitlines():
        words = shlex.split(line)
        assert words[0] == "pvtctl"
        if "onnx" in line or "pt2" in line:  # sides that are not fixed take long to trace: tests/export/test_graphs.py
            words += ["--repeats", "1", *(["--size", "64"] if "--size" not in words else [])]
        assert main(words[1:]) == 0, capsys.readouterr().err
    capsys.readouterr()
    (code,) = _blocks("python")
    scope: dict[str, object] = {}
    exec(compile(code, "docs/export.md", "exec"), scope)
    assert re.match(r"torch.Size\(\[\d+, 4\]\)", capsys.readouterr().out)
    _same_detections(scope)


def _same_detections(scope: dict[str, object]) -> None:
    """What the page finds is what the detector finds."""
    import torch

    from pvtctl.export.source import from_names
    from pvtctl.models.structures import DetectOptions

    detector = from_names("resnet18", "retinanet", 3).model
    images = torch.from_numpy(np.asarray(scope["images"]))
    with torch.inference_mode():
        (expected,) = detector(images, options=DetectOptions(score_threshold=0.005))
    assert len(expected.boxes)
    assert_same_detections(
        scope["found"], expected, scores={"rtol": 1e-3, "atol": 1e-5}, boxes={"rtol": 1e-3, "atol": 1e-2}
    )


def test_every_head_and_format_is_told() -> None:
    assert all(spec.title in TEXT for spec in head_specs())
    assert all(f"| `{name}` |" in TEXT for name in FORMATS)
