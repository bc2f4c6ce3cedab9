"""The exportable part of each model: image to raw head outputs, without NMS and RoIAlign."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.models.backbones import Backbone, Classifier
from pvtctl.models.dense import DenseModel
from pvtctl.models.detector import STRIDE, Detector
from pvtctl.models.structures import ImageSize

Pixels = Literal["normalized", "float", "uint8"]
"""Input of a graph: images normalised by mean and standard deviation, pixels from 0 to 1, or bytes from 0 to 255."""


class RawModel(nn.Module):
    """Pixels (B, 3, H, W) -> a tuple of raw outputs, called `names`.

    `forward` is exported; it has no Python numbers taken from shapes, so that sizes stay dynamic. `eager` computes the
    same with the model's own code, as the reference for outputs and timings.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...], pixels: Pixels, normalization: Normalization) -> None:
        super().__init__()
        self.model: Any = model
        self.names = names
        self.pixels = pixels
        self.bgr = normalization.order == "bgr"
        mean, std = (torch.tensor(each, dtype=torch.float32).view(3, 1, 1) for each in normalization[:2])
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def normalized(self, pixels: Tensor) -> Tensor:
        """float32 images, normalised for the model."""
        if self.pixels == "normalized":
            return pixels
        unit = pixels.float() / 255 if self.pixels == "uint8" else pixels
        unit = unit.flip(1) if self.bgr else unit
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.std, Tensor)
        return (unit - self.mean) / self.std

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.traced(self.normalized(images))

    def eager(self, images: Tensor) -> tuple[Tensor, ...]:
        """The model's own outputs, without gradients."""
        with torch.inference_mode():
            return self.answered(self.normalized(images))

    def traced(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs from normalised images, as traced for the graph."""
        out = self.model(images)
        return (out,) if isinstance(out, Tensor) else tuple(out)

    def answered(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs from normalised images, by the model's own code."""
        return self.traced(images)


class RawDetection(RawModel):
    """The raw outputs of a detector's head (`DetectionHead.exported`), for images that fill their batch; for a head that
    needs images one by one they are padded to multiples of 32, as in the detector.
    """

    def traced(self, images: Tensor) -> tuple[Tensor, ...]:
        head = self.model.head
        return head.exported(self.model.features(padded(images, STRIDE) if head.alone else images))

    def answered(self, images: Tensor) -> tuple[Tensor, ...]:
        head, sizes = self.model.head, [_size_of(images)] * len(images)
        images = padded(images, STRIDE) if head.alone else images
        return head.exported_eagerly(self.model.features(images, sizes), sizes, _size_of(images))


class DetectorNetwork(RawModel):
    """The outputs that `Detector.detect_with` makes detections of, for any detector."""

    def traced(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.graph_outputs(images))


class RawDense(RawModel):
    """`logits` (B, K, h, w) of a segmentation model, or `inverse_depth` (B, 1, h, w): the head's own map, of images padded
    to multiples of its coarsest stride, or with `at_size` a map at the images' size.
    """

    at_size = False

    def traced(self, images: Tensor) -> tuple[Tensor, ...]:
        model, height, width = self.model, images.shape[2], images.shape[3]
        images = padded(images, model.head.multiple)
        features = model.read_padded(images)
        out, _ = model.head(features if model.neck is None else model.neck(features))
        if not self.at_size:
            return (out,)
        # one resize, to the padded size, and a crop: equals `DenseModel.at_size` for the image's size
        corners = model.head.align_corners
        out = F.interpolate(out, size=images.shape[2:], mode=model.head.upsampling, align_corners=corners)
        return (out[:, :, :height, :width],)

    def answered(self, images: Tensor) -> tuple[Tensor, ...]:
        out = self.model(images)
        return (self.model.at_size(out, _size_of(images)) if self.at_size else out,)


def _size_of(images: Tensor) -> ImageSize:
    return int(images.shape[2]), int(images.shape[3])


def padded(images: Tensor, multiple: int) -> Tensor:
    """Pad with zeros below and to the right, to sides that are multiples of `multiple`."""
    return F.pad(images, (0, -images.shape[3] % multiple, 0, -images.shape[2] % multiple))


def raw_model(model: nn.Module, *, pixels: Pixels, normalization: Normalization, at_size: bool = False) -> RawModel:
    """The exportable part of a Classifier (`logits`), Backbone (`c2` to `c5`), Detector or DenseModel.

    Raises UsageError for a head that cannot be exported, for other modules, and for `at_size` of a model without a map.
    """
    if at_size and not isinstance(model, DenseModel):
        raise UsageError("only segmentation and depth models have a map at the images' size", "leave --at-size out")
    match model:
        case Classifier():
            return RawModel(model, ("logits",), pixels, normalization)
        case Backbone():
            return RawModel(model, ("c2", "c3", "c4", "c5"), pixels, normalization)
        case DenseModel():
            raw = RawDense(model, ("inverse_depth" if model.gives_depth else "logits",), pixels, normalization)
            raw.at_size = at_size
            return raw
        case Detector():
            if not model.head.output_names:
                title = model.spec.title if model.spec is not None else type(model.head).__name__
                why = model.spec.unexportable if model.spec is not None else None
                raise UsageError(
                    f"{title} cannot be exported: {why or 'its head does not say what `exported` gives'}",
                    "--backbone-only exports its backbone; RetinaNet and DETR can be exported up to their raw outputs",
                )
            return RawDetection(model, model.head.output_names, pixels, normalization)
        case _:
            raise UsageError(f"a {type(model).__name__} is not a pvtctl model", "take one of `pvtctl.create_...`")


def network_of(model: nn.Module) -> RawModel:
    """The part of inference that is one graph, from normalised images; unlike `raw_model` of any detector.

    Raises UsageError for other modules than those of pvtctl.
    """
    if isinstance(model, Detector):
        return DetectorNetwork(model, (), "normalized", IMAGENET)
    return raw_model(model, pixels="normalized", normalization=IMAGENET)
