"""Label maps and depth of images at original size: whole images or windows, one view or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.dense import DenseModel
from pvtctl.models.structures import ImageSize


@dataclass(frozen=True)
class Window:
    """Window size and step, (height, width)."""

    size: ImageSize
    stride: ImageSize


def sliding_window(size: ImageSize | None, stride: ImageSize | None) -> Window | None:
    """The window of `--window` and `--stride` (unset: two thirds of the window). Raises UsageError."""
    if size is None:
        if stride is not None:
            raise UsageError("--stride needs --window, the window that slides", "--window 512x512")
        return None
    height, width = size
    stride = stride or (max(1, height * 2 // 3), max(1, width * 2 // 3))
    if stride[0] > height or stride[1] > width:
        raise UsageError(
            f"a stride of {stride[0]}x{stride[1]} is larger than the window of {height}x{width}", "lower --stride"
        )
    return Window((height, width), stride)


def slide(network: Callable[[Tensor], Tensor], images: Tensor, window: Window) -> Tensor:
    """Maps (B, K, H, W) of images (B, 3, H, W): the mean over all windows that cover a pixel.

    `network` maps (B, 3, h, w) to (B, K, h, w). The last window of a row or column is moved back to end with the image,
    so that all are of one size; a side shorter than the window's is taken whole.
    """
    height, width = int(images.shape[2]), int(images.shape[3])
    rows, columns = (
        _starts(side, size, stride)
        for side, size, stride in zip((height, width), window.size, window.stride, strict=True)
    )
    total: Tensor | None = None
    seen = images.new_zeros(1, 1, height, width)
    for top in rows:
        for left in columns:
            part = (..., slice(top, top + window.size[0]), slice(left, left + window.size[1]))
            out = network(images[part]).float()
            if total is None:
                total = out.new_zeros(len(images), out.shape[1], height, width)
            total[part] += out
            seen[part] += 1
    assert total is not None
    return total.div_(seen)


def _starts(side: int, window: int, stride: int) -> list[int]:
    last = max(side - window, 0)
    return [*range(0, last, stride), last]


CLASSES_AT_ONCE = 16
"""Number of classes whose logits are resized to the image at a time."""
FARTHEST = 1e-6
"""Smallest inverse depth in 1/m that is converted to metres."""


@dataclass(frozen=True)
class DenseTesting:
    """Test-time views and windows."""

    ratios: tuple[float, ...] = ()
    """Factors on the test size; empty: 1 alone."""
    flip: bool = False
    window: Window | None = None

    @property
    def views(self) -> list[tuple[float, bool]]:
        """(ratio, mirrored) of each view of an image."""
        return [(ratio, flip) for ratio in self.ratios or (1.0,) for flip in ((False, True) if self.flip else (False,))]


class DenseInference:
    """Inference of a dense model; `network` is the model, possibly wrapped."""

    def __init__(self, model: DenseModel, window: Window | None = None) -> None:
        self.model = model
        self.window = window

    def predict_batch(self, network: nn.Module, images: Tensor, originals: Sequence[ImageSize]) -> list[Tensor]:
        """Images (B, 3, h, w) of one size, without padding -> a map (H, W) each, at the sizes `originals`."""
        out, size = self._raw(network, images)
        return [self._answer(out[at : at + 1], size, original) for at, original in enumerate(originals)]

    def predict_tta(self, network: nn.Module, views: Iterable[tuple[Tensor, bool]], original: ImageSize) -> Tensor:
        """Views (3, h, w) of one image, each with whether it is mirrored -> one map (H, W) from their mean."""
        total: Tensor | None = None
        count = 0
        for image, mirrored in views:
            out, size = self._raw(network, image[None])
            view = self._view(self._at(out.float(), size, original))
            view = view.flip(-1) if mirrored else view
            total, count = (view if total is None else total.add_(view)), count + 1
        assert total is not None
        return self._from_mean(total / count)

    def _raw(self, network: nn.Module, images: Tensor) -> tuple[Tensor, ImageSize]:
        """The network's map and the size of its images."""
        size = _size_of(images)
        if self.window is None:
            return network(images), size
        return slide(lambda part: self.model.at_size(network(part).float(), _size_of(part)), images, self.window), size

    def _at(self, out: Tensor, size: ImageSize, original: ImageSize) -> Tensor:
        """Resize a map to the original size; sliding-window maps have the image's size already."""
        if self.window is None:
            return self.model.at_size(out, size, original)
        return F.interpolate(out, size=original, mode="bilinear", align_corners=False)

    def _answer(self, out: Tensor, size: ImageSize, original: ImageSize) -> Tensor:
        """A raw map (1, K, h, w) -> a prediction (H, W)."""
        raise NotImplementedError

    def _view(self, out: Tensor) -> Tensor:
        """Convert a map (1, K, H, W) to the values that are averaged over views."""
        raise NotImplementedError

    def _from_mean(self, mean: Tensor) -> Tensor:
        """The prediction (H, W) from the average."""
        raise NotImplementedError


class LabelInference(DenseInference):
    """uint8 label maps; `relabel` (256,) maps the head's labels to others."""

    def __init__(self, model: DenseModel, window: Window | None = None, relabel: Tensor | None = None) -> None:
        super().__init__(model, window)
        self.relabel = relabel

    def _answer(self, out: Tensor, size: ImageSize, original: ImageSize) -> Tensor:
        """Resizes only a few classes at a time to the original size."""
        best: Tensor | None = None
        labels: Tensor | None = None
        for first in range(0, out.shape[1], CLASSES_AT_ONCE):
            part = self._at(out[:, first : first + CLASSES_AT_ONCE].float(), size, original)[0]
            score, label = part.max(0)
            if best is None or labels is None:
                best, labels = score, label
                continue
            better = score > best
            best = torch.where(better, score, best)
            labels = torch.where(better, label + first, labels)
        assert labels is not None
        return self._relabelled(labels)

    def _view(self, out: Tensor) -> Tensor:
        return out.softmax(1)[0]

    def _from_mean(self, mean: Tensor) -> Tensor:
        return self._relabelled(mean.argmax(0))

    def _relabelled(self, labels: Tensor) -> Tensor:
        return labels.to(torch.uint8) if self.relabel is None else self.relabel.to(labels.device)[labels]


class DepthInference(DenseInference):
    """float32 metres for models with a scale, else inverse depth."""

    def _answer(self, out: Tensor, size: ImageSize, original: ImageSize) -> Tensor:
        return self._from_mean(self._view(self._at(out.float(), size, original)))

    def _view(self, out: Tensor) -> Tensor:
        return out[0, 0]

    def _from_mean(self, mean: Tensor) -> Tensor:
        if self.model.scale_shift is None:
            return mean.clamp(min=0)  # bicubic resizing may dip below
        return to_metres(mean, self.model.scale_shift)


def to_metres(inverse: Tensor, scale_shift: tuple[float, float]) -> Tensor:
    """The network's inverse depth in metres: 1 / (scale x + shift)."""
    scale, shift = scale_shift
    return 1 / (scale * inverse + shift).clamp(min=FARTHEST)


def _size_of(images: Tensor) -> ImageSize:
    return int(images.shape[2]), int(images.shape[3])
