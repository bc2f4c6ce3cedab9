"""The losses of image classification and semantic segmentation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pvtctl.models.structures import IGNORE_LABEL


def classification_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats, computed in fp32 for any type of logits.

    `logits` (B, K). `targets` are (B,) int64 classes, or (B, K) probabilities, as from mixup, cutmix and label smoothing
    (`pvtctl.tasks.classification.mixup.Mixup`).
    """
    return F.cross_entropy(logits.float(), targets)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy in nats over the labelled pixels of a batch, computed in fp32 for any type of logits.

    `logits` (B, K, h, w); `labels` (B, h, w) uint8 or int64, IGNORE_LABEL for unlabelled pixels. A batch without labelled
    pixels gives 0, with a gradient of 0, where a plain mean would be NaN.
    """
    labels = labels.long()
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_LABEL, reduction="sum")
    labelled = torch.count_nonzero(labels != IGNORE_LABEL)
    return total / labelled.clamp(min=1)
