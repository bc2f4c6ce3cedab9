"""Depth losses: MiDaS's and DPT's, invariant to scale and shift, and the log error of metric depth.

Maps are (B, H, W) with a bool mask (B, H, W) of the pixels with ground truth. All is computed in fp32, also under
autocast. A loss is the mean over the batch's images; unusable images count as 0: those with fewer than two valid pixels
and, where scale and shift are free, those with flat ground truth. A prediction that is not finite at a valid pixel gives
a loss that is not finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pvtctl.models.layers.precision import full_precision

_FLAT = 1e-6
"""A map whose mean deviation is below this share of its median is flat: the rest is rounding."""
_SMALLEST = 1e-12
_NEAREST = 1e-6
"""Metres; smaller predictions are clamped before the logarithm."""


def ssi_trimmed(prediction: Tensor, target: Tensor, mask: Tensor, trim: float = 0.2) -> Tensor:
    """The scale- and shift-invariant trimmed loss of inverse depth (MiDaS, arXiv 1907.01341, equations 5 to 7).

    The median is subtracted from both maps, which are divided by their mean absolute deviation from it. Of the M absolute
    differences of an image the largest `trim` x M are left out, and the rest is summed and divided by 2 M.
    """
    with full_precision(prediction.device):
        residual, used = _residual(prediction, target, mask)
        count = mask.flatten(1).sum(1)
        ordered = residual.abs().masked_fill(~mask, math.inf).flatten(1).sort(1).values
        kept = count - (count * trim + 1e-9).floor().long()
        inside = torch.arange(ordered.shape[1], device=ordered.device) < kept[:, None]
        sums = torch.where(inside, ordered, 0).sum(1)
        return _mean_of_images(sums / (2 * count.clamp(min=1)), used)


def gradient_matching(prediction: Tensor, target: Tensor, mask: Tensor, scales: int = 4) -> Tensor:
    """Absolute gradients of the difference of both maps, in x and y, summed over `scales` (MiDaS equation 11).

    The maps are normalised as in `ssi_trimmed`. Scale k uses every 2^k-th pixel; only gradients between two valid pixels
    count, and each scale is divided by its own number of valid pixels.
    """
    with full_precision(prediction.device):
        residual, used = _residual(prediction, target, mask)
        total = residual.new_zeros(len(residual))
        for k in range(scales):
            part, there = residual[:, :: 2**k, :: 2**k], mask[:, :: 2**k, :: 2**k]
            right = (part[:, :, 1:] - part[:, :, :-1]).abs() * (there[:, :, 1:] & there[:, :, :-1])
            down = (part[:, 1:] - part[:, :-1]).abs() * (there[:, 1:] & there[:, :-1])
            total = total + (right.sum((1, 2)) + down.sum((1, 2))) / there.sum((1, 2)).clamp(min=1)
        return _mean_of_images(total, used)


def silog(prediction: Tensor, target: Tensor, mask: Tensor, variance_focus: float = 0.85) -> Tensor:
    """The scale-invariant log error of metric depth, both maps in metres (Eigen et al. 2014, equation 4).

    sqrt(mean(d^2) - focus x mean(d)^2) with d the difference of the logarithms: focus 1 ignores a wrong scale, 0 penalises
    it fully. The factor of 10 in some implementations is left out, so that the loss is an error of the logarithm.
    """
    with full_precision(prediction.device):
        count = mask.flatten(1).sum(1)
        there = torch.where(mask, prediction.float(), 1.0).clamp(min=_NEAREST)
        truth = torch.where(mask, target.float(), 1.0).clamp(min=_NEAREST)
        difference = (there.log() - truth.log()).flatten(1)
        mean = difference.sum(1) / count.clamp(min=1)
        # The variance about the mean: a difference of two squares would lose precision
        spread = torch.where(mask.flatten(1), difference - mean[:, None], 0.0).square().sum(1) / count.clamp(min=1)
        error = spread + (1 - variance_focus) * mean.square()
        # The root has no finite gradient at 0
        return _mean_of_images(error.clamp(min=_SMALLEST).sqrt(), count >= 2)


def _residual(prediction: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised prediction minus normalised target (B, H, W), 0 outside the mask, and which images count (B,)."""
    first, _ = _normalised(prediction.float(), mask)
    second, flat = _normalised(target.float(), mask)
    return first - second, (mask.flatten(1).sum(1) >= 2) & ~flat


def _normalised(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(x - median) / mean |x - median| of the masked pixels, 0 elsewhere, and which images are flat (B,).

    A flat image is not divided, so that a prediction that starts flat has a gradient.
    """
    count = mask.flatten(1).sum(1)
    ordered = values.masked_fill(~mask, math.inf).flatten(1).sort(1).values
    median = ordered.gather(1, ((count - 1).clamp(min=0) // 2)[:, None])
    median = torch.where(count[:, None] > 0, median, 0.0)[:, :, None]
    moved = torch.where(mask, values - median, 0.0)
    deviation = moved.abs().flatten(1).sum(1) / count.clamp(min=1)
    flat = deviation <= (_FLAT * median.detach().abs().flatten()).clamp(min=_SMALLEST)
    divisor = torch.where(flat, 1.0, deviation)
    # Dividing by infinity would hide non-finite values
    divisor = torch.where(divisor.isinf(), math.nan, divisor)
    return moved / divisor[:, None, None], flat


def _mean_of_images(losses: Tensor, used: Tensor) -> Tensor:
    """Mean over the batch; images that do not count are 0 and have a gradient of 0."""
    return torch.where(used, losses, 0.0).mean()
