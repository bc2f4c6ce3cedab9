"""Anchors equal the configurations' and torchvision's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen

from pvtctl.models.heads.boxes import KEPT_GRIDS, retinanet_anchors, rpn_anchors


def maps(height: int, width: int, strides: tuple[int, ...] = (8, 16, 32, 64, 128)) -> list[Tensor]:
    return [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in strides]


def test_retinanet_anchors_of_the_papers() -> None:
    """By hand: size 4 * 8 = 32 at ratio 1/2 is 32 * sqrt 2 wide and 32 / sqrt 2 high, centred on the cell's corner."""
    first, second, *_ = retinanet_anchors("papers").grids(maps(96, 128), (96, 128))
    assert first.shape == (12 * 16 * 9, 4)
    torch.testing.assert_close(first[0], torch.tensor([-22.627417, -11.3137085, 22.627417, 11.3137085]))
    torch.testing.assert_close(first[3], torch.tensor([-16.0, -16, 16, 16]))
    torch.testing.assert_close(first[4, 2], torch.tensor(16 * 2 ** (1 / 3)))
    torch.testing.assert_close(first[6], torch.tensor([-11.3137085, -22.627417, 11.3137085, 22.627417]))
    torch.testing.assert_close(first[9 * 17 + 3], torch.tensor([8 - 16.0, 8 - 16, 8 + 16, 8 + 16]))  # row 1, column 1
    torch.testing.assert_close(second[9 + 3], torch.tensor([16 - 32.0, -32, 16 + 32, 32]))


def test_rpn_anchors_of_the_papers() -> None:
    levels = rpn_anchors("papers").grids(maps(64, 64, (4, 8, 16, 32, 64)), (64, 64))
    assert [len(level) for level in levels] == [16 * 16 * 3, 8 * 8 * 3, 4 * 4 * 3, 2 * 2 * 3, 3]
    torch.testing.assert_close(levels[0][1], torch.tensor([-16.0, -16, 16, 16]))
    torch.testing.assert_close(levels[4][1], torch.tensor([-256.0, -256, 256, 256]))


@pytest.mark.parametrize("size", [(224, 288), (200, 304)])
def test_equal_to_torchvision_under_its_conventions(size: tuple[int, int]) -> None:
    features = maps(*size)
    theirs = _default_anchorgen()(ImageList(torch.zeros(1, 3, *size), [size]), features)[0]
    ours = retinanet_anchors("torchvision")
    assert torch.equal(torch.cat(ours.grids(features, size)), theirs)
    assert ours.valid(features, (32, 32)) is None


def test_anchors_beyond_the_image_are_not_valid() -> None:
    """A 60x100 image, filled up to 64x128, in a 128x128 batch."""
    anchors, features = retinanet_anchors("papers"), maps(128, 128)
    valid = anchors.valid(features, (60, 100))
    assert valid is not None
    levels = valid.split([9 * f.shape[2] * f.shape[3] for f in features])
    assert [int(level.sum()) for level in levels] == [8 * 16 * 9, 4 * 8 * 9, 2 * 4 * 9, 1 * 2 * 9, 9]
    assert levels[0][: 8 * 16 * 9].all()
    assert anchors.valid(features, (128, 97)) is None
    assert anchors.valid(features, (97, 128)) is None


def test_grids_are_kept_but_not_without_bound() -> None:
    anchors = retinanet_anchors("papers")
    with torch.inference_mode():
        first = anchors.grids(maps(64, 64), (64, 64))
    assert not first[0].is_inference()
    assert anchors.grids(maps(64, 64), (64, 64)) is first
    for side in range(96, 96 + 32 * 12, 32):
        anchors.grids(maps(side, 64), (side, 64))
    assert len(anchors._kept) == KEPT_GRIDS
