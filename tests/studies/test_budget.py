"""What is within a budget: limits, published scores at their own size only, and nothing ranked without a score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pvtctl.errors import UsageError
from pvtctl.studies import budget
from pvtctl.studies.budget import line_cells, parse_limits, select_models, to_document, write_selection
from pvtctl.studies.compare import LatencySettings

TIMING = LatencySettings(0.01, "cpu")
SMALL = ("pvt_tiny", "pvt_v2_b0", "pvt_v2_b1", "resnet18")


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("30ms", "latency", 30),
        ("0.5 s", "latency", 500),
        ("5GMACs", "macs", 5),
        ("800mmacs", "macs", 0.8),
        ("25M", "params", 25),
        ("25.5Mparams", "params", 25.5),
        ("512MiB", "memory", 512),
        ("2GiB", "memory", 2048),
    ],
)
def test_limits(text: str, kind: str, value: float) -> None:
    (limit,) = parse_limits([text])
    assert (limit.kind, limit.value) == (kind, pytest.approx(value))


@pytest.mark.parametrize("text", ["", "30", "ms", "-3ms", "0ms", "5GFLOPs", "5 cows", "1e3ms"])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(UsageError, match="no time, multiply-adds, parameters or memory") as caught:
        parse_limits([text])
    assert ("half as many GMACs" in (caught.value.hint or "")) == ("FLOP" in text)


def test_two_limits_of_one_kind() -> None:
    with pytest.raises(UsageError, match="second limit of the latency"):
        parse_limits(["30ms", "1s"])


def test_the_best_published_score_is_first_and_what_is_over_is_named() -> None:
    found = select_models(SMALL, parse_limits(["2GMACs", "13.5M"]), timing=TIMING)
    assert [one.name for one in found.within] == ["pvt_tiny", "pvt_v2_b0", "resnet18"]
    assert [one.name for one in found.over] == ["pvt_v2_b1"]
    assert found.ranked
    scores = [one.score for one in found.within]
    assert scores == sorted(scores, key=lambda score: -(score or 0))
    assert all(one.within(found.limits) for one in found.within)
    assert [line[0] for line in line_cells(found)] == ["1", "2", "3"]
    assert any(note == "over the budget: pvt_v2_b1 at 224x224" for note in found.notes)
    assert all("PVT" in one.source for one in found.within)


def test_a_score_holds_at_its_own_size_only() -> None:
    found = select_models(SMALL[:2], parse_limits(["2GMACs"]), sizes=[(192, 192), (224, 224)], timing=TIMING)
    assert [(one.size[0], one.score is None) for one in found.within] == [(224, False)] * 2 + [(192, True)] * 2
    assert [line[0] for line in line_cells(found)] == ["1", "2", "-", "-"]
    assert any(note.startswith("without a published score") for note in found.notes)
    other = select_models(SMALL[:2], parse_limits(["2GMACs"]), sizes=[(192, 192)], timing=TIMING)
    assert not other.ranked
    assert [one.name for one in other.within] == ["pvt_v2_b0", "pvt_tiny"]  # the cheapest first
    assert {line[0] for line in line_cells(other)} == {"-"}
    assert any("nothing is ranked" in note for note in other.notes)


@pytest.mark.parametrize("head", ["retinanet", "semantic_fpn"])
def test_scores_with_a_head_are_those_of_its_table(head: str) -> None:
    found = select_models(["pvt_tiny", "pvt_small"], parse_limits(["1000GMACs"]), head=head, timing=TIMING)
    known = {one.name: one.score for one in found.within}
    assert known["pvt_tiny"] == {"retinanet": 36.7, "semantic_fpn": 35.7}[head]
    assert known["pvt_small"] > known["pvt_tiny"]  # type: ignore[operator]


def test_without_any_score_nothing_is_ranked(tmp_path: Path) -> None:
    found = select_models(["pvt_tiny@0.25"], parse_limits(["5GMACs"]), timing=TIMING)
    assert not found.ranked
    files = write_selection(tmp_path, found)
    assert set(files) == {"md", "csv", "json"}
    said = json.loads(files["json"].read_text())
    assert said["ranked"] is False
    assert said["rows"][0]["rank"] is None


def test_nothing_within() -> None:
    found = select_models(["pvt_tiny"], parse_limits(["1MMACs"]), timing=TIMING)
    assert not found.within
    assert found.notes[0] == "nothing is within 1MMACs"
    assert to_document(found)["rows"] == []


def test_all_backbones_without_those_that_cannot_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    count = budget.count

    def some(name: str, size: tuple[int, int], **options: object) -> object:
        if name != "pvt_tiny":
            raise RuntimeError("this one\ncannot")
        return count(name, size, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(budget, "count", some)
    found = select_models(None, parse_limits(["5GMACs"]), timing=TIMING)
    assert [one.name for one in found.within] == ["pvt_tiny"]
    assert any(note == "resnet18 at 224x224 is left out: this one" for note in found.notes)
    with pytest.raises(UsageError, match="no model could be counted"):
        select_models(["resnet18"], parse_limits(["5GMACs"]), timing=TIMING)


def test_only_what_may_be_within_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def time_cases(groups: object, **options: object) -> object:
        timed.extend(case.backbone for group in groups for case in group)  # type: ignore[attr-defined]
        return {}, {case: "not timed: no memory" for group in groups for case in group}, {}  # type: ignore[attr-defined]

    monkeypatch.setattr(budget, "time_cases", time_cases)
    found = select_models(SMALL[:2], parse_limits(["1GMACs", "30ms"]), timing=TIMING)
    assert timed == ["pvt_v2_b0"]
    assert [one.name for one in (*found.within, *found.over)] == ["pvt_tiny"]
    assert any("pvt_v2_b0 is left out: not timed" in note for note in found.notes)


@pytest.mark.draws
def test_files_and_picture(tmp_path: Path) -> None:
    found = select_models(SMALL, parse_limits(["2GMACs", "13.5M"]), timing=TIMING)
    files = write_selection(tmp_path, found)
    assert set(files) == {"md", "csv", "json", "scatter.png", "scatter.svg"}
    assert all(path.stat().st_size > 100 for path in files.values())
