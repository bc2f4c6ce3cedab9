"""pvtctl: choose, train and measure Pyramid Vision Transformers and the backbones they are compared with.

>>> import pvtctl
>>> backbone = pvtctl.create_backbone("pvt_small")
>>> c2, c3, c4, c5 = backbone(images)  # strides 4, 8, 16, 32
>>> classifier = pvtctl.create_classifier("pvt_small", num_classes=10, weights="pvt_small.pth")
>>> detector = pvtctl.create_detector("pvt_small", "retinanet", weights="pvt_small.pth")
>>> segmenter = pvtctl.create_segmenter("pvt_small", "semantic_fpn", num_classes=150, weights="pvt_small.pth")
>>> depth = pvtctl.create_depth_model("vit_hybrid", "dpt", weights="dpt_hybrid_midas", image_size=384)
>>> report = pvtctl.load_weights(classifier, "pvt_small.pth")
>>> run = pvtctl.run_recipe("imagenet_pvt_v2", row="pvt_v2_b0", profile="mini")
>>> pvtctl.load_run(run.path).predict(["cat.jpg", "dog.jpg"])

docs/python.md describes all functions.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = [
    "Backbone",
    "BackboneOptions",
    "BackboneSpec",
    "Case",
    "DenseHead",
    "DetectionHead",
    "HeadOptions",
    "HeadSpec",
    "PvtctlError",
    "UsageError",
    "__version__",
    "compare_models",
    "compare_runs",
    "count",
    "create_backbone",
    "create_classifier",
    "create_depth_model",
    "create_detector",
    "create_segmenter",
    "evaluate",
    "export_model",
    "load_module",
    "load_run",
    "load_weights",
    "measure_latency",
    "optimize_for_cpu",
    "register",
    "run_recipe",
    "run_study",
]

from pvtctl.errors import PvtctlError, UsageError

if TYPE_CHECKING:
    from pvtctl.api import (
        create_backbone,
        create_classifier,
        create_depth_model,
        create_detector,
        create_segmenter,
        load_weights,
        run_recipe,
    )
    from pvtctl.cost.counting import count
    from pvtctl.export import export_model
    from pvtctl.extensions import load_module
    from pvtctl.latency.measure import Case, measure_latency
    from pvtctl.models.backbones.base import Backbone
    from pvtctl.models.fast_cpu import optimize_for_cpu
    from pvtctl.models.heads.base import DenseHead, DetectionHead
    from pvtctl.models.registry import BackboneOptions, BackboneSpec, HeadOptions, HeadSpec, register
    from pvtctl.runs.evaluate import evaluate_run as evaluate
    from pvtctl.runs.load_run import load_run
    from pvtctl.studies.compare import compare_models, compare_runs
    from pvtctl.studies.start import run_study

_ELSEWHERE = {
    "Case": ("pvtctl.latency.measure", "Case"),
    "Backbone": ("pvtctl.models.backbones.base", "Backbone"),
    "BackboneOptions": ("pvtctl.models.registry", "BackboneOptions"),
    "BackboneSpec": ("pvtctl.models.registry", "BackboneSpec"),
    "DenseHead": ("pvtctl.models.heads.base", "DenseHead"),
    "DetectionHead": ("pvtctl.models.heads.base", "DetectionHead"),
    "HeadOptions": ("pvtctl.models.registry", "HeadOptions"),
    "HeadSpec": ("pvtctl.models.registry", "HeadSpec"),
    "register": ("pvtctl.models.registry", "register"),
    "load_module": ("pvtctl.extensions", "load_module"),
    "compare_models": ("pvtctl.studies.compare", "compare_models"),
    "compare_runs": ("pvtctl.studies.compare", "compare_runs"),
    "count": ("pvtctl.cost.counting", "count"),
    "evaluate": ("pvtctl.runs.evaluate", "evaluate_run"),
    "export_model": ("pvtctl.export", "export_model"),
    "load_run": ("pvtctl.runs.load_run", "load_run"),
    "measure_latency": ("pvtctl.latency.measure", "measure_latency"),
    "optimize_for_cpu": ("pvtctl.models.fast_cpu", "optimize_for_cpu"),
    "run_study": ("pvtctl.studies.start", "run_study"),
}
"""Public names defined outside `pvtctl.api`: module and name there."""


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: `pvtctl --help` must not pay for it.
    if name in __all__:
        module, own_name = _ELSEWHERE.get(name, ("pvtctl.api", name))
        return getattr(importlib.import_module(module), own_name)
    raise AttributeError(f"module 'pvtctl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
