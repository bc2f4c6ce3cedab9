"""Files of a web server on this machine, which fails in all ways that it can."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Loopback, serving

from pvtctl.errors import UsageError
from pvtctl.io import remote
from pvtctl.io.remote import FileChanged, ServerAway, fetch, look_up, matching, read_part, read_small

DATA = bytes(range(256)) * 400


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    monkeypatch.setattr(remote, "CHUNK", 30_000)
    with serving() as state:
        state.files["/a.tar"] = DATA
        yield state


def fetched(server: Loopback, tmp_path: Path) -> bytes:
    fetch(look_up(f"{server.url}/a.tar"), tmp_path / "part")
    return (tmp_path / "part").read_bytes()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(
    "faults",
    [[], [503], [503, 500, 429, 502], ["cut"], ["cut", "cut", 503], ["slow"]],
)
def test_a_file_comes_whole_in_the_end(server, tmp_path, ranges, faults) -> None:
    server.ranges, server.faults = ranges, list(faults)
    assert fetched(server, tmp_path) == DATA


def test_a_cut_file_is_continued(server, tmp_path) -> None:
    server.faults = ["cut"]
    assert fetched(server, tmp_path) == DATA
    asked = [wanted for method, _, wanted in server.asked if method == "GET"]
    assert asked[0] == ""
    assert asked[1].startswith(f"bytes={len(DATA) // 2}-")


def test_what_is_there_is_not_fetched_again(server, tmp_path) -> None:
    (tmp_path / "part").write_bytes(DATA[:70_000])
    assert fetched(server, tmp_path) == DATA
    assert next(wanted for method, _, wanted in server.asked if method == "GET") == "bytes=70000-99999"


def test_a_slow_server_counts_as_away(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(remote, "TIMEOUT", 0.2)
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    file = look_up(f"{server.url}/a.tar")
    server.faults = ["slow"] * 9
    with pytest.raises(ServerAway, match=r"/a\.tar could not be read: no answer within 0\.2 s"):
        fetch(file, tmp_path / "part")


@pytest.mark.parametrize(("faults", "reason"), [([503] * 99, "the server returned 503"), (["cut"] * 99, "")])
def test_a_server_that_stays_away_is_named_with_what_to_do(server, tmp_path, faults, reason) -> None:
    file = look_up(f"{server.url}/a.tar")
    server.faults, server.ranges = faults, False
    with pytest.raises(ServerAway, match=rf"127\.0\.0\.1.*/a\.tar could not be read: {reason}") as caught:
        fetch(file, tmp_path / "part")
    assert "--resume" in str(caught.value.hint)
    assert len(server.asked) < 20


def test_no_server_at_all(monkeypatch) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://me:secret@127.0.0.1:{held.getsockname()[1]}/a.tar?sig=hidden"
        with pytest.raises(ServerAway, match=r"http://\*\*\*@127") as caught:
            look_up(url)
    assert "secret" not in f"{caught.value} {caught.value.hint}"
    assert "hidden" not in f"{caught.value} {caught.value.hint}"


def test_a_file_that_changes_is_told(server, tmp_path) -> None:
    file = look_up(f"{server.url}/a.tar")
    server.files["/a.tar"] = DATA[::-1]
    with pytest.raises(FileChanged, match=r"was changed on the server.*ETag"):
        fetch(file, tmp_path / "part")
    server.files["/a.tar"] = DATA[:-1]
    with pytest.raises(FileChanged, match=rf"had {len(DATA):,} bytes"):
        fetch(file, tmp_path / "part")


def test_a_file_that_changes_while_it_comes_is_not_kept(server, tmp_path, monkeypatch) -> None:
    file = look_up(f"{server.url}/a.tar")
    more = remote._more

    def change(*arguments):  # after the first bytes
        server.tags["/a.tar"] = '"other"'
        return more(*arguments)

    monkeypatch.setattr(remote, "_more", change)
    with pytest.raises(FileChanged):
        fetch(file, tmp_path / "part")
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize(
    ("status", "match"), [(404, "does not exist"), (410, "does not exist"), (403, "is refused"), (401, "401")]
)
def test_what_no_attempt_would_change(server, tmp_path, status, match) -> None:
    file = look_up(f"{server.url}/a.tar")
    server.faults, asked = [status], len(server.asked)
    with pytest.raises(UsageError, match=match):
        fetch(file, tmp_path / "part")
    assert len(server.asked) == asked + 2


@pytest.mark.parametrize("ranges", [True, False])
def test_parts_and_small_files(server, ranges) -> None:
    server.ranges = ranges
    file = look_up(f"{server.url}/a.tar")
    assert read_part(file, 1000, 77) == DATA[1000:1077]
    assert read_small(f"{server.url}/missing.txt") is None
    server.files["/classes.txt"] = b"a\nb\n"
    assert read_small(f"{server.url}/classes.txt") == b"a\nb\n"
    with pytest.raises(UsageError, match="too large"):
        read_small(f"{server.url}/a.tar", most=10)


def test_an_address_without_a_server_is_refused_at_once(monkeypatch) -> None:
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: pytest.fail("tried again"))
    with pytest.raises(UsageError, match="http://host:notaport/set names no server"):
        look_up("http://host:notaport/set")


def test_a_folder_that_shows_its_files(server) -> None:
    server.files["/set/"] = b'<a href="b-0.tar">b-0.tar</a> <a href="b-1.tar"></a> <a href="notes.txt"></a>'
    assert matching(f"{server.url}/set/*.tar") == [f"{server.url}/set/b-{n}.tar" for n in range(2)]


def test_the_query_goes_to_the_server_and_a_password_too(server, tmp_path) -> None:
    whole = server.url.replace("://", "://me:pass@") + "/a.tar?sig=1"
    fetch(look_up(whole), tmp_path / "part")
    assert all(path == "/a.tar?sig=1" for _, path, _ in server.asked)


def test_a_scheme_without_its_package_and_one_that_nobody_knows(monkeypatch) -> None:
    monkeypatch.setitem(remote.SCHEMES, "s3", "no_such_package")
    with pytest.raises(UsageError, match="s3:// needs the package no_such_package") as caught:
        look_up("s3://bucket/a.tar")
    assert caught.value.hint == "pip install 'pvtctl[remote]'"
    with pytest.raises(UsageError, match="starts with ftp://"):
        look_up("ftp://host/a.tar")
