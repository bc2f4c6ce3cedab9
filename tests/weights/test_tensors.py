"""Tensors that no file of weights has are refused after reading, before anything computes with them."""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pvtctl.cli.main import main
from pvtctl.errors import UsageError
from pvtctl.models.backbones import build_classifier
from pvtctl.weights.inspect import inspect_file
from pvtctl.weights.read import read_checkpoint

GIANT = torch.zeros(1).expand(40_000, 40_000)
ODD = {
    "float8": (torch.zeros(3).to(torch.float8_e4m3fn), "is of the type float8_e4m3fn, which pvtctl does not read"),
    "complex": (torch.zeros(3, dtype=torch.complex64), "is of the type complex64"),
    "sparse": (torch.eye(3).to_sparse(), "is not dense"),
    "meta": (torch.zeros(3, device="meta"), "has no data"),
    "dimensions": (torch.zeros([1] * 65), "has 65 dimensions"),
    "giant": (GIANT, "is larger than its data"),
    "huge": (torch.zeros(1).expand(10**6, 10**6), "is larger than its data"),
}


def _refused(path: Path, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        inspect_file(path)
    assert path.name in caught.value.message
    assert len(caught.value.message) < 400
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors(tmp_path: Path, kind: str, zipped: bool) -> None:
    tensor, message = ODD[kind]
    torch.save({"a": torch.zeros(3), "b": tensor}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    _refused(tmp_path / "a.pth", f"(the tensor b {message}|damaged or not a checkpoint)")


def test_odd_types_in_safetensors(tmp_path: Path) -> None:
    save_file({"b": torch.zeros(3).to(torch.float8_e5m2)}, tmp_path / "a.safetensors")
    _refused(tmp_path / "a.safetensors", "the tensor b is of the type float8_e5m2")
    save_file({}, tmp_path / "b.safetensors")
    _refused(tmp_path / "b.safetensors", "holds no weights")


def test_all_tensors_together_fit_into_the_file(tmp_path: Path) -> None:
    whole = torch.zeros(1000)
    torch.save({f"w{at}": whole[at:] for at in range(500)}, tmp_path / "a.pth")
    _refused(tmp_path / "a.pth", "its tensors take 1,501,000 bytes")
    torch.save({"tied": whole, "weight": whole, "part": torch.zeros(10)[2:4]}, tmp_path / "b.pth")
    assert set(read_checkpoint(tmp_path / "b.pth").state) == {"tied", "weight", "part"}


def test_plain_types_are_read(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool)
    state = {str(kind): torch.ones(4, dtype=kind) for kind in kinds} | {"scalar": torch.tensor(3)}
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        assert inspect_file(tmp_path / name).tensors == len(state)


def test_numbers_of_all_types_are_looked_at(tmp_path: Path) -> None:
    for kind in (torch.float64, torch.float16, torch.bfloat16):
        torch.save({"good": torch.ones(2, dtype=kind), "bad": torch.tensor([1, torch.nan], dtype=kind)}, tmp_path / "a")
        assert inspect_file(tmp_path / "a").nonfinite == ["bad"]


def test_an_archive_that_unpacks_to_more_than_its_size(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as old, zipfile.ZipFile(tmp_path / "b.pth", "w", 8) as new:
        for each in old.namelist():
            new.writestr(each, old.read(each))
    _refused(tmp_path / "b.pth", "is refused: it unpacks to")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", "{", '{"epoch": ' + "9" * 5000 + "}", '{"head_options": ' + '{"a":' * 90_000]
)
def test_damaged_metadata(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors", metadata={"pvtctl": text})
    _refused(tmp_path / "a.safetensors", "the metadata")


@pytest.mark.parametrize("text", [b"{", b"[" * 100_000, b"[1]", b"\xff"])
def test_damaged_configuration(tmp_path: Path, text: bytes) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(UsageError, match=r"config\.json is"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("change", ["scalars", "flat", "empty", "transposed", "deep"])
def test_known_names_with_other_shapes(tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Recognition reads shapes: none of these may break it."""
    state = build_classifier("pvt_v2_b0@0.125", num_classes=3).state_dict()
    to = {
        "scalars": lambda value: torch.zeros(()),
        "flat": torch.flatten,
        "empty": lambda value: value[..., :0] if value.ndim else value,
        "transposed": lambda value: value.transpose(0, -1).contiguous() if value.ndim else value,
        "deep": lambda value: value.view(*[1] * (8 - value.ndim), *value.shape),
    }[change]
    torch.save({key: to(value) for key, value in state.items()}, tmp_path / "a.pth")
    for words in (["weights", "inspect"], ["predict", str(tmp_path), "--weights"]):
        assert main([*words, str(tmp_path / "a.pth")]) in (0, 2)
    assert "bug in pvtctl" not in capsys.readouterr().err


def test_random_damage(tmp_path: Path) -> None:
    """Headers of safetensors with any byte changed are read or refused in words."""
    chance, path = random.Random(5), tmp_path / "a.safetensors"
    state = {"backbone.stages.0.patch_embed.proj.weight": torch.zeros(2, 3, 7, 7), "head.weight": torch.zeros(3, 2)}
    save_file(state, path, metadata={"pvtctl": json.dumps({"backbone": "pvt_v2_b0", "class_names": ["a", "b", "c"]})})
    whole, said = path.read_bytes(), list[str]()
    for _ in range(120):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(350)] = chance.choice(b'0123456789"{}[],:xF\0\xff')
        path.write_bytes(damaged)
        try:
            inspect_file(path)
        except UsageError as error:
            said.append(error.message)
    assert len(said) > 30
    assert all("a.safetensors" in message for message in said)
