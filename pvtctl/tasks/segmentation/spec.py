"""Interface of segmentation to the rest of pvtctl. No torch until a method is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvtctl.errors import UsageError
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.tasks.base import EvaluationRequest, ReportedFigure, TaskSizes, imported, views_label
from pvtctl.tasks.dense.spec import DenseSpec
from pvtctl.views.labels import CurveLabels

if TYPE_CHECKING:
    from pvtctl.recipe.schema import Recipe
    from pvtctl.weights.describe import Inspected


class SegmentationSpec(DenseSpec):
    """Semantic segmentation: a class for each pixel."""

    name = "segmentation"
    data_names = ("ade20k", "pascal_context", "cityscapes", "masks", "scenes")
    usual_data = "ade20k"
    needs = "label maps"
    reads = (
        "data.segmentation",
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

    open_data = imported("pvtctl.tasks.segmentation.data:open_segmentation_split")
    check_maps = imported("pvtctl.tasks.segmentation.check:check_segmentation_data")
    count_data = imported("pvtctl.tasks.segmentation.data:count_masks")
    new_model = imported("pvtctl.tasks.segmentation.build:new_segmenter")
    build = imported("pvtctl.tasks.segmentation.build:build_segmentation")
    predictor = imported("pvtctl.tasks.segmentation.predict:SegmentationPredictor")
    prediction_writer = imported("pvtctl.tasks.segmentation.predict:LabelsWriter")
    comparer = imported("pvtctl.tasks.segmentation.report:SegmentationComparer")
    draw_target = imported("pvtctl.tasks.segmentation.pictures:labels_tile")
    augment_file = imported("pvtctl.tasks.segmentation.data:augment_photo")

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


SEGMENTATION = SegmentationSpec()
