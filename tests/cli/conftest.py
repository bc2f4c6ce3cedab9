"""One tiny run on the built-in scenes that several tests of the commands look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import NARROW_DETECTOR, TINY, Cli, Result

from pvtctl.cli.main import main

MadeOnce = Callable[[str, Callable[[Path], object]], Path]


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
def smoke_run(made_once: MadeOnce) -> Path:
    """The folder of a finished run: pvt_v2_b0, 12 classes, 32 pixels. Read only."""
    name = "imagenet_pvt_v2-pvt_v2_b0-smoke"

    def make(folder: Path) -> None:
        words = ["--backbone", "pvt_v2_b0", "--profile", "smoke", "--out", str(folder / name)]
        assert main(["pretrain", "scenes", *words, *TINY]) == 0

    return made_once("classifier", make) / name


@pytest.fixture(scope="session")
def detector_run(made_once: MadeOnce) -> Path:
    """The folder of a finished run of RetinaNet on scenes: pvt_v2_b0, 12 classes, 64 pixels. Read only."""

    def make(folder: Path) -> None:
        words = ["--head", "retinanet", "--weights", "none", "--out", str(folder / "detector")]
        assert main(["finetune", "scenes", *words, *NARROW_DETECTOR]) == 0

    return made_once("detector", make) / "detector"


@pytest.fixture(scope="session")
def coco_folder(made_once: MadeOnce) -> Path:
    """Scenes in COCO layout: four training and four validation images of 64 pixels, 12 classes, masks. Read only."""

    def make(folder: Path) -> None:
        sizes = ["--train", "4", "--val", "4", "--size", "64"]
        assert main(["data", "export", "scenes", "--layout", "coco", "--to", str(folder / "things"), *sizes]) == 0

    return made_once("coco", make) / "things"
