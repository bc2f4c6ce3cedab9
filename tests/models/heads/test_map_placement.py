"""Where a dense model's map lies on the image and on its file: an object stays where it is, whatever the sizes."""

from __future__ import annotations

from typing import Any, Literal, cast

import pytest
import torch
from torch import Tensor, nn

from pvtctl.models.backbones import Backbone
from pvtctl.models.dense import DenseModel
from pvtctl.models.heads.base import DenseHead


class Coordinates(DenseHead):
    """Says at every cell which pixel of the image it was asked about in training: its row and its column."""

    def __init__(
        self, stride: int, mode: Literal["bilinear", "bicubic"], *, align_corners: bool, multiple: int
    ) -> None:
        super().__init__()
        self.stride, self.upsampling, self.align_corners, self.multiple = stride, mode, align_corners, multiple

    def read(self, backbone: Any, images: Tensor) -> Tensor:
        return images

    def forward(self, features: Tensor, auxiliary: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        rows, columns = (self._places(int(side)) for side in features.shape[2:])
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None], ()

    def _places(self, side: int) -> Tensor:
        cells = side // self.stride
        if self.align_corners:
            return torch.linspace(0, side - 1, cells, dtype=torch.float64)
        return (torch.arange(cells, dtype=torch.float64) + 0.5) * self.stride - 0.5


@pytest.mark.parametrize(
    ("head", "allowed"),
    [
        (Coordinates(4, "bilinear", align_corners=False, multiple=4), 0.001),
        (Coordinates(2, "bilinear", align_corners=True, multiple=32), 0.001),
        (Coordinates(4, "bilinear", align_corners=True, multiple=1), 0.001),
        (Coordinates(1, "bicubic", align_corners=False, multiple=32), 0.05),  # a cubic bends straight lines a little
    ],
    ids=["semantic_fpn", "dpt segmentation", "trans2seg", "dpt depth"],
)
@pytest.mark.parametrize(
    ("image", "file"),
    [
        ((96, 128), (96, 128)),
        ((96, 128), (384, 500)),
        ((92, 76), (92, 76)),
        ((92, 76), (400, 300)),
        ((92, 76), (61, 70)),
    ],
)
def test_nothing_moves(head: Coordinates, allowed: float, image: tuple[int, int], file: tuple[int, int]) -> None:
    model = DenseModel(cast("Backbone", nn.Identity()), None, head, task="segmentation", num_classes=2)
    rows, columns = model.at_size(model(torch.zeros(1, 3, *image)), image, file)[0]
    for found, axis in ((rows[:, 0], 0), (columns[0], 1)):
        true = (torch.arange(file[axis], dtype=torch.float64) + 0.5) * image[axis] / file[axis] - 0.5
        inside = (true >= 2) & (true <= image[axis] - 3)  # at the border there is nothing to interpolate with
        torch.testing.assert_close(found[inside], true[inside], atol=allowed, rtol=0)
