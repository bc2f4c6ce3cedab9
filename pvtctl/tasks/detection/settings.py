"""Recipe settings of detection data. No torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pvtctl.recipe.block import Rate, SettingsBlock

MIN_TRAIN_SIDE = 32
"""Training excludes images with a shorter side, as in the papers' code."""


class DetectionData(SettingsBlock):
    """Sizes and augmentation of detection. Images are resized within (short side, long side), keeping their aspect."""

    short_sides: Annotated[tuple[Annotated[int, Field(ge=32, le=4096)], ...], Field(min_length=1)] = (800,)
    """Training: one is drawn for each image."""
    sampling: Literal["choice", "range"] = "choice"
    """`range`: any integer from the smallest to the largest of `short_sides`."""
    long_side: Annotated[int, Field(ge=32, le=8192)] = 1333
    crop: Rate = 0.0
    """Share of the images that are first resized to a short side of 400, 500 or 600 and cropped to 384 to 600 (DETR)."""
    hflip: Rate = 0.5
    test_short_side: Annotated[int, Field(ge=32, le=4096)] = 800
    test_long_side: Annotated[int, Field(ge=32, le=8192)] = 1333
    pad: Annotated[int, Field(ge=1, le=128)] = 32
    """Sides of a batch are multiples of this."""
    crowds: Literal["regions", "objects"] | None = None
    """`iscrowd` 1: regions that are neither trained on nor scored (COCO), or objects, for tools that mark every brush mask so."""
    resize: Literal["bilinear", "antialias"] = "bilinear"
    """How images shrink: `bilinear` samples them, as mmdetection and torchvision do; `antialias` averages, as DETR's code does."""
    aspect_groups: bool = True
    """Wide and tall images are batched separately."""


def as_backend(name: Any) -> Any:
    """The name of an implementation of COCO's metrics; `faster` (faster-coco-eval), in recipes and runs of 0.2, is auto."""
    return "auto" if name == "faster" else name


Backend = Annotated[Literal["auto", "hotcoco", "numpy", "pycocotools"], BeforeValidator(as_backend)]
