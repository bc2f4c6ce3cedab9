"""`pvtctl visualize augmentations`: images as augmented in training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._options import OVERRIDES, argument, bundle, examples, option, shared
from pvtctl.cli._resolve_recipe import choose_data, note
from pvtctl.cli.visualize._options import Output, Pictures, picture_names
from pvtctl.cli.visualize._predictions import is_data, safe_name
from pvtctl.errors import UsageError
from pvtctl.io.names import plural
from pvtctl.tasks.registry import spec_of

if TYPE_CHECKING:
    from pvtctl.explain.augmentation_preview import Augmentations
    from pvtctl.recipe.schema import Recipe

WITHOUT_TRUTH = 280
"""Pixels of a draw without ground truth."""
EPILOG = examples(
    "pvtctl visualize augmentations scenes --recipe imagenet_pvt_v2 --count 4",
    "pvtctl visualize augmentations scenes --recipe coco_mask_rcnn_1x --epoch 3 --seed 1",
    "pvtctl visualize augmentations street.jpg --recipe imagenet_pvt_v1 --recipe dpt_ade20k --draws 6",
    "pvtctl visualize augmentations street.jpg --recipe runs/my-run/recipe.yaml --set data.augment.erasing=0",
)


@bundle
class AugmentationOptions:
    """Options of `pvtctl visualize augmentations`."""

    words: list[str] = argument(
        metavar="DATA|IMAGES...", help="A data set, augmented with its ground truth, or image files."
    )
    recipe: list[str] = option(
        default=[], help="Augment as this recipe does (a name, or a file such as a run's); may be repeated."
    )
    row: str | None = option(help="The recipe's row. Default: its first.")
    profile: str | None = option(help="The recipe's profile. Default: paper; for scenes the one that uses them.")
    overrides: list[str] = shared(OVERRIDES)
    split: str | None = option(help="For a data set: train or val. Default: train.")
    count: int | None = option(min=1, max=100, help="For a data set: images, spread over it. Default: 4.")
    draws: int = option(default=4, min=1, max=20, help="Draws per image, of consecutive epochs.")
    epoch: int = option(default=0, min=0, help="First epoch drawn, from 0.")
    seed: int | None = option(min=0, help="Seed of the run. Default: the recipe's.")
    width: int | None = option(
        min=64, max=1024, help="Width of each draw in pixels. Default: 280, or 400 with ground truth."
    )

    @property
    def data(self) -> str | None:
        """The data set, if one is named."""
        return self.words[0] if len(self.words) == 1 and is_data(self.words[0]) else None


def augmentations(*, options: AugmentationOptions, output: Output) -> None:
    """Draw augmented training images: the original, then one draw per epoch, with the ground truth transformed alike.

    Draws of a data set are exact: a run with this recipe and seed uses them in those epochs. If the recipe mixes images
    (mixup, CutMix), another picture shows them mixed as one batch, with their soft labels.
    """
    if not options.recipe:
        raise UsageError("which augmentation? --recipe is missing", "for example: --recipe imagenet_pvt_v2")
    data = options.data
    for name in ("split", "count"):
        if data is None and getattr(options, name) is not None:
            raise UsageError(f"--{name} is for data, and images were named", "leave it out")
    recipes = [_recipe(name, options, data) for name in dict.fromkeys(options.recipe)]
    width = options.width or (WITHOUT_TRUTH if data is None else spec_of(recipes[0]).picture_width)
    sources, names = _open(recipes, options, width)
    mixing = len(names) > 1 and any(spec_of(recipe).mixes(recipe) for recipe in recipes)
    label = f"{recipes[0].name}-{Path(options.words[0]).name}"
    pictures = output.open("augmentations", label, len(names) + mixing)
    epochs = range(options.epoch, options.epoch + options.draws)
    skipped = _draw(pictures, sources, names, epochs, width, mixing=mixing)
    seed = recipes[0].train.seed
    pictures.close(
        f"Augmentations of {' and '.join(each.name for each in recipes)}",
        f"{plural(len(names), 'image')}, draws of epochs {epochs[0]} to {epochs[-1]}, seed {seed}.",
        {
            "recipes": [{"name": each.name, "row": each.row, "profile": each.profile} for each in recipes],
            "epochs": list(epochs),
            "seed": seed,
            "skipped": skipped,
        },
    )


def _recipe(name: str, options: AugmentationOptions, data: str | None) -> Recipe:
    """The recipe with the named data."""
    from pvtctl.recipe.load import find_profile, load_recipe, rows_of
    from pvtctl.tasks.registry import tasks_of_data

    row, profile = options.row, options.profile
    if row is None and len(rows := list(rows_of(name))) > 1:
        row = rows[0]
        note(f"{name}: row {row}, its first (--row NAME)")
    settings: list[Any] = [*options.overrides, *([("train.seed", options.seed)] if options.seed is not None else [])]
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
    recipes: Sequence[Recipe], options: AugmentationOptions, width: int
) -> tuple[Sequence[Augmentations], list[str]]:
    """A source per recipe, and the names of the images to draw."""
    import numpy as np

    from pvtctl.explain.augmentation_preview import AugmentedFiles, AugmentedSplit
    from pvtctl.tasks.predict import find_images

    if options.data is None:
        images = find_images(options.words)
        return [AugmentedFiles(recipe, images.folder, images.names, width) for recipe in recipes], images.names
    sources = [AugmentedSplit(recipe, options.split or "train", width) for recipe in recipes]
    common = [name for name in sources[0].names if all(name in source.names for source in sources[1:])]
    if not common:
        raise UsageError("the recipes have no image of this data in common", "draw them one by one")
    places = np.linspace(0, len(common) - 1, min(options.count or 4, len(common))).round().astype(int).tolist()
    return sources, [common[at] for at in places]


def _draw(
    pictures: Pictures,
    sources: Sequence[Augmentations],
    names: Sequence[str],
    epochs: range,
    width: int,
    *,
    mixing: bool,
) -> dict[str, str]:
    """Draw a sheet per image, and with `mixing` one of mixed images; unreadable images with the reason.

    Raises PvtctlError if no image can be read.
    """
    from pvtctl.cli.predict import nothing_read, say_skipped_images
    from pvtctl.data.images import BadImage
    from pvtctl.views.sheet import captioned, sheet_of, write_picture

    titles = [f"{source.recipe.name}: " if len(sources) > 1 else "" for source in sources]
    told = " and ".join(source.recipe.name for source in sources)
    drawn, skipped = [], dict[str, str]()
    tiles: dict[str, Any]
    for name, stem in zip(names, picture_names([safe_name(name) for name in names]), strict=True):
        try:
            tiles = {}
            for source, title in zip(sources, titles, strict=True):
                index = source.names.index(name)
                tiles[f"{title}original"] = source.original(index)
                tiles |= {f"{title}epoch {epoch}": source.draw(index, epoch) for epoch in epochs}
        except (BadImage, OSError) as error:
            skipped[name] = getattr(error, "strerror", None) or str(error)
            continue
        drawn.append(name)
        sheet = captioned(sheet_of(tiles, columns=1 + len(epochs), width=width), f"{name}, augmented by {told}")
        caption = f"Original and {len(epochs)} draws of {told}"
        pictures.add(stem, partial(write_picture, pixels=sheet), title=name, caption=caption, image=name)
    say_skipped_images(skipped)
    if not drawn:
        raise nothing_read(skipped)
    if mixing and len(drawn) > 1:
        tiles = {}
        for source, title in zip(sources, titles, strict=True):
            for epoch in epochs:
                found = source.mixed([source.names.index(name) for name in drawn], epoch)
                for at, (image, label) in enumerate(zip(*found, strict=True) if found else (), 1):
                    tiles[f"{title}epoch {epoch}, {at}: {label}"] = image
        title = f"{plural(len(drawn), 'image')} as one batch, mixed (mixup or CutMix), with their soft labels"
        sheet = captioned(sheet_of(tiles, columns=len(drawn), width=width), title)
        draw = partial(write_picture, pixels=sheet)
        pictures.add("mixed", draw, title="mixed", caption="As a batch of these images is mixed", image=None)
    return skipped
