"""The images of a folder, whatever else lies in it."""

from __future__ import annotations

import os
from pathlib import Path

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
