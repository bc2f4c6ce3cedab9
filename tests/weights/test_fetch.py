"""Downloads from a loopback server that misbehaves in the ways real ones do."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from pvtctl.cli.main import main
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io import download
from pvtctl.io.download import record_path, recorded_sha256
from pvtctl.models.backbones import build_classifier
from pvtctl.weights import catalogue
from pvtctl.weights.catalogue import Published
from pvtctl.weights.download import fetch_weights

CONTENT = b"PK\x03\x04" + bytes(range(256))[4:] + bytes(range(256)) * 4095  # 1 MiB, starts as an archive of torch
OTHER = CONTENT[:4] + CONTENT[:3:-1]


@dataclass
class Server:
    """What the loopback server answers, and the requests it saw."""

    content: bytes = CONTENT
    content_type: str = "application/octet-stream"
    etag: str | None = '"one"'
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)
    """For each request in turn, the bytes to send before the connection is dropped."""
    statuses: list[int] = field(default_factory=list)
    """For each request in turn, an error to answer with."""
    delay: float = 0.0
    seen: list[dict[str, str | None]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/models/file.pth"


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.seen.append({"path": self.path, "range": self.headers["Range"], "if_range": self.headers["If-Range"]})
            time.sleep(state.delay)
            if state.statuses:
                self.send_response(state.statuses.pop(0))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            begin = 0
            wanted = self.headers["Range"]
            same = self.headers["If-Range"] in (None, state.etag)
            if wanted and state.ranges and same:
                begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            if begin and begin >= len(state.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(state.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if begin else 200)
            if begin:
                total = len(state.content)
                self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
            self.send_header("Content-Length", str(len(state.content) - begin))
            self.send_header("Content-Type", state.content_type)
            if state.etag:
                self.send_header("ETag", state.etag)
            self.end_headers()
            body = state.content[begin:]
            with contextlib.suppress(ConnectionError):  # the client left, as some tests want it to
                self.wfile.write(body[: state.cut_after.pop(0)] if state.cut_after else body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    state.port = httpd.server_address[1]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PVTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PVTCTL_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache" / "weights"


def _get(url: str, **options: Any) -> Path:
    return fetch_weights(url, pause=0.0, **options)


def _left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _publish(monkeypatch: pytest.MonkeyPatch, server: Server, sha256: str | None) -> None:
    entry = Published("known", "pvt_tiny", server.url, {"top1": 75.1}, "a test", "Apache-2.0", sha256)
    monkeypatch.setattr(catalogue, "_PUBLISHED", [entry])


def test_file_and_record_are_written(server: Server, cache: Path) -> None:
    told: list[tuple[int, int | None]] = []
    path = _get(server.url, progress=lambda done, total: told.append((done, total)))
    assert path == cache / "file.pth"
    assert path.read_bytes() == CONTENT
    record = json.loads(record_path(path).read_text())
    assert record == {"url": server.url, "sha256": hashlib.sha256(CONTENT).hexdigest(), "size": len(CONTENT)}
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert _left_in(cache) == ["file.pth", "file.pth.json"]


def test_a_signature_is_sent_and_written_nowhere(server: Server) -> None:
    path = _get(f"{server.url}?sig=secret")
    assert json.loads(record_path(path).read_text())["url"] == f"{server.url}?***"
    server.statuses = [404]
    with pytest.raises(PvtctlError) as caught:
        _get(f"{server.url}?sig=secret", again=True)
    assert "secret" not in f"{caught.value} {caught.value.hint}"


def test_second_fetch_asks_nobody(server: Server) -> None:
    _get(server.url)
    _get(server.url)
    assert len(server.seen) == 1


def test_fetches_at_the_same_time_download_once(server: Server, cache: Path) -> None:
    server.delay = 0.1
    threads = [threading.Thread(target=_get, args=(server.url,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.seen) == 1
    assert (cache / "file.pth").read_bytes() == CONTENT


def test_cut_download_goes_on_within_a_call(server: Server) -> None:
    server.cut_after = [300_000, 200_000]
    assert _get(server.url).read_bytes() == CONTENT
    assert [each["range"] for each in server.seen] == [None, "bytes=300000-", "bytes=500000-"]
    assert server.seen[1]["if_range"] == '"one"'


def test_a_download_that_gets_on_is_never_given_up(server: Server) -> None:
    server.cut_after = [100_000] * (download.ATTEMPTS + 3)
    assert _get(server.url).read_bytes() == CONTENT
    assert len(server.seen) == download.ATTEMPTS + 4


def test_cut_download_goes_on_in_a_later_call(server: Server, cache: Path) -> None:
    server.cut_after = [100_000] + [0] * (download.ATTEMPTS - 1)
    with pytest.raises(PvtctlError, match="the connection was cut") as caught:
        _get(server.url)
    assert str(cache / "file.pth") in str(caught.value.hint)
    assert (cache / "file.pth.part").stat().st_size == 100_000
    server.seen.clear()
    assert _get(server.url).read_bytes() == CONTENT
    assert [each["range"] for each in server.seen] == ["bytes=100000-"]


def test_part_is_not_continued_with_another_version(server: Server) -> None:
    server.cut_after = [100_000] + [0] * (download.ATTEMPTS - 1)
    with pytest.raises(PvtctlError):
        _get(server.url)
    server.content, server.etag = OTHER, '"two"'
    assert _get(server.url).read_bytes() == OTHER


def test_part_without_tag_or_hash_is_started_over(server: Server) -> None:
    server.etag = None
    server.cut_after = [100_000]
    assert _get(server.url).read_bytes() == CONTENT
    assert [each["range"] for each in server.seen] == [None, None]


def test_part_that_is_whole_is_taken(server: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "file.pth.part").write_bytes(CONTENT)
    (cache / "file.pth.part.etag").write_text('"one"')
    assert _get(server.url).read_bytes() == CONTENT


def test_part_that_is_too_long_is_started_over(server: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "file.pth.part").write_bytes(CONTENT * 2)
    (cache / "file.pth.part.etag").write_text('"one"')
    assert _get(server.url).read_bytes() == CONTENT


def test_server_that_ignores_range(server: Server) -> None:
    server.ranges = False
    server.cut_after = [300_000]
    assert _get(server.url).read_bytes() == CONTENT
    assert server.seen[1]["range"] == "bytes=300000-"


def test_publishers_hash_is_held(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(monkeypatch, server, hashlib.sha256(CONTENT).hexdigest()[:8])
    assert _get("known").read_bytes() == CONTENT
    (cache / "file.pth").write_bytes(b"changed")
    with pytest.raises(PvtctlError, match="wrong hash"):
        _get("known")


def test_wrong_hash_leaves_nothing(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(monkeypatch, server, "00000000")
    with pytest.raises(PvtctlError, match=r"file\.pth has the wrong hash"):
        _get("known")
    assert _left_in(cache) == []


def test_hash_of_the_first_fetch_is_held(server: Server, cache: Path) -> None:
    _get(server.url).unlink()
    server.content = OTHER
    with pytest.raises(PvtctlError, match="at the first fetch") as caught:
        _get(server.url)
    assert "file.pth.json" in str(caught.value.hint)
    assert _left_in(cache) == ["file.pth.json"]


def test_404_names_the_address_and_is_not_repeated(server: Server) -> None:
    server.statuses = [404]
    with pytest.raises(PvtctlError, match=f"{server.url} does not exist") as caught:
        _get(server.url)
    assert caught.value.hint is not None
    assert len(server.seen) == 1


def test_forbidden_is_not_repeated(server: Server) -> None:
    server.statuses = [403]
    with pytest.raises(PvtctlError, match="refused"):
        _get(server.url)
    assert len(server.seen) == 1


def test_busy_server_is_asked_again(server: Server) -> None:
    server.statuses = [503, 429]
    assert _get(server.url).read_bytes() == CONTENT


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_web_page_is_refused(server: Server, cache: Path, content_type: str) -> None:
    server.content, server.content_type = b"\n<!DOCTYPE html><html><body>Sign in</body></html>", content_type
    with pytest.raises(PvtctlError, match="is a web page"):
        _get(server.url)
    assert _left_in(cache) == []


def test_full_disk_keeps_the_part(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_CHUNK", 250_000)
    real, told = download._pour, []

    class FullDisk:
        def __init__(self, handle: Any) -> None:
            self.handle = handle

        def write(self, chunk: bytes) -> int:
            told.append(len(chunk))
            if len(told) > 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.handle.write(chunk)

    monkeypatch.setattr(download, "_pour", lambda answer, part, *rest: real(answer, FullDisk(part), *rest))
    with pytest.raises(PvtctlError, match="the disk is full"):
        _get(server.url)
    assert (cache / "file.pth.part").stat().st_size == 500_000
    monkeypatch.setattr(download, "_pour", real)
    assert _get(server.url).read_bytes() == CONTENT
    assert server.seen[-1]["range"] == "bytes=500000-"


def test_silent_server_times_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    server.delay = 0.5
    with pytest.raises(PvtctlError, match="no response in time"):
        _get(server.url, timeout=0.05)


def test_no_network_says_what_to_do_by_hand(cache: Path) -> None:
    with pytest.raises(PvtctlError, match="could not be fetched: Connection refused") as caught:
        _get("http://127.0.0.1:9/pvt_tiny.pth")
    assert caught.value.hint is not None
    assert str(cache / "pvt_tiny.pth") in caught.value.hint
    assert "--from" in caught.value.hint


@pytest.mark.parametrize("by_environment", [True, False])
def test_mirror_takes_the_place_of_the_host(
    server: Server, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    entry = Published(
        "known",
        "pvt_tiny",
        "https://example.invalid/a/b/file.pth",
        {"top1": 75.1},
        "a test",
        "Apache-2.0",
        hashlib.sha256(CONTENT).hexdigest()[:8],
    )
    monkeypatch.setattr(catalogue, "_PUBLISHED", [entry])
    mirror = f"http://127.0.0.1:{server.port}/mirror/"
    if by_environment:
        monkeypatch.setenv("PVTCTL_MIRROR", mirror)
    assert _get("known", mirror=None if by_environment else mirror).read_bytes() == CONTENT
    assert server.seen[0]["path"] == "/mirror/a/b/file.pth"


def test_local_folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(monkeypatch, server, hashlib.sha256(CONTENT).hexdigest()[:8])
    with pytest.raises(UsageError, match=r"there is no file\.pth"):
        _get("known", folder=tmp_path)
    (tmp_path / "file.pth").write_bytes(CONTENT)
    assert _get("known", folder=tmp_path).read_bytes() == CONTENT
    assert server.seen == []


def test_file_address_and_chosen_folder(tmp_path: Path) -> None:
    (tmp_path / "a b.pth").write_bytes(CONTENT)
    path = _get((tmp_path / "a b.pth").as_uri(), to=tmp_path / "out")
    assert path == tmp_path / "out" / "a b.pth"
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pvt_smal", "no published weights 'pvt_smal'"),
        ("ftp://127.0.0.1/file.pth", "cannot fetch from"),
        ("http://127.0.0.1/", "names no file"),
        ("http://127.0.0.1/%2e%2e", "names no file"),
        ("http://127.0.0.1:x/file.pth?sig=secret", "names no server"),
        ("http://[::1/file.pth", "names no server"),
        ("http://me:secret@127.0.0.1:1/file.pth", "holds a user and a password"),
    ],
)
def test_what_cannot_be_fetched(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        _get(text)
    assert caught.value.hint
    assert "secret" not in f"{caught.value} {caught.value.hint}"


MODEL = "pvt_v2_b0@0.125"


def _bytes_of(state: dict[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return build_classifier(MODEL, num_classes=3).state_dict()


@pytest.fixture
def unhashed(monkeypatch: pytest.MonkeyPatch, server: Server) -> Server:
    """A server of `known`, a model published without a hash."""
    entry = Published("known", MODEL, server.url, {"top1": 75.1}, "a test", "Apache-2.0")
    monkeypatch.setattr(catalogue, "_PUBLISHED", [entry])
    return server


@pytest.mark.parametrize("content", [b"x" * 1000, b"PK\x03\x04" + b"x" * 1000, b"\x80\x02" + b"x" * 1000, b"{}"])
@pytest.mark.parametrize("there", [False, True])
def test_nonsense_is_not_kept(unhashed: Server, cache: Path, content: bytes, there: bool) -> None:
    if there:  # a file of before
        cache.mkdir(parents=True)
        (cache / "file.pth").write_bytes(b"old")
    unhashed.content = content
    with pytest.raises(UsageError, match=r"file\.pth"):
        _get("known", again=there)
    assert _left_in(cache) == (["file.pth"] if there else [])


@pytest.mark.parametrize("fault", ["another model", "missing", "nan"])
def test_parameters_of_something_else_are_not_kept(
    unhashed: Server, cache: Path, weights: dict[str, torch.Tensor], fault: str
) -> None:
    name = "backbone.stages.0.patch_embed.proj.weight"
    match fault:
        case "another model":
            state = build_classifier("pvt_v2_b1@0.125", num_classes=3).state_dict()
        case "missing":
            state = {key: value for key, value in weights.items() if key != name}
        case _:
            state = weights | {name: torch.full_like(weights[name], torch.nan)}
    unhashed.content = _bytes_of(state)
    with pytest.raises(UsageError, match=r"file\.pth (does not hold|holds NaN)"):
        _get("known")
    assert _left_in(cache) == []


def test_a_model_without_a_hash_is_fetched_and_replaced(
    unhashed: Server, cache: Path, weights: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    unhashed.content = _bytes_of(weights)
    assert main(["weights", "fetch", "known"]) == 0
    assert "no hash of known is known; that of the first fetch is SHA-256" in capsys.readouterr().err
    first = recorded_sha256(cache / "file.pth")
    (cache / "file.pth").write_bytes(b"x" * 1000)  # damaged since
    for words in (["weights", "fetch", "known"], ["weights", "inspect", "known"], ["weights", "verify", "known"]):
        assert main(words) != 0
    assert capsys.readouterr().err.count("pvtctl weights fetch known --again") == 2
    record_path(cache / "file.pth").unlink()  # as it was accepted before
    assert main(["weights", "inspect", "known"]) == 2
    assert "pvtctl weights fetch known --again" in capsys.readouterr().err
    other = weights | {key: value + 1 for key, value in weights.items() if value.is_floating_point()}
    unhashed.content = _bytes_of(other)
    assert main(["weights", "fetch", "known", "--again"]) == 0
    assert recorded_sha256(cache / "file.pth") == hashlib.sha256(unhashed.content).hexdigest() != first
    assert _left_in(cache) == ["file.pth", "file.pth.json"]
    unhashed.statuses = [404]
    with pytest.raises(PvtctlError, match="does not exist"):
        _get("known", again=True)
    assert _get("known").read_bytes() == unhashed.content  # what is there stays where the new one cannot be had


def test_a_file_of_before_without_a_record_is_checked(unhashed: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "file.pth").write_bytes(b"x" * 1000)
    with pytest.raises(UsageError, match="is not a checkpoint"):
        _get("known")
    assert unhashed.seen == []
