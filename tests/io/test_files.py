"""Writing: the error names the file that is at fault."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.files import atomic_path, new_folder, write_text

PLACES = [atomic_path, new_folder]


@pytest.mark.parametrize("place", PLACES)
def test_a_file_read_meanwhile_is_not_confused_with_the_target(
    tmp_path: Path, place: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    with pytest.raises(FileNotFoundError, match="absent"), place(tmp_path / "target"):
        (tmp_path / "absent" / "run.json").read_bytes()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [None, "temporary", "below", "target", "parent"])
def test_errors_of_writing_blame_the_target(
    tmp_path: Path, place: Callable[[Path], AbstractContextManager[Path]], name: str | None
) -> None:
    target = tmp_path / "target"
    temporary = tmp_path / f".target.{os.getpid()}.tmp"
    names = {"temporary": temporary, "below": temporary / "a" / "b", "target": target, "parent": tmp_path}
    with pytest.raises(PvtctlError, match="target"), place(target):
        raise OSError(errno.EACCES, "Permission denied", *([str(names[name])] if name else []))


def test_a_disk_that_refuses_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(PvtctlError, match="no permission to write"), atomic_path(tmp_path / "target") as temporary:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(temporary))


def test_any_name_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "caf\udce9 é")
    assert (tmp_path / "a").read_text("utf-8") == "caf\\udce9 é"


def test_a_folder_of_that_name_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "a" / "kept").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"a could not be written: Is a directory"):
        write_text(tmp_path / "a", "text")
    assert (tmp_path / "a" / "kept").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
