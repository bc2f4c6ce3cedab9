"""`--inside` and `--normalization`: what of a file is taken, and which pixels it is fed."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import Cli

from pvtctl.models.backbones import build_classifier
from pvtctl.runs.paths import given_weights
from pvtctl.weights.recognise import to_publisher

SCENES = ["--set", "data.val_samples=6", "--set", "data.image_size=32", "--set", "data.resize=32", "--json"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with plain and averaged weights of a narrow classifier of the scenes' 12 classes, sure of the 1st and 2nd."""
    content: dict[str, Any] = {}
    for label, key in enumerate(("state_dict", "state_dict_ema")):
        torch.manual_seed(label)
        model = build_classifier("pvt_v2_b0@0.25", num_classes=12, image_size=32)
        with torch.no_grad():
            model.head.bias[label] += 20  # type: ignore[index, operator]
        content[key] = to_publisher(model.state_dict())
    path = tmp_path_factory.mktemp("weights") / "both.pth.tar"
    torch.save(content, path)
    return path


def first_class(cli: Cli, *arguments: str | Path) -> str:
    result = cli("predict", "a.png", "--json", *arguments)
    assert result.code == 0, result.err
    name: str = result.json["images"][0]["classes"][0]["class"]
    return name


def test_each_command_takes_the_part_that_is_asked_for(cli: Cli, both: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save("a.png")
    assert first_class(cli, "--weights", both) == "class 0"
    assert first_class(cli, "--weights", both, "--inside", "state_dict_ema") == "class 1"
    assert first_class(cli, "--weights", f"{both}#state_dict_ema") == "class 1"
    found = cli("weights", "inspect", both, "--inside", "state_dict_ema", "--json").json
    assert (found["models"][0], found["meta"]["inside"]) == ("pvt_v2_b0@0.25", "state_dict_ema")
    for options, note in (([], "note: taken from 'state_dict'; the file also holds state_dict_ema"), (["--inside", "state_dict_ema"], "")):  # fmt: skip
        name = f"{len(options)}.safetensors"
        result = cli("weights", "convert", both, name, *options)
        assert result.code == 0, result.err
        assert note in result.err
        assert ("note:" in result.err) == bool(note)
        assert first_class(cli, "--weights", tmp_path / name) == f"class {len(options) // 2}"
    scored = cli("eval", "scenes", "--weights", both, "--inside", "state_dict_ema", *SCENES)
    assert scored.code == 0, scored.err
    assert scored.json["chosen"]["weights"] == f"{both}#state_dict_ema"
    out = cli("export", both, "--inside", "state_dict_ema", "--format", "official", "--out", "ema.pth")
    assert out.code == 0, out.err
    assert first_class(cli, "--weights", tmp_path / "ema.pth") == "class 1"


def test_other_pixels_change_the_scores(cli: Cli, both: Path) -> None:
    losses = []
    for options in ([], ["--normalization", "imagenet"], ["--normalization", "mean=0,0,0 std=1,1,1 range=0..255"]):
        result = cli("eval", "scenes", "--weights", both, *SCENES, *options)
        assert result.code == 0, result.err
        losses.append(result.json["metrics"]["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_what_is_no_file_is_named(cli: Cli) -> None:
    os.mkfifo("pipe.pth")
    Path("dangling.pth").symlink_to("nowhere.pth")
    Path("loop.pth").symlink_to("loop.pth")
    Path("text.pth").write_text("hello")
    for name, why in (
        ("pipe.pth", "pipe.pth is a named pipe, not a file"),
        ("dangling.pth", "dangling.pth cannot be read: No such file"),
        ("loop.pth", "loop.pth cannot be read: Too many levels of symbolic links"),
        ("text.pth", "text.pth is damaged or not a checkpoint\n"),
    ):
        result = cli("weights", "inspect", name)
        assert result.code == 2
        assert f"error: {why}" in result.err


def test_weights_with_nan_are_told_where_they_are_used(cli: Cli) -> None:
    """Those of a ResNet, of which a program has the fewest operations."""
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("a.png")
    state = to_publisher(build_classifier("resnet18@0.25", num_classes=12, image_size=32).state_dict())
    torch.save({name: torch.full_like(each, math.nan) if each.is_floating_point() else each
                for name, each in state.items()}, "nan.pth")  # fmt: skip
    result = cli("predict", "a.png", "--weights", "nan.pth")
    assert result.code == 0
    told = "warning: nan.pth: NaN or infinity in "
    assert told in result.err
    for command in (["weights", "convert", "nan.pth", "nan.safetensors"], ["export", "nan.pth", "--format", "torch", "--backbone-only", "--out", "nan.pt2", "--size", "32", "--static"]):  # fmt: skip
        result = cli(*command)
        assert result.code == 0, result.err
        assert result.err.count(told) == 1
    assert "are not compared" in cli("weights", "convert", "nan.pth", "again.safetensors").err
    table = cli("weights", "inspect", "nan.safetensors").out
    assert re.search(r"NaN or infinity\W+in backbone\S+, backbone\S+, backbone\S+ and \d+ more", table)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["predict", "a.png", "--inside", "x"], "no --weights is given"),
        (["predict", "a.png", "--weights", "BOTH#x", "--inside", "x"], "names a part already"),
        (["predict", "a.png", "--weights", "BOTH", "--inside", "teacher"], "has nothing inside 'teacher'"),
        (["weights", "inspect", "BOTH", "--inside", "teacher"], "has nothing inside 'teacher'"),
        (["weights", "inspect", "BOTH#x", "--inside", "x"], "error: FILE "),
        (["export", "--inside", "x"], "no SOURCE is given"),
        (["export", "BOTH#x", "--inside", "x"], "error: SOURCE "),
        (["finetune", "scenes", "--weights", "none", "--inside", "x"], "no --weights is given"),
        (["predict", "a.png", "--weights", "BOTH", "--normalization", "halve"], "'halve' is not a mean"),
        (["eval", "scenes", "--weights", "BOTH", "--normalization", "mean=1"], "'mean=1' is not a mean"),
        (["eval", "scenes", "--weights", "BOTH", "--normalization", "mean=123,116,103 std=58,57,57"], "means of bytes"),
        (
            ["recipes", "show", "small_depth", "--set", "data.normalization=mean=123,116,103 std=58,57,57"],
            "means of bytes",
        ),
        (["weights", "inspect", ""], "the name is empty"),
        (["weights", "inspect", "https://host/a.pth?token=1"], "https://host/a.pth?*** is an address"),
        (["eval", "coco", "--results", "a.json", "--inside", "x"], "no --weights is given"),
    ],
)
def test_bad_choices_are_one_line(cli: Cli, both: Path, arguments: list[str], why: str) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("a.png")
    result = cli(*(word.replace("BOTH", str(both)) for word in arguments))
    assert result.code == 2
    assert why in result.err
    assert len(result.err.strip().splitlines()) <= 2


def test_a_recipe_names_the_part_wherever_it_is_run_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").touch()
    assert given_weights("a.pth#ema") == f"{tmp_path}/a.pth#ema"
    assert given_weights("pvt_small") == "pvt_small"
