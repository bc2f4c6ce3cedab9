from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from pvtctl.data.images import EncodedPicture, TensorPicture
from pvtctl.data.randomness import generator_for, key_of
from pvtctl.data.transforms import denormalize, normalize
from pvtctl.io.normalization import HALF, IMAGENET, NORMALIZATIONS
from pvtctl.tasks.classification.settings import Augment
from pvtctl.tasks.classification.transforms import (
    OPERATIONS,
    EvalTransform,
    TrainTransform,
    erasing_noise,
    rand_augment,
    random_crop_box,
)


def picture(height: int = 60, width: int = 80) -> TensorPicture:
    return TensorPicture(torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator_for(1)))


@pytest.mark.parametrize("how", NORMALIZATIONS.values(), ids=NORMALIZATIONS)
def test_normalize_and_back(how):
    pixels = picture().pixels
    ordered = pixels.flip(0) if how.order == "bgr" else pixels
    expected = v2.functional.normalize(ordered / 255, list(how.mean), list(how.std))
    torch.testing.assert_close(normalize(pixels, how), expected, atol=1e-4, rtol=1e-6)
    assert torch.equal(denormalize(normalize(pixels, how), how), pixels)
    assert torch.equal(denormalize(normalize(pixels, how)[None], how)[0], pixels)
    assert torch.equal(normalize(pixels), normalize(pixels, IMAGENET))


def test_transforms_use_the_normalisation_they_are_given():
    for transform in (EvalTransform(32, 32), TrainTransform(32, Augment(erasing=0.0, rand_augment=False))):
        plain = transform(picture(), generator_for(0))
        half = replace(transform, normalization=HALF)(picture(), generator_for(0))
        assert torch.equal(denormalize(half, HALF), denormalize(plain))
        assert not torch.equal(half, plain)


def test_geometric_operations_fill_with_what_becomes_zero():
    white = Image.new("RGB", (24, 24), (255, 255, 255))
    for operation in (3, 11, 12, 13, 14):
        filled = np.asarray(OPERATIONS[operation](white, 1.0, 1.0, HALF.grey))
        assert (filled == 128).all(-1).any()


def test_evaluation_is_torchvisions_resize_and_centre_crop(image_bytes):
    for size in [(500, 375), (333, 500), (224, 224), (90, 110), (256, 256)]:
        data = image_bytes(size=size, quality=95)
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image = v2.functional.resize(image, [256], interpolation=InterpolationMode.BICUBIC)
        expected = np.asarray(v2.functional.center_crop(image, [224])).astype(int)
        got = denormalize(EvalTransform()(EncodedPicture(data))).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(got - expected).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 3000), (3001, 7), (40, 161)])
def test_evaluation_of_odd_shapes(height, width):
    assert EvalTransform(64, 72)(picture(height, width)).shape == (3, 64, 64)


def test_long_strip_shows_its_middle():
    pixels = torch.zeros(3, 10, 1000, dtype=torch.uint8)
    pixels[:, :, 490:510] = 200
    whole = torch.nn.functional.interpolate(pixels[None], (72, 7200), mode="bicubic", antialias=True)[0]
    expected = whole[:, 4:68, 3568:3632]
    got = denormalize(EvalTransform(64, 72)(TensorPicture(pixels)))
    assert (got.int() - expected.int()).abs().max() <= 1


def test_a_size_above_the_resize_still_fits():
    assert EvalTransform(320, 256)(picture()).shape == (3, 320, 320)


def test_crop_boxes_lie_inside_and_have_the_asked_area_and_aspect():
    generator = generator_for(3)
    for _ in range(300):
        top, left, height, width = random_crop_box(300, 400, (0.08, 1.0), (3 / 4, 4 / 3), generator)
        assert 0 <= top <= 300 - height
        assert 0 <= left <= 400 - width
        assert 0.075 <= height * width / 120_000 <= 1.0
        assert 0.72 <= width / height <= 1.37
    assert random_crop_box(10, 1000, (0.9, 1.0), (3 / 4, 4 / 3), generator) == (0, 493, 10, 13)


def test_erasing_covers_two_to_thirty_three_percent():
    generator = generator_for(5)
    shares = []
    for _ in range(50):
        image, noise = torch.zeros(3, 100, 100), erasing_noise(100, 100, generator)
        assert noise is not None
        noise.put(image)
        assert (image[0] != 0).equal(image[2] != 0)
        shares.append(float((image[0] != 0).float().mean()))
    assert min(shares) > 0.015
    assert max(shares) < 0.35
    assert erasing_noise(1, 1, generator) is None


def test_training_depends_on_the_key_alone():
    transform = TrainTransform(32, Augment())
    first = transform(picture(), generator_for(0, 1, 2, 0))
    torch.rand(5)
    assert torch.equal(first, transform(picture(), generator_for(0, 1, 2, 0)))
    assert not torch.equal(first, transform(picture(), generator_for(0, 1, 2, 1)))
    assert first.shape == (3, 32, 32)
    assert first.dtype == torch.float32
    assert first.is_contiguous()


def test_training_without_anything_random_is_a_resize():
    augment = Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), hflip=0.0, rand_augment=False, erasing=0.0)
    transform = TrainTransform(40, augment)
    expected = normalize(picture(60, 60).resized((0, 0, 60, 60), (40, 40)))
    assert torch.equal(transform(picture(60, 60), generator_for(0)), expected)


@pytest.mark.parametrize("operation", range(len(OPERATIONS)))
@pytest.mark.parametrize("level", [0.0, 0.9, 1.0])
def test_each_operation_keeps_mode_and_size(operation, level):
    image = Image.fromarray(picture(24, 36).pixels.permute(1, 2, 0).contiguous().numpy())
    for sign in (-1.0, 1.0):
        after = OPERATIONS[operation](image, level, sign, IMAGENET.grey)
        assert (after.mode, after.size) == ("RGB", image.size)


def test_growing_operations_do_nothing_at_zero():
    image = Image.fromarray(picture(24, 36).pixels.permute(1, 2, 0).contiguous().numpy())
    for operation in [3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]:
        assert OPERATIONS[operation](image, 0.0, 1.0, IMAGENET.grey).tobytes() == image.tobytes()


def test_rand_augment_applies_half_of_the_operations():
    image = Image.fromarray(picture(24, 36).pixels.permute(1, 2, 0).contiguous().numpy())
    untouched = sum(rand_augment(image, Augment(), generator_for(key)) is image for key in range(200))
    assert 30 <= untouched <= 70  # a quarter
    never = Augment(rand_augment_prob=0.0)
    assert all(rand_augment(image, never, generator_for(key)) is image for key in range(5))


def test_keys_tell_their_parts_apart():
    keys = {key_of(*parts) for parts in [(0, 1), (1, 0), (0, 1, 0), (0, "1"), (0, "1", "0"), (-1, 1)]}
    assert len(keys) == 6
    assert all(0 <= key < 2**63 for key in keys)
