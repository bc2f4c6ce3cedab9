"""Whatever is wrong with a file that others wrote, the error is one line with its name."""

from __future__ import annotations

import gc
import json
import os
import pickle
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pvtctl.errors import ExitCode, UsageError
from pvtctl.io import plain_yaml
from pvtctl.io.foreign import (
    MAX_NESTING,
    BadFile,
    foreign,
    found_instead,
    open_foreign,
    parse_json,
    read_facts,
    read_foreign,
    read_json,
    read_text,
    read_xml,
    require_folder,
    require_regular,
    walk_files,
)
from pvtctl.io.plain_yaml import read_plain_yaml

LEVELS = 100_000
READERS: dict[str, Callable[[Path], Any]] = {"json": read_json, "yaml": read_plain_yaml, "xml": read_xml}
VALID = {
    "json": b'{"images": [{"id": 1, "name": "a\\u00e9"}], "scores": [0.5, -1e-3, null, true]}',
    "yaml": b"names:\n  0: cat\n  1: 'dog'\npath: ../images\nnc: 2\nscale: [1e-4, .5, no]\n",
    "xml": b'<annotation a="1"><object><name>cat &amp; dog</name><bndbox/></object></annotation>',
}
DAMAGE = {
    "json": {
        "empty": b"",
        "cut": VALID["json"][:-9],
        "binary": bytes(range(256)),
        "utf-16": VALID["json"].decode().encode("utf-16")[:-1],
        "latin": b'{"a": "\xe9"}',
        "deep": b"[" * LEVELS + b"]" * LEVELS,
        "deep objects": b'{"a":' * LEVELS + b"1" + b"}" * LEVELS,
        "a little too deep": b"[" * (MAX_NESTING + 1) + b"]" * (MAX_NESTING + 1),
        "deep beside brackets in text": b'["]",' + b"[" * 200 + b"]" * 200 + b"]",
        "digits": b"1" * 5000,
    },
    "yaml": {
        "alias": b"a: &x [1]\nb: *x\n",
        "cut": b"a: [1,\n",
        "tab": b"a:\n\tb: 1\n",
        "tag": b"a: !!python/object/apply:os.system ['true']\n",
        "int tag": b"a: !!int x\n",
        "own tag": b"a: !thing {b: 1}\n",
        "control": b"a: \x07\n",
        "latin": b"a: \xe9\n",
        "two documents": b"a: 1\n---\nb: 1\n",
        "deep": b"a: " + b"[" * LEVELS,
        "deep blocks": b"- " * LEVELS,
        "repeated": b"a: 1\na: 2\n",
        "key": b"? [1]\n: 2\n",
        "infinity": b"a: .inf\n",
    },
    "xml": {
        "empty": b"",
        "cut": VALID["xml"][:-9],
        "bomb": b'<!DOCTYPE a [<!ENTITY b "cc">]><a>&b;</a>',
        "entity": b"<a>&b;</a>",
        "encoding": b'<?xml version="1.0" encoding="nope"?><a/>',
        "utf-7": b'<?xml version="1.0" encoding="utf-7"?><a/>',
        "deep": b"<a>" * LEVELS + b"</a>" * LEVELS,
        "binary": bytes(range(256)),
    },
}


def _one_line(error: UsageError, name: str) -> None:
    assert error.exit_code == ExitCode.USAGE
    assert name in error.message
    assert "\n" not in error.message
    assert len(error.message) < 400
    assert error.message.isprintable()


@pytest.mark.parametrize(("kind", "damage"), [(kind, damage) for kind, all_of in DAMAGE.items() for damage in all_of])
def test_damaged_documents(tmp_path: Path, kind: str, damage: str) -> None:
    file = tmp_path / f"file.{kind}"
    file.write_bytes(DAMAGE[kind][damage])
    with pytest.raises(BadFile) as caught:
        READERS[kind](file)
    _one_line(caught.value, "file.")


@pytest.mark.parametrize("kind", READERS)
def test_random_damage(tmp_path: Path, kind: str) -> None:
    chance, file = random.Random(13), tmp_path / f"file.{kind}"
    for _ in range(300):
        raw = bytearray(VALID[kind])
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(raw))
            piece = chance.choice([b"", b"\0", b"\xff", b"[", b"{", b"<", b"&", b"*", b"!", b"9" * 400, b"\x1b", b": "])
            raw[at : at + chance.choice([0, 1, 5])] = piece
        file.write_bytes(raw)
        try:
            READERS[kind](file)
        except BadFile as error:
            _one_line(error, "file.")


def test_valid_documents(tmp_path: Path) -> None:
    for kind, raw in VALID.items():
        (tmp_path / kind).write_bytes(raw if kind == "xml" else b"\xef\xbb\xbf" + raw)
    assert read_json(tmp_path / "json", dict) == json.loads(VALID["json"])
    assert read_plain_yaml(tmp_path / "yaml", dict) == {
        "names": {0: "cat", 1: "dog"},
        "path": "../images",
        "nc": 2,
        "scale": [1e-4, 0.5, "no"],
    }
    root, lines = read_xml(tmp_path / "xml")
    assert root.findtext("object/name") == "cat & dog"
    assert set(lines.values()) == {1}
    assert parse_json('["[[", "}", ["{"]]', "text") == ["[[", "}", ["{"]]
    assert parse_json("[" * MAX_NESTING + "]" * MAX_NESTING, "text")


def test_endless_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_yaml, "MAX_NODES", 100)
    (tmp_path / "a").write_text("[" + "1," * 98 + "]")
    assert len(read_plain_yaml(tmp_path / "a")) == 98
    (tmp_path / "a").write_text("[" + "1," * 5000 + "]")
    with pytest.raises(BadFile, match="more than 100 keys and values"):
        read_plain_yaml(tmp_path / "a")


def test_dates_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 2001-99-99\nb: 2001-01-01\nc: 0x" + "f" * 5000)
    found = read_plain_yaml(tmp_path / "a.yaml")
    assert found == {"a": "2001-99-99", "b": "2001-01-01", "c": "0x" + "f" * 5000}


def test_the_kind_of_a_document(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("[1]")
    assert read_json(tmp_path / "a", list) == read_plain_yaml(tmp_path / "a", list) == [1]
    for read, what in ((read_json, "JSON object"), (read_plain_yaml, "YAML mapping")):
        with pytest.raises(BadFile, match=what):
            read(tmp_path / "a", dict)


def test_too_large(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"[1, 2]")
    assert read_json(tmp_path / "a", most=6) == [1, 2]
    with pytest.raises(BadFile, match="too large: 6 bytes, at most 5"):
        read_json(tmp_path / "a", most=5)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RecursionError("maximum"), "is nested too deep"),
        (OverflowError("int too large"), "is damaged (int too large)"),
        (MemoryError(), "does not fit into memory"),
        (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates"), "is not UTF-8 text"),
        (KeyError("name"), "is damaged ('name')"),
        (ZeroDivisionError(), "is damaged (ZeroDivisionError)"),
        (PermissionError(13, "Permission denied"), "cannot be read: Permission denied"),
        (ValueError("x" * 5000 + "\nmore"), None),
    ],
)
def test_every_error_becomes_one(error: Exception, reason: str | None) -> None:
    with pytest.raises(BadFile) as caught, foreign("a\nfile.json", "try another"):
        raise error
    _one_line(caught.value, "a\\x0afile.json")
    assert caught.value.hint == "try another"
    assert reason is None or caught.value.message == f"a\\x0afile.json {reason}"


def test_errors_that_are_told_pass() -> None:
    told = UsageError("already")
    with pytest.raises(UsageError) as caught, foreign("file"):
        raise told
    assert caught.value is told
    with pytest.raises(KeyboardInterrupt), foreign("file"):
        raise KeyboardInterrupt


@pytest.fixture
def special(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Entries of a folder that are no files, by kind."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "broken.png").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket.png"))
        yield {kind: tmp_path / f"{kind}.png" for kind in ("pipe", "folder", "broken", "socket")} | {
            "device": Path("/dev/null")
        }


@pytest.mark.parametrize("read", [open_foreign, read_foreign, read_text, read_json, require_regular])
def test_only_regular_files_are_opened(special: dict[str, Path], read: Callable[[Path], object]) -> None:
    for path in special.values():
        with pytest.raises(BadFile) as caught:
            read(path)
        _one_line(caught.value, path.name)
    with pytest.raises(BadFile):
        read(Path("a\0b"))


def test_what_is_there_instead_is_named(special: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "text").touch()
    said = {kind: found_instead(path, "a list") for kind, path in special.items()}
    said |= {kind: found_instead(tmp_path / kind, "a list") for kind in ("loop", "text")}
    assert {kind: str(text).rpartition(" is ")[2] for kind, text in said.items()} == {
        "pipe": "a named pipe, not a list",
        "folder": "a folder, not a list",
        "broken": f"{special['broken']} cannot be read: No such file or directory",
        "socket": "a socket, not a list",
        "device": "a device, not a list",
        "loop": f"{tmp_path / 'loop'} cannot be read: Too many levels of symbolic links",
        "text": "a file, not a list",
    }
    assert found_instead(tmp_path / "nothing", "a list") is found_instead("a\0b", "a list") is None
    require_folder(special["folder"])
    for path, why in ((special["pipe"], "pipe.png is a named pipe, not a folder"), (Path("no"), "no data folder no")):
        with pytest.raises(UsageError, match=why):
            require_folder(path)


def test_a_walk_goes_on(special: dict[str, Path], tmp_path: Path) -> None:
    for name in ("z.PNG", "a.png", "sub/b.png", "sub/.hidden.png", ".git/c.png", "sub/text.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "linked").symlink_to("sub")
    skipped: dict[str, str] = {}
    found = walk_files(tmp_path, lambda path, reason: skipped.update({path.name: reason}), suffixes=(".png",))
    names = [str(path.relative_to(tmp_path)) for path in found]
    assert names == ["a.png", "link.png", "sub/b.png", "z.PNG"]
    assert skipped == {
        "pipe.png": "is a named pipe, not a file",
        "socket.png": "is a socket, not a file",
        "broken.png": "cannot be read: No such file or directory",
    }
    followed = [path.name for path in walk_files(tmp_path, lambda *_: None, follow=True)]
    assert sorted(followed) == ["a.png", "b.png", "link.png", "text.txt", "z.PNG"]


def test_a_walk_notes_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "z").touch()
    scan = os.scandir

    def guarded(path: Path | int) -> object:
        if not isinstance(path, int) and Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    skipped: list[tuple[str, str]] = []
    found = list(walk_files(tmp_path, lambda path, reason: skipped.append((path.name, reason))))
    assert [path.name for path in found] == ["z"]
    assert skipped == [("closed", "cannot be read: Permission denied")]
    assert not list(walk_files(tmp_path / "absent", lambda path, reason: skipped.append((path.name, reason))))
    assert skipped[-1] == ("absent", "cannot be read: No such file or directory")


@pytest.mark.parametrize("text", [None, b"", b"[1]", b"3", b"\xff{}", b'{"a": ' * 9999, b'{"a": 1'])
def test_facts_are_left_out_where_they_cannot_be_read(tmp_path: Path, text: bytes | None) -> None:
    if text is not None:
        (tmp_path / "facts.json").write_bytes(text)
    assert read_facts(tmp_path / "facts.json") == {}
    (tmp_path / "facts.json").write_text('{"a": [1]}')
    assert read_facts(tmp_path / "facts.json") == {"a": [1]}
    assert read_facts(tmp_path / "facts.json", most=5) == {}
    os.mkfifo(tmp_path / "pipe.json")
    assert read_facts(tmp_path / "pipe.json") == {}


def test_an_error_passes_from_a_process_as_it_is():
    error = BadFile("a.png", "is no image", "look", line=3)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.message, again.hint, again.line) == (BadFile, error.message, "look", 3)
    assert str(again) == str(error)


@pytest.mark.parametrize("on", [True, False])
def test_the_garbage_collector_waits_for_a_document_and_then_is_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: bool
) -> None:
    during: list[bool] = []
    load = json.loads
    monkeypatch.setattr(json, "loads", lambda data: during.append(gc.isenabled()) or load(data))
    (tmp_path / "good.json").write_text("[1]")
    (tmp_path / "bad.json").write_text("[1")
    was_on = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        assert read_json(tmp_path / "good.json") == [1]
        assert gc.isenabled() is on
        with pytest.raises(BadFile):
            read_json(tmp_path / "bad.json")
        assert gc.isenabled() is on
        assert during == [False, False]
    finally:
        (gc.enable if was_on else gc.disable)()
