"""Verdicts: properties that no sample may break, and the papers' own figures."""

from __future__ import annotations

import math
import random

import pytest
from scipy.stats import ttest_ind

from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Claim
from pvtctl.recipe.source import read_recipe
from pvtctl.studies.claims import (
    FAILS,
    HOLDS,
    UNDECIDED,
    ClaimVerdict,
    ScoreSample,
    judge,
    lower_is_better,
)
from pvtctl.studies.plan import study_names

PAIR = Claim(text="a beats b.", figure="box_ap", better="a", worse="b")
OTHER = {HOLDS: FAILS, FAILS: HOLDS, UNDECIDED: UNDECIDED}


def between(first: ScoreSample, second: ScoreSample, figure: str = "box_ap", *, small: bool = True) -> ClaimVerdict:
    claim = Claim(text="a beats b.", figure=figure, better="a", worse="b")
    return judge(claim, {"a": first, "b": second}, {}, small=small)


def random_samples(seed: int) -> tuple[ScoreSample, ScoreSample]:
    rng = random.Random(seed)
    ahead = rng.choice([0.0, 0.5, 3.0])
    sizes = (rng.randint(2, 5), rng.randint(2, 5))
    first, second = (
        tuple(rng.gauss(20 + shift, 1.0) for _ in range(n)) for n, shift in zip(sizes, (ahead, 0.0), strict=True)
    )
    return ScoreSample(first), ScoreSample(second)


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("figure", ["box_ap", "top1_err"])
def test_swapping_the_rows_turns_the_verdict_around(seed: int, figure: str) -> None:
    first, second = random_samples(seed)
    one, other = between(first, second, figure), between(second, first, figure)
    assert other.outcome == OTHER[one.outcome]
    assert one.margin is not None
    assert other.margin == pytest.approx(-one.margin)
    assert one.error == pytest.approx(other.error)


@pytest.mark.parametrize("seed", range(15))
def test_it_holds_where_the_interval_lies_above_nothing_and_the_interval_is_welchs(seed: int) -> None:
    first, second = random_samples(seed)
    verdict = between(first, second)
    assert verdict.interval is not None
    low, high = verdict.interval
    assert (verdict.outcome == HOLDS) == (low > 0)
    assert (verdict.outcome == FAILS) == (high < 0)
    theirs = ttest_ind(first.values, second.values, equal_var=False).confidence_interval(0.95)
    assert (low, high) == pytest.approx((theirs.low, theirs.high))


def test_less_of_an_error_is_better() -> None:
    assert between(ScoreSample((18.0, 18.1)), ScoreSample((30.0, 30.1)), "top1_err").outcome == HOLDS
    assert between(ScoreSample((18.0, 18.1)), ScoreSample((30.0, 30.1)), "top1_acc").outcome == FAILS


@pytest.mark.parametrize(
    ("figure", "lower"),
    [("box_ap", False), ("mask_ap75", False), ("top1_acc", False), ("miou", False), ("delta1", False), ("mean_acc", False)]
    + [(name, True) for name in ("params_m", "gmacs", "latency_ms", "time_ms", "train_memory_gib", "top1_err", "loss")]
    + [(name, True) for name in ("mean_rel", "abs_rel", "rmse", "diw_whdr", "eth3d_absrel", "tum_d125", "resolution_loss")],
)  # fmt: skip
def test_which_way_is_better(figure: str, lower: bool) -> None:
    assert lower_is_better(figure) is lower


@pytest.mark.parametrize("values", [(), (math.nan, math.nan), (20.0, math.inf)])
def test_what_was_not_measured_decides_nothing(values: tuple[float, ...]) -> None:
    verdict = between(ScoreSample(values, missing="failed: out of memory"), ScoreSample((1.0, 2.0)))
    assert verdict.outcome == UNDECIDED
    assert verdict.reason == "a: failed: out of memory"
    assert verdict.margin is None


def test_a_row_that_is_nowhere_decides_nothing() -> None:
    verdict = judge(PAIR, {"a": ScoreSample((1.0, 2.0))}, {"a": 40.0, "b": 30.0}, small=True)
    assert (verdict.outcome, verdict.reason, verdict.printed) == (UNDECIDED, "b: missing", 10.0)


def test_one_seed_has_no_spread() -> None:
    verdict = between(ScoreSample((40.0,)), ScoreSample((10.0, 11.0), missing="b: failed: disk full (1 of 3 seeds)"))
    assert verdict.outcome == UNDECIDED
    assert verdict.reason == "one seed: no spread (b: failed: disk full (1 of 3 seeds))"
    assert verdict.margin == pytest.approx(29.5)
    assert verdict.interval is None


def test_ties() -> None:
    assert between(ScoreSample((20.0, 20.0)), ScoreSample((20.0, 20.0))).outcome == UNDECIDED
    same = between(
        ScoreSample((21.0, 21.0)), ScoreSample((20.0, 20.0))
    )  # equal seeds are no proof that there is no chance
    assert (same.outcome, same.margin, same.interval) == (UNDECIDED, 1.0, None)
    assert "the very same" in same.reason
    assert between(ScoreSample((21.0, 21.0)), ScoreSample((20.0, 20.1))).outcome == HOLDS
    assert between(ScoreSample((34.2,)), ScoreSample((34.2,)), "params_m").outcome == FAILS


def test_counts_decide_at_once() -> None:
    assert between(ScoreSample((34.2,)), ScoreSample((60.8,)), "params_m").outcome == HOLDS
    assert between(ScoreSample((60.8,)), ScoreSample((34.2,)), "params_m").outcome == FAILS


def test_times_decide_where_they_do_not_overlap() -> None:
    fast, slow, unsteady = (
        ScoreSample((50.0,), 48.0, 55.0),
        ScoreSample((70.0,), 66.0, 80.0),
        ScoreSample((60.0,), 54.0, 90.0),
    )
    assert between(fast, slow, "latency_ms").outcome == HOLDS
    assert between(slow, fast, "latency_ms").outcome == FAILS
    assert between(fast, unsteady, "latency_ms").outcome == UNDECIDED
    assert between(fast, ScoreSample((70.0,)), "latency_ms").outcome == UNDECIDED


def test_bounds() -> None:
    memory = Claim(text="It needs more than 32 GB.", figure="train_memory_gib", row="a", above=32)
    assert judge(memory, {"a": ScoreSample((48.8,))}, {}, small=True).outcome == HOLDS
    assert judge(memory, {"a": ScoreSample((12.0,))}, {}, small=True).outcome == FAILS
    score = Claim(text="It reaches 40.", figure="box_ap", row="a", above=40)
    assert judge(score, {"a": ScoreSample((45.0, 46.0, 45.5))}, {"a": 40.4}, small=True).outcome == UNDECIDED
    verdict = judge(score, {"a": ScoreSample((45.0, 46.0, 45.5))}, {"a": 40.4}, small=False)
    assert (verdict.outcome, verdict.printed) == (HOLDS, pytest.approx(0.4))
    below = Claim(text="It takes less than 60 ms.", figure="latency_ms", row="a", below=60)
    assert judge(below, {"a": ScoreSample((50.0,), 48.0, 55.0)}, {}, small=True).outcome == HOLDS
    assert judge(below, {"a": ScoreSample((58.0,), 55.0, 65.0)}, {}, small=True).outcome == UNDECIDED


@pytest.mark.parametrize("name", study_names())
def test_claims_hold_in_the_papers_own_figures(name: str) -> None:
    source = read_recipe(name.replace("-", "_"))
    assert source.study is not None
    for claim in source.study.claims:
        expect = {row: load_recipe(source.name, row).expect.get(claim.figure) for row in source.rows}
        printed = {row: figure.paper if figure else None for row, figure in expect.items()}
        margin = judge(claim, {}, printed, small=False).printed
        assert margin is None or margin > 0, claim.text
