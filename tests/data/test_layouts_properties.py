"""Layout detection depends on a folder's markers only, in a fixed order of precedence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from pvtctl.data.layouts import EXPECTED, guess_layout

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=30)

FILES = [
    ("nyu", ["nyudepthv2_train_files_with_gt.txt", "official_splits/train/a/rgb_1.jpg"]),
    ("nyu", ["nyudepthv2_test_files_with_gt.txt"]),
    ("kitti", ["eigen_test_files_with_gt.txt", "raw/a/b.png"]),
    ("coco", ["annotations/instances_train2017.json", "train2017/a.jpg"]),
    ("coco", ["annotations/instances_val.json", "images/val/a.jpg"]),
    ("cityscapes", ["leftImg8bit/val/ulm/a_leftImg8bit.png", "gtFine/val/ulm/a_gtFine_labelIds.png"]),
    ("pascal_context", ["JPEGImages/a.jpg", "SegmentationClassContext/a.png"]),
    ("ade20k", ["images/training/a.jpg", "annotations/training/a.png"]),
    ("ade20k", ["images/validation/a.jpg", "annotations/validation/a.png"]),
    ("masks", ["images/train/a.jpg", "labels/train/a.png"]),
    ("masks", ["train/images/a.jpg", "train/masks/a.png"]),
    ("masks", ["val/a.png", "valannot/a.png"]),
    ("depth", ["train/rgb/a.jpg", "train/depth/a.png"]),
    ("depth", ["rgb/a.jpg", "depths/a.png"]),
    (None, ["train/n01440764/a.JPEG", "val/n01440764/b.JPEG"]),
    (None, []),
]
"""Layout and files that mark it, in the order of precedence; None is class folders."""
ORDER = [layout for layout, _ in FILES]

unrelated = st.text("bcqxyz019_-", min_size=1, max_size=8).map(lambda name: f"q{name}")


def guess(files: Sequence[str]) -> str | None:
    with TemporaryDirectory() as name:
        for file in files:
            (Path(name) / file).parent.mkdir(parents=True, exist_ok=True)
            (Path(name) / file).touch()
        return guess_layout(Path(name))


@EXAMPLES
@given(st.lists(st.integers(0, len(FILES) - 1), min_size=1, max_size=3), st.data())
def test_of_several_the_first_by_precedence_whatever_the_order_of_files(which: list[int], data: st.DataObject) -> None:
    files = data.draw(st.permutations([file for at in which for file in FILES[at][1]]))
    assert guess(files) == ORDER[min(which)]


@EXAMPLES
@given(st.sampled_from(FILES), st.lists(st.lists(unrelated, min_size=1, max_size=3), max_size=4))
def test_other_files_and_folders_change_nothing(layout: tuple[str | None, list[str]], others: list[list[str]]) -> None:
    extra = ["/".join([*folders, "a.bin"]) for folders in others]
    assert guess([*layout[1], *extra]) == layout[0]


@EXAMPLES
@given(st.sampled_from([entry for entry in FILES if entry[1]]), unrelated)
def test_markers_below_another_folder_do_not_count(layout: tuple[str | None, list[str]], folder: str) -> None:
    assert guess([f"{folder}/{file}" for file in layout[1]]) is None


def test_every_layout_with_a_form_is_here() -> None:
    assert {*EXPECTED, "coco", None} == set(ORDER)
