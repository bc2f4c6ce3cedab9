"""Interface of depth to the rest of pvtctl. No torch until a method is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.tasks.base import EvaluationRequest, ReportedFigure, Role, TaskSizes, imported, views_label
from pvtctl.tasks.dense.spec import DenseSpec
from pvtctl.views.labels import CurveLabels

if TYPE_CHECKING:
    from pvtctl.recipe.schema import Recipe
    from pvtctl.tasks.depth.settings import DepthData
    from pvtctl.weights.describe import Inspected


class DepthSpec(DenseSpec):
    """Depth estimation: a distance for each pixel."""

    name = "depth"
    data_names = ("nyu", "kitti", "depth", "mix", "scenes")
    usual_data = "nyu"
    needs = "depth maps"
    reads = (
        "data.depth",
        "model.init",
        "model.backbone.image_size",
        "train.loss",
        "eval.ratios",
        "eval.flip",
        "eval.alignment",
        "eval.max_depth",
        "eval.crop",
    )
    predict_options = ("size", "ratios", "flip", "scale_shift")
    figures = (
        ReportedFigure("delta1", "delta < 1.25", digits=3),
        ReportedFigure("delta2", "delta < 1.25^2", digits=3),
        ReportedFigure("delta3", "delta < 1.25^3", digits=3),
        ReportedFigure("abs_rel", "AbsRel", lower_is_better=True, digits=3),
        ReportedFigure("sq_rel", "SqRel, m", lower_is_better=True, digits=3),
        ReportedFigure("rmse", "RMSE, m", lower_is_better=True, digits=3),
        ReportedFigure("rmse_log", "RMSE of the logarithm", lower_is_better=True, digits=3),
        ReportedFigure("log10", "log10 error", lower_is_better=True, digits=3),
        ReportedFigure("silog", "SILog x 100", lower_is_better=True, digits=3),
        ReportedFigure("whdr", "WHDR, %", percent=True, lower_is_better=True),
        # DPT, Tables 6 to 8: AbsRel on three sets after fitting scale and shift, and their mean
        ReportedFigure("hrwsi_rel", "AbsRel on HRWSI", lower_is_better=True, measured=False),
        ReportedFigure("blendedmvs_rel", "AbsRel on BlendedMVS", lower_is_better=True, measured=False),
        ReportedFigure("redweb_rel", "AbsRel on ReDWeb", lower_is_better=True, measured=False),
        ReportedFigure("mean_rel", "AbsRel, mean of the three", lower_is_better=True, measured=False),
        # DPT, Table 1: zero-shot sets
        ReportedFigure("diw_whdr", "WHDR on DIW, %", lower_is_better=True, measured=False),
        ReportedFigure("eth3d_absrel", "AbsRel on ETH3D", lower_is_better=True, measured=False),
        ReportedFigure("sintel_absrel", "AbsRel on Sintel", lower_is_better=True, measured=False),
        ReportedFigure("kitti_d125", "delta > 1.25 on KITTI, %", lower_is_better=True, measured=False),
        ReportedFigure("nyu_d125", "delta > 1.25 on NYUv2, %", lower_is_better=True, measured=False),
        ReportedFigure("tum_d125", "delta > 1.25 on TUM, %", lower_is_better=True, measured=False),
    )
    has_classes = False
    main_score = "delta1"
    main_figure = "delta1"
    headline = ("delta1", "abs_rel", "rmse")
    curves = CurveLabels(
        "sum of the losses",
        "Validation: pixels within a factor",
        (("delta1", "delta < 1.25"), ("delta2", "delta < 1.25^2"), ("delta3", "delta < 1.25^3")),
    )
    compared_curves = (("delta1", "Depth within a factor of 1.25"),)

    open_data = imported("pvtctl.tasks.depth.data:open_depth_split")
    check_maps = imported("pvtctl.tasks.depth.check:check_depth_data")
    count_data = imported("pvtctl.tasks.depth.layouts:count_depth")
    new_model = imported("pvtctl.tasks.depth.build:new_depth_model")
    build = imported("pvtctl.tasks.depth.build:build_depth")
    predictor = imported("pvtctl.tasks.depth.predict:DepthPredictor")
    prediction_writer = imported("pvtctl.tasks.depth.predict:DepthWriter")
    comparer = imported("pvtctl.tasks.depth.report:DepthComparer")
    draw_target = imported("pvtctl.tasks.depth.pictures:depth_tile")
    augment_file = imported("pvtctl.tasks.depth.data:augment_depth_file")

    def split_settings(self, recipe: Recipe, role: Role) -> DepthData:
        """In evaluation with the limit of scoring, whatever that of training."""
        settings = recipe.data.depth
        if role == "evaluate" and recipe.eval.max_depth is not None:
            settings = settings.model_copy(update={"max_depth": recipe.eval.max_depth})
        return settings

    def as_scored(self, recipe: Recipe, checkpoint: Inspected, request: EvaluationRequest) -> Recipe:
        from pvtctl.tasks.dense.evaluate import dense_scored, stated_sizes

        sizes = stated_sizes(checkpoint, self.name, ("test_size", "multiple"), request)
        if request.size is not None:
            sizes["test_size"] = request.size
        if "test_size" in sizes:
            sizes["test_size"] = tuple(sizes["test_size"])
        return dense_scored(recipe, checkpoint, request, {self.name: recipe.data.depth.model_copy(update=sizes)})

    def sizes(self, recipe: Recipe) -> TaskSizes:
        trained, tested = recipe.data.depth.size, recipe.data.depth.test_size
        return TaskSizes(
            training=trained,
            testing=tested,
            counted=tested,
            counted_here=tested,
            scored={"test_size": list(tested)},
            scored_label=f"about {tested[0]}x{tested[1]} pixels{views_label(recipe)}",
            label=f"trained {trained[0]}x{trained[1]}, tested {tested[0]}x{tested[1]}",
        )

    def tested_side(self, meta: CheckpointMeta) -> int | None:
        return int(min((meta.depth or {}).get("test_size") or (384, 384)))


DEPTH = DepthSpec()
