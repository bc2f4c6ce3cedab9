from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.file_cache import FileCache


def of(size: int, calls: list[str] | None = None, name: str = ""):
    def fetch(part: Path) -> None:
        if calls is not None:
            calls.append(name)
        part.write_bytes(bytes(size))

    return fetch


def use(cache: FileCache, name: str, size: int = 100, calls: list[str] | None = None) -> None:
    cache.open(name, size, of(size, calls, name)).close()


def test_a_file_is_fetched_once_and_the_one_used_longest_ago_goes(tmp_path) -> None:
    cache, calls = FileCache(tmp_path, 300), []
    for name in ("a.tar", "b.tar", "c.tar", "a.tar"):
        use(cache, name, calls=calls)
        for number, file in enumerate(sorted(tmp_path.glob("*.tar"), key=lambda file: file.stat().st_mtime_ns)):
            os.utime(file, (number, number))  # clocks of file systems may be coarse
    assert calls == ["a.tar", "b.tar", "c.tar"]
    use(cache, "d.tar")
    assert sorted(file.name for file in tmp_path.glob("*.tar")) == ["a.tar", "c.tar", "d.tar"]
    assert cache.size() == 300


def test_what_is_open_stays_and_what_is_needed_comes(tmp_path) -> None:
    cache = FileCache(tmp_path, 200)
    held = [cache.open(name, 100, of(100)) for name in ("a.tar", "b.tar")]
    assert not cache.fetch_ahead("c.tar", 100, of(100))
    use(cache, "c.tar")
    assert {"a.tar", "b.tar", "c.tar"} <= {file.name for file in tmp_path.iterdir()}
    for handle in held:
        assert handle.read() == bytes(100)
        handle.close()
    assert cache.fetch_ahead("d.tar", 100, of(100))
    assert cache.size() <= 200


def test_many_at_once_fetch_once_and_keep_to_the_limit(tmp_path) -> None:
    cache, calls, most = FileCache(tmp_path, 500), [], []

    def work(number: int) -> None:
        if number % 3:
            cache.fetch_ahead(f"{number % 20}.tar", 100, of(100, calls))
        else:
            with cache.open(f"{number % 20}.tar", 100, of(100, calls)) as handle:
                assert len(handle.read()) == 100
        most.append(cache.size())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(120)))
    assert max(most) <= 900  # a file that is being renamed may be counted twice by who looks
    assert not list(tmp_path.glob("*.part"))


def test_who_comes_second_waits(tmp_path) -> None:
    cache, calls, begun, go = FileCache(tmp_path, 500), [], threading.Event(), threading.Event()

    def slow(part: Path) -> None:
        begun.set()
        go.wait(5)
        of(100, calls)(part)

    first = threading.Thread(target=lambda: cache.open("a.tar", 100, slow).close())
    first.start()
    begun.wait(5)
    assert not cache.fetch_ahead("a.tar", 100, of(100, calls))  # it does not wait
    second = threading.Thread(target=lambda: use(cache, "a.tar", calls=calls))
    second.start()
    go.set()
    first.join(5)
    second.join(5)
    assert len(calls) == 1


def test_a_fetch_that_fails_leaves_no_file_and_its_part_is_continued(tmp_path) -> None:
    cache = FileCache(tmp_path, 500)

    def cut(part: Path) -> None:
        part.write_bytes(b"12")
        raise PvtctlError("away")

    with pytest.raises(PvtctlError, match="away"):
        cache.open("a.tar", 4, cut)

    def rest(part: Path) -> None:
        assert part.read_bytes() == b"12"
        part.write_bytes(b"1234")

    with cache.open("a.tar", 4, rest) as handle:
        assert handle.read() == b"1234"


def test_parts_count_whole_and_abandoned_ones_go(tmp_path) -> None:
    cache = FileCache(tmp_path, 250)
    (tmp_path / "old.tar.200.part").write_bytes(b"1")
    assert cache.size() == 200
    use(cache, "a.tar")
    assert cache.size() == 100


def test_a_folder_that_cannot_be_used(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        FileCache(tmp_path / "file" / "below", 1)

    def full(part: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(PvtctlError, match="the disk is full"):
        FileCache(tmp_path / "cache", 10).open("a.tar", 1, full)
