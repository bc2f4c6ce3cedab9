"""Base classes of all heads: detection, and dense prediction (semantic segmentation and depth)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.structures import Detections, DetectOptions, ImageSize, Maps, Objects, Sizes


class DetectionHead(nn.Module):
    """Feature maps -> losses in training, detections in inference.

    `features` are the maps of the head's neck (for DETR the backbone's, of which it uses the last), of a batch padded
    with zeros to (H, W) = `padded`; `sizes` holds the (height, width) of each image within it.
    """

    alone = False
    """True: the detector runs the backbone on each image without the padding of its batch."""
    network_parts: tuple[str, ...] = ("raw",)
    """Methods, also of submodules (`rpn.raw`), that are the network; the rest of `detect` is post-processing."""
    graph_parts: tuple[str, ...] = ("raw",)
    """Those of them that `graph_outputs` computes."""
    output_names: tuple[str, ...] = ()
    """Names of the outputs of `exported`."""

    def losses(self, features: Maps, sizes: Sizes, padded: ImageSize, targets: Sequence[Objects]) -> dict[str, Tensor]:
        """Scalars by name. Those called `loss_...` are summed and minimised; the others are only logged (detached), as an
        early sign of learning: `recall`, the share of ground-truth objects that are matched and recognised.
        """
        raise NotImplementedError

    def detect(self, features: Maps, sizes: Sizes, padded: ImageSize, options: DetectOptions) -> list[Detections]:
        """Detections per image, in pixels of the network's input, best first; masks as `grids`. `Detector.forward` scales the
        boxes to the requested size and pastes the masks there.

        Raises UsageError for an option that the head does not have.
        """
        raise NotImplementedError

    def raw_outputs(self, features: Maps, sizes: Sizes, padded: ImageSize) -> list[Tensor]:
        """Outputs of all network parts, each run once, without NMS or RoIAlign: used for counting."""
        raise NotImplementedError

    def exported(self, features: Maps) -> tuple[Tensor, ...]:
        """Raw outputs, called `output_names`, for images that fill their batch; traced by torch.export with dynamic sizes."""
        raise NotImplementedError

    def exported_eagerly(self, features: Maps, sizes: Sizes, padded: ImageSize) -> tuple[Tensor, ...]:
        """The same by `detect`'s own code, as the reference for a graph."""
        return self.exported(features)

    def graph_outputs(self, features: Maps) -> tuple[Tensor, ...]:
        """What `detect_from` makes detections of, for images that fill their batch: the outputs of the graph that an inference
        engine runs.

        A head may leave both out: that graph then ends with the maps, and the head runs in torch.
        """
        raise NotImplementedError

    def detect_from(
        self, outputs: Sequence[Tensor], sizes: Sizes, padded: ImageSize, options: DetectOptions
    ) -> list[Detections]:
        """`detect` from the outputs of `graph_outputs`."""
        raise NotImplementedError

    splits = False
    """Whether `graph_outputs` and `detect_from` are there, and made for this `detect`: not for one that a subclass overrides."""

    def __init_subclass__(cls) -> None:  # once, as torch 2.6 cannot trace a look at classes
        super().__init_subclass__()
        definers = {next(kind for kind in cls.__mro__ if name in vars(kind)) for name in ("detect", "detect_from")}
        cls.splits = len(definers) == 1 and DetectionHead not in definers

    def candidate_scores(self, output: Any) -> Tensor | None:
        """Scores (N,) of all boxes from the output of the first of `network_parts`, or if that is one of `graph_parts` from
        `graph_outputs`; None for heads without a threshold.
        """
        return None


class DenseHead(nn.Module):
    """Features of a backbone (see `read`) -> one map, coarser than the image."""

    upsampling: Literal["bilinear", "bicubic"] = "bilinear"
    """How the map is resized to the image."""
    align_corners = False
    """Whether that resizing aligns corners, as in the head's original."""
    multiple = 32
    """Images are padded with zeros (right, bottom) to sides that are multiples of this, and the map is cropped again:
    otherwise the coarsest map would be stretched over the image, by up to 31 pixels.
    """
    auxiliary_weight = 0.0
    """Weight of the loss of every auxiliary map; 0: the head has none."""

    def read(self, backbone: Any, images: Tensor) -> Any:
        """The input of `forward` from a backbone: its four maps, unless the head overrides it."""
        return backbone(images)

    def loss(self, out: Tensor, target: Tensor) -> Tensor | None:
        """The training loss of a map, for heads with their own.

        Args:
            out: (B, K, H, W) at the size of the training images, or of an auxiliary map.
            target: Labels uint8 (B, H, W), 255 = ignore; or depth float32 (B, H, W) in metres, 0 = no value.

        Returns:
            A scalar; None for the task's own loss (cross entropy, or a recipe's `train.loss`).
        """
        return None

    def forward(self, features: Any, auxiliary: bool = False) -> tuple[Tensor, Sequence[Tensor]]:
        """The map (B, K, h, w), K classes or 1 for depth, and with `auxiliary` those used in training only."""
        raise NotImplementedError


def dropout_of_channels(rate: float) -> nn.Dropout2d:
    """Dropout of whole channels of (B, C, h, w); UsageError unless 0 <= rate < 1."""
    if not 0 <= rate < 1:
        raise UsageError(f"a dropout of {rate:g} is out of range", "use 0 <= dropout < 1, the papers' is 0.1")
    return nn.Dropout2d(rate)


def classifier_of_cells(channels: int, num_classes: int) -> nn.Conv2d:
    """(B, channels, h, w) -> logits (B, K, h, w), by a 1x1 convolution initialised near 0 (mmsegmentation's values)."""
    conv = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
