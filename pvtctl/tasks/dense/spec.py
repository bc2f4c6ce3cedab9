"""Interface of segmentation and depth to the rest of pvtctl: what both share. No torch until a method is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pvtctl.tasks.base import PreviewRequest, Role, TaskSpec

if TYPE_CHECKING:
    from pvtctl.data.check import DatasetVerdict
    from pvtctl.recipe.schema import Data, Recipe
    from pvtctl.tasks.dense.data import DenseDataset


class DenseSpec(TaskSpec):
    """A map for each image. The task's settings are the block of its name in a recipe's `data`."""

    open_data: ClassVar[Callable[..., DenseDataset]]
    """Opens a split from settings: `open_depth_split`, `open_segmentation_split`."""
    check_maps: ClassVar[Callable[..., DatasetVerdict]]

    def check_data(self, name: str, root: Path | None, data: Data, **options: Any) -> DatasetVerdict:
        from pvtctl.tasks.reading import reading_of_data

        options |= {"settings": getattr(data, self.name), "reading": reading_of_data(data, self)}
        return self.check_maps(root or Path(), name=name, **options)

    def split_settings(self, recipe: Recipe, role: Role) -> Any:
        """Settings that a recipe's data is opened with."""
        return getattr(recipe.data, self.name)

    def open_split(self, recipe: Recipe, split: str, role: Role) -> DenseDataset:
        from pvtctl.tasks.from_recipe import data_folder, split_options

        return self.open_data(
            recipe.data.name,
            data_folder(recipe),
            split,
            settings=self.split_settings(recipe, role),
            training=role == "train",
            **split_options(recipe, split),
        )

    def preview(self, request: PreviewRequest) -> str:
        """Each original image, then its augmented views, with their ground truth."""
        from PIL import Image

        from pvtctl.data.preview import draw_views, drawn_in_words
        from pvtctl.data.survey import as_in_training
        from pvtctl.tasks.reading import reading_of_data

        copies, side = request.copies or 3, request.size or 400

        def opened(split: str) -> DenseDataset:
            return self.open_data(
                request.name,
                request.root,
                split,
                settings=getattr(request.data, self.name),
                training=split == "train",
                normalization=request.data.pixels,
                reading=reading_of_data(request.data, self),
                seed=request.seed,
                samples=request.count if request.name == "scenes" else None,
                image_size=request.data.image_size,
            )

        dataset = as_in_training(opened, request.split)
        ids = draw_views(
            dataset,
            request.output,
            lambda pixels, target: Image.fromarray(self.draw_target(dataset, pixels, target, side)),
            dataset.read,
            count=request.count,
            copies=copies,
            side=side,
        )
        return drawn_in_words(request.output, ids, dataset, request.split, copies)

    def model_cost(self, recipe: Recipe, classes: int) -> dict[str, float]:
        from pvtctl.tasks.dense.build import dense_cost

        return dense_cost(self, recipe, classes)

    def case_options(self, recipe: Recipe, conventions: str) -> dict[str, Any]:
        from pvtctl.tasks.dense.build import dense_case_options

        return dense_case_options(recipe)
