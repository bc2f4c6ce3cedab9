"""Models that answer pixel by pixel: a backbone, the neck and the head that stand on it, as one module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError, nearest
from pvtctl.models.backbones import Backbone, build_backbone
from pvtctl.models.heads.dense import DenseHead
from pvtctl.models.structures import ImageSize

SegmentationHeadName = Literal["semantic_fpn", "trans2seg", "deeplabv3plus", "dpt"]
DepthHeadName = Literal["dpt", "midas"]
SEGMENTATION_HEADS: tuple[SegmentationHeadName, ...] = get_args(SegmentationHeadName)
DEPTH_HEADS: tuple[DepthHeadName, ...] = get_args(DepthHeadName)


class DenseModel(nn.Module):
    """Images (B, 3, H, W) -> a map (B, K, h, w): logits of K classes, or with K = 1 depth.

    `backbone.*`, `neck.*` and `head.*` are its parameters' names; only Semantic FPN has a neck. A depth model answers in
    inverse depth, larger for what is nearer; with `scale_shift` (a, b) it is a metric one: metres = 1 / (a x + b).
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
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.task = task
        self.num_classes = num_classes
        self.scale_shift = scale_shift

    def forward(self, images: Tensor, auxiliary: bool = False) -> Any:
        """The map of the padded images (see `at_size`); with `auxiliary` (map, auxiliary maps), for the losses."""
        height, width = self.padded((int(images.shape[2]), int(images.shape[3])))
        images = F.pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))
        features = self.head.read(self.backbone, images)
        if self.neck is not None:
            features = self.neck(features)
        out, others = self.head(features, auxiliary)
        return (out, others) if auxiliary else out

    def padded(self, size: ImageSize) -> ImageSize:
        """(height, width) that images of `size` are padded to."""
        height, width = (-(-side // self.head.multiple) * self.head.multiple for side in size)
        return height, width

    def at_size(self, out: Tensor, image: ImageSize, size: ImageSize | None = None) -> Tensor:
        """A map of `forward` (B, K, h, w) for images of `image` (height, width), resized to `size` (unset: `image`).

        A map whose corners lie on the image's corners is brought to the image first, and from there by pixel centres, as
        the image was resized from its file: in one step, pixels near the border would be misplaced by up to half of one.
        """
        padded = self.padded(image)
        if padded != image or self.head.align_corners:
            out = self._resized(out, padded, self.head.align_corners)[:, :, : image[0], : image[1]]
        return self._resized(out, image if size is None else size, align_corners=False)

    def _resized(self, out: Tensor, size: ImageSize, align_corners: bool) -> Tensor:
        if (out.shape[2], out.shape[3]) == tuple(size):
            return out
        return F.interpolate(out, size=size, mode=self.head.upsampling, align_corners=align_corners)


def build_segmenter(
    backbone: str,
    head: SegmentationHeadName,
    *,
    num_classes: int,
    head_options: Mapping[str, Any] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
) -> DenseModel:
    """A segmentation model with starting weights.

    `head_options` are the head's own (a recipe's `model.head` without `name`; those that are None mean its default):

    | head | options |
    | --- | --- |
    | semantic_fpn | dropout, width |
    | trans2seg | dropout, embed_dim, depth, num_heads |
    | deeplabv3plus | dropout, width, projection, auxiliary_weight |
    | dpt | dropout, taps, readout, auxiliary_weight, width |

    `backbone_options` are those of `build_backbone`. Raises UsageError for unknown names and options that do not fit.
    """
    if num_classes < 2:
        raise UsageError(
            f"a segmentation model of {num_classes} class tells nothing apart",
            "name at least two classes, background for one",
        )
    body = build_backbone(backbone, **(backbone_options or {}))
    options = {key: value for key, value in (head_options or {}).items() if value is not None}
    neck: nn.Module | None = None
    top: DenseHead
    try:
        match head:
            case "semantic_fpn":
                from pvtctl.models.heads.semantic_fpn import SemanticFpn
                from pvtctl.models.necks.fpn import Fpn

                width = options.pop("width", 256)
                neck = Fpn(body.feature_channels, extra=None, start_level=0, out_channels=width)
                top = SemanticFpn(num_classes, in_channels=width, width=width // 2, **options)
            case "trans2seg":
                from pvtctl.models.heads.trans2seg import Trans2Seg

                # the side of the last map of the images that the papers train on
                top = Trans2Seg(body.feature_channels, num_classes, grid=512 // body.feature_strides[-1], **options)
            case "deeplabv3plus":
                from pvtctl.models.heads.deeplabv3plus import DeepLabV3Plus

                stride = body.feature_strides[-1]
                top = DeepLabV3Plus(body.feature_channels, num_classes, stride=stride, **options)
            case "dpt":
                from pvtctl.models.heads.dpt import Dpt

                top = Dpt(body, task="segmentation", num_classes=num_classes, **options)
            case _:
                raise UsageError(f"no segmentation head {head!r}", nearest(head, SEGMENTATION_HEADS))
    except TypeError as error:
        raise _unknown_option(head, error) from error
    return DenseModel(body, neck, top, task="segmentation", num_classes=num_classes)


def build_depth_model(
    backbone: str,
    head: DepthHeadName,
    *,
    scale_shift: tuple[float, float] | None = None,
    head_options: Mapping[str, Any] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
) -> DenseModel:
    """A depth model with starting weights; options as in `build_segmenter` (dpt: taps, readout, width; midas: width).

    `scale_shift`: see `DenseModel`. Raises UsageError.
    """
    if scale_shift is not None and not scale_shift[0] > 0:
        raise UsageError(f"a scale of {scale_shift[0]:g} makes no depth", "it must be above 0, DPT's of NYU is 3.05e-4")
    body = build_backbone(backbone, **(backbone_options or {}))
    options = {key: value for key, value in (head_options or {}).items() if value is not None}
    top: DenseHead
    try:
        match head:
            case "dpt":
                from pvtctl.models.heads.dpt import Dpt

                top = Dpt(body, task="depth", **options)
            case "midas":
                from pvtctl.models.heads.midas import Midas

                top = Midas(body.feature_channels, **options)
            case _:
                raise UsageError(f"no depth head {head!r}", nearest(head, DEPTH_HEADS))
    except TypeError as error:
        raise _unknown_option(head, error) from error
    return DenseModel(body, None, top, task="depth", scale_shift=scale_shift)


def _unknown_option(head: str, error: TypeError) -> Exception:
    """The UsageError for an option that a head does not have; any other TypeError as it is."""
    if "unexpected keyword argument" not in str(error):
        return error
    option = str(error).rsplit("'", 2)[1]
    return UsageError(f"{head} has no {option}", "leave it out")


__all__ = ["DEPTH_HEADS", "SEGMENTATION_HEADS", "DenseModel", "build_depth_model", "build_segmenter"]
