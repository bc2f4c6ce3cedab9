"""What of a model goes into a graph: everything from the image to the raw outputs, nothing whose course the outputs decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones import Backbone, Classifier
from pvtctl.models.dense import DenseModel
from pvtctl.models.detector import STRIDE, Detector
from pvtctl.models.heads.detr import Detr, sine_positions
from pvtctl.models.heads.retinanet import RetinaNet

Pixels = Literal["normalized", "float", "uint8"]
"""What a graph takes: images whose mean and deviation are taken off, pixels from 0 to 1, or bytes from 0 to 255."""
Statistics = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of the three channels of pixels from 0 to 1."""


class RawModel(nn.Module):
    """Pixels (B, 3, H, W) -> a tuple of raw outputs, called `names`.

    `forward` is what is exported, free of Python numbers taken from tensors' shapes, so that sizes stay open; `eager` is
    the same by way of the model's own code, which the exported graph is compared with and timed against.
    """

    names: tuple[str, ...]

    def __init__(self, pixels: Pixels, statistics: Statistics) -> None:
        super().__init__()
        self.pixels = pixels
        mean, std = (torch.tensor(each, dtype=torch.float32).view(3, 1, 1) for each in statistics)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def normalized(self, pixels: Tensor) -> Tensor:
        """float32 images as the model takes them."""
        if self.pixels == "normalized":
            return pixels
        unit = pixels.float() / 255 if self.pixels == "uint8" else pixels
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.std, Tensor)
        return (unit - self.mean) / self.std

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.traced(self.normalized(images))

    def eager(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the model itself answers, without gradients."""
        with torch.inference_mode():
            return self.answered(self.normalized(images))

    def traced(self, images: Tensor) -> tuple[Tensor, ...]:
        """The graph's way from normalised images to the outputs."""
        raise NotImplementedError

    def answered(self, images: Tensor) -> tuple[Tensor, ...]:
        """The model's own way."""
        return self.traced(images)


class RawClassifier(RawModel):
    """`logits` (B, K)."""

    names = ("logits",)

    def __init__(self, model: Classifier, pixels: Pixels, statistics: Statistics) -> None:
        super().__init__(pixels, statistics)
        self.model = model

    def traced(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.model(images),)


class RawBackbone(RawModel):
    """`c2` to `c5`, maps (B, C_i, H/s_i, W/s_i) of strides 4, 8, 16, 32."""

    names = ("c2", "c3", "c4", "c5")

    def __init__(self, model: Backbone, pixels: Pixels, statistics: Statistics) -> None:
        super().__init__(pixels, statistics)
        self.model = model

    def traced(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(images))


class RawRetinaNet(RawModel):
    """`classes_p3` ... `classes_p7` (B, A * K, h, w), before the sigmoid, and `boxes_p3` ... (B, A * 4, h, w), box deltas."""

    names = tuple(f"{what}_p{level}" for what in ("classes", "boxes") for level in range(3, 8))

    def __init__(self, model: Detector, pixels: Pixels, statistics: Statistics) -> None:
        super().__init__(pixels, statistics)
        self.model = model

    def traced(self, images: Tensor) -> tuple[Tensor, ...]:
        assert isinstance(self.model.head, RetinaNet)
        classes, boxes = self.model.head.raw(self.model.features(images))
        return (*classes, *boxes)


class RawDetr(RawModel):
    """`logits` (B, Q, K + 1), no-object last, and `boxes` (B, Q, 4), cxcywh as shares of the image, of the last layer.

    For images that fill their batch; sides are padded to multiples of 32, as the detector does.
    """

    names = ("logits", "boxes")

    def __init__(self, model: Detector, pixels: Pixels, statistics: Statistics) -> None:
        super().__init__(pixels, statistics)
        self.model = model

    def traced(self, images: Tensor) -> tuple[Tensor, ...]:
        head = self.model.head
        assert isinstance(head, Detr)
        last = self.model.backbone(padded(images, STRIDE))[-1]
        # every cell holds pixels of its image, since fewer than 32 were added: nothing is masked
        mask = torch.zeros_like(last[:, 0], dtype=torch.bool)
        positions = sine_positions(mask).flatten(2).transpose(1, 2)
        tokens = head.input_proj(last).flatten(2).transpose(1, 2)
        _, decoded = head.transformer(tokens, positions, head.query_embed.weight, None)
        return head.class_embed(decoded[-1]), head.bbox_embed(decoded[-1]).sigmoid()

    def answered(self, images: Tensor) -> tuple[Tensor, ...]:
        head = self.model.head
        assert isinstance(head, Detr)
        size = (int(images.shape[2]), int(images.shape[3]))
        images = padded(images, STRIDE)
        sizes = [size] * len(images)
        out = head.raw(self.model.features(images, sizes), sizes, (int(images.shape[2]), int(images.shape[3])))
        return out.logits[-1], out.boxes[-1]


class RawDense(RawModel):
    """`logits` (B, K, h, w) of a segmentation model, or `inverse_depth` (B, 1, h, w): the head's own map, of images padded
    to multiples of its coarsest stride, or with `at_size` a map of the images' own size."""

    def __init__(self, model: DenseModel, pixels: Pixels, statistics: Statistics, *, at_size: bool) -> None:
        super().__init__(pixels, statistics)
        self.model = model
        self.at_size = at_size
        self.names = ("inverse_depth" if model.task == "depth" else "logits",)

    def traced(self, images: Tensor) -> tuple[Tensor, ...]:
        model, height, width = self.model, images.shape[2], images.shape[3]
        images = padded(images, model.head.multiple)
        features = model.head.read(model.backbone, images)
        out, _ = model.head(features if model.neck is None else model.neck(features))
        if not self.at_size:
            return (out,)
        # one resize, to the padded size, and a cut: what `DenseModel.at_size` comes to where the image's size is wanted
        corners = model.head.align_corners
        out = F.interpolate(out, size=images.shape[2:], mode=model.head.upsampling, align_corners=corners)
        return (out[:, :, :height, :width],)

    def answered(self, images: Tensor) -> tuple[Tensor, ...]:
        out = self.model(images)
        return (self.model.at_size(out, (int(images.shape[2]), int(images.shape[3]))) if self.at_size else out,)


def padded(images: Tensor, multiple: int) -> Tensor:
    """Zeros below and to the right, up to sides that are multiples of `multiple`."""
    return F.pad(images, (0, -images.shape[3] % multiple, 0, -images.shape[2] % multiple))


def raw_model(model: nn.Module, *, pixels: Pixels, statistics: Statistics, at_size: bool = False) -> RawModel:
    """The exportable part of a Classifier, Backbone, Detector or DenseModel.

    Raises UsageError for Mask R-CNN, for anything else, and for `at_size` of a model that has no map.
    """
    if at_size and not isinstance(model, DenseModel):
        raise UsageError("only segmentation and depth models have a map at the images' size", "leave --at-size out")
    match model:
        case Classifier():
            return RawClassifier(model, pixels, statistics)
        case Backbone():
            return RawBackbone(model, pixels, statistics)
        case DenseModel():
            return RawDense(model, pixels, statistics, at_size=at_size)
        case Detector(head=RetinaNet()):
            return RawRetinaNet(model, pixels, statistics)
        case Detector(head=Detr()):
            return RawDetr(model, pixels, statistics)
        case Detector():
            raise UsageError(
                "Mask R-CNN cannot be exported: its box and mask heads run on what NMS (torchvision::nms) leaves of the "
                "RPN's proposals and RoIAlign (torchvision::roi_align) cuts out for them, another number for every image",
                "--backbone-only exports its backbone; RetinaNet and DETR can be exported up to their raw outputs",
            )
        case _:
            raise UsageError(f"a {type(model).__name__} is none of pvtctl's models", "take one of `pvtctl.create_...`")
