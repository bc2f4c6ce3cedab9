from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvtctl.errors import ExitCode, UsageError
from pvtctl.tasks.classification.check import check_data
from pvtctl.tasks.classification.data import open_classification_split
from pvtctl.tasks.classification.preview import draw_preview
from pvtctl.tasks.classification.settings import Augment


def kinds(root, **options) -> dict[tuple[str, str], int]:
    return {(problem.kind, problem.split): problem.count for problem in check_data(root, **options).problems}


def test_a_sound_set(make_set):
    seen = []
    verdict = check_data(make_set(), on_progress=lambda *state: seen.append(state))
    assert (verdict.verdict, verdict.exit_code) == ("ok", ExitCode.DONE)
    assert (verdict.images, verdict.classes) == ({"train": 8, "val": 4}, 2)
    assert verdict.problems == []
    assert seen == [("train", 8, 8), ("val", 4, 4)]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_kind_of_image_is_told(make_set, image_bytes, workers):
    root = make_set()
    folder = root / "train" / "n01440764"
    whole = (folder / "n01440764_000.JPEG").read_bytes()
    rotated, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (50, 40)).save(rotated, "JPEG", exif=exif)
    files = {
        "bad.jpg": b"<html>",
        "cut.jpg": image_bytes(90, size=(200, 200))[:-500],
        "cmyk.jpg": image_bytes(91, mode="CMYK"),
        "grey.jpg": image_bytes(92, mode="L"),
        "alpha.png": image_bytes(93, mode="RGBA", format="PNG"),
        "tiny.jpg": image_bytes(94, size=(3, 200)),
        "rotated.jpg": rotated.getvalue(),
        "same.jpg": whole,
        "notes.txt": b"hello",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (root / "val" / "n01443537" / "seen.jpg").write_bytes(whole)
    verdict = check_data(root, workers=workers)
    assert {(problem.kind, problem.split): problem.count for problem in verdict.problems} == {
        ("unreadable", "train"): 1,
        ("truncated", "train"): 1,
        ("cmyk", "train"): 1,
        ("mode", "train"): 2,
        ("tiny", "train"): 1,
        ("exif_rotation", "train"): 1,
        ("repeated", "train"): 1,
        ("other_files", "train"): 1,
        ("in_train_and_val", "val"): 1,
    }
    assert (verdict.verdict, verdict.exit_code) == ("warnings", ExitCode.FAILED)
    assert [problem.severity for problem in verdict.problems] == ["warning"] * 3 + ["note"] * 6
    duplicate = next(problem for problem in verdict.problems if problem.kind == "in_train_and_val")
    assert duplicate.examples == ["n01443537/seen.jpg = train/n01440764/n01440764_000.JPEG"]


def test_classes(make_set):
    root = make_set(classes=("c1", "c2", "c10"))
    (root / "train" / ".cache").mkdir()
    assert kinds(root) == {("class_order", "train"): 1, ("class_order", "val"): 1}
    (root / "val" / "c1").rename(root / "val" / "d1")
    (root / "train" / "c3").mkdir()
    found = kinds(root)
    assert found["not_in_train", "val"] == 1
    assert found["not_in_val", "val"] == 2
    assert found["empty_class", "train"] == 1
    assert check_data(root).exit_code == ExitCode.USAGE


def test_nothing_readable(make_set):
    root = make_set(train=1, val=1)
    for file in root.glob("val/*/*"):
        file.write_bytes(b"")
    assert kinds(root) == {("unreadable", "val"): 2, ("nothing_readable", "val"): 1}
    assert check_data(root).verdict == "unusable"


def test_one_split_or_none(make_set, tmp_path):
    assert kinds(make_set(train=0)) == {("missing_split", "train"): 1}
    (tmp_path / "nothing").mkdir()
    assert kinds(tmp_path / "nothing") == {("layout", "train"): 1, ("layout", "val"): 1}
    with pytest.raises(UsageError, match="no data folder"):
        check_data(tmp_path / "nowhere")


def test_a_large_set_is_sampled_unless_full(make_set, monkeypatch):
    monkeypatch.setattr("pvtctl.data.check.QUICK_LIMIT", 3)
    root = make_set()
    assert check_data(root).examined == {"train": 3, "val": 3}
    assert check_data(root, full=True).examined == {"train": 8, "val": 4}


@pytest.mark.slow
def test_the_real_photos(shared):
    verdict = check_data(shared / "data" / "imagenet1k_sample")
    assert {problem.kind for problem in verdict.problems} == {"missing_split", "mode"}


def test_preview(make_set, tmp_path):
    dataset = open_classification_split("imagenet", make_set(), "train", image_size=32, augment=Augment())
    ids = draw_preview(dataset, tmp_path / "p.png", count=3, copies=2)
    assert ids == [dataset.ids[0], dataset.ids[4], dataset.ids[7]]
    with Image.open(tmp_path / "p.png") as sheet:
        assert sheet.width > 3 * 32
        assert sheet.height > 3 * 32
    draw_preview(dataset, tmp_path / "q.png", count=3, copies=2)
    assert (tmp_path / "p.png").read_bytes() == (tmp_path / "q.png").read_bytes()
    with pytest.raises(UsageError, match=r"does not end in \.png"):
        draw_preview(dataset, tmp_path / "p.pdf")


def test_preview_of_a_broken_set(make_set, tmp_path):
    root = make_set()
    for file in root.glob("train/*/*"):
        file.write_bytes(b"")
    dataset = open_classification_split("imagenet", root, "train", image_size=32, augment=Augment())
    with pytest.raises(UsageError, match="no sample could be read"):
        draw_preview(dataset, tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_cut_short_is_one_row(tmp_path: Path, form: str, share: float) -> None:
    for split in ("train", "val"):
        for number in range(3):
            folder = tmp_path / split / "a"
            folder.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
            Image.fromarray(noise).save(
                folder / f"{number}.{form.lower()}", form, **{"exif": EXIF} if form == "PNG" else {}
            )
        (tmp_path / split / "b").mkdir()
        Image.new("RGB", (40, 40)).save(tmp_path / split / "b" / "0.png")
    file = tmp_path / "train" / "a" / f"1.{form.lower()}"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    bad = [each for each in check_data(tmp_path).problems if each.kind in ("truncated", "unreadable")]
    assert [(each.split, each.count) for each in bad] == [("train", 1)]
    assert f"a/1.{form.lower()}" in bad[0].examples[0]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in (b"caf\xe9", b"bar\n\x1b[2J"):
            folder = os.fsencode(tmp_path / split) + b"/" + name
            Path(os.fsdecode(folder)).mkdir(parents=True)
            Image.new("RGB", (40, 40), (len(name), len(split), 9)).save(os.fsdecode(folder + b"/\xe9.png"))
    assert check_data(tmp_path).verdict == "ok"
    assert len(open_classification_split("imagenet", tmp_path, "train").fingerprint()) == 16


EXIF = Image.Exif()
EXIF[0x0112] = 6
