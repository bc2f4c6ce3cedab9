"""Sizes and augmentation of label maps: held against plain readings of what mmsegmentation does."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from segmentation_sets import photo, stripes

from pvtctl.data.randomness import generator_for
from pvtctl.data.sizes import resized_size
from pvtctl.data.transforms import normalize
from pvtctl.io.normalization import IMAGENET, NORMALIZATIONS
from pvtctl.tasks.segmentation.settings import SegmentationData
from pvtctl.tasks.segmentation.transforms import (
    SegmentationTransform,
    photometric,
    resize_labels,
)

PLAIN = {"photometric": False, "hflip": 0.0}


def pair(size=(40, 56), values=(0, 1, 2)):
    return torch.from_numpy(photo(1, size)).permute(2, 0, 1), torch.from_numpy(stripes(list(values), size))


def transform(normalization=IMAGENET, **options) -> SegmentationTransform:
    return SegmentationTransform(SegmentationData(**options), normalization)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 683), (512, 683)), ((360, 480), (512, 683)), ((100, 900), (228, 2048)), ((683, 512), (683, 512))],
)
def test_sizes_within_a_short_and_a_long_side(size, expected):
    assert resized_size(size, 512, 2048) == expected


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, (512, 704)), (0.5, (256, 352)), (1.75, (896, 1216))])
def test_tested_at_multiples(ratio, expected):
    assert transform().evaluate(pair((360, 480))[0], ratio).shape[1:] == expected
    assert transform(align=1).evaluate(pair((360, 480))[0]).shape[1:] == (512, 683)


def test_labels_are_those_of_the_nearest_pixel():
    labels = torch.arange(7, dtype=torch.uint8)[None].repeat(3, 1)
    for width in (3, 5, 20):
        centres = ((np.arange(width) + 0.5) * 7 / width).astype(int)
        assert resize_labels(labels, (2, width))[0].tolist() == centres.tolist()
    assert resize_labels(labels, (3, 7)) is labels


def test_images_and_labels_stay_together():
    """An image whose red is its label is cut, resized and flipped as the label is."""
    labels = torch.from_numpy(np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones((20, 20), np.uint8)))
    pixels = (labels * 20)[None].repeat(3, 1, 1)
    ours = transform(short_side=60, long_side=200, crop=(48, 48), photometric=False, cat_max_ratio=1.0)
    for seed in range(20):
        image, target = ours.train(pixels, labels, generator_for(seed))
        known = target != 255
        wrong = (image[0].int() - 20 * target.int()).abs()[known] > 10
        assert wrong.float().mean() < 0.06  # between two labels the image is blurred
        assert (image[:, ~known] == torch.tensor([[124], [116], [104]])).all()


def test_the_crop_and_the_scale_cover_what_they_should():
    pixels, labels = pair((64, 64))
    ours = transform(short_side=64, long_side=200, crop=(64, 64), **PLAIN)
    kept = [int((ours.train(pixels, labels, generator_for(seed))[1] != 255).sum()) for seed in range(40)]
    shares = sorted(count / 64**2 for count in kept)
    assert 0.25 <= shares[0] < 0.4  # a scale near 0.5, padded
    assert shares[-1] == 1.0


def test_images_smaller_than_the_crop_are_padded_with_what_becomes_zero():
    pixels, labels = pair((40, 56))
    for normalization in (NORMALIZATIONS[name] for name in ("imagenet", "half", "clip")):
        ours = transform(normalization, short_side=40, long_side=64, scale=(1.0, 1.0), crop=(96, 96), **PLAIN)
        image, target = ours.train(pixels, labels, generator_for(0))
        assert image.shape == (3, 96, 96)
        assert torch.equal(image[:, :40, :56], pixels)
        assert torch.equal(target[:40, :56], labels)
        assert (target[40:] == 255).all()
        assert (target[:, 56:] == 255).all()
        assert normalize(image, normalization)[:, 40:].abs().max() < 0.02


def test_crops_that_one_class_fills_are_drawn_anew():
    labels = torch.zeros(64, 256, dtype=torch.uint8)
    labels[:, 224:] = 1
    labels[:, 100:102] = 255  # does not count as a class
    pixels = torch.zeros(3, 64, 256, dtype=torch.uint8)
    options = {"short_side": 64, "long_side": 256, "scale": (1.0, 1.0), "crop": (64, 64), **PLAIN}

    def mixed(**more) -> float:
        ours = transform(**options, **more)
        targets = [ours.train(pixels, labels, generator_for(seed))[1] for seed in range(80)]
        counts = [torch.bincount(target.reshape(-1), minlength=256)[:2] for target in targets]
        return float(np.mean([int(count.max()) < 0.75 * int(count.sum()) for count in counts]))

    often, seldom = mixed(), mixed(cat_max_ratio=1.0)
    assert seldom < 0.25  # 17 of 193 places
    assert often > 0.5  # 1 - (176 / 193) ^ 11


def test_flips_half_of_the_images():
    pixels, labels = pair((32, 32), (0, 1))
    ours = transform(short_side=32, long_side=32, scale=(1.0, 1.0), crop=(32, 32), photometric=False)
    flipped = [int(ours.train(pixels, labels, generator_for(seed))[1][0, 0]) for seed in range(60)]
    assert 18 <= sum(flipped) <= 42


# nine draws: whether and how much of brightness, contrast, saturation, hue; contrast first
NOTHING = [0.9, 0.5, 0.9, 0.5, 0.9, 0.5, 0.9, 0.5, 0.0]


def with_draws(**changes) -> list[float]:
    names = ["light", "light_by", "contrast", "contrast_by", "vivid", "vivid_by", "turn", "turn_by", "first"]
    return [changes.get(name, default) for name, default in zip(names, NOTHING, strict=True)]


def test_colours_left_alone():
    pixels, _ = pair()
    assert torch.equal(photometric(pixels, NOTHING), pixels)


def test_brightness_and_contrast():
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).repeat(3, 1, 1)
    lighter = photometric(values, with_draws(light=0.0, light_by=1.0))
    assert torch.equal(lighter, (values.int() + 32).clamp(max=255).to(torch.uint8))
    flat = photometric(values, with_draws(contrast=0.0, contrast_by=0.0))
    assert torch.equal(flat, values // 2)
    both = with_draws(light=0.0, light_by=0.0, contrast=0.0, contrast_by=1.0, first=0.0)
    assert torch.equal(
        photometric(values, both), ((values.int() - 32).clamp(min=0) * 1.5).clamp(max=255).to(torch.uint8)
    )


@pytest.mark.parametrize("first", [0.0, 0.9])
def test_saturation_and_hue_against_python_s_own_hsv(first):
    pixels, _ = pair((16, 20))
    draws = with_draws(contrast=0.0, contrast_by=0.2, vivid=0.0, vivid_by=0.1, turn=0.0, turn_by=0.9, first=first)
    contrast, saturation, turn = 0.7, 0.6, 0.08
    found = photometric(pixels, draws).permute(1, 2, 0).reshape(-1, 3).int()
    for before, after in zip(pixels.permute(1, 2, 0).reshape(-1, 3).tolist(), found.tolist(), strict=True):
        start = [channel * contrast for channel in before] if first < 0.5 else before
        hue, vivid, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in start))
        expected = [255 * part for part in colorsys.hsv_to_rgb((hue + turn) % 1, vivid * saturation, value)]
        expected = expected if first < 0.5 else [channel * contrast for channel in expected]
        assert max(abs(one - other) for one, other in zip(expected, after, strict=True)) < 8


def test_colours_do_not_change_labels_or_padding():
    pixels, labels = pair((40, 56))
    ours = transform(short_side=40, long_side=64, scale=(1.0, 1.0), crop=(96, 96), hflip=0.0)
    for seed in range(4):
        image, target = ours.train(pixels, labels, generator_for(seed))
        assert torch.equal(target[:40, :56], labels)
        assert (image[:, 60:] == torch.tensor([124, 116, 104]).view(3, 1, 1)).all()


def test_a_draw_gives_the_same_bits_and_takes_the_same_numbers():
    pixels, labels = pair((80, 100))
    ends = []
    for options in ({}, PLAIN, {"cat_max_ratio": 0.05, "crop": (32, 32)}):
        ours = transform(short_side=64, long_side=200, **options)
        one, other = (ours.train(pixels, labels, generator_for(5)) for _ in range(2))
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
        generator = generator_for(5)
        ours.train(pixels, labels, generator)
        ends.append(float(torch.rand(1, generator=generator)))
    assert len(set(ends)) == 1


def test_dpt_s_sizes():
    image, target = transform("half", short_side=520, long_side=2080, crop=(480, 480)).train(
        *pair((64, 80)), generator_for(1)
    )
    assert image.shape == (3, 480, 480)
    assert target.shape == (480, 480)


def test_a_crop_is_that_of_the_whole_map_resized():
    generator = torch.Generator().manual_seed(0)
    labels = pair((61, 83), tuple(range(7)))[1]
    labels = labels[torch.randperm(61, generator=generator)]
    ours = transform(short_side=80, long_side=300, crop=(48, 64), cat_max_ratio=0.4, **PLAIN)
    for seed in range(12):
        draws = torch.rand(22, generator=generator_for(seed), dtype=torch.float64).tolist()
        size = (40 + 9 * seed, 64 + 7 * seed)
        rows, columns, part = ours._crop(labels, size, draws)
        whole = torch.nn.functional.interpolate(labels[None, None], size, mode="nearest-exact")[0, 0]
        assert torch.equal(part, whole[rows, columns])
        assert torch.equal(resize_labels(labels, size), whole)
