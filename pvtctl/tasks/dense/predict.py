"""A trained segmentation or depth model on images that belong to no data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.transforms import Normalization, normalize
from pvtctl.errors import UsageError
from pvtctl.models.dense import DenseModel, build_depth_model, build_segmenter
from pvtctl.tasks.dense.data import DenseTransform
from pvtctl.tasks.dense.inference import Answers, DenseTesting, DepthAnswers, LabelAnswers
from pvtctl.tasks.depth.settings import DepthData
from pvtctl.tasks.depth.transforms import DepthTransform
from pvtctl.tasks.segmentation.settings import SegmentationData
from pvtctl.tasks.segmentation.transforms import SegmentationTransform
from pvtctl.weights import load_weights
from pvtctl.weights.describe import Inspected
from pvtctl.weights.identify_dense import DenseInfo


class DenseUse:
    """A checkpoint's segmentation or depth model, ready for images of any size.

    Attributes: `task`, `head`, `class_names` and `palette` (of segmentation), `space` (of depth: metres or inverse).
    """

    def __init__(
        self,
        checkpoint: Inspected,
        device: torch.device,
        *,
        testing: DenseTesting,
        size: tuple[int, int] | None = None,
        scale_shift: tuple[float, float] | None = None,
        model: DenseModel | None = None,
    ) -> None:
        """`size` is (height, width) for depth, (short, long side) for segmentation; unset: what the checkpoint was tested
        at. `model` is the checkpoint's, where it is built already. Raises UsageError for weights that do not fit, and options that the task does not have."""
        found = checkpoint.dense
        assert found is not None
        if found.task == "segmentation" and scale_shift is not None:
            raise UsageError(
                "a scale and shift are for depth, and these weights are for segmentation", "leave them out"
            )
        if found.task == "depth" and testing.window is not None:
            raise UsageError("windows are for segmentation, and these weights are for depth", "leave --window out")
        self.device = device
        self.testing = testing
        self.task = found.task
        self.head = found.head
        self.scale_shift = scale_shift or found.scale_shift
        self.space = "inverse" if self.scale_shift is None else "metres"
        self.class_names = found.class_names or [f"class {label}" for label in range(found.num_classes)]
        palette = checkpoint.meta.get("palette")
        self.palette = [(red, green, blue) for red, green, blue in palette] if palette else None
        self.normalization: Normalization = found.normalization or "imagenet"
        self.transform = self._transform(checkpoint.meta, size)
        self.model = model or _loaded(checkpoint, found, self.scale_shift, device)
        self.answers: Answers = (
            LabelAnswers(self.model, testing.window) if found.task == "segmentation" else DepthAnswers(self.model)
        )

    def _transform(self, meta: Mapping[str, Any], size: tuple[int, int] | None) -> DenseTransform:
        if self.task == "depth":
            depth = DepthData.from_meta(meta.get("depth"))
            return DepthTransform.from_settings(depth.model_copy(update={"test_size": size} if size else {}))
        tested = SegmentationData.from_meta(meta.get("segmentation"))
        sides = dict(zip(("test_short_side", "test_long_side"), size, strict=True)) if size else {}
        return SegmentationTransform.from_settings(tested.model_copy(update=sides), self.normalization)

    @property
    def tested_at(self) -> str:
        """The size in words."""
        if isinstance(self.transform, DepthTransform):
            return "about {}x{} pixels".format(*self.transform.test_size)
        assert isinstance(self.transform, SegmentationTransform)
        return f"a short side of {self.transform.test_short_side} (long side up to {self.transform.test_long_side})"

    def __call__(self, pixels: Tensor) -> NDArray[Any]:
        """uint8 (3, H, W) -> uint8 labels (H, W), or float32 depth (H, W) in `space`."""
        original = (int(pixels.shape[1]), int(pixels.shape[2]))
        with torch.inference_mode():
            views = ((self._view(pixels, ratio, mirrored), mirrored) for ratio, mirrored in self.testing.views)
            if len(self.testing.views) > 1:
                found = self.answers.of_views(self.model, views, original)
            else:
                (found,) = self.answers.of_batch(self.model, next(views)[0][None], [original])
        answer: NDArray[Any] = found.cpu().numpy()
        return answer

    def _view(self, pixels: Tensor, ratio: float, mirrored: bool) -> Tensor:
        resized = self.transform.evaluate(pixels, ratio)
        return normalize(resized.flip(-1) if mirrored else resized, self.normalization).to(self.device)


def asked_sides(short_side: int | None, long_side: int | None) -> tuple[int, int] | None:
    """The short and long side that images are resized within, where one of them was said."""
    if not (short_side or long_side):
        return None
    short = short_side or 512
    return short, max(short, long_side or 4 * short)


def _loaded(
    checkpoint: Inspected, found: DenseInfo, scale_shift: tuple[float, float] | None, device: torch.device
) -> DenseModel:
    model = _build(checkpoint, found, scale_shift)
    load_weights(model, checkpoint.path, class_names=found.class_names)
    return model.to(device).eval()


def _build(checkpoint: Inspected, found: DenseInfo, scale_shift: tuple[float, float] | None) -> DenseModel:
    backbone: dict[str, Any] = {"output_stride": found.output_stride or 32}
    if checkpoint.position_size is not None:
        backbone["image_size"] = checkpoint.position_size
    options: dict[str, Any] = {"head_options": found.options, "backbone_options": backbone}
    # the file says which of the two it is
    if found.task == "segmentation":
        return build_segmenter(checkpoint.backbone, found.head, num_classes=found.num_classes, **options)  # type: ignore[arg-type]
    return build_depth_model(checkpoint.backbone, found.head, scale_shift=scale_shift, **options)  # type: ignore[arg-type]
