"""`pvtctl finetune`: train on your data from pretrained weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pvtctl.cli._options import HEAD, TASK, App, argument, bundle, examples, option, shared
from pvtctl.cli._resolve_recipe import DEFAULT_BACKBONE, Override, choose_data, choose_recipe, choose_task, note
from pvtctl.cli._weights import choose_weights
from pvtctl.cli.pretrain import TrainOptions, train_command
from pvtctl.errors import UsageError
from pvtctl.models.backbone_names import split_name
from pvtctl.runs.paths import data_place, given_weights
from pvtctl.tasks.registry import task_spec

if TYPE_CHECKING:
    from pvtctl.recipe.schema import Recipe

app = App(rich_markup_mode=None)

EPILOG = examples(
    "pvtctl finetune photos/ --backbone pvt_small",
    "pvtctl finetune photos/ --weights runs/imagenet_pvt_v1-pvt_tiny --set train.epochs=30",
    "pvtctl finetune coco --backbone pvt_small --head retinanet",
    "pvtctl finetune cells/ --head mask_rcnn --weights runs/imagenet_pvt_v2-pvt_v2_b0-mini",
    "pvtctl finetune coco --images photos --annotations train.json --val-annotations val.json",
    "pvtctl finetune ade20k --backbone pvt_small --head semantic_fpn",
    "pvtctl finetune camvid/ --recipe small_maps --weights runs/imagenet_pvt_v1-pvt_tiny-mini",
    "pvtctl finetune nyu --backbone vit_hybrid --head dpt --weights dpt_hybrid_midas",
    "pvtctl finetune scenes --backbone pvt_v2_b0 --head retinanet --weights none",
)


@bundle
class FinetuneOptions(TrainOptions):
    """Options of `pvtctl finetune`."""

    data: str = argument(
        metavar="DATA",
        help="A folder (class folders, COCO's layout, images and label maps, images and depth), or imagenet, coco, "
        "ade20k, pascal_context, cityscapes, nyu, kitti, or scenes (the built-in data).",
    )
    weights: str | None = option(
        help="Checkpoint file, run directory, published name, hf:OWNER/NAME, timm:NAME.TAG, timm, or none. Default: the "
        "newest finished run of the backbone on imagenet (scenes: on scenes), else its published weights."
    )
    head: str | None = shared(HEAD)
    task: str | None = shared(TASK)
    backbone: str | None = option(
        help="A name listed by `pvtctl models ls`. Default: that of the weights, else pvt_small."
    )
    recipe: str | None = option(
        help="A name listed by `pvtctl recipes ls` or a YAML file. Default: finetune_classification; for a dense head "
        "the paper's table that has the backbone."
    )
    images: Path | None = option(help="With coco: folder of the training images.")
    annotations: Path | None = option(help="With coco: JSON file of the training annotations.")
    val_images: Path | None = option(help="Folder of the validation images. Default: --images.")
    val_annotations: Path | None = option(help="JSON file of the validation annotations.")
    out: Path | None = option(help="Run directory. Default: $PVTCTL_RUNS (or runs)/RECIPE-BACKBONE[-PROFILE][-DATA].")

    @property
    def start(self) -> str | None:
        """The weights to start from, if any are named."""
        return None if self.weights == "none" else super().start

    def files(self) -> dict[str, Path | None]:
        """Annotations outside a known layout, for `choose_data`. Raises UsageError if one of each pair is missing."""
        if (self.annotations is None) != (self.val_annotations is None):
            raise UsageError(
                "training needs two annotation files: --annotations FILE (training) and --val-annotations FILE",
                "each with its own images and annotations; `pvtctl data convert` writes two of Pascal VOC and YOLO labels",
            )
        if (self.images is None) != (self.annotations is None):
            raise UsageError("--images and --annotations go together", "--images DIR --annotations FILE.json")
        return {
            "train_images": self.images,
            "train_annotations": self.annotations,
            "val_images": self.val_images or self.images,
            "val_annotations": self.val_annotations,
        }


@app.command(epilog=EPILOG)
def finetune(context: typer.Context, options: FinetuneOptions) -> None:
    """Train a classifier, a detector, a segmentation or a depth model on your data from pretrained weights.

    The head's weights are kept for classes with the same name; other classes are initialised randomly. Prints a table
    of results and writes a run directory like `pretrain`.
    """
    options.load_modules()
    data = choose_data(options.data, options.folder, options.files())
    task = choose_task(data, options.head, options.task) if options.recipe is None else "classification"
    recipe = options.recipe or task_spec(task).finetune_recipe
    backbone, width = options.backbone, list[Override]()
    if backbone is None and options.start is not None:
        backbone = backbone_of_weights(options.start)
        width = [("model.backbone.width", split_name(backbone).width)]  # that of the weights, not the profile's
    elif backbone is None and recipe == "finetune_classification":
        backbone = DEFAULT_BACKBONE
    chosen = choose_recipe(
        data,
        backbone=backbone,
        recipe=recipe,
        profile=options.profile,
        task=task,
        head=options.head,
        overrides=[*width, *options.settings()],
    )
    data_place(chosen)  # report missing data before weights are fetched
    if options.weights is None:
        chosen = with_found_weights(chosen)
    train_command(context, options, chosen, data)


def with_found_weights(recipe: Recipe) -> Recipe:
    """Add default weights to the recipe, unless it names weights or trains from scratch.

    Dense heads on scenes start from a classifier trained on scenes, all others from one trained on ImageNet.
    """
    model = recipe.model
    if model.weights is not None or model.init == "scratch":
        return recipe
    of = "scenes" if recipe.data.name == "scenes" and model.head is not None else "imagenet"
    found = choose_weights(model.backbone.spec, of, None)
    note(f"weights: {found.source} ({found.why})")
    return recipe.model_copy(update={"model": model.model_copy(update={"weights": given_weights(found.source)})})


def backbone_of_weights(weights: str) -> str:
    """The backbone of a checkpoint, by its metadata or shapes. Raises UsageError if it cannot be identified."""
    from pvtctl.weights.describe import inspect_checkpoint

    found = inspect_checkpoint(weights).backbone
    note(f"backbone: {found}, from the weights")
    return found
