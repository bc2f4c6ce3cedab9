"""Checkpoint metadata: what a file states is kept, what it states wrongly is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from pvtctl.cli.main import main
from pvtctl.errors import UsageError
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.weights.read import read_checkpoint


def test_only_what_is_stated_is_written() -> None:
    meta = CheckpointMeta(backbone="pvt_tiny", category_ids=None).updated(score={"top1": 0.5}, epoch=3)
    assert meta.as_json() == {"backbone": "pvt_tiny", "category_ids": None, "score": {"top1": 0.5}, "epoch": 3}
    assert CheckpointMeta.read(json.loads(json.dumps(meta.as_json())), "a file") == meta


def test_keys_of_other_versions_are_kept() -> None:
    stated = {"backbone": "pvt_tiny", "of_tomorrow": [1, {"a": None}]}
    assert CheckpointMeta.read(stated, "a file").as_json() == stated


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CheckpointMeta(backbone="pvt_tiny").backbone = "pvt_small"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", "224"),
        ("resize", 1.5),
        ("num_classes", [80]),
        ("class_names", "cat"),
        ("class_names", ["cat", 1]),
        ("category_ids", {"cat": 1}),
        ("palette", [[1, 2]]),
        ("mean", [0.5, 0.5]),
        ("std", ["a", "b", "c"]),
        ("scale_shift", [1.0]),
        ("detection", [800]),
        ("depth", "384"),
        ("head_options", ["taps"]),
        ("conventions", "mine"),
        ("normalization", "whole"),
        ("modules", "mine.py"),
        ("score", "good"),
        ("backbone", 3),
    ],
)
def test_wrong_values_are_refused_in_one_line(
    key: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"backbone.x": torch.zeros(1)}, path, {"pvtctl": json.dumps({key: value})})
    with pytest.raises(UsageError, match=rf"m\.safetensors: the metadata is damaged: {key}"):
        read_checkpoint(path)
    assert main(["weights", "inspect", str(path)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "the metadata is damaged" in " ".join(lines)
    assert len(lines) <= 3


@pytest.mark.parametrize(
    ("stated", "resize"),
    [
        ({"detection": {"test_short_side": 256}}, "antialias"),  # trained before there was a choice
        ({"detection": {"test_short_side": 256, "resize": "bilinear"}}, "bilinear"),
        ({"task": "detection", "converted_from": {"format": "pvtctl"}}, "antialias"),  # converted then
        ({"task": "classification", "converted_from": {"format": "pvtctl"}}, None),
        ({"task": "detection", "converted_from": {"format": "facebookresearch DETR"}}, "antialias"),
        ({"task": "detection", "converted_from": {"format": "mmdetection DETR"}}, "bilinear"),
        ({"task": "detection"}, None),  # the default's
        ({}, None),
    ],
)
def test_a_detector_of_before_says_how_its_images_were_resized(
    stated: dict[str, Any], resize: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"backbone.x": torch.zeros(1)}, path, {"pvtctl": json.dumps({"backbone": "pvt_tiny", **stated})})
    assert (read_checkpoint(path).meta.detection or {}).get("resize") == resize
    known = stated.get("detection", {})
    assert known.items() <= (read_checkpoint(path).meta.detection or {}).items()


@pytest.mark.parametrize("header", ["[1]", "3", '"x"', "{", "null"])
def test_headers_that_are_no_mapping_are_damaged(header: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"backbone.x": torch.zeros(1)}, path, {"pvtctl": header})
    with pytest.raises(UsageError, match=r"the metadata is not (a )?JSON"):
        read_checkpoint(path)
