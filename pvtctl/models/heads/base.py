"""Base class of all detection heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pvtctl.models.structures import Detections, DetectOptions, ImageSize, Objects


class DetectionHead(nn.Module):
    """Feature maps -> losses in training, detections in inference.

    `features` are the maps of the head's neck (for DETR the backbone's, of which it uses the last), of a batch padded
    with zeros to (H, W) = `padded`; `sizes` holds the (height, width) of each image within it.
    """

    alone = False
    """True: the detector runs the backbone on each image without the padding of its batch."""
    network_parts: tuple[str, ...] = ("raw",)
    """Methods, also of submodules (`rpn.raw`), that are the network; the rest of `detect` is post-processing."""
    output_names: tuple[str, ...] = ()
    """Names of the outputs of `exported`."""

    def losses(
        self, features: Sequence[Tensor], sizes: Sequence[ImageSize], padded: ImageSize, targets: Sequence[Objects]
    ) -> dict[str, Tensor]:
        """Scalars by name. Those called `loss_...` are summed and minimised; the others are only logged (detached), as an
        early sign of learning: `recall`, the share of ground-truth objects that are matched and recognised.
        """
        raise NotImplementedError

    def detect(
        self, features: Sequence[Tensor], sizes: Sequence[ImageSize], padded: ImageSize, options: DetectOptions
    ) -> list[Detections]:
        """Detections per image, in pixels of the network's input, best first; masks as `grids`. `Detector.forward` scales the
        boxes to the requested size and pastes the masks there.

        Raises UsageError for an option that the head does not have.
        """
        raise NotImplementedError

    def raw_outputs(self, features: Sequence[Tensor], sizes: Sequence[ImageSize], padded: ImageSize) -> list[Tensor]:
        """Outputs of all network parts, each run once, without NMS or RoIAlign: used for counting."""
        raise NotImplementedError

    def exported(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Raw outputs, called `output_names`, for images that fill their batch; traced by torch.export with dynamic sizes."""
        raise NotImplementedError

    def exported_eagerly(
        self, features: Sequence[Tensor], sizes: Sequence[ImageSize], padded: ImageSize
    ) -> tuple[Tensor, ...]:
        """The same by `detect`'s own code, as the reference for a graph."""
        return self.exported(features)

    def candidate_scores(self, output: Any) -> Tensor | None:
        """Scores (N,) of all boxes from the output of the first of `network_parts`; None for heads without a threshold."""
        return None
