"""Detectors: a backbone, the neck and the head that stand on it, as one module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError, nearest
from pvtctl.models.backbones import Backbone, build_backbone
from pvtctl.models.heads.base import DetectionHead
from pvtctl.models.heads.masks import place
from pvtctl.models.structures import Detections, DetectOptions, ImageSize, Objects

HeadName = Literal["retinanet", "mask_rcnn", "detr"]
HEADS: tuple[HeadName, ...] = get_args(HeadName)
Conventions = Literal["papers", "torchvision"]
"""`papers`: anchors, extra levels and RoI sampling of the configurations that the papers used; `torchvision`: those of
torchvision's first detectors, for their published weights."""

STRIDE = 32
"""Pixels a cell of the last map stands for."""


class Detector(nn.Module):
    """Images (B, 3, H, W) and the size of each within the padding -> losses with targets, detections without.

    `backbone.*`, `neck.*` and `head.*` are its parameters' names. DETR has no neck (`neck` is None).
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module | None,
        head: DetectionHead,
        num_classes: int,
        conventions: Conventions = "papers",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.num_classes = num_classes
        self.conventions = conventions

    def features(self, images: Tensor, sizes: Sequence[ImageSize] | None = None) -> list[Tensor]:
        """What the head gets: the neck's maps, or the backbone's; the last of them only where the head works `alone`."""
        if self.head.alone and sizes is not None and not self._mixes_images():
            return [self._last_map(images, sizes)]
        maps = self.backbone(images)
        return list(maps) if self.neck is None else list(self.neck(maps))

    def _last_map(self, images: Tensor, sizes: Sequence[ImageSize]) -> Tensor:
        """The backbone's last map (B, C, H/32, W/32), each image's made from its own pixels, zeros around it.

        Images go through the backbone with those of the same size, up to the next multiple of 32: with more padding they
        would not give the same map, since attention and convolutions see it. That is one call for each size.
        """
        own = [(_round_up(height), _round_up(width)) for height, width in sizes]
        limits = (images.shape[2] // STRIDE, images.shape[3] // STRIDE)
        maps: list[Tensor] = []
        order: list[int] = []
        for height, width in dict.fromkeys(own):
            members = [i for i, size in enumerate(own) if size == (height, width)]
            group = images if len(members) == len(own) else images[members]
            last = self.backbone(group[:, :, :height, :width])[-1]
            maps.append(F.pad(last, (0, limits[1] - last.shape[3], 0, limits[0] - last.shape[2])))
            order += members
        if len(maps) == 1:
            return maps[0]
        return torch.cat(maps)[sorted(range(len(order)), key=order.__getitem__)]

    def _mixes_images(self) -> bool:
        """Whether batch norm in training makes one image's maps depend on the others anyhow.

        Its statistics are those of all images together then, and ranks agree on how often they exchange them.
        """
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in self.modules())

    def forward(
        self,
        images: Tensor,
        sizes: Sequence[ImageSize] | None = None,
        targets: Sequence[Objects] | None = None,
        options: DetectOptions | None = None,
        output_sizes: Sequence[ImageSize] | None = None,
    ) -> Any:
        """With `targets`: losses by name, `loss` their sum. Without: list of Detections.

        `sizes` (height, width): unset, the images fill the batch. Boxes and masks are in pixels of the input, or of
        images of `output_sizes` where given: those before the input was resized to `sizes`.
        """
        height, width = int(images.shape[2]), int(images.shape[3])
        sizes = [(height, width)] * images.shape[0] if sizes is None else sizes
        if self.head.alone and (height % STRIDE or width % STRIDE):
            images = F.pad(images, (0, _round_up(width) - width, 0, _round_up(height) - height))
        padded = (int(images.shape[2]), int(images.shape[3]))
        features = self.features(images, sizes)
        if targets is None:
            found = self.head.detect(features, sizes, padded, options or DetectOptions())
            return [place(*one) for one in zip(found, sizes, output_sizes or sizes, strict=True)]
        losses = self.head.losses(features, sizes, padded, targets)
        return {"loss": torch.stack([v for k, v in losses.items() if k.startswith("loss_")]).sum(), **losses}


def _round_up(side: int) -> int:
    return -(-side // STRIDE) * STRIDE


def build_detector(
    backbone: str,
    head: HeadName,
    *,
    num_classes: int,
    num_queries: int = 100,
    rois_per_image: int = 512,
    dropout: float | None = None,
    width: int | None = None,
    conventions: Conventions = "papers",
    backbone_options: Mapping[str, Any] | None = None,
) -> Detector:
    """A detector with starting weights. `backbone_options` are those of `build_backbone`; `dropout` is DETR's (0.1);
    `width` the channels of the FPN and of the others' convolutions (256).

    Raises UsageError for unknown names and options that do not go together.
    """
    if num_classes < 1:
        raise UsageError("a detector needs at least one class", "the annotation file's `categories` are the classes")
    if head != "detr" and num_queries != 100:
        raise UsageError(f"{head} has no queries", "leave num_queries out")
    if head != "detr" and dropout is not None:
        raise UsageError(f"{head} has no dropout", "leave dropout out")
    if head == "detr" and width is not None:
        raise UsageError("detr has no width", "leave width out")
    if head != "mask_rcnn" and rois_per_image != 512:
        raise UsageError(f"{head} has no second stage", "leave rois_per_image out")
    body = build_backbone(backbone, **(backbone_options or {}))
    channels = body.feature_channels
    width = 256 if width is None else width
    match head:
        case "retinanet":
            from pvtctl.models.heads.retinanet import RetinaNet
            from pvtctl.models.necks.fpn import Fpn

            neck = Fpn(channels, extra="p6p7", start_level=1, conventions=conventions, out_channels=width)
            first = RetinaNet(num_classes, conventions=conventions, in_channels=width)
            return Detector(body, neck, first, num_classes, conventions)
        case "mask_rcnn":
            from pvtctl.models.heads.mask_rcnn import MaskRcnn
            from pvtctl.models.necks.fpn import Fpn

            neck = Fpn(channels, extra="pool", start_level=0, conventions=conventions, out_channels=width)
            second = MaskRcnn(num_classes, conventions=conventions, in_channels=width, rois_per_image=rois_per_image)
            return Detector(body, neck, second, num_classes, conventions)
        case "detr":
            from pvtctl.models.heads.detr import Detr

            if conventions != "papers":
                raise UsageError("torchvision has no DETR", "leave conventions out")
            rate = 0.1 if dropout is None else dropout
            top = Detr(channels[-1], num_classes, num_queries=num_queries, dropout=rate)
            return Detector(body, None, top, num_classes)
        case _:
            raise UsageError(f"no head {head!r}", nearest(head, HEADS))


__all__ = ["HEADS", "Conventions", "Detections", "Detector", "HeadName", "build_detector"]
