"""DPT's sizes, OpenCV's cubic, and depth that is never mixed across holes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pvtctl.data.transforms import resample
from pvtctl.tasks.depth.settings import DepthData
from pvtctl.tasks.depth.transforms import DepthTransform, minimal_size, resize_depth


@pytest.mark.parametrize(
    ("size", "wanted", "expected"),
    [
        ((480, 640), (384, 384), (384, 512)),  # 0.8 is nearer to 1 than 0.6
        ((640, 480), (384, 384), (512, 384)),
        ((375, 1242), (352, 1216), (352, 1216)),
        ((480, 640), (480, 640), (480, 640)),
        ((427, 640), (384, 384), (384, 576)),
        ((384, 672), (384, 384), (384, 672)),
        ((200, 100), (384, 384), (384, 192)),  # enlarged by 1.92, not by 3.84
        ((10, 4000), (384, 384), (32, 384)),  # a strip stays small, and keeps a row
    ],
)
def test_minimal_size(size: tuple[int, int], wanted: tuple[int, int], expected: tuple[int, int]) -> None:
    assert minimal_size(size, wanted, 32) == expected


def test_ratio_and_multiple() -> None:
    assert minimal_size((480, 640), (384, 384), 32, ratio=1.5) == (576, 768)
    assert minimal_size((480, 640), (384, 384), 14) == (378, 518)
    pixels = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    transform = DepthTransform(DepthData(test_size=(96, 96)))
    assert transform.evaluate(pixels).shape == (3, 64, 96)
    assert transform.evaluate(pixels, 0.5).shape == (3, 32, 64)
    assert transform.evaluate(pixels).dtype == torch.uint8


def cubic(line: np.ndarray, new: int) -> np.ndarray:
    """A line resampled with OpenCV's kernel (a = -0.75), its ends repeated."""
    a, out = -0.75, np.zeros(new)
    for at in range(new):
        place = (at + 0.5) * len(line) / new - 0.5
        for tap in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            x = abs(place - tap)
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            out[at] += (near if x <= 1 else far) * line[np.clip(tap, 0, len(line) - 1)]
    return out


@pytest.mark.parametrize("new", [5, 9, 16, 31])
def test_cubic_is_opencvs(new: int) -> None:
    line = np.random.default_rng(new).integers(60, 200, 16)
    pixels = torch.from_numpy(np.tile(line, (3, 1, 1)).astype(np.uint8))
    found = resample(pixels, (1, new), "bicubic", antialias=False)[0, 0].numpy()
    assert np.abs(found - cubic(line, new)).max() <= 0.51


def test_depth_is_not_interpolated() -> None:
    depth = torch.zeros(40, 60)
    depth[::3, ::4] = torch.rand(14, 15) + 1
    for size in ((20, 30), (64, 96), (7, 90)):
        resized = resize_depth(depth, size)
        assert resized.shape == size
        assert set(resized.flatten().tolist()) <= set(depth.flatten().tolist())


@pytest.mark.parametrize("size", [(48, 64), (200, 100), (64, 64), (30, 500), (9, 7)])
def test_training_fills_its_size_and_keeps_image_and_depth_together(size: tuple[int, int]) -> None:
    height, width = size
    ramp = torch.arange(width).float().expand(height, width) / width * 200 + 20
    transform = DepthTransform(DepthData(size=(64, 96), hflip=0.5))
    for seed in range(4):
        pixels, depth = transform.train(
            ramp.to(torch.uint8).expand(3, height, width), ramp, torch.Generator().manual_seed(seed)
        )
        assert pixels.shape == (3, 64, 96)
        assert depth.shape == (64, 96)
        # a pixel of the small picture wide at most: depth is that of the nearest
        assert float((pixels[0].float() - depth).abs().mean()) < max(3.0, 220 / width)


def test_crops_move_and_flips_happen() -> None:
    pixels = torch.arange(128).to(torch.uint8).expand(3, 64, 128)
    depth = torch.arange(128).float().expand(64, 128) + 1
    transform = DepthTransform(DepthData(size=(64, 64)))
    seen = [transform.train(pixels, depth, torch.Generator().manual_seed(seed))[1][0] for seed in range(40)]
    flipped = [bool(line[0] > line[-1]) for line in seen]
    assert 10 < sum(flipped) < 30
    starts = {min(float(line[0]), float(line[-1])) for line in seen}
    assert len(starts) > 15
    assert min(starts) < 10
    assert max(starts) > 55
    never = DepthTransform(DepthData(size=(64, 64), hflip=0.0))
    assert not any(
        bool((line := never.train(pixels, depth, torch.Generator().manual_seed(seed))[1][0])[0] > line[-1])
        for seed in range(10)
    )


def test_colours_change_only_where_asked() -> None:
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain, colourful = (DepthTransform(DepthData(size=(32, 32), hflip=0.0, photometric=each)) for each in (False, True))
    changed = 0
    for seed in range(6):
        depth = torch.rand(32, 32)
        same, kept = plain.train(pixels, depth, torch.Generator().manual_seed(seed))
        other, _ = colourful.train(pixels, depth, torch.Generator().manual_seed(seed))
        assert torch.equal(same, pixels)
        assert torch.equal(kept, depth)
        changed += not torch.equal(other, pixels)
    assert changed >= 4
