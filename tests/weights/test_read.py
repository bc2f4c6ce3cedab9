"""Files that are no checkpoints, or must not be loaded: one clear line each, and no code runs."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pvtctl.errors import UsageError
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.save import save_safetensors

STATE = {f"layer{i}.weight": torch.full((40, 40), float(i)) for i in range(5)}


class _Malicious:
    """Unpickling it runs `os.mkdir`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def _refused(path: Path, message: str) -> str:
    with pytest.raises(UsageError, match=message) as caught:
        read_checkpoint(path)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, zipped: bool, name: str) -> None:
    path, folder = tmp_path / name, tmp_path / "made by the pickle"
    torch.save({"model": STATE, "extra": _Malicious(folder)}, path, _use_new_zipfile_serialization=zipped)
    assert "mkdir" in _refused(path, "is refused: loading this pickle would run code")
    assert not folder.exists()
    with path.open("rb") as handle:
        torch.load(handle, weights_only=False)  # the file is what it should be: this runs it
    assert folder.is_dir()


def test_plain_pickle_with_code_is_refused(tmp_path: Path) -> None:
    path, folder = tmp_path / "evil.pkl", tmp_path / "made by the pickle"
    path.write_bytes(pickle.dumps(_Malicious(folder)))
    _refused(path, "refused: loading this pickle would run code")
    assert not folder.exists()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_file(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / "model.ckpt"
    if kind == "safetensors":
        save_safetensors(path, STATE, {})
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: max(int(len(whole) * share), 20)])
    _refused(path, "is damaged")


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_are_read_or_refused_in_words(tmp_path: Path, zipped: bool) -> None:
    path, draws = tmp_path / "model.pth", random.Random(0)
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    begins = min(len(whole), 700)  # where the pickle lies; the tensors behind it may hold any bytes
    for number in range(300):
        damaged = bytearray(whole if number % 2 else whole[: draws.randrange(20, begins)])
        damaged[draws.randrange(min(len(damaged), begins))] = draws.randrange(256)
        damaged[-draws.randrange(1, 23)] = draws.randrange(256)  # the end of an archive
        path.write_bytes(damaged)
        with contextlib.suppress(UsageError):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page, not a checkpoint"),
        (b"\xef\xbb\xbf\r\n  <HTML><head></head></HTML>", "is a web page, not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "is a Git LFS pointer"),
        (b'{"error": "not found"}', "is JSON text"),
        (b"hello, I am no checkpoint at all, sorry", "damaged or not a checkpoint"),
        (bytes(range(256)) * 8, "damaged or not a checkpoint"),
    ],
)
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    _refused(path, message)


def test_archive_that_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "hello")
    _refused(tmp_path / "a.zip", "damaged or not a checkpoint")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], torch.zeros(3), {}, {"model": {"a": 1}}])
def test_saved_things_without_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    _refused(tmp_path / "a.pth", "holds no weights")


def test_whole_saved_model_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    assert "torch.nn" in _refused(tmp_path / "a.pth", "would run code")


def test_folders_and_missing_files(tmp_path: Path) -> None:
    _refused(tmp_path, "is a folder without weights")
    (tmp_path / "config.json").write_text("{}")
    _refused(tmp_path, "is a folder without weights")
    _refused(tmp_path / "nothing.pth", "there is no file")


def test_a_checkpoint_that_its_run_has_replaced_since(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in `eval` of a running run: the newest is read then, and nothing else."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    gone = folder / "step-00000004.pt"
    with pytest.raises(UsageError, match=r"there is no file .*step-00000004\.pt"):
        read_checkpoint(gone)
    for step in (6, 8):
        torch.save({"model": {"x": torch.full((2,), step)}}, folder / f"step-{step:08d}.pt")
    assert read_checkpoint(gone).raw["x"].tolist() == [8, 8]
    assert "step-00000008.pt is read" in capsys.readouterr().err
    with pytest.raises(UsageError, match="there is no file"):
        read_checkpoint(folder / "other.pt")
    gone.write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"step-00000004\.pt"):
        read_checkpoint(gone)
