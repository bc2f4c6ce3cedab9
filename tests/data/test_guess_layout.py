"""Which data set lies in a folder, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvtctl.data.find import find_data
from pvtctl.data.layouts import EXPECTED, guess_layout
from pvtctl.errors import UsageError

LAYOUTS = {
    "imagenet": ["train/n01440764/a.JPEG", "val/n01440764/b.JPEG"],
    "coco": ["train2017/a.jpg", "annotations/instances_train2017.json"],
    "coco in images": ["images/train/a.jpg", "annotations/instances_val.json"],
    "ade20k": ["images/training/a.jpg", "annotations/training/a.png"],
    "ade20k without training": ["images/validation/a.jpg", "annotations/validation/a.png"],
    "pascal_context": ["JPEGImages/a.jpg", "SegmentationClassContext/a.png"],
    "cityscapes": ["leftImg8bit/val/ulm/a_leftImg8bit.png", "gtFine/val/ulm/a_gtFine_labelIds.png"],
    "masks": ["images/train/a.jpg", "annotations/train/a.png", "classes.txt"],
    "masks in labels": ["images/train/a.jpg", "labels/train/a.png"],
    "masks in masks": ["images/a.jpg", "masks/a.png"],
    "masks by split": ["train/images/a.jpg", "train/masks/a.png"],
    "masks of CamVid": ["train/a.png", "trainannot/a.png", "val/a.png", "valannot/a.png"],
    "nyu": ["nyudepthv2_test_files_with_gt.txt", "official_splits/test/a/rgb_1.jpg"],
    "kitti": ["eigen_test_files_with_gt.txt", "raw/2011_09_26/a.png"],
    "depth": ["train/rgb/a.jpg", "train/depth/a.png", "val/rgb/b.jpg", "val/depth/b.png"],
    "depth without training": ["val/images/b.jpg", "val/depth/b.npy"],
    "depth of one split": ["rgb/a.jpg", "depth/a.png"],
    "depth in depths": ["training/rgb/a.jpg", "training/depths/a.png"],
}


def make(folder: Path, files: list[str]) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_are_told_by_what_they_hold(tmp_path: Path, layout: str) -> None:
    expected = layout.split(maxsplit=1)[0]
    assert guess_layout(make(tmp_path, LAYOUTS[layout])) == (None if expected == "imagenet" else expected)


def test_boxes_are_not_taken_for_masks(tmp_path: Path) -> None:
    both = [*LAYOUTS["masks"], "annotations/instances_train.json"]
    assert guess_layout(make(tmp_path, both)) == "coco"


def test_a_split_file_goes_before_folders(tmp_path: Path) -> None:
    assert guess_layout(make(tmp_path, [*LAYOUTS["depth"], "eigen_train_files_with_gt.txt"])) == "kitti"


def test_an_empty_folder_is_class_folders(tmp_path: Path) -> None:
    assert guess_layout(tmp_path) is None


@pytest.mark.parametrize("name", [*EXPECTED, "imagenet", "coco"])
def test_data_is_found_where_it_usually_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PVTCTL_DATA", str(tmp_path / "all"))
    (tmp_path / "data" / name).mkdir(parents=True)
    assert find_data(name) == Path("data") / name
    (tmp_path / "all" / name).mkdir(parents=True)
    assert find_data(name) == tmp_path / "all" / name
    assert find_data(name, tmp_path) == tmp_path


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_nowhere_is_told_with_places_layout_and_a_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PVTCTL_DATA", "/nowhere")
    with pytest.raises(
        UsageError, match=rf"no data for '{name}': looked for /nowhere/{name} and data/{name}$"
    ) as found:
        find_data(name)
    hint = found.value.hint or ""
    assert EXPECTED[name] in hint
    assert "--data FOLDER" in hint
    assert f"pvtctl data export scenes --layout {'nyu' if name in ('nyu', 'kitti', 'depth') else 'ade20k'}" in hint
    with pytest.raises(UsageError, match="no data folder gone") as found:
        find_data(name, "gone")
    assert found.value.hint == EXPECTED[name]


def test_rendered_and_mixed_data_need_no_folder() -> None:
    assert find_data("scenes") == find_data("mix") == Path()
    with pytest.raises(UsageError, match="unknown data set 'ade20'") as found:
        find_data("ade20")
    assert "ade20k" in (found.value.hint or "")
