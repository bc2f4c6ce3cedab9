"""How well the outlines of the classes lie where they are: the boundary F-score of semantic segmentation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.0075
"""Share of the image's diagonal that an outline may be off (Csurka et al., BMVC 2013, section 3)."""
_SLOTS = 16
"""Classes that are dilated together, one a bit of uint16."""


def boundary_scores(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], valid: NDArray[np.bool_], num_classes: int
) -> NDArray[np.float64]:
    """F of each class of one image: (K,) fractions, NaN for a class without an outline in truth and prediction.

    `truth` and `prediction` are (H, W) labels; predictions of K and above are of no class. `valid` (H, W) are the
    labelled pixels: elsewhere there is no outline, of the prediction neither. A pixel lies on the outline of its class
    where one of its four neighbours is of another; the border of the image and that of unlabelled regions are no
    outlines. Precision is the share of the predicted outline within the tolerance of the true one, recall the reverse;
    a class with only one of the two outlines gets 0.
    """
    true_places, true_labels = _outline(truth, valid)
    found_places, found_labels = _outline(prediction, valid)
    true_counts = np.bincount(true_labels, minlength=256)[:num_classes]
    found_counts = np.bincount(found_labels, minlength=256)[:num_classes]
    both = np.flatnonzero((true_counts > 0) & (found_counts > 0))
    recalled, precise = np.zeros(num_classes), np.zeros(num_classes)
    radius = TOLERANCE * math.hypot(*truth.shape)
    for at in range(0, len(both), _SLOTS):
        group = both[at : at + _SLOTS]
        bits = np.zeros(256, np.uint16)
        bits[group] = np.uint16(1) << np.arange(len(group), dtype=np.uint16)
        true_bits, found_bits = bits[true_labels], bits[found_labels]
        near_true = _dilated(_spread(true_places, true_bits, truth.shape), radius).ravel()
        near_found = _dilated(_spread(found_places, found_bits, truth.shape), radius).ravel()
        hits = true_labels[(near_found[true_places] & true_bits) != 0]
        recalled += np.bincount(hits, minlength=256)[:num_classes]
        hits = found_labels[(near_true[found_places] & found_bits) != 0]
        precise += np.bincount(hits, minlength=256)[:num_classes]
    recall, precision = recalled / np.maximum(true_counts, 1), precise / np.maximum(found_counts, 1)
    scores = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return np.where(true_counts + found_counts > 0, scores, np.nan)


def _outline(labels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Flat positions of the pixels on outlines, and their labels."""
    edge = np.zeros(labels.shape, np.bool_)
    across = (labels[1:] != labels[:-1]) & valid[1:] & valid[:-1]
    edge[1:] |= across
    edge[:-1] |= across
    along = (labels[:, 1:] != labels[:, :-1]) & valid[:, 1:] & valid[:, :-1]
    edge[:, 1:] |= along
    edge[:, :-1] |= along
    places = np.flatnonzero(edge)
    return places, labels.ravel()[places]


def _spread(places: NDArray[np.int64], bits: NDArray[np.uint16], shape: tuple[int, ...]) -> NDArray[np.uint16]:
    out = np.zeros(shape, np.uint16)
    out.ravel()[places] = bits
    return out


def _dilated(bits: NDArray[np.uint16], radius: float) -> NDArray[np.uint16]:
    """Each pixel gets the bits of all pixels within `radius`: the disk is laid row by row, from its narrow ends inwards."""
    out, wide = np.zeros_like(bits), bits.copy()
    reached = 0
    for up in range(math.floor(radius), -1, -1):
        half = math.isqrt(math.floor(radius * radius - up * up))
        for step in range(reached + 1, half + 1):
            wide[:, step:] |= bits[:, :-step]
            wide[:, :-step] |= bits[:, step:]
        reached = half
        if up == 0:
            out |= wide
        elif up < len(bits):
            out[up:] |= wide[:-up]
            out[:-up] |= wide[up:]
    return out
