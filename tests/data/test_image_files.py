"""The images of a folder, whatever else lies in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pvtctl.data.image_files import images_below
from pvtctl.tasks.classification.layouts import class_folders


def test_what_is_no_image_hides_none(tmp_path: Path) -> None:
    names = [f"{at:02}.jpg" for at in range(20)]
    for at, name in enumerate(names):
        (tmp_path / name).write_bytes(b"")
        (tmp_path / f"loop{at}.jpg").symlink_to(f"loop{at}.jpg")
    (tmp_path / "dangling.jpg").symlink_to("gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "folder.jpg" / "x.PNG").symlink_to(tmp_path / names[0])
    assert images_below(tmp_path) == [*names, "folder.jpg/x.PNG"]
    assert class_folders(tmp_path) == ["folder.jpg"]


def test_a_folder_that_cannot_be_read_is_left_out_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "closed/b.jpg", "open/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert images_below(tmp_path) == ["a.jpg", "open/c.jpg"]
    said = capsys.readouterr().err
    assert "closed/ cannot be read: Permission denied; the images in it are left out" in " ".join(said.split())
