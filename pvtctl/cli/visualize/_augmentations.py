"""`pvtctl visualize augmentations`: images as augmented in training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pvtctl.cli._options import OVERRIDES, bundled
from pvtctl.cli._resolve_recipe import choose_data, note
from pvtctl.cli.visualize._options import Output, Pictures, picture_names
from pvtctl.cli.visualize._predictions import is_data, safe_name
from pvtctl.errors import UsageError
from pvtctl.tasks.registry import spec_of

if TYPE_CHECKING:
    from pvtctl.explain.augmentation_preview import Augmentations
    from pvtctl.recipe.schema import Recipe

WITHOUT_TRUTH = 280
"""Pixels of a draw without ground truth."""
EPILOG = """Examples:

pvtctl visualize augmentations scenes --recipe imagenet_pvt_v2 --count 4

pvtctl visualize augmentations scenes --recipe coco_mask_rcnn_1x --epoch 3 --seed 1

pvtctl visualize augmentations street.jpg --recipe imagenet_pvt_v1 --recipe dpt_ade20k --draws 6

pvtctl visualize augmentations street.jpg --recipe runs/my-run/recipe.yaml --set data.augment.erasing=0
"""


@bundled
def augmentations(
    words: list[str] = typer.Argument(
        metavar="DATA|IMAGES...", help="A data set, augmented with its ground truth, or image files."
    ),
    *,
    recipe: list[str] | None = typer.Option(
        None, help="Augment as this recipe does (a name, or a file such as a run's); may be repeated."
    ),
    row: str | None = typer.Option(None, help="The recipe's row. Default: its first."),
    profile: str | None = typer.Option(
        None, help="The recipe's profile. Default: paper; for scenes the one that uses them."
    ),
    overrides: list[str] = OVERRIDES,
    split: str | None = typer.Option(None, help="For a data set: train or val. Default: train."),
    count: int | None = typer.Option(None, min=1, max=100, help="For a data set: images, spread over it. Default: 4."),
    draws: int = typer.Option(4, min=1, max=20, help="Draws per image, of consecutive epochs."),
    epoch: int = typer.Option(0, min=0, help="First epoch drawn, from 0."),
    seed: int | None = typer.Option(None, min=0, help="Seed of the run. Default: the recipe's."),
    width: int | None = typer.Option(
        None, min=64, max=1024, help="Width of each draw in pixels. Default: 280, or 400 with ground truth."
    ),
    output: Output,
) -> None:
    """Draw augmented training images: the original, then one draw per epoch, with the ground truth transformed alike.

    Draws of a data set are exact: a run with this recipe and seed uses them in those epochs. If the recipe mixes images
    (mixup, CutMix), another picture shows them mixed as one batch, with their soft labels.
    """
    if not recipe:
        raise UsageError("which augmentation? --recipe is missing", "for example: --recipe imagenet_pvt_v2")
    data = words[0] if len(words) == 1 and is_data(words[0]) else None
    for option, value in (("split", split), ("count", count)):
        if data is None and value is not None:
            raise UsageError(f"--{option} is for data, and images were named", "leave it out")
    recipes = [_recipe(name, row, profile, overrides, data, seed) for name in dict.fromkeys(recipe)]
    width = width or (WITHOUT_TRUTH if data is None else spec_of(recipes[0]).picture_width)
    sources, names = _open(recipes, words, data, (split or "train", count or 4), width)
    sheets = _Sheets(sources, names, range(epoch, epoch + draws), width)
    label = f"{recipes[0].name}-{Path(words[0]).name}"
    pictures = output.open("augmentations", label, len(names) + sheets.mixing)
    sheets.add(pictures)
    told = " and ".join(each.name for each in recipes)
    pictures.close(
        f"Augmentations of {told}",
        f"{len(names)} images, draws of epochs {epoch} to {epoch + draws - 1}, seed {recipes[0].train.seed}.",
        {
            "recipes": [{"name": each.name, "row": each.row, "profile": each.profile} for each in recipes],
            "epochs": list(sheets.epochs),
            "seed": recipes[0].train.seed,
            "skipped": sheets.skipped,
        },
    )


def _recipe(
    name: str, row: str | None, profile: str | None, overrides: Sequence[str], data: str | None, seed: int | None
) -> Recipe:
    """The recipe with the named data."""
    from pvtctl.recipe.load import find_profile, load_recipe, rows_of
    from pvtctl.tasks.registry import tasks_of_data

    if row is None and len(rows := list(rows_of(name))) > 1:
        row = rows[0]
        note(f"{name}: row {row}, its first (--row NAME)")
    settings: list[Any] = [*overrides, *([("train.seed", seed)] if seed is not None else [])]
    if data is None:
        return load_recipe(name, row, profile or "paper", settings)
    if profile is None and data == "scenes":
        try:
            profile = find_profile(name, "scenes")
        except UsageError:
            profile = "paper"
        note(f"{name}: profile {profile} (--profile NAME)")
    chosen = choose_data(data, None)
    found = load_recipe(name, row, profile or "paper", [*chosen.overrides(), *settings])
    if found.task not in tasks_of_data(chosen.name):
        raise UsageError(
            f"{name} is for {found.task}, and {data} has no data for it",
            f"name data for {found.task}, or image files, which are drawn without ground truth",
        )
    return found


def _open(
    recipes: Sequence[Recipe], words: Sequence[str], data: str | None, choice: tuple[str, int], width: int
) -> tuple[list[Augmentations], list[str]]:
    """A source per recipe, and the names of the images to draw."""
    import numpy as np

    from pvtctl.explain.augmentation_preview import AugmentedFiles, AugmentedSplit
    from pvtctl.tasks.predict import find_images

    if data is None:
        images = find_images(words)
        return [AugmentedFiles(recipe, images.folder, images.names, width) for recipe in recipes], images.names
    split, count = choice
    sources = [AugmentedSplit(recipe, split, width) for recipe in recipes]
    shared = [name for name in sources[0].names if all(name in source.names for source in sources[1:])]
    if not shared:
        raise UsageError("the recipes have no image of this data in common", "draw them one by one")
    places = np.linspace(0, len(shared) - 1, min(count, len(shared))).round().astype(int).tolist()
    return list(sources), [shared[at] for at in places]


class _Sheets:
    """A sheet per image, and one of mixed images if a recipe mixes."""

    def __init__(self, sources: Sequence[Augmentations], names: Sequence[str], epochs: range, width: int) -> None:
        self.sources, self.epochs, self.width = sources, epochs, width
        self.skipped: dict[str, str] = {}
        self.names = list(names)
        self.mixing = len(names) > 1 and any(spec_of(each.recipe).mixes(each.recipe) for each in sources)

    def add(self, pictures: Pictures) -> None:
        """Draw all sheets. Raises PvtctlError if no image can be read."""
        from pvtctl.cli.predict import nothing_read, say_skipped_images
        from pvtctl.data.images import BadImage
        from pvtctl.views.sheet import captioned, sheet_of, write_picture

        drawn = []
        for name, stem in zip(self.names, picture_names([safe_name(name) for name in self.names]), strict=True):
            try:
                tiles = self._tiles(name)
            except (BadImage, OSError) as error:
                self.skipped[name] = getattr(error, "strerror", None) or str(error)
                continue
            drawn.append(name)
            sheet = captioned(sheet_of(tiles, columns=1 + len(self.epochs), width=self.width), self._title(name))
            pictures.add(stem, partial(write_picture, pixels=sheet), title=name, caption=self._told(), image=name)
        say_skipped_images(self.skipped)
        if not drawn:
            raise nothing_read(self.skipped)
        if self.mixing and len(drawn) > 1:
            tiles = self._mixed(drawn)
            title = f"{len(drawn)} images as one batch, mixed (mixup or CutMix), with their soft labels"
            sheet = captioned(sheet_of(tiles, columns=len(drawn), width=self.width), title)
            draw = partial(write_picture, pixels=sheet)
            pictures.add("mixed", draw, title="mixed", caption="As a batch of these images is mixed", image=None)

    def _tiles(self, name: str) -> dict[str, Any]:
        several = len(self.sources) > 1
        tiles: dict[str, Any] = {}
        for source in self.sources:
            index = source.names.index(name)
            before = f"{source.recipe.name}: " if several else ""
            tiles[f"{before}original"] = source.original(index)
            tiles |= {f"{before}epoch {epoch}": source.draw(index, epoch) for epoch in self.epochs}
        return tiles

    def _mixed(self, names: Sequence[str]) -> dict[str, Any]:
        tiles: dict[str, Any] = {}
        for source in self.sources:
            before = f"{source.recipe.name}: " if len(self.sources) > 1 else ""
            for epoch in self.epochs:
                found = source.mixed([source.names.index(name) for name in names], epoch)
                for at, (image, label) in enumerate(zip(*found, strict=True) if found else ()):
                    tiles[f"{before}epoch {epoch}, {at + 1}: {label}"] = image
        return tiles

    def _told(self) -> str:
        return f"Original and {len(self.epochs)} draws of {' and '.join(each.recipe.name for each in self.sources)}"

    def _title(self, name: str) -> str:
        return f"{name}, augmented by {' and '.join(each.recipe.name for each in self.sources)}"
