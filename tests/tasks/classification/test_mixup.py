from __future__ import annotations

import numpy as np
import pytest
import torch

from pvtctl.tasks.classification.mixup import Mixup, _paste_box
from pvtctl.tasks.classification.settings import Augment

IMAGES = torch.arange(6, dtype=torch.float32).view(6, 1, 1, 1).expand(6, 3, 16, 16).contiguous()
LABELS = torch.arange(6)


@pytest.mark.parametrize("batch", [1, 5, 6])
def test_targets_follow_the_pixels(batch):
    images, labels = IMAGES[:batch], LABELS[:batch]
    mixup = Mixup(6, Augment(label_smoothing=0.0))
    for key in range(20):
        mixed, targets = mixup(images, labels, key)
        torch.testing.assert_close(targets.sum(1), torch.ones(batch))
        # image k is filled with k: its mean is the mean of the classes under the target
        torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ torch.arange(6.0), atol=1e-5, rtol=1e-5)
    assert torch.equal(images, IMAGES[:batch])


def test_depends_on_the_key_alone():
    mixup = Mixup(6, Augment())
    first = mixup(IMAGES, LABELS, 7)
    np.random.default_rng().random()
    again, other = mixup(IMAGES, LABELS, 7), mixup(IMAGES, LABELS, 8)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_smoothing_alone():
    mixup = Mixup(4, Augment(mixup_alpha=0.0, cutmix_alpha=0.0, label_smoothing=0.1))
    images, targets = mixup(IMAGES[:2], LABELS[:2], 0)
    assert torch.equal(images, IMAGES[:2])
    torch.testing.assert_close(targets[0], torch.tensor([0.925, 0.025, 0.025, 0.025]))


@pytest.mark.parametrize(
    ("options", "cutmix_share"),
    [({}, 0.5), ({"mixup_alpha": 0.0}, 1.0), ({"cutmix_alpha": 0.0}, 0.0), ({"mixup_switch_prob": 0.2}, 0.2)],
)
def test_switch(options, cutmix_share):
    mixup = Mixup(6, Augment(label_smoothing=0.0, **options))
    first_images = [mixup(IMAGES, LABELS, key)[0][0] for key in range(200)]
    uniform = [bool(image.min() == image.max()) for image in first_images]
    # a box of no area or of the whole image leaves uniform images behind as well
    assert abs((1 - np.mean(uniform)) - cutmix_share) < 0.12


def test_probability():
    mixup = Mixup(6, Augment(mixup_prob=0.25))
    same = [torch.equal(mixup(IMAGES, LABELS, key)[0], IMAGES) for key in range(200)]
    assert 0.65 < np.mean(same) < 0.85


def test_lambda_is_the_area_inside_the_image():
    rng = np.random.default_rng(0)
    for _ in range(50):
        mixed, share = _paste_box(IMAGES[:2], 0.3, rng)
        assert float((mixed[0] == 0).float().mean()) == pytest.approx(share)
        assert share >= 0.3 - 0.1
