"""The metric of depth: the numbers of the KITTI and NYUv2 evaluations, always with the protocol.

As in those evaluations, each number is the mean over images of the image's own number: an image with
few true pixels counts as much as one with many.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.tasks.dense.data import DenseBatch
from pvtctl.tasks.depth.errors import NUMBERS, crop_box, depth_errors, least_squares, median, whdr

Space = Literal["metres", "inverse"]
Alignment = Literal["none", "median", "scale_shift"]
Crop = Literal["none", "eigen", "garg"]

DISTANCES: NDArray[np.float64] = np.geomspace(0.01, 1000.0, 201)
"""Metres: edges of the bins for errors by distance, 40 per decade."""
WORST_MAPS = 6
"""Images whose predictions are kept."""
LONGEST_MAP = 1280
_UNIT = 2.0**20
"""Errors by distance are summed as integer multiples of 1 / _UNIT, for sums independent of the order of images."""
_NEAREST = 1e-8
"""Inverse depth is at least this much before it is inverted (DPT's floor)."""
_ROW = np.dtype([("index", np.int32), ("pixels", np.int32), *((name, np.float32) for name in NUMBERS)])


@dataclass(frozen=True)
class Distances:
    """Counts and mean errors by distance, for the bins of `DISTANCES`."""

    truth: NDArray[np.int64]
    """True pixels in each bin."""
    predicted: NDArray[np.int64]
    """Pixels with a prediction in each bin."""
    abs_rel: NDArray[np.float64]
    """|prediction - ground truth| / ground truth, mean over the bin's true pixels; NaN without any."""
    bias: NDArray[np.float64]
    """(prediction - ground truth) / ground truth, likewise."""


class DepthMetric:
    """Errors of depth over a data set; stores 44 bytes per image, and the maps of the few worst.

    `space`: outputs are metres, or inverse depth of an unknown scale (larger is nearer). `alignment` fits each output to
    its ground truth first: `median` scales the depth by the ratio of the medians, `scale_shift` fits scale
    and shift by least squares, in inverse depth if the outputs are inverse. Only ground truth between `min_depth` and
    `max_depth` (exclusive) within the `crop` counts, also for the alignment. Predictions are then clamped.
    Without `max_depth`, inverse outputs are limited to the image's deepest ground truth: values at or below 0 would be
    infinitely far away.

    Raises UsageError for inverse depth without alignment, and for an empty range.
    """

    def __init__(
        self,
        *,
        space: Space,
        alignment: Alignment,
        min_depth: float = 1e-3,
        max_depth: float | None = None,
        crop: Crop = "none",
        pairs: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> None:
        if space == "inverse" and alignment == "none":
            raise UsageError(
                "inverse depth of an unknown scale cannot be scored without an alignment",
                "set eval.alignment to scale_shift or median, or model.head.scale_shift for metres",
            )
        if max_depth is not None and not max_depth > min_depth:
            raise UsageError(
                f"there is no depth between {min_depth:g} and {max_depth:g} m", "set max_depth above min_depth"
            )
        self.space, self.alignment, self.crop = space, alignment, crop
        self.min_depth, self.max_depth = min_depth, max_depth
        self.pairs = pairs
        self.without_truth = 0
        """Images without a scored pixel, which are not counted."""
        self.nonfinite = 0
        """Images whose output held values that are not finite: infinite ones were taken for the largest or smallest of the
        output, NaN for 0."""
        self.all_pixels = 0
        """Pixels of the scored images, with and without ground truth."""
        self.wrong_pairs = self.all_pairs = 0
        self._rows: list[NDArray[Any]] = []
        self._seen: set[int] = set()
        self._counts = np.zeros((4, len(DISTANCES) - 1), np.int64)
        self._maps: dict[int, tuple[float, NDArray[np.float16]]] = {}

    def update(self, outputs: Sequence[Tensor], batch: DenseBatch) -> None:
        """Score a batch: `outputs` (H, W) float32 of each image, the size of its ground truth. An image counts once."""
        for output, target, name, index in zip(outputs, batch.targets, batch.ids, batch.indices.tolist(), strict=True):
            if index in self._seen:
                continue
            self._seen.add(index)
            output = output.detach().float()
            if not bool(output.isfinite().all()):
                self.nonfinite += 1
                output = _finite(output)
            if self.pairs is not None and name in self.pairs:
                try:
                    wrong, total = whdr(output, self.pairs[name], self.space)
                except UsageError as error:
                    raise UsageError(f"{name}: {error.message}", error.hint) from error
                self.wrong_pairs += wrong
                self.all_pairs += total
            self._score(output, target.to(output.device), index)

    def _score(self, output: Tensor, target: Tensor, index: int) -> None:
        places = self.valid(target).flatten().nonzero()[:, 0]
        truth, seen = (part.flatten()[places].double() for part in (target, output))
        if not len(truth):
            self.without_truth += 1
            return
        depth = self._fitted(seen, truth, seen)
        row = np.zeros(1, _ROW)
        row["index"], row["pixels"] = index, len(truth)
        for name, value in zip(NUMBERS, depth_errors(depth, truth), strict=True):
            row[name] = value
        self._rows.append(row)
        while len(self._rows) > 1 and len(self._rows[-2]) <= len(self._rows[-1]):  # few large arrays take less memory
            self._rows[-2:] = [np.concatenate(self._rows[-2:])]
        self.all_pixels += target.numel()
        self._count(depth, truth)
        worst = (float(row["abs_rel"][0]), -index)
        if len(self._maps) < WORST_MAPS or worst > min((error, -at) for at, (error, _) in self._maps.items()):
            step = -(-max(target.shape) // LONGEST_MAP)
            metres = self._fitted(seen, truth, output[::step, ::step].double())
            self._keep({**self._maps, index: (worst[0], metres.cpu().numpy().astype(np.float16))})

    def _keep(self, maps: Mapping[int, tuple[float, NDArray[np.float16]]]) -> None:
        """Keep the worst of these maps; of equal ones the first."""
        order = sorted(maps, key=lambda at: (-maps[at][0], at))
        self._maps = {at: maps[at] for at in order[:WORST_MAPS]}

    @property
    def worst_maps(self) -> dict[int, NDArray[np.float16]]:
        """The predictions of the worst images by their index, worst first: metres as scored, float16 (h, w).

        Images with more than `LONGEST_MAP` pixels a side are thinned: every n-th row and column is kept.
        """
        return {index: metres for index, (_, metres) in self._maps.items()}

    def valid(self, target: Tensor) -> Tensor:
        """bool (H, W): the ground-truth pixels that are scored."""
        valid = target.isfinite() & (target > self.min_depth)
        if self.max_depth is not None:
            valid &= target < self.max_depth
        if self.crop != "none":
            top, bottom, left, right = crop_box(self.crop, (target.shape[0], target.shape[1]))
            inside = torch.zeros_like(valid)
            inside[top:bottom, left:right] = True
            valid &= inside
        return valid

    def metres(self, output: Tensor, target: Tensor) -> Tensor:
        """An output (H, W) as scored: aligned to the ground truth, within the limits, float32 metres at every pixel.

        Without any true pixel nothing can be aligned: metres stay as they are, inverse depth as 1 / output.
        """
        output, target = _finite(output.float()), target.to(output.device)
        valid = self.valid(target)
        return self._fitted(output[valid].double(), target[valid].double(), output.double()).float()

    def _fitted(self, seen: Tensor, truth: Tensor, output: Tensor) -> Tensor:
        """`output` in metres, aligned by the values `seen` at the pixels of `truth`; all float64."""
        inverse = self.space == "inverse"
        deepest = self.max_depth
        if deepest is None and inverse and len(truth):
            deepest = float(truth.max())
        if len(truth) and self.alignment == "scale_shift":
            scale, shift = least_squares(seen, 1 / truth if inverse else truth)
            output = scale * output + shift
        if inverse:
            output, seen = 1 / output.clamp(min=_NEAREST), 1 / seen.clamp(min=_NEAREST)
        if len(truth) and self.alignment == "median":
            output = output * (median(truth) / median(seen).clamp(min=_NEAREST))
        return output.clamp(min=self.min_depth, max=deepest)

    def _count(self, depth: Tensor, truth: Tensor) -> None:
        """Add an image to the errors by distance."""
        at, found = (_bin(metres) for metres in (truth, depth))
        error = ((depth - truth) / truth * _UNIT).round().clamp(-1e13, 1e13).long()
        counts = torch.zeros(4, len(DISTANCES) - 1, dtype=torch.int64, device=truth.device)
        ones = torch.ones_like(at)
        for row, (where, what) in enumerate(((at, ones), (found, ones), (at, error.abs()), (at, error))):
            counts[row].index_add_(0, where, what)
        self._counts += counts.cpu().numpy()

    def distances(self) -> Distances:
        """Errors by distance, over all pixels of all images."""
        truth, predicted, absolute, signed = self._counts
        share = 1 / np.where(truth > 0, truth * _UNIT, math.nan)
        return Distances(truth.copy(), predicted.copy(), absolute * share, signed * share)

    def rows(self) -> NDArray[Any]:
        """A record of each scored image: `index` in the split, `pixels`, and `NUMBERS`; sorted by index."""
        rows = np.concatenate([np.zeros(0, _ROW), *self._rows])
        self._rows = [rows[np.argsort(rows["index"], kind="stable")]]
        return self._rows[0]

    def worst(self, count: int) -> NDArray[Any]:
        """The `rows` of largest `abs_rel`, worst first."""
        rows = self.rows()
        return rows[np.lexsort((rows["index"], -rows["abs_rel"].astype(np.float64)))][:count]

    def state(self) -> dict[str, Any]:
        """Everything kept, picklable; what `merge` takes."""
        return {
            "rows": self.rows(),
            "seen": sorted(self._seen),
            "counts": self._counts.copy(),
            "maps": dict(self._maps),
            "sums": (self.without_truth, self.nonfinite, self.all_pixels, self.wrong_pairs, self.all_pairs),
        }

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Replace the state by the sum of `states`, including this metric's; no image may be in two of them."""
        states = list(states)
        self._rows = [state["rows"] for state in states]
        self._seen = {index for state in states for index in state["seen"]}
        self._keep({index: entry for state in states for index, entry in state["maps"].items()})
        self._counts = np.sum([state["counts"] for state in states], axis=0)
        sums = [sum(column) for column in zip(*(state["sums"] for state in states), strict=True)]
        self.without_truth, self.nonfinite, self.all_pixels, self.wrong_pairs, self.all_pairs = sums

    def compute(self) -> dict[str, float]:
        """`NUMBERS`, each the mean over images of the image's own; NaN where no image has a true pixel.

        Also `images` and `pixels` that were scored; `whdr`, the share of all ordinal pairs that are ordered wrongly, where
        there are pairs; and, where there are any, the images `without_truth` and those with `nonfinite` outputs.
        """
        rows = self.rows()
        numbers = {name: float(rows[name].mean(dtype=np.float64)) if len(rows) else math.nan for name in NUMBERS}
        if self.all_pairs:
            numbers["whdr"] = self.wrong_pairs / self.all_pairs
        numbers |= {"images": float(len(rows)), "pixels": float(rows["pixels"].sum(dtype=np.int64))}
        for name, count in (("without_truth", self.without_truth), ("nonfinite", self.nonfinite)):
            if count:
                numbers[name] = float(count)
        return numbers

    def describe(self) -> str:
        """One sentence on the evaluation protocol: space, alignment, crop, cap and which pixels count."""
        inverse = self.space == "inverse"
        alignment = {
            "none": "not aligned",
            "median": "aligned to each image's truth by the median",
            "scale_shift": "aligned to each image's truth by scale and shift",
        }[self.alignment]
        crop = {"none": "no crop", "eigen": "Eigen's crop", "garg": "Garg's crop"}[self.crop]
        if self.max_depth is not None:
            limits = f"truth and prediction from {self.min_depth:g} to {self.max_depth:g} m"
        else:
            cap = ", prediction to the image's deepest truth" if inverse else ""
            limits = f"truth and prediction from {self.min_depth:g} m, no cap{cap}"
        space = "inverse depth" if inverse else "metric depth"
        return f"{space}, {alignment}; {crop}; {limits}; only pixels with a true depth; means over images"


def _bin(metres: Tensor) -> Tensor:
    """int64 (N,): the bin of `DISTANCES` that each falls into; values beyond the range go into the first or last."""
    share = (metres / DISTANCES[0]).log() / math.log(DISTANCES[-1] / DISTANCES[0])
    return (share * (len(DISTANCES) - 1)).clamp(0, len(DISTANCES) - 2).long()


def _finite(output: Tensor) -> Tensor:
    """Infinite values become the largest and smallest of the finite ones, NaN 0."""
    known = output[output.isfinite()]
    if known.numel() == output.numel():
        return output
    low, high = (float(known.min()), float(known.max())) if known.numel() else (0.0, 0.0)
    return output.nan_to_num(0.0, high, low)


__all__ = ["DISTANCES", "LONGEST_MAP", "NUMBERS", "WORST_MAPS", "DepthMetric", "Distances"]
