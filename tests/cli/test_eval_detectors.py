"""`pvtctl eval` of a detector: every option that is said is followed or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_run import Cli

from pvtctl.data.scenes.scene import SCENE_CLASSES
from pvtctl.models.detector import build_detector
from pvtctl.weights.save import save_safetensors


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained: all its scores are near 0.01, below the threshold that RetinaNet has by itself."""
    torch.manual_seed(0)
    model = build_detector("pvt_v2_b0@0.25", "retinanet", num_classes=len(SCENE_CLASSES), width=32)
    path = tmp_path_factory.mktemp("weights") / "retinanet.safetensors"
    save_safetensors(path, model, {"backbone": "pvt_v2_b0@0.25", "class_names": list(SCENE_CLASSES)})
    return path


def test_a_threshold_of_zero_is_a_threshold(cli: Cli, detector: Path) -> None:
    command = ["eval", "scenes", "--weights", detector, "--profile", "smoke", "--size", "64", "--json"]
    assert cli(*command).json["metrics"]["detections"] == 0
    result = cli(*command, "--score-threshold", "0", "--max-detections", "3")
    assert result.json["metrics"]["detections"] == 3 * result.json["metrics"]["images"] > 0


def test_a_number_that_the_data_cannot_give_is_null(cli: Cli, detector: Path) -> None:
    result = cli("eval", "scenes", "--weights", detector, "--profile", "smoke", "--size", "64", "--json")
    assert result.code == 0, result.err
    assert result.json["metrics"]["box_ap_large"] is None, "no object of 96 pixels is in images of 64"
    assert any("above 96x96" in note for note in result.json["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--score-threshold", "1.5"], "--score-threshold"),
        (["--nms-iou", "-1"], "--nms-iou"),
        (["--max-detections", "0"], "--max-detections"),
        (["--scales", "10"], "short sides"),
        (["--backend", "slow"], "slow"),
    ],
)
def test_values_out_of_range_are_refused(cli: Cli, detector: Path, options: list[str], message: str) -> None:
    result = cli("eval", "scenes", "--weights", detector, "--profile", "smoke", *options)
    assert result.code == 2
    assert message in result.err


@pytest.mark.parametrize("options", [["--weights", "W"], ["--score-threshold", "0"], ["--flip"], ["--size", "640"]])
def test_a_results_file_takes_no_options_of_a_model(cli: Cli, tmp_path: Path, options: list[str]) -> None:
    result = cli("eval", "coco", "--results", tmp_path / "detections.json", *options)
    assert result.code == 2
    assert f"{options[0]} is for a model" in result.err
