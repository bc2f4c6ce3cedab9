"""Interface of detection to the rest of pvtctl. No torch until a method is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.data.sizes import padded_side, resized_size
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.tasks.base import (
    EvaluationRequest,
    ReportedFigure,
    TaskSizes,
    TaskSpec,
    imported,
    scored_model,
    scored_recipe,
    views_label,
)
from pvtctl.tasks.detection.settings import DetectionData
from pvtctl.views.labels import CurveLabels

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pvtctl.data.check import DatasetVerdict
    from pvtctl.data.images import RgbImage
    from pvtctl.recipe.schema import Data, Recipe
    from pvtctl.tasks.base import Predictor
    from pvtctl.tasks.detection.report import DetectionComparer
    from pvtctl.weights.describe import Inspected

_AREAS = {"small": "small objects", "medium": "medium objects", "large": "large objects"}
_MEASURES = (
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar_1",
    "ar_10",
    "ar_100",
    "ar_small",
    "ar_medium",
    "ar_large",
)
PHOTO = (480, 640)
"""COCO's most frequent (height, width)."""
_PAD = 32
_AT_LIMIT = re.compile(r"(box|mask)_(ar_\d+)")


def _coco_figure(kind: str, name: str) -> ReportedFigure:
    """`box AP50, %` for `box_ap50`, `mask AR at 10, %` for `mask_ar_10`."""
    measure, _, part = name.partition("_")
    tail = f", {_AREAS[part]}" if part in _AREAS else f" at {part}" if part else ""
    return ReportedFigure(f"{kind}_{name}", f"{kind} {measure.upper()}{tail}, %", percent=True)


class DetectionSpec(TaskSpec):
    """Detection: boxes, and optionally masks, of objects."""

    name = "detection"
    data_names = ("coco", "scenes")
    usual_data = "coco"
    needs = "boxes"
    convert_hint = "`pvtctl data convert` brings Pascal VOC and YOLO boxes"
    reads = (
        "data.detection",
        "model.init",
        "eval.score_threshold",
        "eval.nms_iou",
        "eval.max_detections",
        "eval.scales",
        "eval.backend",
        "eval.flip",
    )
    predict_options = ("score_threshold", "nms_iou", "max_detections", "short_side", "long_side")
    figures = tuple(_coco_figure(kind, name) for kind in ("box", "mask") for name in _MEASURES)
    main_score = "box_ap"
    main_figure = "box_ap"
    headline = ("box_ap", "box_ap50", "box_ar_100", "mask_ap", "mask_ap50", "detections")
    curves = CurveLabels(
        "sum of the losses",
        "Validation AP",
        (("box_ap", "box AP"), ("box_ap50", "box AP50"), ("mask_ap", "mask AP"), ("mask_ap50", "mask AP50")),
        (("recall", "recall in training"),),
    )
    compared_curves = (("box_ap", "Box AP"), ("mask_ap", "Mask AP"))

    def figure(self, name: str) -> ReportedFigure:
        """Average recall at another limit than COCO's is named by it: `box_ar_300`."""
        found = _AT_LIMIT.fullmatch(name)
        return _coco_figure(*found.groups()) if found else super().figure(name)

    def shown_figures(self, numbers: Mapping[str, float]) -> dict[str, float]:
        shown = super().shown_figures(numbers)
        others = [name for name in numbers if _AT_LIMIT.fullmatch(name) and name not in shown]
        return shown | {name: 100 * numbers[name] for name in others}

    open_split = imported("pvtctl.tasks.detection.build:detection_split")
    count_data = imported("pvtctl.tasks.detection.coco:count_coco")
    preview = imported("pvtctl.tasks.detection.preview:preview_detection")
    new_model = imported("pvtctl.tasks.detection.build:new_detector")
    build = imported("pvtctl.tasks.detection.build:build_detection")
    predictor = imported("pvtctl.tasks.detection.predict:DetectorPredictor")
    prediction_writer = imported("pvtctl.tasks.detection.predict:DetectionsWriter")

    def check_data(self, name: str, root: Path | None, data: Data, **options: Any) -> DatasetVerdict:
        from pvtctl.tasks.detection.check import check_coco_data
        from pvtctl.tasks.reading import reading_of_data

        crowds_are_objects = data.detection.crowds == "objects"
        return check_coco_data(
            root, crowds_are_objects=crowds_are_objects, reading=reading_of_data(data, self), **options
        )

    def comparer(self, predictor: Predictor, recipe: Recipe, split: Any, *, threshold: float) -> DetectionComparer:
        from pvtctl.tasks.detection.report import DetectionComparer

        return DetectionComparer(predictor, split, threshold=threshold)

    def as_scored(self, recipe: Recipe, checkpoint: Inspected, request: EvaluationRequest) -> Recipe:
        """The long side of `request.size` follows in proportion if one side is given."""
        assert recipe.model.head is not None
        assert checkpoint.detector is not None
        own, trained = recipe.data.detection, checkpoint.meta.detection or {}
        keys = ("test_short_side", "test_long_side")
        sizes: dict[str, Any] = {}
        if request.size is not None:
            short, long = sorted(request.size)
            sizes = {
                "test_short_side": short,
                "test_long_side": long if long > short else round(short * own.test_long_side / own.test_short_side),
            }
        elif all(isinstance(trained.get(key), int) for key in keys):
            sizes = {key: trained[key] for key in keys}
        if "data.detection.resize" not in request.asked:
            sizes["resize"] = DetectionData.from_meta(trained).resize
        stated = ("num_queries", "dropout", "width")  # given by the weights, or not needed
        kept = {key: value for key, value in recipe.model.head.said().items() if key not in stated}
        head = checkpoint.detector.spec.options(kept | checkpoint.detector.options)
        return scored_recipe(
            recipe,
            data={"detection": own.model_copy(update=sizes)},
            model=scored_model(recipe, checkpoint) | {"head": head},
            evaluation={"batch_size": request.batch_size or recipe.eval.batch_size},
        )

    def sizes(self, recipe: Recipe) -> TaskSizes:
        """Testing and counting of photos: 800x1280, and 640x960 for a short side of 640, as in the papers; else that
        of a resized 480x640 photo."""
        own = recipe.data.detection
        short, long = own.test_short_side, own.test_long_side
        counted = (640, 960) if recipe.profile == "paper" and short == 640 else (800, 1280)
        if scenes := recipe.data.name == "scenes":
            testing = (padded_side(min(short, long), _PAD),) * 2
        elif (short, long) in ((800, 1333), (640, 1333)):
            testing = counted if short == 800 else (640, 960)
        else:
            height, width = resized_size(PHOTO, short, long)
            testing = padded_side(height, _PAD), padded_side(width, _PAD)
        largest, shrunk = max(own.short_sides), ", antialiased" if own.resize == "antialias" else ""
        scored = " and ".join(map(str, recipe.eval.scales or (short,)))
        return TaskSizes(
            training=(padded_side(largest, own.pad), padded_side(max(largest, own.long_side), own.pad)),
            testing=testing,
            counted=counted,
            counted_here=(short, short) if scenes else counted,
            scored={"test_short_side": short, "test_long_side": long, "resize": own.resize},
            scored_label=f"a short side of {scored} pixels (long side up to {long}{shrunk}){views_label(recipe)}",
            label=f"trained {'/'.join(map(str, own.short_sides))}, tested {short}",
        )

    def tested_side(self, meta: CheckpointMeta) -> int | None:
        return int((meta.detection or {}).get("test_short_side") or 800)

    def model_cost(self, recipe: Recipe, classes: int) -> dict[str, float]:
        """Only the parameters, with its own classes, for a run that is not a paper's."""
        from pvtctl.cost.counting import count

        backbone, head, size = recipe.model.backbone, recipe.model.head, self.sizes(recipe).counted
        assert head is not None
        if recipe.expect:
            cost = count(backbone.at_width(1), size, head=head.name, convention="paper")
            return {"params_m": cost.trainable_params / 1e6, "gmacs": cost.macs / 1e9}
        if {"width", "neck"} & head.said().keys():  # no figures for a neck and head that the counting does not build
            return {}
        return {"params_m": count(backbone.spec, size, head=head.name, num_classes=classes).params / 1e6}

    def case_options(self, recipe: Recipe, conventions: str) -> dict[str, Any]:
        from pvtctl.tasks.from_recipe import backbone_options

        head = recipe.model.head
        assert head is not None
        return {"backbone": backbone_options(recipe.model.backbone), "head": head.said() | {"conventions": conventions}}

    def draw_target(self, split: Any, pixels: Tensor, target: Any, side: int) -> RgbImage:
        import numpy as np

        from pvtctl.tasks.detection.preview import objects_tile

        return np.asarray(objects_tile(pixels, target, split.class_names, side))

    def augment_file(self, recipe: Recipe, file: Path, generator: torch.Generator) -> Tensor:
        import torch

        from pvtctl.models.structures import Objects
        from pvtctl.tasks.detection.transforms import DetectionTransform
        from pvtctl.tasks.predict import read_pixels
        from pvtctl.tasks.reading import reading_of

        nothing = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        transform = DetectionTransform(recipe.data.detection)
        return transform.train(read_pixels(file, reading_of(recipe))[0], nothing, generator)[0]


DETECTION = DetectionSpec()
