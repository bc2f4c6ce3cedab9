"""Commands that list what is on this machine: they show what can be read, and say what cannot."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pvtctl.cli.main import main
from pvtctl.studies.overview import overview

VARIABLES = ("DATA", "RUNS", "CACHE", "STATE")
LISTINGS = (("data", "ls"), ("doctor", "--no-measure"), ("weights", "ls"), ("ablate", "ls"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.setenv(f"PVTCTL_{name}", str(tmp_path / "of" / name))
    return tmp_path


def close(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse what is in a folder, as the system does where its rights lack; tests may run as root, who has all."""

    def refusing(call: Any, *, inside: bool) -> Any:
        def checked(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
            text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
            if f"{text}/".startswith(f"{folder}/") and (not inside or text.rstrip("/") != str(folder)):
                raise PermissionError(errno.EACCES, "Permission denied", text)
            return call(path, *args, **kwargs)

        return checked

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name), inside=False))
    for name in ("stat", "open"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name), inside=True))


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def states(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return {row["name"]: row["state"] for row in listed(capsys, "data", "ls")["rows"]}


def test_entries_that_are_no_folders(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = here / "of" / "DATA"
    sets.mkdir(parents=True)
    (sets / "imagenet").symlink_to(sets / "gone")
    (sets / "coco").symlink_to(sets / "coco")
    os.mkfifo(sets / "ade20k")
    (sets / "kitti").write_text("")
    (sets / "nyu" / "val").mkdir(parents=True)
    found = states(capsys)
    said = {
        "imagenet": "cannot be read: No such file or directory",
        "coco": "cannot be read: Too many levels of symbolic links",
        "ade20k": "is a named pipe, not a folder",
        "kitti": "is a file, not a folder",
    }
    assert {name: found[name] for name in said} == {name: f"{sets / name} {what}" for name, what in said.items()}
    assert found["depth"].startswith("not found: looked for ")
    assert found["scenes"] == "rendered on the fly"


def test_a_closed_folder_of_data_hides_no_other(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("coco", "imagenet"):
        (here / "of" / "DATA" / name / "train" / "cat").mkdir(parents=True)
        (here / "of" / "DATA" / name / "val" / "cat").mkdir(parents=True)
        for split in ("train", "val"):
            (here / "of" / "DATA" / name / split / "cat" / "a.jpg").write_bytes(b"")
    close(here / "of" / "DATA" / "coco", monkeypatch)
    found = states(capsys)
    assert found["coco"].endswith("cannot be read: Permission denied")
    assert found["imagenet"] == "found"
    doctor = listed(capsys, "doctor", "--no-measure")["findings"]
    (coco,) = (each for each in doctor if each["part"] == "data" and each["item"] == "coco")
    assert coco["status"] == "note"
    assert coco["value"].endswith("cannot be read: Permission denied")


@pytest.mark.parametrize("name", VARIABLES)
def test_a_closed_folder_of_a_variable(
    name: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "of" / name).mkdir(parents=True)
    close(here / "of" / name, monkeypatch)
    for words in LISTINGS:
        assert main([*words]) == 0, words
    said = capsys.readouterr()
    assert ("Permission denied" in said.out + said.err) == (name != "STATE")  # which nothing here reads


@pytest.mark.parametrize("value", ["a" * 300, "loop/x", "file/x"])
def test_variables_that_name_no_place(
    value: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "loop").symlink_to(here / "loop")
    (here / "file").write_text("")
    for name in VARIABLES:
        monkeypatch.setenv(f"PVTCTL_{name}", value)
    for words in LISTINGS:
        assert main([*words]) == 0, words
        assert "BROKEN" not in capsys.readouterr().out


def test_a_run_that_cannot_be_read_is_counted(here: Path) -> None:
    study = here / "runs" / "deeper-vs-wider-mini" / "rows"
    for row, text in (("a", '{"status": "finished"}'), ("b", "{"), ("c", '{"status": "failed"}')):
        (study / row / "seed0").mkdir(parents=True)
        (study / row / "seed0" / "run.json").write_text(text)
    (study / "a" / "seed0" / "recipe.yaml").write_bytes(b"\xff")
    (line,) = (each for each in overview(here / "runs") if each.name == "deeper-vs-wider")
    assert line.states == {"mini": "1 run finished, 1 begun, 1 cannot be read"}


@pytest.mark.parametrize("words", [("data", "check"), ("recipes", "check"), ("eval",), ("predict", "--weights", "x")])
def test_the_folder_of_an_unknown_user(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "~nobody-of-this-name/x"]) == 2
    assert "a path begins with ~ and the name of a user who is not here" in capsys.readouterr().err
