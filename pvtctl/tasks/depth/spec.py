"""Interface of depth to the rest of pvtctl. No torch until a method is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.errors import PvtctlError
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
    from pvtctl.tasks.depth.predict import DepthPredictor, DepthWriter
    from pvtctl.tasks.depth.report import DepthComparer
    from pvtctl.tasks.depth.task import DepthTask
    from pvtctl.tasks.predict import Images
    from pvtctl.weights.describe import HeadClasses, Inspected


class DepthSpec(TaskSpec):
    """Depth estimation: a distance for each pixel."""

    name = "depth"
    data_names = ("nyu", "kitti", "depth", "mix", "scenes")
    usual_data = "nyu"
    needs = "depth maps"
    reads = (
        "data.depth",
        "data.normalization",
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
    has_data_settings = True
    main_score = "delta1"
    main_figure = "delta1"
    headline = ("delta1", "abs_rel", "rmse")
    curves = CurveLabels(
        "sum of the losses",
        "Validation: pixels within a factor",
        (("delta1", "delta < 1.25"), ("delta2", "delta < 1.25^2"), ("delta3", "delta < 1.25^3")),
    )
    compared_curves = (("delta1", "Depth within a factor of 1.25"),)

    def open_split(self, recipe: Recipe, split: str, role: Role) -> DenseDataset:
        from pvtctl.tasks.depth.build import depth_split

        return depth_split(recipe, split, role)

    def check_data(self, name: str, root: Path | None, data: Data, **options: Any) -> DatasetVerdict:
        from pvtctl.tasks.depth.check import check_depth_data

        return check_depth_data(root or Path(), name=name, settings=data.depth, **options)

    def preview(self, request: PreviewRequest) -> str:
        from pvtctl.tasks.depth.preview import preview_depth

        return preview_depth(request)

    def list_data(self, name: str, place: Path) -> dict[str, Any]:
        from pvtctl.tasks.depth.layouts import find_depth_pairs
        from pvtctl.tasks.depth.settings import DepthData

        row: dict[str, Any] = {}
        for split in SPLITS:
            try:
                row[split] = len(find_depth_pairs(name, place, split, DepthData()))
            except PvtctlError as error:
                row["state"] = error.message
        return row

    def new_model(self, recipe: Recipe, head: HeadClasses) -> DenseModel:
        from pvtctl.tasks.depth.build import new_depth_model

        return new_depth_model(recipe)

    def build(self, request: BuildRequest) -> DepthTask:
        from pvtctl.tasks.depth.build import build_depth

        return build_depth(request)

    def predictor(self, request: PredictionRequest, model: Any = None) -> DepthPredictor:
        from pvtctl.tasks.depth.predict import DepthPredictor

        return DepthPredictor(request, model)

    def prediction_writer(self, request: PredictionRequest, images: Images, out: Path | None) -> DepthWriter:
        from pvtctl.tasks.depth.predict import DepthWriter

        return DepthWriter(request.checkpoint, self.predictor(request), images, out)

    def comparer(self, predictor: Predictor, recipe: Recipe, split: Any, *, threshold: float) -> DepthComparer:
        from pvtctl.tasks.depth.report import DepthComparer

        return DepthComparer(predictor, recipe, split)

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

    def model_cost(self, recipe: Recipe, classes: int) -> dict[str, float]:
        from pvtctl.tasks.dense.build import dense_cost

        return dense_cost(self, recipe, classes)

    def case_options(self, recipe: Recipe, conventions: str) -> dict[str, Any]:
        from pvtctl.tasks.dense.build import dense_case_options

        return dense_case_options(recipe)

    def draw_target(self, split: Any, pixels: Tensor, target: Any, side: int) -> RgbImage:
        import numpy as np

        from pvtctl.tasks.depth.preview import depth_tile, draw_metres

        return np.asarray(depth_tile(pixels, target, side, draw_metres))

    def augment_file(self, recipe: Recipe, file: Path, generator: torch.Generator) -> Tensor:
        import torch

        from pvtctl.tasks.depth.transforms import DepthTransform
        from pvtctl.tasks.predict import read_pixels

        pixels = read_pixels(file)[0]
        transform = DepthTransform.from_settings(recipe.data.depth)
        return transform.train(pixels, torch.zeros(pixels.shape[-2:]), generator)[0]


DEPTH = DepthSpec()
