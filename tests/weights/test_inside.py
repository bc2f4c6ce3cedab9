"""Weights are found wherever a framework has put them, told where there are several, and taken as asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.models.backbones import build_backbone, build_classifier
from pvtctl.weights.convert import convert_file
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.inspect import inspect_file
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.read import read_checkpoint, read_weights
from pvtctl.weights.recognise import to_publisher
from pvtctl.weights.resolve import split_inside, with_inside
from pvtctl.weights.save import save_safetensors

NAME = "pvt_v2_b0@0.25"
State = dict[str, Tensor]
OTHER: State = {"criterion.weight": torch.ones(5), "metric.total": torch.tensor(1)}


@pytest.fixture(scope="module")
def plain() -> State:
    """A narrow PVTv2 under its authors' names."""
    torch.manual_seed(0)
    state = to_publisher(build_classifier(NAME, num_classes=2).state_dict())
    return {key: value.contiguous() for key, value in state.items()}


@pytest.fixture(scope="module")
def averaged(plain: State) -> State:
    return {key: value + 1 if value.is_floating_point() else value for key, value in plain.items()}


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def first_of(path: Path | str) -> float:
    """Of a tensor that differs between plain and averaged weights."""
    return float(read_weights(path).state["head.bias"][0])


@pytest.mark.parametrize("prefix", ["model.", "net.", "encoder.", "module.", "backbone_q.", "model.student.net."])
@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
def test_the_prefix_of_a_known_model_is_found(tmp_path: Path, plain: State, prefix: str, form: str) -> None:
    file = tmp_path / f"a.{form}"
    wrapped = under(prefix, plain) | OTHER
    if form == "ckpt":
        torch.save({"state_dict": wrapped, "callbacks": {}, "optimizer_states": [{}], "epoch": 3}, file)
    else:
        save_file(wrapped, file)
    found = read_checkpoint(file)
    assert found.format == "official PVT"
    assert set(found.left_out) == set(OTHER)
    place = f"{'state_dict.' if form == 'ckpt' else ''}{prefix.rstrip('.')}"
    assert found.meta.inside == place
    told = inspect_file(file)
    assert (told.models[0], told.unknown, set(told.left_out)) == (NAME, None, set(OTHER))
    report = load_checkpoint(build_classifier(NAME, num_classes=2), file)
    assert report.backbone_share == 1
    assert f"taken from '{place}'; 2 other tensors are left out (criterion.weight, metric.total)" in report.note
    done = convert_file(file, tmp_path / "ours.safetensors")
    assert set(done.dropped) == set(OTHER)
    assert read_checkpoint(tmp_path / "ours.safetensors").state.keys() == found.state.keys()


@pytest.mark.parametrize(
    "content",
    [
        lambda a, b: {"student": a, "teacher": b, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
        lambda a, b: {"model": under("student.", a) | under("teacher.", b)},
        lambda a, b: {"nets": {"student": under("module.", a), "teacher": b}},
    ],
)
def test_several_are_listed_and_one_is_chosen(tmp_path: Path, plain: State, averaged: State, content: Any) -> None:
    file = tmp_path / "a.pth"
    torch.save(content(plain, averaged), file)
    with pytest.raises(UsageError, match=r"holds several models: .*student.* .*teacher") as refused:
        read_checkpoint(file)
    names = str(refused.value.hint).removeprefix("choose one: --inside ").split(" | ")
    assert len(names) == 2
    values = [first_of(f"{file}#{name}") for name in names]
    assert values == [float(plain["head.bias"][0]), float(averaged["head.bias"][0])]
    for command in (inspect_file, inspect_checkpoint):
        with pytest.raises(UsageError, match="holds several models"):
            command(file)
    assert inspect_checkpoint(f"{file}#{names[1]}").source == f"{file}#{names[1]}"


@pytest.mark.parametrize(
    "content",
    [
        lambda a, b: {"state_dict": a, "state_dict_ema": b},
        lambda a, b: {"model": a, "model_ema": {"module": b}},
        lambda a, b: {"state_dict": under("net.", a) | under("ema.net.", b) | OTHER},
        lambda a, b: {"state_dict": under("model.", a) | under("model_ema.", b)},
    ],
)
def test_plain_weights_come_before_averaged_ones_unless_asked(
    tmp_path: Path, plain: State, averaged: State, content: Any
) -> None:
    file = tmp_path / "a.pth"
    torch.save(content(plain, averaged), file)
    found = read_checkpoint(file)
    assert float(found.state["head.bias"][0]) == float(plain["head.bias"][0])
    (also,) = found.meta.also_averaged or []
    assert f"the file also holds {also} (--inside {also} takes it)" in found.note
    assert first_of(f"{file}#{also}") == float(averaged["head.bias"][0])
    assert found.note in convert_file(file, tmp_path / "b.safetensors").note
    model = build_classifier(NAME, num_classes=2)
    assert load_checkpoint(model, f"{file}#{also}").backbone_share == 1
    assert float(model.state_dict()["head.bias"][0]) == float(averaged["head.bias"][0])


def test_what_is_not_inside_is_said_with_what_is(tmp_path: Path, plain: State) -> None:
    file = tmp_path / "a.pth"
    torch.save({"state_dict": under("net.", plain)}, file)
    for wrong in ("teacher", "state_dict.teacher", "state_dict_ema", "..", "net.head.weight"):
        with pytest.raises(UsageError, match=r"a\.pth has nothing inside") as refused:
            read_weights(f"{file}#{wrong}")
        assert "net" in str(refused.value.hint)


def test_a_part_is_named_in_the_text_of_weights(tmp_path: Path) -> None:
    assert split_inside("a.pth#ema") == ("a.pth", "ema")
    assert split_inside("a.pth") == ("a.pth", None)
    assert split_inside("a.pth#") == ("a.pth#", None)
    (tmp_path / "a#b.pth").touch()
    assert split_inside(f"{tmp_path}/a#b.pth") == (f"{tmp_path}/a#b.pth", None)
    assert split_inside(f"{tmp_path}/a#b.pth#ema") == (f"{tmp_path}/a#b.pth", "ema")
    assert with_inside("a.pth", None) == "a.pth"
    assert with_inside("a.pth", "ema") == "a.pth#ema"
    with pytest.raises(UsageError, match="no --weights"):
        with_inside(None, "ema")
    with pytest.raises(UsageError, match="names a part already"):
        with_inside("a.pth#x", "ema")


def test_own_files_of_other_backbones_are_not_searched(tmp_path: Path) -> None:
    """A `timm:NAME` backbone holds names of a known ResNet below its own prefix."""
    state = under("backbone.net.", build_backbone("resnet18@0.125").state_dict())
    save_safetensors(tmp_path / "a.safetensors", state, {"backbone": "timm:resnet18"})
    found = read_checkpoint(tmp_path / "a.safetensors")
    assert (found.format, found.left_out) == ("unknown", ())
    torch.save(state | {"head.weight": torch.ones(2, 8)}, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth")
    assert (found.format, found.left_out) == ("unknown", ())


def test_a_timm_model_is_found_below_a_prefix(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = build_backbone("timm:test_efficientnet")
    theirs = timm.create_model("test_efficientnet").state_dict()
    torch.save({"state_dict": under("model.encoder.", theirs) | OTHER}, tmp_path / "a.ckpt")
    report = load_checkpoint(model, tmp_path / "a.ckpt")
    assert report.backbone_share == 1


def test_our_own_file_of_a_timm_model_is_called_by_its_name(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    model = build_backbone("timm:test_efficientnet")
    state = under("backbone.", model.state_dict())
    save_safetensors(tmp_path / "a.safetensors", state, {"backbone": "timm:test_efficientnet"})
    report = load_checkpoint(model, tmp_path / "a.safetensors")
    assert "timm:test_efficientnet (timm layout)" in report.summary()


# several files


def shards(folder: Path, state: State, form: str, parts: int = 3) -> Path:
    """A model in several files, as transformers writes it."""
    stem, ending = ("model", "safetensors") if form == "safetensors" else ("pytorch_model", "bin")
    weight_map = {}
    for number in range(parts):
        part = {key: value for at, (key, value) in enumerate(state.items()) if at % parts == number}
        name = f"{stem}-{number + 1:05}-of-{parts:05}.{ending}"
        save_file(part, folder / name) if form == "safetensors" else torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_weights_in_several_files_are_read_by_their_index(tmp_path: Path, plain: State, form: str) -> None:
    index = shards(tmp_path, plain, form)
    for given in (index, tmp_path):
        state = read_weights(given).raw
        assert state.keys() == plain.keys()
        assert all(torch.equal(state[key], plain[key]) for key in plain)
    assert inspect_file(index).models[0] == NAME
    assert inspect_checkpoint(tmp_path).backbone == NAME
    (tmp_path / "config.json").write_text("{}")
    preprocessor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    for given in (index, tmp_path):
        assert inspect_checkpoint(given).pixels.normalization.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda document: "not json", "is not JSON"),
        (lambda document: "[]", "model.safetensors.index.json"),
        (lambda document: "{}", "has no weight_map"),
        (lambda document: json.dumps({"weight_map": {}}), "has no weight_map"),
        (lambda document: json.dumps({"weight_map": {"a": 3}}), "has no weight_map"),
        (lambda document: json.dumps({"weight_map": {"a": "../x.safetensors"}}), "a part outside its folder"),
        (lambda document: json.dumps({"weight_map": {"a": "/etc/passwd"}}), "a part outside its folder"),
        (lambda document: json.dumps({"weight_map": {"a": "sub/x.safetensors"}}), "a part outside its folder"),
        (lambda document: json.dumps({"weight_map": {"a": "..\\x"}}), "a part outside its folder"),
        (lambda document: json.dumps({"weight_map": {"a": "x\0y"}}), "a part outside its folder"),
        (lambda document: json.dumps({"weight_map": {"a": ""}}), "a part outside its folder"),
        (
            lambda document: json.dumps({"weight_map": {"a": "gone.safetensors"}}),
            "gone.safetensors, which is not there",
        ),
        (
            lambda document: json.dumps({"weight_map": {**document, "more": next(iter(document.values()))}}),
            "holds more, and it does not",
        ),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, plain: State, change: Any, why: str) -> None:
    index = shards(tmp_path, plain, "safetensors")
    index.write_text(change(json.loads(index.read_text())["weight_map"]))
    for given in (index, tmp_path):
        with pytest.raises(UsageError, match=why) as refused:
            read_weights(given)
        assert "\n" not in refused.value.message


def test_a_damaged_part_is_named(tmp_path: Path, plain: State) -> None:
    index = shards(tmp_path, plain, "safetensors")
    part = next(tmp_path.glob("*-00002-*"))
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"model-00002-of-00003\.safetensors is damaged"):
        read_weights(index)
