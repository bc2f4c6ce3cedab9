"""List of all studies: the paper's finding, cost and progress. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvtctl.io.foreign import BadFile, read_facts, read_text, reason_of
from pvtctl.io.names import plural
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Paper
from pvtctl.studies.plan import DEFAULT_PROFILE, read_study, study_names

_PAPERS = {"pvt_v1": "PVT v1", "pvt_v2": "PVT v2", "dpt": "DPT"}


@dataclass(frozen=True)
class StudyLine:
    """One study."""

    name: str
    paper: str
    """`PVT v1, Table 8`."""
    claim: str
    rows: int
    cost: dict[str, str] = field(default_factory=dict)
    """Cost by profile, as stated in the study."""
    minutes: dict[str, float | None] = field(default_factory=dict)
    """Minutes by profile of all runs and the pretrainings that they start from, in sequence, as measured here; None if
    too little has run."""
    states: dict[str, str] = field(default_factory=dict)
    """State by profile, if anything was run: `4 of 9 runs finished, 1 failed`."""

    def cells(self) -> list[str]:
        """Study, paper, claim, rows, cost at profiles mini and paper, state."""
        state = "; ".join(f"{profile}: {text}" for profile, text in self.states.items())
        costs = [self.cost.get(profile, "-") for profile in (DEFAULT_PROFILE, "paper")]
        return [self.name, self.paper, self.claim, str(self.rows), *costs, state or "-"]


def overview(runs_root: Path) -> list[StudyLine]:
    """All shipped studies, with the state of their runs below the directory `runs_root`."""
    lines = []
    for name in study_names():
        source = read_study(name)
        study = source.study
        assert study is not None  # study_names returns studies only
        recipe = load_recipe(source.name, next(iter(source.rows)))
        minutes: dict[str, float | None] = {}
        states: dict[str, str] = {}
        for profile in source.profiles:
            folder = runs_root / f"{name}-{profile}"
            try:
                minutes[profile] = _minutes(folder, list(source.rows), study.seeds if profile == "mini" else 1)
                state = _state(folder)
            except OSError as error:
                minutes[profile], state = None, f"{folder} {reason_of(error)}"
            if state:
                states[profile] = state
        lines.append(StudyLine(name, _label(recipe.paper), study.claim, len(source.rows), study.cost, minutes, states))
    return lines


def _label(paper: Paper | None) -> str:
    if paper is None:
        return "-"
    part = f", Table {paper.table}" if paper.table else f", Figure {paper.figure}" if paper.figure else ""
    return f"{_PAPERS[paper.key]}{part}"


def _runs(folder: Path) -> list[dict[str, Any]]:
    """run.json of every row's run, with its row; of an unreadable file only these."""
    return [
        {**read_facts(file), "row": file.parent.parent.name, "folder": str(file.parent)}
        for file in sorted(folder.glob("rows/*/*/run.json"))
    ]


def _seconds(info: dict[str, Any]) -> float | None:
    result = info.get("result")
    seconds = result.get("seconds") if isinstance(result, dict) else None
    return float(seconds) if isinstance(seconds, int | float) else None


def _state(folder: Path) -> str:
    runs = _runs(folder)
    done = {info["folder"] for info in runs if info.get("status") == "finished"}
    failures = [str(file).removesuffix(".failure.json") for file in folder.glob("rows/*/*.failure.json")]
    failed = sum(run not in done for run in failures)
    finished = len(done)
    if not runs and not failed:
        return ""
    left = [info for info in runs if info["folder"] not in (*done, *failures)]
    unread = sum("status" not in info for info in left)
    unfinished = len(left) - unread
    parts = [f"{plural(finished, 'run')} finished"]
    parts += [f"{unfinished} begun"] if unfinished else []
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{unread} cannot be read"] if unread else []
    parts += ["report.html written"] if (folder / "report.html").is_file() else []
    return ", ".join(parts)


def _minutes(folder: Path, rows: Sequence[str], seeds: int) -> float | None:
    """Minutes of the whole study, from the times of its runs; every row must have run once."""
    by_row: dict[str, list[float]] = {}
    before: dict[str, float] = {}
    for info in _runs(folder):
        seconds = _seconds(info)
        if info.get("status") == "finished" and seconds is not None:
            by_row.setdefault(info["row"], []).append(seconds)
            before |= _pretraining_seconds(Path(info["folder"]))
    if not set(rows) <= set(by_row):
        return None
    total = sum(seeds * sum(by_row[row]) / len(by_row[row]) for row in rows) + sum(before.values())
    return total / 60


def _pretraining_seconds(run: Path) -> dict[str, float]:
    """Directory -> seconds of the pretraining that a run started from, if pvtctl trained it."""
    try:
        lines = read_text(run / "recipe.yaml").splitlines()
    except BadFile:
        return {}
    begun = next((line.partition(":")[2].strip().strip("'\"") for line in lines if line.startswith("  weights:")), "")
    if not begun or begun == "null":
        return {}
    # the recorded path, or, if the directory of studies was moved, next to the study: STUDIES/STUDY/rows/ROW/seed0
    places = (Path(begun), run.parents[3] / "pretraining" / Path(begun).name)
    seconds = _seconds(next((info for place in places if (info := read_facts(place / "run.json"))), {}))
    return {begun: seconds} if seconds is not None else {}
