"""pvtctl: choose, train and measure Pyramid Vision Transformers and the backbones they are compared with.

>>> import pvtctl
>>> backbone = pvtctl.create_backbone("pvt_small")
>>> c2, c3, c4, c5 = backbone(images)  # strides 4, 8, 16, 32
>>> classifier = pvtctl.create_classifier("pvt_small", num_classes=10, weights="pvt_small.pth")
>>> detector = pvtctl.create_detector("pvt_small", "retinanet", weights="pvt_small.pth")
>>> segmenter = pvtctl.create_segmenter("pvt_small", "semantic_fpn", num_classes=150, weights="pvt_small.pth")
>>> depth = pvtctl.create_depth_model("vit_hybrid", "dpt", weights="dpt_hybrid_midas", image_size=384)
>>> report = pvtctl.load_weights(classifier, "pvt_small.pth")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "PvtctlError",
    "__version__",
    "create_backbone",
    "create_classifier",
    "create_depth_model",
    "create_detector",
    "create_segmenter",
    "load_weights",
]

from pvtctl.errors import PvtctlError

if TYPE_CHECKING:
    from pvtctl.api import (
        create_backbone,
        create_classifier,
        create_depth_model,
        create_detector,
        create_segmenter,
        load_weights,
    )


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: `pvtctl --help` must not pay for it.
    if name in __all__ and (name.startswith("create_") or name == "load_weights"):
        from pvtctl import api

        return getattr(api, name)
    raise AttributeError(f"module 'pvtctl' has no attribute {name!r}")
