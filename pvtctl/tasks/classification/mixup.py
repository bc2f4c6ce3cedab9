"""Mixup and CutMix, with label smoothing in the soft targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pvtctl.data.randomness import key_of
from pvtctl.tasks.classification.settings import Augment


@dataclass(frozen=True)
class Mixup:
    """Mixes a batch with its own reverse: one draw per batch ("batch" mode of the papers' code).

    With both alphas above 0, CutMix is used with probability `mixup_switch_prob`. CutMix's lambda is corrected to the
    box's real area inside the image. With both at 0, or where `mixup_prob` misses, only labels are smoothed. In an odd
    batch the middle image is mixed with itself, i.e. unchanged.
    """

    num_classes: int
    augment: Augment

    def __call__(self, images: Tensor, labels: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and labels int64 (B,) -> mixed images, soft targets float (B, K).

        Random numbers depend only on `key` (`Batch.key`). The input images are not changed.
        """
        smoothing = self.augment.label_smoothing
        off = smoothing / self.num_classes
        targets = torch.full((len(labels), self.num_classes), off, dtype=images.dtype, device=labels.device)
        targets.scatter_(1, labels[:, None], 1.0 - smoothing + off)
        rng = np.random.default_rng(key_of(key, "mixup"))
        cutmix, alpha = self._pick(rng)
        if alpha == 0.0:
            return images, targets
        share = float(rng.beta(alpha, alpha))
        if cutmix:
            images, share = _paste_box(images, share, rng)
        else:
            images = torch.lerp(images.flip(0), images, share)
        return images, torch.lerp(targets.flip(0), targets, share)

    def _pick(self, rng: np.random.Generator) -> tuple[bool, float]:
        """Whether CutMix, and its or mixup's alpha; alpha 0 means that nothing is mixed."""
        apply, switch = rng.random(2)
        own = self.augment
        if apply >= own.mixup_prob:
            return False, 0.0
        cutmix = own.cutmix_alpha > 0 and (own.mixup_alpha == 0 or bool(switch < own.mixup_switch_prob))
        return cutmix, own.cutmix_alpha if cutmix else own.mixup_alpha


def _paste_box(images: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Paste a box of the reversed batch, its sides sqrt(1 - share) of the image's, its centre anywhere in the image.

    Returns the images and the share of each that is still its own."""
    height, width = images.shape[-2:]
    side = (1.0 - share) ** 0.5
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    row, column = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    left, right = max(column - half_width, 0), min(column + half_width, width)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
    return mixed, 1.0 - (bottom - top) * (right - left) / (height * width)
