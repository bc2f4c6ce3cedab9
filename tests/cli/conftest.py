"""One tiny run on the built-in scenes that several tests of the commands look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import TINY, TINY_DETECTOR, Cli, Result

from pvtctl.cli.main import main


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("PVTCTL_DATA", "PVTCTL_RUNS"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str | Path) -> Result:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run: pvt_v2_b0, 12 classes, 32 pixels. Read only."""
    out = tmp_path_factory.mktemp("runs") / "imagenet_pvt_v2-pvt_v2_b0-smoke"
    code = main(["pretrain", "scenes", "--backbone", "pvt_v2_b0", "--profile", "smoke", "--out", str(out), *TINY])
    assert code == 0
    return out


@pytest.fixture(scope="session")
def detector_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of RetinaNet on scenes: pvt_v2_b0, 12 classes, 64 pixels. Read only."""
    out = tmp_path_factory.mktemp("runs") / "detector"
    arguments = ["finetune", "scenes", "--head", "retinanet", "--weights", "none", "--out", str(out), *TINY_DETECTOR]
    assert main(arguments) == 0
    return out


@pytest.fixture(scope="session")
def coco_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes in COCO layout: four training and four validation images of 64 pixels, 12 classes, masks. Read only."""
    out = tmp_path_factory.mktemp("data") / "things"
    sizes = ["--train", "4", "--val", "4", "--size", "64"]
    assert main(["data", "export", "scenes", "--layout", "coco", "--to", str(out), *sizes]) == 0
    return out
