"""Grids pasted into images: equal to sampling the whole image, and to torchvision's way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import clip_boxes_to_image

from pvtctl.models.heads.masks import paste_masks, place_detections
from pvtctl.models.structures import Detections, MaskGrids

# pycocotools' decoder speaks to numpy in the old way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HEIGHT, WIDTH = 90, 120


def some(number: int = 30) -> tuple[Tensor, Tensor]:
    """Blobs, and boxes that partly lie outside the image."""
    torch.manual_seed(0)
    grids = F.interpolate(torch.rand(number, 1, 6, 6), size=28, mode="bilinear")[:, 0]
    corners = torch.rand(number, 2, 2) * torch.tensor([WIDTH + 40.0, HEIGHT + 40.0]) - 20
    return grids, torch.cat((corners.amin(1), corners.amax(1)), 1)


def decoded(grids: Tensor, boxes: Tensor, *, rounded: bool = False) -> Tensor:
    masks = paste_masks(grids, boxes, (HEIGHT, WIDTH), rounded=rounded)
    assert all(mask["size"] == [HEIGHT, WIDTH] for mask in masks)
    return torch.stack([torch.from_numpy(coco_mask.decode(mask)) for mask in masks]).bool()


def test_pasting_is_bilinear_sampling_of_the_whole_image() -> None:
    grids, boxes = some()
    x = (torch.arange(WIDTH) + 0.5 - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1
    y = (torch.arange(HEIGHT) + 0.5 - boxes[:, 1:2]) / (boxes[:, 3:4] - boxes[:, 1:2]) * 2 - 1
    points = torch.stack((x[:, None, :].expand(-1, HEIGHT, -1), y[:, :, None].expand(-1, -1, WIDTH)), 3)
    whole = F.grid_sample(grids[:, None], points, align_corners=False)[:, 0] > 0.5
    assert whole.any((1, 2)).sum() > 20
    assert (decoded(grids, boxes) != whole).float().mean() < 1e-5


def test_rounded_pasting_is_torchvisions() -> None:
    grids, boxes = some()
    boxes = clip_boxes_to_image(boxes, (HEIGHT, WIDTH))  # as detections are; torchvision's fails beyond the border
    expected = paste_masks_in_image(grids[:, None], boxes, (HEIGHT, WIDTH))[:, 0] > 0.5
    assert (decoded(grids, boxes, rounded=True) != expected).float().mean() < 1e-5


@pytest.mark.parametrize("rounded", [False, True])
def test_boxes_without_area_or_outside_give_empty_masks(rounded: bool) -> None:
    boxes = torch.tensor([[200.0, 10, 240, 30], [-50, -50, -10, -10], [10, 10, 10, 40]])
    masks = decoded(torch.ones(3, 28, 28), boxes, rounded=rounded)
    assert not masks[:2].any()
    assert masks[2].float().sum() <= 31 * 2
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (HEIGHT, WIDTH)) == []


def test_place_brings_boxes_and_masks_to_the_size_asked_for() -> None:
    grids = MaskGrids(torch.ones(1, 28, 28))
    found = Detections(torch.tensor([[10.0, 20, 30, 60]]), torch.ones(1), torch.zeros(1).long(), grids=grids)
    placed = place_detections(found, (90, 120), (180, 60))
    assert placed.boxes.tolist() == [[5, 40, 15, 120]]
    assert placed.grids is None
    assert placed.masks is not None
    mask = coco_mask.decode(placed.masks[0])
    assert mask.shape == (180, 60)
    assert mask.sum() == 10 * 80
    assert mask[40:120, 5:15].all()
    assert found.grids is grids  # what came in is as it was
    same = place_detections(Detections(found.boxes, found.scores, found.labels), (90, 120), (90, 120))
    assert torch.equal(same.boxes, found.boxes)
    assert same.masks is None
