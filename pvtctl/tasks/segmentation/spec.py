"""Interface of segmentation to the rest of pvtctl. No torch until a method is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.tasks.base import (
    SPLITS,
    BuildRequest,
    EvaluationRequest,
    PredictionRequest,
    PreviewRequest,
    ReportedFigure,
    Role,
    TaskSizes,
    TaskSpec,
    views_label,
)
from pvtctl.views.labels import CurveLabels

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pvtctl.data.check import DatasetVerdict
    from pvtctl.data.images import RgbImage
    from pvtctl.models.dense import DenseModel
    from pvtctl.recipe.schema import Data, Recipe
    from pvtctl.tasks.base import Predictor
    from pvtctl.tasks.dense.data import DenseDataset
    from pvtctl.tasks.predict import Images
    from pvtctl.tasks.segmentation.predict import LabelsWriter, SegmentationPredictor
    from pvtctl.tasks.segmentation.report import SegmentationComparer
    from pvtctl.tasks.segmentation.task import SegmentationTask
    from pvtctl.weights.describe import HeadClasses, Inspected


class SegmentationSpec(TaskSpec):
    """Semantic segmentation: a class for each pixel."""

    name = "segmentation"
    data_names = ("ade20k", "pascal_context", "cityscapes", "masks", "scenes")
    usual_data = "ade20k"
    needs = "label maps"
    reads = (
        "data.segmentation",
        "data.normalization",
        "model.init",
        "model.backbone.image_size",
        "eval.ratios",
        "eval.flip",
        "eval.window",
        "eval.stride",
    )
    predict_options = ("short_side", "long_side", "ratios", "flip", "window", "stride")
    figures = (
        ReportedFigure("miou", "mIoU, %", percent=True),
        ReportedFigure("pixel_acc", "pixel accuracy, %", percent=True),
        ReportedFigure("mean_acc", "mean accuracy of the classes, %", percent=True),
        ReportedFigure("fw_iou", "IoU weighted by frequency, %", percent=True),
        ReportedFigure("boundary_f", "boundary F-score, %", percent=True),
    )
    has_data_settings = True
    main_score = "miou"
    main_figure = "miou"
    headline = ("miou", "pixel_acc", "mean_acc", "boundary_f")
    curves = CurveLabels(
        "sum of the losses",
        "Validation",
        (("miou", "mIoU"), ("pixel_acc", "pixel accuracy"), ("boundary_f", "boundary F")),
        (("pixel_acc", "pixel accuracy in training"),),
    )
    compared_curves = (("miou", "Mean IoU"),)

    def open_split(self, recipe: Recipe, split: str, role: Role) -> DenseDataset:
        from pvtctl.tasks.segmentation.build import segmentation_split

        return segmentation_split(recipe, split, role)

    def check_data(self, name: str, root: Path | None, data: Data, **options: Any) -> DatasetVerdict:
        from pvtctl.tasks.segmentation.check import check_segmentation_data

        return check_segmentation_data(root or Path(), name=name, settings=data.segmentation, **options)

    def preview(self, request: PreviewRequest) -> str:
        from pvtctl.tasks.segmentation.preview import preview_segmentation

        return preview_segmentation(request)

    def list_data(self, name: str, place: Path) -> dict[str, Any]:
        from pvtctl.tasks.segmentation.data import open_masks
        from pvtctl.tasks.segmentation.settings import SegmentationData

        row: dict[str, Any] = {}
        for split in SPLITS:
            try:
                masks = open_masks(name, place, split, SegmentationData())
                row |= {"classes": len(masks.class_names), split: len(masks)}
            except PvtctlError as error:
                row["state"] = error.message
        return row

    def new_model(self, recipe: Recipe, head: HeadClasses) -> DenseModel:
        from pvtctl.tasks.segmentation.build import new_segmenter

        return new_segmenter(recipe, head.num_classes)

    def build(self, request: BuildRequest) -> SegmentationTask:
        from pvtctl.tasks.segmentation.build import build_segmentation

        return build_segmentation(request)

    def predictor(self, request: PredictionRequest, model: Any = None) -> SegmentationPredictor:
        from pvtctl.tasks.segmentation.predict import SegmentationPredictor

        return SegmentationPredictor(request, model)

    def prediction_writer(self, request: PredictionRequest, images: Images, out: Path | None) -> LabelsWriter:
        from pvtctl.tasks.segmentation.predict import LabelsWriter

        return LabelsWriter(request.checkpoint, self.predictor(request), images, out)

    def comparer(self, predictor: Predictor, recipe: Recipe, split: Any, *, threshold: float) -> SegmentationComparer:
        from pvtctl.tasks.segmentation.report import SegmentationComparer

        return SegmentationComparer(predictor, split)

    def as_scored(self, recipe: Recipe, checkpoint: Inspected, request: EvaluationRequest) -> Recipe:
        """The long side of `request.size` follows in proportion if one side is given."""
        from pvtctl.tasks.dense.evaluate import dense_scored, stated_sizes

        if request.scale_shift is not None:
            raise UsageError("--scale-shift is for depth, and these weights are for segmentation", "leave it out")
        own = recipe.data.segmentation
        sizes = stated_sizes(checkpoint, self.name, ("test_short_side", "test_long_side", "align"), request)
        if request.size is not None:
            short, long = sorted(request.size)
            sizes["test_short_side"] = short
            sizes["test_long_side"] = long if long > short else round(short * own.test_long_side / own.test_short_side)
        return dense_scored(recipe, checkpoint, request, {self.name: own.model_copy(update=sizes)})

    def sizes(self, recipe: Recipe) -> TaskSizes:
        """Test input: a square, or the window; cost is for 512x512 unless the paper tests at another short side."""
        own = recipe.data.segmentation
        side, long = own.test_short_side, own.test_long_side
        scored = " and ".join(map(str, recipe.eval.scales or (side,)))
        return TaskSizes(
            training=own.crop,
            testing=recipe.eval.window or (side, side),
            counted=(side, side) if recipe.profile == "paper" else (512, 512),
            counted_here=(side, side),
            scored={"test_short_side": side, "test_long_side": long},
            scored_label=f"a short side of {scored} pixels (long side up to {long}){views_label(recipe)}",
            label=f"trained {own.crop[0]}x{own.crop[1]}, tested {side}",
        )

    def tested_side(self, meta: CheckpointMeta) -> int | None:
        return int((meta.segmentation or {}).get("test_short_side") or 512)

    def model_cost(self, recipe: Recipe, classes: int) -> dict[str, float]:
        from pvtctl.tasks.dense.build import dense_cost

        return dense_cost(self, recipe, classes)

    def case_options(self, recipe: Recipe, conventions: str) -> dict[str, Any]:
        from pvtctl.tasks.dense.build import dense_case_options

        return dense_case_options(recipe)

    def draw_target(self, split: Any, pixels: Tensor, target: Any, side: int) -> RgbImage:
        import numpy as np

        from pvtctl.tasks.segmentation.preview import drawing_of, labels_tile

        return np.asarray(labels_tile(pixels, target, side, drawing_of(split)))

    def augment_file(self, recipe: Recipe, file: Path, generator: torch.Generator) -> Tensor:
        import torch

        from pvtctl.models.structures import IGNORE_LABEL
        from pvtctl.tasks.predict import read_pixels
        from pvtctl.tasks.segmentation.transforms import SegmentationTransform

        pixels = read_pixels(file)[0]
        transform = SegmentationTransform.from_settings(recipe.data.segmentation, recipe.data.normalization)
        return transform.train(pixels, torch.full(pixels.shape[-2:], IGNORE_LABEL, dtype=torch.uint8), generator)[0]


SEGMENTATION = SegmentationSpec()
