"""What every detection head is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pvtctl.models.structures import Detections, DetectOptions, ImageSize, Objects


class DetectionHead(nn.Module):
    """Feature maps -> losses in training, detections in use.

    `features` are the maps that the head's neck gives (for DETR the backbone's, of which it takes the last), of a batch
    that is padded with zeros to (H, W) = `padded`; `sizes` holds the (height, width) of each image within it.
    """

    alone = False
    """True: the detector gives each image to the backbone without the padding that others in its batch need."""
    network_parts: tuple[str, ...] = ("raw",)
    """Methods, also of submodules (`rpn.raw`), that are the network; the rest of `detect` decodes and sorts out."""
    output_names: tuple[str, ...] = ()
    """What `exported` gives."""

    def losses(
        self, features: Sequence[Tensor], sizes: Sequence[ImageSize], padded: ImageSize, targets: Sequence[Objects]
    ) -> dict[str, Tensor]:
        """Scalars by name. Those called `loss_...` are summed and minimised; the others are only logged (detached), and
        tell early whether it learns: `recall`, the share of true objects that are matched and recognised."""
        raise NotImplementedError

    def detect(
        self, features: Sequence[Tensor], sizes: Sequence[ImageSize], padded: ImageSize, options: DetectOptions
    ) -> list[Detections]:
        """One an image, in pixels of the network's input, best first; masks as `grids`. `Detector.forward` brings the
        boxes to the size that is asked for and pastes the masks there.

        Raises UsageError for an option that the head does not have.
        """
        raise NotImplementedError

    def raw_outputs(self, features: Sequence[Tensor], sizes: Sequence[ImageSize], padded: ImageSize) -> list[Tensor]:
        """Outputs of all network parts, each run once, without NMS or RoIAlign: what is counted."""
        raise NotImplementedError

    def exported(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Raw outputs, called `output_names`, for images that fill their batch, traced by torch.export: sizes stay open."""
        raise NotImplementedError

    def exported_eagerly(
        self, features: Sequence[Tensor], sizes: Sequence[ImageSize], padded: ImageSize
    ) -> tuple[Tensor, ...]:
        """The same by way of `detect`'s own code, which a graph is compared with."""
        return self.exported(features)

    def candidate_scores(self, output: Any) -> Tensor | None:
        """Scores (N,) of all boxes from what the first of `network_parts` gave; None where no threshold chooses among
        them."""
        return None
