"""The loss of image classification."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def classification_loss(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy in nats, computed in fp32 whatever the logits' type.

    `logits` (B, K). `targets` are (B,) int64 classes, or (B, K) probabilities from mixup and cutmix, where smoothing
    before or after the mixing is the same because both are linear. `label_smoothing` spreads that share evenly over all
    K classes, as DeiT and the papers' code do.
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
