"""Interface of classification to the rest of pvtctl. No torch until a method is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.errors import UsageError
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.tasks.base import (
    EvaluationRequest,
    PredictionRequest,
    ReportedFigure,
    TaskSizes,
    TaskSpec,
    imported,
    scored_model,
    scored_recipe,
)
from pvtctl.views.labels import CurveLabels

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pvtctl.data.check import DatasetVerdict
    from pvtctl.data.images import RgbImage
    from pvtctl.recipe.schema import Data, Recipe
    from pvtctl.tasks.base import Predictor
    from pvtctl.tasks.classification.predict import ClassesWriter
    from pvtctl.tasks.classification.report import ClassComparer
    from pvtctl.tasks.predict import Images
    from pvtctl.weights.describe import Inspected


class ClassificationSpec(TaskSpec):
    """Classification: images of one class each."""

    name = "classification"
    turns_images = False
    data_names = ("imagenet", "scenes")
    usual_data = "imagenet"
    needs = "class folders"
    reads = ("data.augment", "data.resize", "data.shards")
    figures = (
        ReportedFigure("top1_err", "top-1 error, %", lower_is_better=True),
        ReportedFigure("top1_acc", "top-1, %"),
        ReportedFigure("top5_acc", "top-5, %"),
        ReportedFigure("loss", "loss, nats", lower_is_better=True),
        ReportedFigure("ece", "calibration error, %", percent=True, lower_is_better=True),
        ReportedFigure("top1_present", "top-1 among the data's classes, %", percent=True),
    )
    main_score = "top1"
    main_figure = "top1_acc"
    headline = ("top1", "top5", "loss", "ece", "mean_class_top1", "images")
    curves = CurveLabels("cross entropy, nats", "Validation accuracy", (("top1", "top-1"), ("top5", "top-5")))
    compared_curves = (("top1", "Top-1 accuracy"),)
    eval_batch_size = 64
    finetune_recipe = "finetune_classification"
    writes_predictions = False
    picture_width = 280

    open_split = imported("pvtctl.tasks.classification.build:classification_split")
    preview = imported("pvtctl.tasks.classification.preview:preview_classification")
    count_data = imported("pvtctl.tasks.classification.data:count_images")
    new_model = imported("pvtctl.tasks.classification.build:new_classifier")
    build = imported("pvtctl.tasks.classification.build:build_classification")
    predictor = imported("pvtctl.tasks.classification.predict:ClassifierPredictor")

    def shown_figures(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Accuracies under the papers' names, and the top-1 error."""
        accuracies = {
            "top1_err": 100 * (1 - numbers["top1"]),
            "top1_acc": 100 * numbers["top1"],
            "top5_acc": 100 * numbers["top5"],
        }
        return accuracies | super().shown_figures(numbers)

    def check_data(self, name: str, root: Path | None, data: Data, **options: Any) -> DatasetVerdict:
        from pvtctl.tasks.classification.check import check_data
        from pvtctl.tasks.reading import reading_of_data

        place = data.url or root or ""
        return check_data(place, reading=reading_of_data(data, self), shards=data.shards, **options)

    def prediction_writer(self, request: PredictionRequest, images: Images, out: Path | None) -> ClassesWriter:
        from pvtctl.tasks.classification.predict import ClassesWriter

        return ClassesWriter(request.checkpoint, self.predictor(request), images)

    def comparer(self, predictor: Predictor, recipe: Recipe, split: Any, *, threshold: float) -> ClassComparer:
        from pvtctl.tasks.classification.report import ClassComparer

        return ClassComparer(predictor, split)

    def as_scored(self, recipe: Recipe, checkpoint: Inspected, request: EvaluationRequest) -> Recipe:
        size = None
        if request.size is not None:
            height, size = request.size
            if height != size:
                raise UsageError(
                    f"size '{height}x{size}': images are scored on a square crop", f"use --size {min(height, size)}"
                )
        ratio = recipe.data.resize / recipe.data.image_size
        trained = checkpoint.meta.image_size or recipe.data.image_size
        stated = checkpoint.meta.resize if size is None else None
        image_size = size or trained
        resize = request.resize or stated or round(image_size * ratio)
        if resize < image_size:
            raise UsageError(
                f"--resize {resize} is smaller than the crop of {image_size}", f"use at least {image_size}"
            )
        return scored_recipe(
            recipe,
            data={"image_size": image_size, "resize": resize},
            model=scored_model(recipe, checkpoint),
            evaluation={"batch_size": request.batch_size or recipe.eval.batch_size or self.eval_batch_size},
        )

    def sizes(self, recipe: Recipe) -> TaskSizes:
        side, resize = recipe.data.image_size, recipe.data.resize
        return TaskSizes(
            training=(side, side),
            testing=(side, side),
            counted=(side, side),
            counted_here=(side, side),
            scored={"image_size": side, "resize": resize},
            scored_label=f"{side} pixels",
            label=f"{side} of {resize}",
        )

    def tested_side(self, meta: CheckpointMeta) -> int | None:
        return meta.image_size

    def model_cost(self, recipe: Recipe, classes: int) -> dict[str, float]:
        from pvtctl.cost.counting import count

        backbone = recipe.model.backbone
        cost = count(backbone.at_width(1) if recipe.expect else backbone.spec, (224, 224), convention="paper")
        return {"params_m": cost.trainable_params / 1e6, "gmacs": cost.macs / 1e9}

    def case_options(self, recipe: Recipe, conventions: str) -> dict[str, Any]:
        from pvtctl.tasks.from_recipe import backbone_options

        return {"backbone": backbone_options(recipe.model.backbone) | {"image_size": recipe.data.image_size}}

    def draw_target(self, split: Any, pixels: Tensor, target: Any, side: int) -> RgbImage:
        from pvtctl.data.images import to_rgb

        return to_rgb(pixels)

    def augment_file(self, recipe: Recipe, file: Path, generator: torch.Generator) -> Tensor:
        from pvtctl.data.images import EncodedPicture, image_bytes
        from pvtctl.data.transforms import denormalize
        from pvtctl.tasks.classification.transforms import TrainTransform
        from pvtctl.tasks.reading import reading_of

        how = recipe.data.pixels
        crop = TrainTransform(recipe.data.image_size, recipe.data.augment, how)
        return denormalize(crop(EncodedPicture(image_bytes(file), reading_of(recipe)), generator), how)

    def mixes(self, recipe: Recipe) -> bool:
        return bool(recipe.data.augment.mixup_alpha or recipe.data.augment.cutmix_alpha)

    def mix(
        self, recipe: Recipe, images: Tensor, labels: Tensor, names: Sequence[str], key: int
    ) -> tuple[Tensor, list[str]]:
        from pvtctl.tasks.classification.preview import mix_in_words

        return mix_in_words(recipe.data.augment, images, labels, names, key)


CLASSIFICATION = ClassificationSpec()
