"""Pictures of val that train has too, in other bytes, are found; different ones are not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from pvtctl.data.near_equal import near_pairs, thumbnail_of
from pvtctl.errors import UsageError
from pvtctl.tasks.classification.check import check_data


def picture(seed: int, side: int = 96) -> Image.Image:
    """Smooth noise: no two seeds look alike."""
    noise = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), np.uint8)
    return Image.fromarray(noise).resize((side * 4 // 3, side), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


def rows(*images: Image.Image) -> np.ndarray:
    return np.frombuffer(b"".join(map(thumbnail_of, images)), np.uint8).reshape(-1, 72)


CHANGES = {
    "recompressed": lambda image: jpeg(image, 40),
    "smaller": lambda image: image.resize((64, 48)),
    "larger": lambda image: image.resize((300, 200)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.04),
    "a frame later": lambda image: image.crop((1, 0, *image.size)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_near_equal_pictures_are_found(change: str) -> None:
    train = [picture(seed) for seed in range(30)]
    val = [picture(100), CHANGES[change](train[17]), picture(101), CHANGES[change](train[3])]
    assert near_pairs(rows(*val), rows(*train)) == {1: 17, 3: 3}


def test_different_pictures_are_not() -> None:
    many = rows(*(picture(seed, 24) for seed in range(600)))
    assert near_pairs(many[:200], many[200:]) == {}
    blank = rows(*(Image.new("RGB", (30, 30), (level, level, level)) for level in range(20)))
    assert near_pairs(blank, blank) == {}
    assert near_pairs(many[:0], many) == near_pairs(many, many[:0]) == {}


def test_many_equal_thumbnails_do_not_take_the_square_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvtctl.data.near_equal._CHUNK", 1000)
    same = np.repeat(rows(picture(1)), 200, axis=0)
    assert near_pairs(same, same) == dict.fromkeys(range(200), 0)


def test_the_check_counts_and_draws_them(tmp_path: Path) -> None:
    for split, seeds in (("train", range(6)), ("val", (2, 7, 8, 4))):
        for seed in seeds:
            folder = tmp_path / "set" / split / ("even" if seed % 2 == 0 else "odd")
            folder.mkdir(parents=True, exist_ok=True)
            picture(seed).save(folder / f"{seed}.{'png' if seed == 4 else 'jpg'}", quality=50 if split == "val" else 95)
    (tmp_path / "set/train/even/4.png").write_bytes((tmp_path / "set/val/even/4.png").read_bytes())
    drawn = tmp_path / "pairs.png"
    found = {each.kind: each for each in check_data(tmp_path / "set", pairs_picture=drawn).problems}
    assert found["near_equal"].examples == ["even/2.jpg ~ train/even/2.jpg"]
    assert found["in_train_and_val"].count == 1  # the same bytes are told once
    with Image.open(drawn) as sheet:
        left, right = sheet.crop((20, 60, 120, 120)), sheet.crop((266, 60, 366, 120))
        difference = np.abs(np.asarray(left, int) - np.asarray(right, int))
    assert difference.mean() < 5
    assert np.asarray(left).std() > 20
    with pytest.raises(UsageError, match="png"):
        check_data(tmp_path / "set", pairs_picture=tmp_path / "pairs.jpg")
