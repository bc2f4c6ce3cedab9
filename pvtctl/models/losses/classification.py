"""The loss of image classification."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def classification_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats, computed in fp32 for any type of logits.

    `logits` (B, K). `targets` are (B,) int64 classes, or (B, K) probabilities, as from mixup, cutmix and label smoothing
    (`pvtctl.tasks.classification.mixup.Mixup`).
    """
    return F.cross_entropy(logits.float(), targets)
