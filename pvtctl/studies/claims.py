"""Test a paper's claims about its table: the margin between two rows against its spread over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pvtctl.recipe.schema import Claim
from pvtctl.tasks.registry import is_error

Outcome = Literal["holds", "does not hold", "not decided at this scale"]
HOLDS: Outcome = "holds"
FAILS: Outcome = "does not hold"
UNDECIDED: Outcome = "not decided at this scale"

COUNTED = ("params_m", "gmacs", "train_memory_gib", "inference_memory_gib")
"""Deterministic figures, for which one value is enough."""
TIMES = ("latency_ms", "time_ms")
CONFIDENCE = 0.95


def lower_is_better(figure: str) -> bool:
    """Whether lower values are better: costs, errors and losses, but not `delta1` and accuracies."""
    return figure in (*COUNTED, *TIMES, "resolution_loss") or is_error(figure)


@dataclass(frozen=True)
class ScoreSample:
    """The measured values of a figure for one row."""

    values: tuple[float, ...] = ()
    """Scores: one per seed. Counted figures: one."""
    low: float | None = None
    """Times: the fastest call and the 90th percentile."""
    high: float | None = None
    missing: str = ""
    """Why values are missing."""


@dataclass(frozen=True)
class ClaimVerdict:
    """A claim of the paper and its verdict."""

    text: str
    figure: str
    rows: str
    """`pvt_small against resnet50`, or `pvt_small above 32`."""
    outcome: Outcome
    reason: str
    """One sentence."""
    margin: float | None = None
    """Margin of the first row, in the figure's unit; positive as the paper claims."""
    error: float | None = None
    """Standard error of the margin over seeds."""
    interval: tuple[float, float] | None = None
    """At 95 %."""
    printed: float | None = None
    """The paper's margin."""


def judge(
    claim: Claim, samples: Mapping[str, ScoreSample], printed: Mapping[str, float | None], *, small: bool
) -> ClaimVerdict:
    """Test `claim` on the rows' `samples`.

    `printed` are the paper's figures; with `small`, the scores are of a smaller experiment than the paper's and
    cannot be compared with a bound.
    """
    blank = ClaimVerdict(claim.text, claim.figure, _rows(claim), UNDECIDED, "", printed=_printed_margin(claim, printed))
    names = [name for name in (claim.better, claim.worse, claim.row) if name is not None]
    found = [samples.get(name, ScoreSample(missing="missing")) for name in names]
    for name, sample in zip(names, found, strict=True):
        if not sample.values or not all(math.isfinite(value) for value in sample.values):
            return replace(blank, reason=f"{name}: {sample.missing or 'no such figure was measured'}")
    if claim.figure in COUNTED:
        margin = _margin(claim, [sample.values[0] for sample in found])
        how = "measured once" if claim.figure == "inference_memory_gib" else "computed"
        reason = f"{how} at full size: no spread"
        return replace(blank, outcome=HOLDS if margin > 0 else FAILS, margin=margin, reason=reason)
    if claim.figure in TIMES:
        return _by_time(claim, blank, found)
    if claim.row is not None and small:
        return replace(blank, reason="the bound is one of full scale, which no small experiment can be held to")
    return _by_seeds(claim, blank, found)


def _rows(claim: Claim) -> str:
    if claim.row is not None:
        return f"{claim.row} above {claim.above:g}" if claim.above is not None else f"{claim.row} below {claim.below:g}"
    return f"{claim.better} against {claim.worse}"


def _margin(claim: Claim, values: Sequence[float]) -> float:
    """Signed margin, positive as the paper claims."""
    if claim.above is not None:
        return values[0] - claim.above
    if claim.below is not None:
        return claim.below - values[0]
    ahead = values[0] - values[1]
    return -ahead if lower_is_better(claim.figure) else ahead


def _printed_margin(claim: Claim, printed: Mapping[str, float | None]) -> float | None:
    names = [name for name in (claim.better, claim.worse, claim.row) if name is not None]
    values = [printed.get(name) for name in names]
    known = [value for value in values if value is not None]
    # decimals of few digits: 18.8 - 19.3 must give 0.5
    return round(_margin(claim, known), 6) if len(known) == len(names) else None


def _by_time(claim: Claim, blank: ClaimVerdict, found: Sequence[ScoreSample]) -> ClaimVerdict:
    margin = _margin(claim, [sample.values[0] for sample in found])
    edges = [(sample.low, sample.high) for sample in found]
    if any(low is None or high is None for low, high in edges):
        return replace(blank, margin=margin, reason="one time each: no spread")
    spans = [(low, high) for low, high in edges if low is not None and high is not None]
    if claim.row is not None:
        bound = claim.above if claim.above is not None else claim.below
        spans.append((bound, bound))  # type: ignore[arg-type]  # the schema requires one of them
    (low, high), (other_low, other_high) = spans
    if low <= other_high and other_low <= high:
        return replace(blank, margin=margin, reason="the fastest to 90th percentile ranges of the calls overlap")
    outcome = HOLDS if margin > 0 else FAILS
    return replace(blank, outcome=outcome, margin=margin, reason="the calls' times do not overlap; of this machine")


def _by_seeds(claim: Claim, blank: ClaimVerdict, found: Sequence[ScoreSample]) -> ClaimVerdict:
    margin = _margin(claim, [statistics.fmean(sample.values) for sample in found])
    missing = "; ".join(sample.missing for sample in found if sample.missing)
    lacking = f" ({missing})" if missing else ""
    if any(len(sample.values) < 2 for sample in found):
        return replace(blank, margin=margin, reason=f"one seed: no spread{lacking}")
    if all(len(set(sample.values)) == 1 for sample in found):  # a coarse figure, or seeds without effect
        reason = f"all seeds gave the very same figure: no spread to judge by{lacking}"
        return replace(blank, margin=margin, reason=reason)
    error, interval = _welch(margin, [sample.values for sample in found])
    blank = replace(blank, margin=margin, error=error, interval=interval)
    seeds = " and ".join(dict.fromkeys(str(len(sample.values)) for sample in found))
    tail = f" over {seeds} seeds{lacking}"
    if interval[0] > 0:
        return replace(blank, outcome=HOLDS, reason=f"the 95 % interval of the margin lies above 0{tail}")
    if interval[1] < 0:
        return replace(blank, outcome=FAILS, reason=f"the 95 % interval of the margin lies below 0{tail}")
    return replace(blank, reason=f"the 95 % interval of the margin holds 0{tail}")


def _welch(margin: float, groups: Sequence[Sequence[float]]) -> tuple[float, tuple[float, float]]:
    """Standard error of a difference of means (or of one mean), and Welch's t interval at 95 % around the margin.

    The values must not be all the same.
    """
    shares = [(statistics.variance(values) / len(values), len(values)) for values in groups]
    variance = sum(share for share, _ in shares)
    from scipy.stats import t

    freedom = variance**2 / sum(share**2 / (n - 1) for share, n in shares)
    error = math.sqrt(variance)
    reach = float(t.ppf(0.5 + CONFIDENCE / 2, freedom)) * error
    return error, (margin - reach, margin + reach)
