"""Detectors: backbone, neck and head as one module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones.base import Backbone
from pvtctl.models.backbones.build import as_backbone
from pvtctl.models.features import Features
from pvtctl.models.heads.base import DetectionHead
from pvtctl.models.heads.masks import place_detections
from pvtctl.models.necks.reading import read_maps
from pvtctl.models.registry import DETECTION, Conventions, HeadSpec, Target, head_spec
from pvtctl.models.structures import Detections, DetectOptions, ImageSize, Objects
from pvtctl.models.variants import STRIDES

STRIDE = 32
"""Pixels per cell of the last map."""


class Detector(nn.Module):
    """Images (B, 3, H, W) and their sizes without padding -> losses with targets, detections without.

    Parameter names are `backbone.*`, `neck.*` and `head.*`. DETR has no neck (`neck` is None).
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module | None,
        head: DetectionHead,
        num_classes: int,
        conventions: Conventions = "papers",
        spec: HeadSpec | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.num_classes = num_classes
        self.conventions = conventions
        self.spec = spec
        """The head's spec; None for a detector assembled by hand."""

    def read(self, images: Tensor | Features, sizes: Sequence[ImageSize] | None = None) -> list[Tensor]:
        """The backbone's maps, or those that were read before; only the last of them for heads with `alone`."""
        if isinstance(images, Features):
            return list(images.value)
        if self.head.alone and sizes is not None and not self._mixes_images():
            return [self._last_map(images, sizes)]
        return list(read_maps(self.neck, self.backbone, images))

    def features(self, images: Tensor | Features, sizes: Sequence[ImageSize] | None = None) -> list[Tensor]:
        """The head's input: the neck's maps, or those of `read`."""
        maps = self.read(images, sizes)
        return maps if self.neck is None else list(self.neck(maps))

    def _last_map(self, images: Tensor, sizes: Sequence[ImageSize]) -> Tensor:
        """The backbone's last map (B, C, H/32, W/32), computed per image without batch padding, padded with zeros.

        Images of the same size, up to the next multiple of 32, go through the backbone together, one call per size: more
        padding would change the map through attention and convolutions.
        """
        limits = (images.shape[2] // STRIDE, images.shape[3] // STRIDE)
        maps: list[Tensor] = []
        order: list[int] = []
        for (height, width), members in _by_size(sizes).items():
            group = images if len(members) == len(sizes) else images[members]
            last = self.backbone(group[:, :, :height, :width])[-1]
            maps.append(F.pad(last, (0, limits[1] - last.shape[3], 0, limits[0] - last.shape[2])))
            order += members
        if len(maps) == 1:
            return maps[0]
        return torch.cat(maps)[sorted(range(len(order)), key=order.__getitem__)]

    def _mixes_images(self) -> bool:
        """Whether batch norm in training makes an image's maps depend on the others in any case.

        Its statistics are then those of all images together, and ranks synchronise them equally often.
        """
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in self.modules())

    def forward(
        self,
        images: Tensor | Features,
        sizes: Sequence[ImageSize] | None = None,
        targets: Sequence[Objects] | None = None,
        options: DetectOptions | None = None,
        output_sizes: Sequence[ImageSize] | None = None,
    ) -> Any:
        """With `targets`: losses by name, `loss` their sum. Without: list of Detections.

        `sizes` (height, width): unset, the images fill the batch. Boxes and masks are in pixels of the input, or of images of
        `output_sizes` if given: those before the input was resized to `sizes`.
        """
        sizes = [_size_of(images)] * int(images.shape[0]) if sizes is None else sizes
        if isinstance(images, Tensor):
            images = self._whole_cells(images)
        padded = _size_of(images)
        features = self.features(images, sizes)
        if targets is None:
            found = self.head.detect(features, sizes, padded, options or DetectOptions())
            return _placed(found, sizes, output_sizes)
        losses = self.head.losses(features, sizes, padded, targets)
        return {"loss": torch.stack([v for k, v in losses.items() if k.startswith("loss_")]).sum(), **losses}

    def graph_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """The part of inference that does not depend on what is found, for images that fill their batch."""
        features = self.features(images)
        return self.head.graph_outputs(features) if self.head.splits else tuple(features)

    def detect_with(
        self,
        network: Callable[[Tensor], Sequence[Tensor]],
        images: Tensor,
        sizes: Sequence[ImageSize] | None = None,
        options: DetectOptions | None = None,
        output_sizes: Sequence[ImageSize] | None = None,
    ) -> list[Detections]:
        """As `forward` in inference, where `network` computes what `graph_outputs` does."""
        sizes = [_size_of(images)] * len(images) if sizes is None else sizes
        images, options = self._whole_cells(images), options or DetectOptions()
        groups = _by_size(sizes) if self.head.alone else {_size_of(images): list(range(len(images)))}
        detect = self.head.detect_from if self.head.splits else self.head.detect
        found: dict[int, Detections] = {}
        for padded, members in groups.items():
            part = images[members][:, :, : padded[0], : padded[1]] if self.head.alone else images
            own = detect(list(network(part)), [sizes[at] for at in members], padded, options)
            found |= dict(zip(members, own, strict=True))
        return _placed([found[at] for at in range(len(images))], sizes, output_sizes)

    def _whole_cells(self, images: Tensor) -> Tensor:
        """Images padded to multiples of 32 for heads with `alone`, else as they are."""
        height, width = _size_of(images)
        if not self.head.alone or not (height % STRIDE or width % STRIDE):
            return images
        return F.pad(images, (0, _round_up(width) - width, 0, _round_up(height) - height))


def _placed(
    found: Sequence[Detections], sizes: Sequence[ImageSize], output_sizes: Sequence[ImageSize] | None
) -> list[Detections]:
    return [place_detections(*one) for one in zip(found, sizes, output_sizes or sizes, strict=True)]


def _size_of(images: Tensor | Features) -> ImageSize:
    return int(images.shape[2]), int(images.shape[3])


def _by_size(sizes: Sequence[ImageSize]) -> dict[ImageSize, list[int]]:
    """Size up to the next multiple of 32 -> the images of that size."""
    groups: dict[ImageSize, list[int]] = {}
    for at, (height, width) in enumerate(sizes):
        groups.setdefault((_round_up(height), _round_up(width)), []).append(at)
    return groups


def _round_up(side: int) -> int:
    return -(-side // STRIDE) * STRIDE


def _listed(strides: Sequence[int]) -> str:
    return ", ".join(map(str, strides))


def build_detector(
    backbone: str | Backbone,
    head: str | HeadSpec,
    *,
    num_classes: int,
    conventions: Conventions = "papers",
    backbone_options: Mapping[str, Any] | None = None,
    **head_options: Any,
) -> Detector:
    """Build a detector with initial weights.

    Args:
        backbone: A name, with `backbone_options` (those of `build_backbone`), or a built backbone.
        head: A name, or a spec that need not be registered.
        num_classes: Without background.
        conventions: Of anchors, extra levels and sampling.
        **head_options: The head's own (a recipe's `model.head` without `name`); None values mean its default.

    Raises:
        UsageError: Unknown names, and options that the head or the backbone does not have.
    """
    if num_classes < 1:
        raise UsageError("a detector needs at least one class", "the annotation file's `categories` are the classes")
    spec = head_spec(head, task=DETECTION)
    options = spec.options(head_options)
    body = as_backbone(backbone, dict(backbone_options or {}))
    if body.feature_strides != STRIDES:  # the last map's padding and the boxes' levels are of these
        raise UsageError(
            f"{spec.name} needs maps of strides {_listed(STRIDES)}, and this backbone's are {_listed(body.feature_strides)}",
            "leave its output_stride or patch_sizes as they are, or use a head for segmentation or depth",
        )
    neck, top = spec.build(body, options, Target(DETECTION, num_classes, conventions))
    if not isinstance(top, DetectionHead):
        raise UsageError(f"{spec.name} built a {type(top).__name__}", "a head for detection is a DetectionHead")
    return Detector(body, neck, top, num_classes, conventions, spec)
