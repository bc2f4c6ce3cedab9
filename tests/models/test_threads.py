"""Another number of threads than torch's own is tried, taken where it is faster, and never where the user has set one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from pvtctl.models.fast_cpu import calibrate as calibration
from pvtctl.models.fast_cpu import choices as chosen
from pvtctl.models.fast_cpu import threads
from pvtctl.models.fast_cpu.choices import Choices, machine_key, remember, remembered, use
from pvtctl.models.fast_cpu.threads import other_numbers, own_threads, take_threads

OWN = 3


@pytest.fixture(autouse=True)
def torchs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch has chosen OWN threads, on a machine that has not been measured."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PVTCTL_CACHE", str(tmp_path))
    monkeypatch.setattr(threads, "_taken", None)
    before, choices = torch.get_num_threads(), chosen._chosen
    torch.set_num_threads(OWN)
    use(None)
    yield
    use(choices)
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("usable", "cores", "allowed", "others"),
    [
        (3, 3, None, []),
        (8, 4, None, [4, 8]),
        (6, 3, None, [6]),
        (6, None, None, [6]),
        (64, 32, 4, [4]),
        (64, 32, 3, []),
        (4, 4, 9, [4]),
    ],
)
def test_what_else_is_tried(
    usable: int, cores: int | None, allowed: int | None, others: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "cpus_usable", lambda: usable)
    monkeypatch.setattr(threads, "cores_usable", lambda: cores)
    monkeypatch.setattr(threads, "cpus_allowed", lambda: allowed)
    assert other_numbers() == others
    monkeypatch.setenv("OMP_NUM_THREADS", str(OWN))
    assert other_numbers() == []


def test_the_machine_stays_the_same_with_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = machine_key()
    take_threads(0)
    assert torch.get_num_threads() == OWN
    for number in (2, 5):
        take_threads(number)
        assert torch.get_num_threads() == number
        assert own_threads() == OWN
        assert machine_key() == machine
    torch.set_num_threads(4)
    assert own_threads() == 4, "the user has changed it"
    monkeypatch.setenv("MKL_NUM_THREADS", "4")
    take_threads(2)
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(("ratio", "taken"), [(0.5, 5), (0.99, 0), (1.2, 0)])
def test_the_faster_number_is_taken_and_kept(ratio: float, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def race(case: object, candidates: Sequence[Choices]) -> list[float]:
        raced.append(tuple(each.threads for each in candidates))
        return [ratio if each.threads == 5 else 1.0 for each in candidates]

    raced: list[tuple[int, ...]] = []
    monkeypatch.setattr(calibration, "_race", race)
    monkeypatch.setattr(calibration, "busy_share", lambda: 0.0)
    monkeypatch.setattr(calibration, "other_numbers", lambda: [5, 7])
    calibration.calibrate_once("cpu", lambda text: None)
    assert {(OWN, 5), (taken or OWN, 7)} <= set(raced)
    assert {number for each in raced for number in each} <= {OWN, 5, 7, taken}
    assert (torch.get_num_threads(), own_threads()) == (taken or OWN, OWN)
    kept = remembered()
    assert kept is not None
    assert kept.threads == taken


def test_a_number_that_the_user_names_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_race", lambda case, candidates: [1.0] * len(candidates))
    monkeypatch.setattr(calibration, "busy_share", lambda: 0.0)
    remember(Choices(threads=5), [])
    calibration.calibrate_once("cpu", lambda text: None, threads=2)
    assert torch.get_num_threads() == OWN
    calibration.calibrate_once("cuda", lambda text: None)
    assert torch.get_num_threads() == OWN
    calibration.calibrate_once("cpu", lambda text: None)
    assert torch.get_num_threads() == 5
