"""Checkpoint files: intact or not, and what is left of a write that was broken off."""

from __future__ import annotations

import hashlib
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from pvtctl.engine.checkpoint import CheckpointStore, is_intact, load_state


def store_of(folder: Path, steps: tuple[int, ...] = (1, 2)) -> CheckpointStore:
    store = CheckpointStore(folder, keep=len(steps))
    for step in steps:
        store.save({"x": torch.arange(300) + step, "progressed": {"epoch": step}}, step)
    return store


def test_the_hash_beside_a_checkpoint_is_that_of_the_file(tmp_path: Path) -> None:
    store = store_of(tmp_path, (1, 2, 3))
    for file in store.files():
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert file.with_suffix(".sha256").read_text() == f"{digest}  {file.name}\n"
    store.keep = 1
    store.save({"x": torch.zeros(1)}, 4)
    assert {file.name for file in tmp_path.iterdir()} == {"step-00000004.pt", "step-00000004.sha256"}


@pytest.mark.parametrize("hashed", [True, False], ids=["hashed", "without a hash"])
def test_no_flipped_bit_stops_a_run_or_gives_it_another_state(tmp_path: Path, hashed: bool) -> None:
    """In the archive's headers too, where the checksums of its entries do not reach; an older file is taken then."""
    store = store_of(tmp_path)
    newest = store.files()[0]
    data, state = newest.read_bytes(), load_state(newest)
    if not hashed:  # as by a version of pvtctl that wrote none
        newest.with_suffix(".sha256").unlink()
    ends = [info.header_offset for info in zipfile.ZipFile(newest).infolist()] + [len(data) - 600]
    rng, passed_over = random.Random(0), 0
    for number in range(120):
        damaged = bytearray(data)
        at = rng.randrange(len(data)) if number % 2 else min(rng.choice(ends) + rng.randrange(60), len(data) - 1)
        damaged[at] ^= 1 << rng.randrange(8)
        newest.write_bytes(damaged)
        found = store.newest(lambda text: None)
        if found == newest:
            assert not hashed
            assert torch.equal(load_state(found)["x"], state["x"])
        else:
            assert found == store.files()[1]
            passed_over += 1
    assert passed_over == 120 if hashed else passed_over > 40


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_what_is_no_checkpoint_is_not_intact(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "step-00000001.pt"
    assert not is_intact(file)
    file.write_bytes(content)
    assert not is_intact(file)
    file.with_suffix(".sha256").write_text("")
    assert not is_intact(file)
    file.with_suffix(".sha256").unlink()
    file.with_suffix(".sha256").mkdir()
    assert not is_intact(file)


def test_a_damaged_one_that_is_set_aside_loses_its_hash(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.files()[0].write_bytes(b"")
    store.set_aside_after(store.newest(lambda text: None))
    assert {file.name for file in tmp_path.iterdir()} == {
        "step-00000001.pt",
        "step-00000001.sha256",
        "step-00000002.damaged",
    }


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
@pytest.mark.parametrize("call", [0, 3])
def test_what_breaks_a_write_off_is_raised_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], call: int
) -> None:
    """torch's writer would hide it behind a RuntimeError about positions."""
    store = store_of(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    inner, calls = torch.save, 0

    class Broken:
        def __init__(self, handle: Any) -> None:
            self.handle = handle

        def write(self, data: bytes) -> int:
            nonlocal calls
            calls += 1
            if calls > call:
                raise error
            return self.handle.write(data)

    def save(state: Any, handle: Any) -> None:
        handle.handle = Broken(handle.handle)
        inner(state, handle)

    monkeypatch.setattr("pvtctl.engine.checkpoint.torch.save", save)
    with pytest.raises(error if error is not OSError else Exception) as raised:
        store.save({"x": torch.zeros(9)}, 3)
    assert not isinstance(raised.value, RuntimeError)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
