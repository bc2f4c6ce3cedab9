"""Boundary F-score of semantic segmentation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOLERANCE = 0.0075
"""Share of the image's diagonal within which outlines match (Csurka et al., BMVC 2013, section 3)."""
_SLOTS = 15
"""Classes that are dilated together, one per bit of int16."""


def boundary_scores(truth: Tensor, prediction: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Boundary F of each class in one image: float64 (K,) fractions on the CPU, NaN for a class without any outline.

    `truth` and `prediction` are (H, W) uint8 labels on one device; predictions from K on are of no class. `valid`
    (H, W) bool are the labelled pixels: elsewhere there is no outline, also of the prediction. A pixel is on the
    outline of its class if one of its four neighbours has another; the border of the image and that of unlabelled
    regions are no outlines. Precision is the share of the predicted outline within the tolerance of the true one,
    recall the reverse; a class with only one of the two outlines gets 0.
    """
    true_places, true_labels = _outline(truth, valid)
    found_places, found_labels = _outline(prediction, valid)
    true_counts, found_counts = (_counts(labels, num_classes) for labels in (true_labels, found_labels))
    both = torch.nonzero((true_counts > 0) & (found_counts > 0))[:, 0]
    recalled, precise = (torch.zeros(num_classes, dtype=torch.float64) for _ in range(2))
    radius = TOLERANCE * math.hypot(*truth.shape)
    for group in torch.split(both, _SLOTS):
        bits = torch.zeros(256, dtype=torch.int16)
        bits[group] = (1 << torch.arange(len(group))).to(torch.int16)
        bits = bits.to(truth.device)
        true_bits, found_bits = bits[true_labels], bits[found_labels]
        near_true = _dilated(_spread(true_places, true_bits, truth.shape), radius).flatten()
        near_found = _dilated(_spread(found_places, found_bits, truth.shape), radius).flatten()
        recalled += _counts(true_labels[(near_found[true_places] & true_bits) != 0], num_classes)
        precise += _counts(found_labels[(near_true[found_places] & found_bits) != 0], num_classes)
    recall, precision = recalled / true_counts.clamp(min=1), precise / found_counts.clamp(min=1)
    scores = 2 * precision * recall / (precision + recall).clamp(min=1e-300)
    return torch.where(true_counts + found_counts > 0, scores, math.nan)


def _outline(labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Flat positions of the pixels on outlines, and their labels, both int64."""
    edge = torch.zeros_like(valid)
    across = (labels[1:] != labels[:-1]) & valid[1:] & valid[:-1]
    edge[1:] |= across
    edge[:-1] |= across
    along = (labels[:, 1:] != labels[:, :-1]) & valid[:, 1:] & valid[:, :-1]
    edge[:, 1:] |= along
    edge[:, :-1] |= along
    places = torch.nonzero(edge.flatten())[:, 0]
    return places, labels.flatten()[places].long()


def _counts(labels: Tensor, num_classes: int) -> Tensor:
    return torch.bincount(labels, minlength=256)[:num_classes].cpu()


def _spread(places: Tensor, bits: Tensor, shape: torch.Size) -> Tensor:
    out = torch.zeros(shape, dtype=torch.int16, device=bits.device)
    out.view(-1)[places] = bits
    return out


def _dilated(bits: Tensor, radius: float) -> Tensor:
    """Dilate by a disk: each pixel gets the bits of all pixels within `radius`; row by row from the narrow ends."""
    height, width = bits.shape
    out, wide = torch.zeros_like(bits), bits.clone()
    reached = 0
    for up in range(math.floor(radius), -1, -1):
        half = math.isqrt(math.floor(radius * radius - up * up))
        for step in range(reached + 1, min(half, width - 1) + 1):
            wide[:, step:] |= bits[:, :-step]
            wide[:, :-step] |= bits[:, step:]
        reached = half
        if up == 0:
            out |= wide
        elif up < height:
            out[up:] |= wide[:-up]
            out[:-up] |= wide[up:]
    return out
