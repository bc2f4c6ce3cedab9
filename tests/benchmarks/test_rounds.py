"""When the benchmark says that a CPU kernel loses: not by chance, and not by next to nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import run
from run import is_faster


@pytest.mark.parametrize(
    ("ratios", "faster"),
    [
        ([0.9] * 5, True),
        ([0.9] * 4, False),  # one in sixteen by chance
        ([0.9] * 4 + [1.1], False),
        ([0.9] * 26 + [1.2] * 14, True),
        ([0.9] * 25 + [1.2] * 15, False),
        ([0.99] * 40, False),
        ([1.1] * 40, False),
    ],
)
def test_another_is_faster_in_more_rounds_than_by_chance(ratios: list[float], faster: bool) -> None:
    assert is_faster(ratios) is faster
    assert is_faster(ratios[::-1]) is faster


class Contestant:
    """Takes ten seconds a turn, `ours` five."""

    alive, most = 0, 0

    def __init__(self, name: str, case: object, *, keep_memory: bool) -> None:
        self.name, self.seconds, self.parts = name, [], {}
        self.process = SimpleNamespace(pid="self", kill=self._end)
        type(self).alive += 1
        type(self).most = max(self.most, self.alive)

    def _end(self) -> None:
        type(self).alive -= 1

    def read(self) -> str:
        return "ready"

    def turn(self) -> None:
        self.seconds.append(5.0 if self.name == "ours" else 10.0)

    def finish(self) -> int:
        return 2**20


@pytest.mark.parametrize(("available", "together"), [(None, 4), (2**60, 4), (0, 2)])
def test_as_many_at_a_time_as_memory_holds(
    monkeypatch: pytest.MonkeyPatch, available: int | None, together: int
) -> None:
    monkeypatch.setattr(run, "Contestant", Contestant)
    monkeypatch.setattr("pvtctl.io.machine.available_memory", lambda: available)
    monkeypatch.setattr(Contestant, "most", 0)
    rows = run.run_case(run.Case("any", "ours", ("a", "b", "c")), same_allocator=True, turns=2)
    assert [row["contestant"] for row in rows] == ["ours (ours)", "a", "b", "c"]
    assert [row["ratio"] for row in rows] == [1, 2, 2, 2]
    assert (Contestant.most, Contestant.alive) == (together, 0)


@pytest.mark.parametrize(("available", "room"), [(9, False), (14, False), (15, True)])
def test_what_waits_for_its_turn_gets_back_what_it_gave(
    monkeypatch: pytest.MonkeyPatch, available: int, room: bool
) -> None:
    """One that keeps its memory, of 8 at its peak, and one that holds 1 of 5 while it waits."""
    held = {("VmHWM", 1): 8, ("VmRSS", 1): 8, ("VmHWM", 2): 5, ("VmRSS", 2): 1}
    monkeypatch.setattr(run, "_resident", lambda field, process: held[field, process])
    monkeypatch.setattr("pvtctl.io.machine.available_memory", lambda: available)
    assert run.has_room([SimpleNamespace(process=SimpleNamespace(pid=pid)) for pid in (1, 2)]) is room
