"""Label maps and depth of images at original size: whole images or windows, one view or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

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


CLASSES_AT_ONCE = 32
"""Number of classes whose logits are resized to the image at a time, if no more than VALUES_AT_ONCE result."""
CLASSES_TO_INTERLEAVE = 6
"""Number of classes from which on values of a pixel lie side by side (channels last) while they are resized."""
VALUES_AT_ONCE = 1 << 25
"""Values held at a time at the size of a large image: 128 MiB as 32-bit floats."""
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

    def predict_batch(
        self, network: Callable[[Tensor], Tensor], images: Tensor, originals: Sequence[ImageSize]
    ) -> list[Tensor]:
        """Images (B, 3, h, w) of one size, without padding -> a map (H, W) each, at the sizes `originals`."""
        out, size = self._raw(network, images)
        return [self._answer(out[at : at + 1], size, original) for at, original in enumerate(originals)]

    def predict_tta(self, network: nn.Module, views: Iterable[tuple[Tensor, bool]], original: ImageSize) -> Tensor:
        """Views (3, h, w) of one image, each with whether it is mirrored -> one map (H, W) from their mean."""
        maps = [(*self._raw(network, image[None]), mirrored) for image, mirrored in views]
        height, width = original
        values = maps[0][0].shape[1] * width  # of a row
        if values * height <= 4 * VALUES_AT_ONCE or not self._in_bands:
            return self._mean(maps, partial(self._at, original=original))
        found = torch.empty(0)
        rows = max(1, VALUES_AT_ONCE // 8 // values)  # several values of each are held in between
        for top in range(0, height, rows):
            band = (top, min(top + rows, height))
            part = self._mean(maps, partial(self._band, original=original, band=band))
            if top == 0:  # whole from the start: small blocks between the large ones would keep the heap from shrinking
                found = part.new_empty(original)
            found[top : band[1]] = part
        return found

    def _mean(
        self, maps: Sequence[tuple[Tensor, ImageSize, bool]], at: Callable[[Tensor, ImageSize], Tensor]
    ) -> Tensor:
        """The prediction (H, W) from the mean of the maps of all views, which `at` resizes."""
        total: Tensor | None = None
        for out, size, mirrored in maps:
            view = self._view(at(out.float(), size))
            view = view.flip(-1) if mirrored else view
            total = view if total is None else total.add_(view)
        assert total is not None
        return self._from_mean(total / len(maps))

    @property
    def _in_bands(self) -> bool:
        """Whether `_band` can replace `_at`."""
        return self.window is not None or self.model.head.upsampling == "bilinear"

    def _band(self, out: Tensor, size: ImageSize, original: ImageSize, band: tuple[int, int]) -> Tensor:
        """Rows `band` (first, end) of `_at`, without the others: equal up to rounding."""
        if self.window is None:
            out = self.model.on_image(out, size)
        return rows_of_resized(out, original, *band)

    def _raw(self, network: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, ImageSize]:
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
        """Resizes only the classes that can win a pixel, a few at a time; fewer for large images."""
        step = max(1, min(CLASSES_AT_ONCE, VALUES_AT_ONCE // (original[0] * original[1])))
        possible = None
        if out.shape[1] > step and self._convex(out, size) and 4 * out[0, 0].numel() <= original[0] * original[1]:
            possible = classes_that_can_win(out)
            out = out[:, possible]
        best, labels = self._best(out[:, :step], size, original)
        for first in range(step, out.shape[1], step):
            score, label = self._best(out[:, first : first + step], size, original)
            better = score > best
            torch.where(better, score, best, out=best)
            torch.where(better, label.add_(first), labels, out=labels)
        return self._relabelled(labels if possible is None else possible.int().take(labels.long()))

    def _convex(self, out: Tensor, size: ImageSize) -> bool:
        """Whether each value of `_at` is a weighted mean of at most 3x3 neighbouring values of the map: when resizing is
        bilinear and the map is not larger than the images, resizing by way of their size included."""
        return self._in_bands and out.shape[2] <= size[0] and out.shape[3] <= size[1]

    def _best(self, out: Tensor, size: ImageSize, original: ImageSize) -> tuple[Tensor, Tensor]:
        """(highest value, its class) of each pixel, float32 and int32 (H, W)."""
        if out.shape[1] == 1:
            part = self._at(out.float(), size, original)[0]
            return part[0], torch.zeros_like(part[0], dtype=torch.int32)
        if out.device.type != "cpu" or out.shape[1] < CLASSES_TO_INTERLEAVE:
            score, label = self._at(out.float(), size, original)[0].max(0)
            return score, label.to(torch.int32)
        part = self._at(out.float().contiguous(memory_format=torch.channels_last), size, original)[0].permute(1, 2, 0)
        # A vectorised search; torch's compares values one by one.
        label = torch.from_numpy(part.contiguous().numpy().argmax(-1))
        return part.take_along_dim(label[..., None], -1)[..., 0], label.to(torch.int32)

    def _view(self, out: Tensor) -> Tensor:
        return out.softmax(1)[0]

    def _from_mean(self, mean: Tensor) -> Tensor:
        return self._relabelled(mean.argmax(0))

    def _relabelled(self, labels: Tensor) -> Tensor:
        if self.relabel is None:
            return labels.to(torch.uint8)
        return self.relabel.to(labels.device).index_select(0, labels.flatten().int()).view(labels.shape)


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


def rows_of_resized(maps: Tensor, size: ImageSize, top: int, bottom: int) -> Tensor:
    """Rows `top` to `bottom` of `F.interpolate(maps, size, mode="bilinear")` of maps (B, K, h, w), without the others.

    Equal up to rounding: rows are weighted after the columns here too, in 32-bit floats.
    """
    height = maps.shape[2]
    places = (torch.arange(top, bottom, device=maps.device, dtype=torch.float32) + 0.5) * (height / size[0]) - 0.5
    places = places.clamp(0, height - 1)
    upper = places.floor().long()
    first, last = int(upper[0]), min(int(upper[-1]) + 1, height - 1)
    near = F.interpolate(
        maps[:, :, first : last + 1], (last + 1 - first, size[1]), mode="bilinear", align_corners=False
    )
    weight = (places - upper)[:, None]
    lower = (upper + 1).clamp(max=height - 1)
    return near[:, :, upper - first] * (1 - weight) + near[:, :, lower - first] * weight


def classes_that_can_win(maps: Tensor) -> Tensor:
    """Indices of the classes of maps (1, K, h, w) that are highest in some weighted mean of 3x3 neighbouring values.

    The others stay below another class with the lowest of its nine values in each neighbourhood. Rounding does not count; NaN and infinite values are kept.
    """
    highest, lowest = (_in_neighbourhoods(maps.float(), pick) for pick in (torch.maximum, torch.minimum))
    to_reach = lowest.amax(1, keepdim=True)
    return (~(highest < to_reach - 1e-5 * to_reach.abs())).flatten(2).any(2)[0].nonzero()[:, 0]


def _in_neighbourhoods(maps: Tensor, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`pick` among each 3x3 neighbours of maps (1, K, h, w): (1, K, h - 2, w - 2), at least one row and column."""
    for dim in (2, 3, 2, 3):
        if (side := maps.shape[dim]) > 1:
            maps = pick(maps.narrow(dim, 0, side - 1), maps.narrow(dim, 1, side - 1))
    return maps


def to_metres(inverse: Tensor, scale_shift: tuple[float, float]) -> Tensor:
    """The network's inverse depth in metres: 1 / (scale x + shift)."""
    scale, shift = scale_shift
    return 1 / (scale * inverse + shift).clamp(min=FARTHEST)


def _size_of(images: Tensor) -> ImageSize:
    return int(images.shape[2]), int(images.shape[3])
