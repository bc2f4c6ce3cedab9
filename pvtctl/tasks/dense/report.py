"""What the reports of segmentation and depth share: sheets of images with their maps, comparisons."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.images import BadImage, RgbImage
from pvtctl.errors import UsageError
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.base import ComparedImage, Predictor
from pvtctl.tasks.dense.data import DenseDataset

# Matplotlib takes a second to import: the views are imported where something is drawn.

Drawing = Callable[[Tensor, Tensor, NDArray[Any], str], tuple[str, RgbImage]]
"""Image, uint8 (3, H, W), ground truth (H, W), predicted map and file name -> title and picture."""


def comparison_tiles(dataset: DenseDataset, maps: Mapping[int, NDArray[Any]], draw: Drawing) -> dict[str, RgbImage]:
    """Title -> picture of validation images; `maps` are predictions by position in the split, drawn in this order.

    Images that cannot be read are left out.
    """
    tiles = {}
    for at, found in maps.items():
        try:
            pixels, target = dataset.read(at)
        except (BadImage, OSError, UsageError):
            continue
        title, picture = draw(pixels, target, found, dataset.name(at))
        tiles[title] = picture
    return tiles


def draw_rows(path: Path, tiles: Mapping[str, RgbImage]) -> Path:
    """Write a sheet with one comparison a row, at the size that they were drawn at."""
    from pvtctl.views.sheet import draw_sheet

    path.parent.mkdir(parents=True, exist_ok=True)
    return draw_sheet(path, tiles, columns=1, width=max((tile.shape[1] for tile in tiles.values()), default=640))


class DenseComparer(ABC):
    """Predicted maps next to the ground truth of a split."""

    def __init__(self, predictor: Predictor, recipe: Recipe, split: DenseDataset, *, threshold: float) -> None:
        self.predictor, self.split, self.names = predictor, split, split.ids

    def __call__(self, index: int) -> ComparedImage:
        pixels, target = self.split.read(index)
        name = self.names[index]
        goodness, verdict, picture = self.compare(pixels, target, self.predictor(pixels), name)

        def draw(path: Path) -> None:
            from pvtctl.views.sheet import captioned, write_picture

            write_picture(path, captioned(picture(), f"{name}: {verdict}"))

        return ComparedImage(name, goodness, verdict, draw)

    @abstractmethod
    def compare(
        self, pixels: Tensor, target: Tensor, prediction: Any, name: str
    ) -> tuple[float, str, Callable[[], RgbImage]]:
        """Goodness and verdict of a prediction (`ComparedImage`), and how it is drawn next to the ground truth."""
