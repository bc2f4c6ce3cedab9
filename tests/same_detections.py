"""Two lists of detections are the same whatever their order: rounding alone decides which of two nearly equal scores is first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from torch import Tensor


def assert_same_detections(
    found: Any,
    expected: Any,
    *,
    scores: dict[str, float],
    boxes: dict[str, float],
    same_mask: Callable[[int, int], bool] | None = None,
) -> None:
    """Each of `found` has one of `expected` to itself, of its label, its score and its box.

    `found` and `expected` have `scores`, `boxes` and `labels`; a tolerance is {"rtol": ..., "atol": ...}, as torch's
    `assert_close` takes it; `same_mask(i, j)` is asked for the pairs that agree in the rest.
    """
    assert len(found.labels) == len(expected.labels)
    # the best, the second best, ...: these agree in any order
    torch.testing.assert_close(_falling(found.scores), _falling(expected.scores), **scores)
    assert torch.equal(found.scores, _falling(found.scores)), "not best first"
    agree = found.labels[:, None] == expected.labels
    agree &= torch.isclose(found.scores[:, None], expected.scores, **scores)
    agree &= torch.isclose(found.boxes[:, None], expected.boxes, **boxes).all(-1)
    pairs = agree.numpy()
    if same_mask is not None:
        for one, other in np.argwhere(pairs):
            pairs[one, other] = same_mask(int(one), int(other))
    partner = maximum_bipartite_matching(csr_array(pairs), perm_type="column")
    alone = np.flatnonzero(partner < 0)
    told = [(int(at), round(float(found.scores[at]), 7), found.boxes[at].tolist()) for at in alone[:5]]
    assert not len(alone), f"{len(alone)} of {len(partner)} have no partner: {told}"


def _falling(scores: Tensor) -> Tensor:
    return scores.sort(descending=True).values
