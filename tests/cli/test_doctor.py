"""`pvtctl doctor`: tells what is there, and exits 1 only for what is broken."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pvtctl.cli import doctor
from pvtctl.cli.main import main
from pvtctl.io.allocator import allocator_state
from pvtctl.models.fast_cpu import calibrate as calibration
from pvtctl.models.fast_cpu import choices


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PVTCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path


def report(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
    code = main(["doctor", "--no-measure", "--json", *words])
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] == (code == 0)
    return code, {(found["part"], found["item"]): found for found in document["findings"]}


def test_a_sound_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sets" / "imagenet" / "val").mkdir(parents=True)
    (tmp_path / "sets" / "notes").mkdir()
    monkeypatch.setenv("PVTCTL_DATA", str(tmp_path / "sets"))
    code, found = report(capsys)
    assert code == 0
    assert found["environment", "torch"]["value"] == torch.__version__
    assert found["machine", "threads"]["value"].startswith(str(torch.get_num_threads()))
    assert found["machine", "allocator"]["value"].startswith(allocator_state())
    assert found["data", "imagenet"]["value"] == str(tmp_path / "sets" / "imagenet")
    assert ("data", "notes") not in found
    assert str(tmp_path / "cache") in found["folders", "weights"]["value"]
    assert found["variables", "PVTCTL_DATA"]["value"] == repr(str(tmp_path / "sets"))
    assert found["weights", "published"]["value"].startswith("0 of ")
    assert {("extras", extra) for extra in ("timm", "export", "track")} <= set(found)


def test_a_missing_extra_names_its_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "timm" else "1.0")
    code, found = report(capsys)
    assert code == 0  # nothing is broken
    assert found["extras", "timm"]["status"] == "note"
    assert found["extras", "timm"]["hint"] == "pip install 'pvtctl[timm]'"


def test_a_library_that_does_not_load_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def refuse(name: str, *rest: Any) -> Any:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\nand more")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", refuse)
    code, found = report(capsys)
    assert code == 1
    broken = found["environment", "torchvision"]
    assert broken["value"] == "RuntimeError: operator torchvision::nms does not exist"
    assert broken["hint"] == "pip install --force-reinstall torchvision"


@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        (RuntimeError("no such device"), "RuntimeError: no such device", "broken"),
        (PermissionError(13, "Permission denied", "/closed"), "/closed cannot be read: Permission denied", "note"),
    ],
)
def test_a_part_that_cannot_be_examined_is_told(
    error: Exception, said: str, status: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(doctor, "_folders", fail)
    code, found = report(capsys)
    assert code == (1 if status == "broken" else 0)
    told = found["folders", "(cannot be examined)"]
    assert (told["value"].lower(), told["status"]) == (said.lower(), status)


def test_a_data_folder_that_is_not_there_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PVTCTL_DATA", "nowhere")
    code, found = report(capsys)
    assert code == 0
    assert found["folders", "data"]["hint"] == "PVTCTL_DATA names a folder that is not there"


def test_the_table_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert "matrix product, fp32" in out
    assert "GFLOP/s on" in out
    assert "memory, copying" in out
    assert "GB/s read or written on" in out
    assert err.strip() == "nothing is broken"


def test_it_says_which_cpu_kernels_are_taken_and_measures_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "_race", lambda case, candidates: [2.0, *[1.0] * (len(candidates) - 1)])
    monkeypatch.setenv("PVTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choices, "_chosen", None)
    monkeypatch.setattr(calibration, "busy_share", lambda: 0.6)
    _, found = report(capsys)
    assert found["CPU kernels", "taken"]["status"] == "note"
    assert "--calibrate" in found["CPU kernels", "taken"]["hint"]
    _, found = report(capsys, "--calibrate")
    assert "folded batch norm" in found["CPU kernels", "taken"]["value"]
    assert found["CPU kernels", "DPT's readout in two parts, 1x576x768"]["value"] == "1 ms, plain 2: 0.50 of it"
    assert found["CPU kernels", "taken"]["hint"] == "pvtctl doctor --calibrate when it is idle"
    assert report(capsys)[1]["CPU kernels", "taken"]["status"] == "ok"
    monkeypatch.setenv("PVTCTL_FAST_CPU", "0")
    assert "since PVTCTL_FAST_CPU is 0" in report(capsys)[1]["CPU kernels", "taken"]["value"]
    code, found = report(capsys, "--calibrate")
    assert (code, found["CPU kernels", "taken"]["hint"]) == (0, "unset PVTCTL_FAST_CPU to measure them")


def test_every_variable_that_a_user_may_set_is_listed() -> None:
    package = Path(doctor.__file__).parents[1]
    read = {name for file in package.rglob("*.py") for name in re.findall(r"\bPVTCTL_[A-Z_]+", file.read_text("utf-8"))}
    assert read - {"PVTCTL_LAUNCHER"} == {name for name in doctor._VARIABLES if name.startswith("PVTCTL_")}
