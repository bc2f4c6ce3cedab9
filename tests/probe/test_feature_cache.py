"""Features on disk: found again, damaged ones not, bounded, and safe for several processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pvtctl.errors import UsageError
from pvtctl.probe.cache import FeatureCache

PART = {"0.0": torch.arange(256, dtype=torch.float16)}


def never() -> None:
    raise AssertionError("nobody else holds the lock")


def filled(cache: FeatureCache, key: str, when: float) -> Path:
    with cache.opened(key, never) as entry:
        path = entry.write("train0", 0, PART, "[]")
    os.utime(cache.folder / key, (when, when))
    return path


def test_a_shard_is_found_again_and_leaves_nothing_else(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "features", 1 << 20)
    path = filled(cache, "a", 1)
    with cache.opened("a", never) as entry:
        assert entry.find("train0", 0) == path
        assert entry.find("train0", 1) is None
        assert entry.find("val0", 0) is None
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name]


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "not safetensors"])
def test_a_damaged_shard_is_removed(tmp_path: Path, how: str) -> None:
    cache = FeatureCache(tmp_path, 1 << 20)
    path = filled(cache, "a", 1)
    whole = path.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    damaged = {"cut": whole[:-9], "flipped": flipped, "empty": b"", "not safetensors": b"\xff" * len(whole)}[how]
    path.write_bytes(damaged)
    with cache.opened("a", never) as entry:
        assert entry.find("train0", 0) is None
        assert not path.exists()
        assert entry.write("train0", 0, PART, "[]") == path
        assert path.read_bytes() == whole


def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    size = filled(FeatureCache(tmp_path / "try", 1 << 20), "a", 1).stat().st_size
    cache = FeatureCache(tmp_path / "features", 3 * size)
    paths = [filled(cache, name, when) for when, name in enumerate("abc", 1)]
    filled(cache, "d", 9)
    assert [path.exists() for path in paths] == [False, True, True]


def test_features_that_do_not_fit_are_refused_and_no_other_process_is_robbed(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 1000)
    path = filled(cache, "a", 1)
    with (
        cache.opened("a", never),
        cache.opened("b", never) as entry,
        pytest.raises(UsageError, match="--cache-size") as e,
    ):
        entry.write("train0", 0, PART, "[]")
    assert e.value.hint
    assert path.exists()


def test_a_second_process_waits(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 1 << 20)
    waited: list[int] = []

    class Enough(Exception):
        pass

    def wait() -> None:
        waited.append(1)
        if len(waited) == 3:
            raise Enough

    with cache.opened("a", never), pytest.raises(Enough), cache.opened("a", wait):
        pass
    assert len(waited) == 3
    with cache.opened("a", never):
        pass


def test_a_key_that_made_room_can_be_used_again(tmp_path: Path) -> None:
    """A lock stays where it is when its folder goes: who got it has the folder for itself."""
    size = filled(FeatureCache(tmp_path / "try", 1 << 20), "a", 1).stat().st_size
    cache = FeatureCache(tmp_path / "features", size)
    filled(cache, "a", 1)
    with cache.opened("b", never) as other:
        other.write("train0", 0, PART, "[]")
        assert not (cache.folder / "a").exists()
    with cache.opened("a", never) as entry:
        assert entry.find("train0", 0) is None
        assert entry.write("train0", 0, PART, "[]").is_file()


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 1 << 20)
    path = filled(cache, "a", 1)
    left = path.parent / "00001.new.123.tmp"
    left.write_bytes(b"half")
    with cache.opened("a", never):
        assert not left.exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be used"), FeatureCache(tmp_path / "file", 1).opened("a", never):
        pass
