"""Which CPU kernels are taken is measured, kept for this machine, and never decided by a file that something damaged."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones import Pvt, ResNet
from pvtctl.models.fast_cpu import calibrate as calibration
from pvtctl.models.fast_cpu import choices as chosen
from pvtctl.models.fast_cpu.choices import Choices, active, before_measurement, choices_file, remember, remembered, use

ALL = replace(before_measurement("AVX512"), packed=True)


@pytest.fixture(autouse=True)
def unmeasured(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that has not been measured."""
    monkeypatch.setenv("PVTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(calibration, "busy_share", lambda: 0.0)
    if "few_numbers" not in request.fixturenames:
        without_computing(monkeypatch)
    before = chosen._chosen
    use(None)
    yield
    use(before)


def without_computing(patch: pytest.MonkeyPatch) -> None:
    """Measurements take no time: all candidates are equally fast, and layers and inputs, which nobody computes, get no values."""
    patch.setattr(calibration, "_race", lambda case, candidates: [1.0] * len(candidates))
    patch.setattr(calibration, "_tokens", torch.empty)
    patch.setattr(calibration, "_map", lambda batch, channels, side: torch.empty(batch, channels, side, side))
    for initialiser in ("kaiming_uniform_", "trunc_normal_"):
        patch.setattr(nn.init, initialiser, lambda tensor, *args, **options: tensor)


@pytest.fixture
def few_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measured layers get small batches and maps, and are called a few times."""
    tokens, image_map = calibration._tokens, calibration._map
    monkeypatch.setattr(calibration, "SECONDS", 0.0)
    monkeypatch.setattr(calibration, "MIN_CALLS", 1)
    monkeypatch.setattr(calibration, "_tokens", lambda batch, number, dim: tokens(1, number, dim))
    monkeypatch.setattr(calibration, "_map", lambda batch, channels, side: image_map(1, channels, min(side, 32)))
    monkeypatch.setattr(calibration, "ResNet", partial(ResNet, base_width=8))
    monkeypatch.setattr(
        calibration, "Pvt", lambda **options: Pvt(**options | {"embed_dims": (8, 8, 8, 8), "num_heads": (1, 1, 1, 1)})
    )


def in_a_new_process() -> Choices:
    use(None)
    return active()


@pytest.mark.parametrize("choices", [Choices(), ALL, before_measurement("AVX2"), Choices(winograd_from=512)])
def test_json_and_back(choices: Choices) -> None:
    assert Choices.from_json(json.loads(json.dumps(asdict(choices)))) == choices


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: None,
        lambda plain: [plain],
        lambda plain: {},
        lambda plain: plain | {"mlp_bytes": -1},
        lambda plain: plain | {"mlp_bytes": 1.5},
        lambda plain: plain | {"mlp_bytes": True},
        lambda plain: plain | {"packed": 1},
        lambda plain: {"other": 1},
    ],
)
def test_other_values_are_not_choices(change: Callable[[dict[str, Any]], Any]) -> None:
    assert Choices.from_json(change(asdict(ALL))) is None


@pytest.mark.parametrize("absent", asdict(ALL))
def test_choices_of_another_version(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or a run of an earlier version has fewer, one of a later version more; it is used, and measured anew."""
    kept = {key: value for key, value in asdict(ALL).items() if key != absent}
    expected = replace(ALL, **{absent: getattr(Choices(), absent)})
    assert Choices.from_json(kept) == Choices.from_json(kept | {"later": 3}) == expected
    remember(ALL, [])
    assert chosen.is_measured()
    content = json.loads(choices_file().read_text())
    choices_file().write_text(json.dumps(content | {"choices": kept}))
    assert remembered() == in_a_new_process() == expected
    assert not chosen.is_measured()
    said: list[str] = []
    calibration.calibrate_once("cpu", said.append)
    assert len(said) == 1
    assert chosen.is_measured()


def test_unmeasured_is_plain_torch() -> None:
    assert active() == Choices()
    assert str(active()) == "PyTorch's own kernels"


def test_kept_for_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(ALL, [])
    assert in_a_new_process() == ALL
    with monkeypatch.context() as other:
        other.setattr(chosen, "cpu_name", lambda: "another")
        assert in_a_new_process() == Choices()
        choices_file().write_bytes(next(choices_file().parent.glob("*")).read_bytes())  # copied there by hand
        assert in_a_new_process() == Choices()
    for variable in ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"):
        with monkeypatch.context() as other:
            other.setenv(variable, "SSE41")  # whatever it is in these tests
            assert in_a_new_process() == Choices()
    monkeypatch.setenv("PVTCTL_FAST_CPU", "0")
    assert in_a_new_process() == Choices()


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"\x00" * 99, b"[]", b"{", b'{"machine": 3}', b"[" * 100_000], ids=range(6))
def test_a_damaged_file_is_measured_again(content: bytes) -> None:
    remember(ALL, [])
    choices_file().write_bytes(content)
    assert in_a_new_process() == Choices()
    assert remembered() is None
    calibration.calibrate()
    assert remembered() is not None


@pytest.mark.slow
def test_it_measures_every_kernel_and_keeps_what_it_found(few_numbers: None) -> None:
    state, seen = torch.get_rng_state(), []
    found = calibration.calibrate(seen.append)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(seen) == len(asdict(Choices())) == len(calibration._STEPS)
    assert all(timing.plain_ms > 0 and timing.fast_ms > 0 for timing in found.timings)
    assert in_a_new_process() == remembered() == found.choices
    kept = json.loads(choices_file().read_text())
    assert [timing["case"] for timing in kept["timings"]] == [timing.case for timing in found.timings]


@pytest.mark.parametrize(("ratio", "taken"), [(0.5, True), (0.96, True), (0.99, False), (1.0, False), (2.0, False)])
def test_what_does_not_win_is_not_taken(ratio: float, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def race(case: object, candidates: Sequence[Choices]) -> list[float]:
        return [1.0, *[ratio] * (len(candidates) - 1)]

    monkeypatch.setattr(calibration, "_race", race)
    monkeypatch.setattr(calibration, "packing_works", lambda: True)
    monkeypatch.setattr(calibration, "other_numbers", lambda: [torch.get_num_threads() + 1])
    found = calibration.calibrate().choices
    assert all(bool(value) is taken for value in asdict(found).values())


def test_a_smaller_gain_is_enough_in_whole_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_race", lambda case, candidates: [1.0, *[0.98] * (len(candidates) - 1)])
    monkeypatch.setattr(calibration, "packing_works", lambda: True)
    found = calibration.calibrate().choices
    taken = {name for name, value in asdict(found).items() if value}
    assert taken == {"packed", "joined_gelu", "onednn_products"}


def test_a_kernel_that_loses_one_case_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = itertools.cycle([0.1, 1.1, 1.1])  # where it loses, it has another try
    monkeypatch.setattr(calibration, "_race", lambda case, candidates: [1.0, *[next(ratios)] * (len(candidates) - 1)])
    monkeypatch.setattr(calibration, "packing_works", lambda: True)
    found = calibration.calibrate().choices
    assert (found.packed, found.folded_norms, found.patch_products) == (False, False, False)


@pytest.mark.parametrize(("ratio", "taken"), [(0.999, True), (1.001, False)])
def test_of_two_ways_with_packed_weights_the_faster_is_taken(
    ratio: float, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def race(case: object, candidates: Sequence[Choices]) -> list[float]:
        first, last = candidates[0], candidates[-1]
        joins = last.joined_gelu and not first.joined_gelu
        return [1.0, *[ratio if joins else 0.5] * (len(candidates) - 1)]

    monkeypatch.setattr(calibration, "_race", race)
    monkeypatch.setattr(calibration, "packing_works", lambda: True)
    assert calibration.calibrate().choices.joined_gelu is taken


def test_a_kernel_that_was_unlucky_once_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = itertools.cycle([1.1, 0.1])
    monkeypatch.setattr(calibration, "_race", lambda case, candidates: [1.0, *[next(ratios)] * (len(candidates) - 1)])
    found = calibration.calibrate()
    assert found.choices.folded_norms
    assert {each.fast_ms for each in found.timings if each.kernel == "folded batch norm"} == {0.1}


def test_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    calibration.calibrate_once("cuda", said.append)
    with monkeypatch.context() as rank:
        rank.setenv("LOCAL_RANK", "0")
        calibration.calibrate_once("cpu", said.append)
    with monkeypatch.context() as off:
        off.setenv("PVTCTL_FAST_CPU", "0")
        calibration.calibrate_once("cpu", said.append)
    use(ALL)
    calibration.calibrate_once("cpu", said.append)
    use(None)
    assert not said
    assert remembered() is None
    threads = torch.get_num_threads()
    for _ in range(2):
        calibration.calibrate_once("cpu", said.append, threads=threads + 1)
        calibration.calibrate_once("cpu", said.append)
    assert len(said) == 2
    assert torch.get_num_threads() == threads


def test_a_busy_machine_is_not_measured_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(calibration, "busy_share", lambda: 0.6)
    calibration.calibrate_once("cpu", said.append)
    assert "other programs use 60%" in said[0]
    assert remembered() is None
    assert active() == Choices()


def test_a_cache_that_cannot_be_written_costs_only_the_memory(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    said: list[str] = []
    found = calibration.calibrate(said.append)
    assert active() == found.choices
    assert "not kept" in said[-1]


def test_nothing_is_measured_where_all_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVTCTL_FAST_CPU", "0")
    with pytest.raises(UsageError, match="is 0"):
        calibration.calibrate()
