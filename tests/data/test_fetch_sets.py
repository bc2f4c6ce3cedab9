"""Public data sets from a loopback server, in small."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pvtctl.cli.main import main
from pvtctl.data import fetch, public_sets
from pvtctl.data.fetch import fetch_set
from pvtctl.data.public_sets import Archive, PublicSet
from pvtctl.errors import PvtctlError, UsageError


def packed(*files: tuple[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files:
            archive.writestr(name, text)
    return out.getvalue()


FILES = {
    "/annotations/ann.zip": packed(("annotations/", ""), ("annotations/instances_val2017.json", "{}")),
    "/zips/val2017.zip": packed(("val2017/1.jpg", "one" * 9999), ("val2017/2.jpg", "two")),
    "/zips/train2017.zip": packed(("train2017/a/3.jpg", "three")),
}


class Server(NamedTuple):
    url: str
    files: dict[str, bytes]
    seen: list[tuple[str, str | None]]
    cuts: list[int]
    """For each request in turn, the bytes to send before the connection is dropped."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server("", dict(FILES), [], [])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.seen.append((self.path, self.headers["Range"]))
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            begin = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if begin else 200)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content[begin:][: state.cuts.pop(0) if state.cuts else None])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield state._replace(url=f"http://127.0.0.1:{httpd.server_address[1]}")
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def archive(path: str, place: str, *splits: str, **options: Any) -> Archive:
    options = {"sha256": hashlib.sha256(FILES[path]).hexdigest()} | options
    return Archive(f"http://example.invalid{path}", len(FILES[path]), 50_000, (place,), splits, **options)


@pytest.fixture(autouse=True)
def catalogue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PVTCTL_DATA", raising=False)
    monkeypatch.delenv("PVTCTL_MIRROR", raising=False)
    archives = (
        archive("/annotations/ann.zip", "annotations", "train", "val"),
        archive("/zips/val2017.zip", "val2017", "val"),
        archive("/zips/train2017.zip", "train2017", "train"),
    )
    monkeypatch.setattr(public_sets, "_PUBLIC", [PublicSet("coco", "COCO in small", "CC BY 4.0", "a test", archives)])


def left_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_whole_set(server: Server, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    folder = fetch_set(
        "coco", mirror=server.url, watch=lambda what: lambda done, total: told.append((what, done, total))
    )
    assert folder == Path("data/coco")
    assert (folder / "val2017" / "1.jpg").read_text() == "one" * 9999
    assert left_in(folder) == [
        ".fetch/ann.zip.json",
        ".fetch/train2017.zip.json",
        ".fetch/val2017.zip.json",
        "annotations/instances_val2017.json",
        "fetched.json",
        "train2017/a/3.jpg",
        "val2017/1.jpg",
        "val2017/2.jpg",
    ]
    record = json.loads((folder / "fetched.json").read_text())
    assert record["terms"] == "CC BY 4.0"
    assert record["archives"]["val2017.zip"]["url"] == f"{server.url}/zips/val2017.zip"
    assert record["archives"]["val2017.zip"]["sha256"] == hashlib.sha256(FILES["/zips/val2017.zip"]).hexdigest()
    assert ("unpacking val2017.zip", 30000, 30000) in told
    size = len(FILES["/zips/val2017.zip"])
    assert ("val2017.zip", size, size) in told


def test_one_split_then_the_rest(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PVTCTL_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("PVTCTL_MIRROR", server.url)
    assert fetch_set("coco", split="val") == tmp_path / "sets" / "coco"
    assert [path for path, _ in server.seen] == ["/annotations/ann.zip", "/zips/val2017.zip"]
    fetch_set("coco", split="val")
    assert len(server.seen) == 2
    fetch_set("coco", keep=True)
    assert [path for path, _ in server.seen[2:]] == ["/zips/train2017.zip"]
    assert (tmp_path / "sets" / "coco" / ".fetch" / "train2017.zip").is_file()


def test_a_cut_download_goes_on(server: Server) -> None:
    server.cuts.extend([10_000, 100])
    fetch_set("coco", split="val", mirror=server.url, pause=0)
    assert [asked for _, asked in server.seen] == [None, None, "bytes=100-"]


def test_a_set_from_a_folder(tmp_path: Path) -> None:
    source = tmp_path / "zips"
    source.mkdir()
    for path, content in FILES.items():
        (source / Path(path).name).write_bytes(content)
    folder = fetch_set("coco", folder=source, to=tmp_path / "out")
    assert (folder / "train2017" / "a" / "3.jpg").is_file()
    assert len(left_in(source)) == 3
    shutil.rmtree(folder)
    (source / "val2017.zip").unlink()
    with pytest.raises(UsageError, match=r"there is no val2017\.zip"):
        fetch_set("coco", folder=source, to=tmp_path / "out")
    (source / "val2017.zip").write_bytes(FILES["/zips/train2017.zip"])
    with pytest.raises(PvtctlError, match="wrong hash"):
        fetch_set("coco", folder=source, to=tmp_path / "out")


def test_other_bytes_are_refused(server: Server) -> None:
    server.files["/zips/val2017.zip"] = packed(("val2017/1.jpg", "other"))
    with pytest.raises(PvtctlError, match=r"val2017\.zip has the wrong hash"):
        fetch_set("coco", split="val", mirror=server.url)
    assert not Path("data/coco/val2017").exists()
    assert Path("data/coco/annotations").is_dir()


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "val2017/../../out.txt", "..\\out.txt", "C:/out.txt"])
def test_names_that_lead_out_are_refused(server: Server, unchecked: None, name: str) -> None:
    server.files["/zips/val2017.zip"] = packed(("val2017/1.jpg", "1"), (name, "2"))
    with pytest.raises(PvtctlError, match="leads out of its folder"):
        fetch_set("coco", mirror=server.url)
    assert not Path("data/coco/val2017").exists()
    assert not list(Path().rglob("out.txt"))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of one archive whose hash nobody knows."""
    archives = (archive("/zips/val2017.zip", "val2017", "val", sha256=None),)
    monkeypatch.setattr(public_sets, "_PUBLIC", [PublicSet("coco", "COCO", "free", "nobody", archives)])


def test_links_are_refused(server: Server, unchecked: None) -> None:
    link = zipfile.ZipInfo("val2017/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(link, "/etc")
    server.files["/zips/val2017.zip"] = out.getvalue()
    with pytest.raises(PvtctlError, match="leads out of its folder"):
        fetch_set("coco", mirror=server.url)


def test_a_damaged_archive(server: Server, unchecked: None) -> None:
    whole = FILES["/zips/val2017.zip"]
    server.files["/zips/val2017.zip"] = whole.replace(b"two", b"tow", 1)
    with pytest.raises(PvtctlError, match="is damaged: Bad CRC-32"):
        fetch_set("coco", mirror=server.url)
    assert left_in(Path("data/coco")) == [".fetch/val2017.zip", ".fetch/val2017.zip.json"]
    server.files["/zips/val2017.zip"] = b"no zip at all"
    with pytest.raises(PvtctlError, match="is damaged: File is not a zip file"):
        fetch_set("coco", mirror=server.url, to="other")


def test_another_content(server: Server, unchecked: None) -> None:
    server.files["/zips/val2017.zip"] = packed(("val2014/1.jpg", "1"))
    with pytest.raises(PvtctlError, match=r"val2017\.zip does not hold val2017"):
        fetch_set("coco", mirror=server.url)


def test_the_hash_of_the_first_fetch_is_held(server: Server, unchecked: None) -> None:
    folder = fetch_set("coco", mirror=server.url)
    shutil.rmtree(folder / "val2017")
    server.files["/zips/val2017.zip"] = packed(("val2017/1.jpg", "other"))
    with pytest.raises(PvtctlError, match="at the first fetch"):
        fetch_set("coco", mirror=server.url)


@pytest.mark.parametrize("text", [b"", b"[1]", b"\xff", b"[" * 9999, b'{"archives": [], "sha256": NaN, "url": NaN}'])
def test_damaged_records_only_describe(server: Server, unchecked: None, text: bytes) -> None:
    folder = fetch_set("coco", split="val", mirror=server.url)
    (folder / "fetched.json").write_bytes(text)
    (folder / ".fetch" / "val2017.zip.json").write_bytes(text)
    shutil.rmtree(folder / "val2017")
    assert fetch_set("coco", split="val", mirror=server.url) == folder
    record = json.loads((folder / "fetched.json").read_text(), parse_constant=pytest.fail)
    assert list(record["archives"]) == ["val2017.zip"]


def test_the_top_folder_of_an_archive_is_left_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/zips/val2017.zip"] = packed(("Top/images/1.jpg", "1"), ("Top/words.txt", "2"), ("more.txt", "3"))
    archives = (
        Archive("http://example.invalid/zips/val2017.zip", 1, 1, ("images", "words.txt"), ("val",), below="Top/"),
    )
    monkeypatch.setattr(public_sets, "_PUBLIC", [PublicSet("coco", "COCO", "free", "nobody", archives)])
    folder = fetch_set("coco", mirror=server.url)
    assert (folder / "images" / "1.jpg").read_text() == "1"
    assert (folder / "words.txt").read_text() == "2"
    assert not (folder / "more.txt").exists()
    (folder / "words.txt").unlink()
    with pytest.raises(UsageError, match=r"holds images but no words\.txt"):
        fetch_set("coco", mirror=server.url)


def test_a_killed_unpacking_is_done_again(server: Server) -> None:
    rest = Path("data/coco/.fetch/val2017.unpacking/val2017")
    rest.mkdir(parents=True)
    (rest / "half.jpg").touch()
    folder = fetch_set("coco", split="val", mirror=server.url)
    assert sorted(path.name for path in (folder / "val2017").iterdir()) == ["1.jpg", "2.jpg"]


def test_space_is_looked_at_first(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(100, 0, 140_000))
    fetch_set("coco", split="val", mirror=server.url)
    shutil.rmtree("data")
    server.seen.clear()
    with pytest.raises(PvtctlError, match=r"needs about 0\.0 GB, the disk has 0\.0 GB left") as caught:
        fetch_set("coco", mirror=server.url)
    assert "--split val" in str(caught.value.hint)
    assert server.seen == []


def test_arguments(server: Server) -> None:
    with pytest.raises(UsageError, match="no public data set 'cocoa'") as caught:
        fetch_set("cocoa")
    assert "coco" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no split 'test'"):
        fetch_set("coco", split="test")
    with pytest.raises(UsageError, match="cannot fetch from"):
        fetch_set("coco", mirror="ftp://127.0.0.1")
    with pytest.raises(PvtctlError, match="does not exist") as caught:
        fetch_set("coco", mirror=f"{server.url}/none")
    assert "pvtctl data ls" in str(caught.value.hint)


def test_the_command(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", "coco", "--split", "val", "--mirror", server.url]) == 0
    captured = capsys.readouterr()
    assert captured.out == "data/coco\n"
    assert "CC BY 4.0" in captured.err
    assert main(["data", "fetch", "cifar"]) == 2


def test_the_real_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for entry in public_sets.public_sets():
        assert "https://" in entry.terms
        for each in entry.archives:
            assert each.url.startswith("http")
            assert each.places
            assert set(each.splits) <= {"train", "val"}
            assert each.sha256 is None or len(each.sha256) == 64
    coco = public_sets.find_public("coco")
    assert coco is not None
    assert [each.file_name for each in coco.archives_for("val")] == ["annotations_trainval2017.zip", "val2017.zip"]
