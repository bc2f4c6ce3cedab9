"""Dense prediction models (segmentation and depth): backbone, neck and head as one module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones.base import Backbone
from pvtctl.models.backbones.build import as_backbone
from pvtctl.models.features import Features
from pvtctl.models.heads.base import DenseHead
from pvtctl.models.necks.reading import read_maps
from pvtctl.models.registry import DEPTH, SEGMENTATION, HeadSpec, Target, head_spec
from pvtctl.models.structures import ImageSize


class DenseModel(nn.Module):
    """Images (B, 3, H, W) -> a map (B, K, h, w): logits of K classes, or with K = 1 depth.

    Parameter names are `backbone.*`, `neck.*` and `head.*`; only Semantic FPN has a neck. A depth model predicts inverse
    depth (larger is nearer); with `scale_shift` (a, b) metric depth: metres = 1 / (a x + b).
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module | None,
        head: DenseHead,
        *,
        task: Literal["segmentation", "depth"],
        num_classes: int = 1,
        scale_shift: tuple[float, float] | None = None,
        spec: HeadSpec | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.task = task
        self.num_classes = num_classes
        self.scale_shift = scale_shift
        self.spec = spec
        """The head's spec; None for a model assembled by hand."""

    def read(self, images: Tensor | Features) -> Any:
        """What the head takes of the backbone for the padded images, or of what was read before."""
        if isinstance(images, Features):
            return images.value
        height, width = self.padded((int(images.shape[2]), int(images.shape[3])))
        return self.read_padded(F.pad(images, (0, width - images.shape[3], 0, height - images.shape[2])))

    def read_padded(self, images: Tensor) -> Any:
        """`read` of images that are padded already."""
        if hasattr(self.neck, "read"):
            return read_maps(self.neck, self.backbone, images)
        return self.head.read(self.backbone, images)

    def forward(self, images: Tensor | Features, auxiliary: bool = False) -> Any:
        """The map of the padded images (see `at_size`); with `auxiliary` (map, auxiliary maps), for the losses."""
        features = self.read(images)
        if self.neck is not None:
            features = self.neck(features)
        out, others = self.head(features, auxiliary)
        return (out, others) if auxiliary else out

    @property
    def gives_depth(self) -> bool:
        """Whether the map is depth, not logits of classes."""
        return self.task == DEPTH

    def padded(self, size: ImageSize) -> ImageSize:
        """(height, width) that images of `size` are padded to."""
        height, width = (-(-side // self.head.multiple) * self.head.multiple for side in size)
        return height, width

    def at_size(self, out: Tensor, image: ImageSize, size: ImageSize | None = None) -> Tensor:
        """Resize a map of `forward` (B, K, h, w) for images of `image` (height, width) to `size` (unset: `image`).

        A map with aligned corners is resized to the image first, and from there by pixel centres, as the image was resized
        from its file: in one step, pixels near the border would be misplaced by up to half a pixel.
        """
        return self._resized(self.on_image(out, image), image if size is None else size, align_corners=False)

    def on_image(self, out: Tensor, image: ImageSize) -> Tensor:
        """A map of `forward` that covers images of `image` without padding and by pixel centres: the first step of
        `at_size`."""
        padded = self.padded(image)
        if padded != image or self.head.align_corners:
            out = self._resized(out, padded, self.head.align_corners)[:, :, : image[0], : image[1]]
        return out

    def _resized(self, out: Tensor, size: ImageSize, align_corners: bool) -> Tensor:
        if (out.shape[2], out.shape[3]) == tuple(size):
            return out
        return F.interpolate(out, size=size, mode=self.head.upsampling, align_corners=align_corners)


def build_segmenter(
    backbone: str | Backbone,
    head: str | HeadSpec,
    *,
    num_classes: int,
    head_options: Mapping[str, Any] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
) -> DenseModel:
    """Build a segmentation model with initial weights.

    Args:
        backbone: A name, with `backbone_options` (those of `build_backbone`), or a built backbone.
        head: A name, or a spec that need not be registered.
        num_classes: At least two.
        head_options: The head's own (a recipe's `model.head` without `name`); None values mean its default.

    Raises:
        UsageError: Unknown names, and options that do not fit.
    """
    if num_classes < 2:
        raise UsageError(
            f"a segmentation model of {num_classes} class has nothing to distinguish",
            "name at least two classes, background for one",
        )
    spec = head_spec(head, task=SEGMENTATION)
    return _build(backbone, spec, "segmentation", num_classes, head_options, backbone_options)


def build_depth_model(
    backbone: str | Backbone,
    head: str | HeadSpec,
    *,
    scale_shift: tuple[float, float] | None = None,
    head_options: Mapping[str, Any] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
) -> DenseModel:
    """Build a depth model with initial weights; arguments as in `build_segmenter`.

    `scale_shift`: see `DenseModel`. Raises UsageError.
    """
    if scale_shift is not None and not scale_shift[0] > 0:
        raise UsageError(f"a scale of {scale_shift[0]:g} makes no depth", "it must be above 0, DPT's of NYU is 3.05e-4")
    model = _build(backbone, head_spec(head, task=DEPTH), "depth", 1, head_options, backbone_options)
    model.scale_shift = scale_shift
    return model


def _build(
    backbone: str | Backbone,
    spec: HeadSpec,
    task: Literal["segmentation", "depth"],
    num_classes: int,
    head_options: Mapping[str, Any] | None,
    backbone_options: Mapping[str, Any] | None,
) -> DenseModel:
    options = spec.options(head_options)
    body = as_backbone(backbone, dict(backbone_options or {}))
    neck, top = spec.build(body, options, Target(task, num_classes))
    if not isinstance(top, DenseHead):
        raise UsageError(f"{spec.name} built a {type(top).__name__}", f"a head for {task} is a DenseHead")
    return DenseModel(body, neck, top, task=task, num_classes=num_classes, spec=spec)
