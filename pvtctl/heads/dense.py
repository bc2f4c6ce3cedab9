"""What every head that answers pixel by pixel is: semantic segmentation and depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn


class DenseHead(nn.Module):
    """What it reads of a backbone -> one map, coarser than the image."""

    upsampling: Literal["bilinear", "bicubic"] = "bilinear"
    """How the map is brought to the size of the image."""
    align_corners = False
    """Whether that resizing lays corners on corners, as the head's original does."""
    multiple = 1
    """Images are padded with zeros (right, bottom) to sides that are multiples of this, and the map is cut again."""
    auxiliary_weight = 0.0
    """Weight of the loss of every auxiliary map; 0: the head has none."""

    def read(self, backbone: Any, images: Tensor) -> Any:
        """What `forward` takes of a backbone: its four maps, unless the head asks for something else."""
        return backbone(images)

    def forward(self, features: Any, auxiliary: bool = False) -> tuple[Tensor, Sequence[Tensor]]:
        """The map (B, K, h, w), K classes or 1 for depth, and with `auxiliary` those that only training looks at."""
        raise NotImplementedError
