"""Resizing of pixels, with and without antialiasing."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from pvtctl.data.randomness import generator_for
from pvtctl.data.transforms import nearest_pixels, pad_images, resample


def photo(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Random pixels (3, height, width), in memory as a decoded photo."""
    drawn = torch.randint(0, 256, (height, width, 3), generator=generator_for(seed), dtype=torch.uint8)
    return drawn.permute(2, 0, 1)


def along(values: NDArray[np.float64], axis: int, new: int) -> NDArray[np.float64]:
    """One side resized: between the two pixels whose centres are around that of the new pixel, the last one repeated."""
    old = values.shape[axis]
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.floor(centres).astype(int)
    share = (centres - low).reshape([-1 if at == axis else 1 for at in range(3)])
    return values.take(low, axis) * (1 - share) + values.take(np.minimum(low + 1, old - 1), axis) * share


@pytest.mark.parametrize("seed", range(40))
def test_without_antialiasing_it_is_the_formula_of_opencv(seed: int) -> None:
    height, width, *size = torch.randint(1, 160, (4,), generator=generator_for(seed)).tolist()
    pixels = photo(height, width, seed)
    expected = along(along(pixels.numpy().astype(float), 1, size[0]), 2, size[1])
    found = resample(pixels, (size[0], size[1]), "bilinear", antialias=False)
    assert (found.dtype, found.shape) == (torch.uint8, (3, *size))
    assert np.abs(found.numpy() - expected).max() < 1.01  # integers: rows are rounded before columns


def test_it_is_what_torchvisions_detectors_do() -> None:
    pixels = photo(480, 640)
    theirs, _ = GeneralizedRCNNTransform(200, 333, [0.0] * 3, [1.0] * 3).eval().resize(pixels / 255)
    found = resample(pixels, (theirs.shape[1], theirs.shape[2]), "bilinear", antialias=False)
    assert (found - theirs * 255).abs().max() < 1.01


@pytest.mark.parametrize("size", [(30, 40), (33, 90), (120, 20)])
def test_with_antialiasing_it_is_what_pil_does(size: tuple[int, int]) -> None:
    pixels = photo(90, 120)
    theirs = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
    found = resample(pixels, size, "bilinear", antialias=True).permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - np.asarray(theirs).astype(int)).max() <= 1


def test_both_enlarge_alike_and_shrink_differently() -> None:
    pixels = photo(40, 50)
    for size in ((60, 50), (80, 131)):
        assert torch.equal(
            resample(pixels, size, "bilinear", antialias=True), resample(pixels, size, "bilinear", antialias=False)
        )
    shrunk = [resample(pixels, (10, 13), "bilinear", antialias=antialias).float() for antialias in (True, False)]
    assert shrunk[0].std() < 0.6 * shrunk[1].std()


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(31, 47), (120, 90), (1, 9)])
def test_the_layout_in_memory_changes_nothing(
    size: tuple[int, int], antialias: bool, how: Literal["bilinear", "bicubic"]
) -> None:
    whole = photo(80, 100)
    for view in (whole, whole[:, 3:71, 5:93], whole.flip(-1), whole[:, :, 7:8]):
        found = resample(view, size, how, antialias=antialias)
        assert torch.equal(found, resample(view.contiguous(), size, how, antialias=antialias))
        assert torch.equal(found, F.interpolate(view.contiguous()[None], size, mode=how, antialias=antialias)[0])


def test_the_same_size_is_the_same_image() -> None:
    pixels = photo(9, 7)
    assert resample(pixels, (9, 7), "bilinear", antialias=True) is pixels


@pytest.mark.parametrize("size", [(12, 1758), (32, 1712), (2, 899), (683, 1366), (512, 300), (1, 7), (7, 1), (64, 64)])
def test_nearest_pixels_are_torchs(size: tuple[int, int]) -> None:
    old, new = size  # among them sizes whose centres fall on the edge between two pixels
    line = (torch.arange(old) % 251).to(torch.uint8)
    expected = F.interpolate(line.view(1, 1, old, 1).expand(1, 1, old, 3), (new, 3), mode="nearest-exact")[0, 0, :, 0]
    assert torch.equal(line[nearest_pixels(old, new)], expected)


def test_padding_is_zero_around_each_image() -> None:
    images = [torch.rand(3, height, width) + 1 for height, width in ((5, 9), (8, 4), (8, 16))]
    padded = pad_images(images, 8)
    assert padded.shape == (3, 3, 8, 16)
    for row, image in zip(padded, images, strict=True):
        height, width = image.shape[-2:]
        assert torch.equal(row[:, :height, :width], image)
        assert int((row != 0).sum()) == image.numel()
