"""The table of a probe: scores over seeds and costs, one group of rows per protocol and data, and its files."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvtctl.cost.counting import Cost, count_own
from pvtctl.engine.run_files import read_info
from pvtctl.errors import PvtctlError
from pvtctl.io.files import without_nan, write_text
from pvtctl.io.names import plural
from pvtctl.io.tables import Strong, csv_text, markdown_line, markdown_table
from pvtctl.latency.measure import Case, Latency
from pvtctl.models.registry import find_backbone
from pvtctl.runs.paper_table import data_label
from pvtctl.runs.read_run import FinishedRun, read_run
from pvtctl.studies.cases import case_of, time_cases
from pvtctl.tasks.registry import spec_of
from pvtctl.views.scatter import Point, ScatterPanel, draw_scatters


@dataclass(frozen=True)
class ProbeRow:
    """One backbone under one protocol."""

    runs: tuple[FinishedRun, ...]
    """One per seed."""
    case: Case
    cost: Cost
    latency: Latency | None = None

    @property
    def name(self) -> str:
        return self.runs[0].recipe.model.backbone.spec

    @property
    def facts(self) -> dict[str, Any]:
        """What its runs say of the probe: `protocol`, `protocol_id`, fingerprints of the `data`, and hash of the `weights`."""
        facts: dict[str, Any] = self.runs[0].info["probe"]
        return facts

    @property
    def data_id(self) -> str:
        """Eight digits that differ between data."""
        return hashlib.sha256(json.dumps(self.facts["data"], sort_keys=True).encode()).hexdigest()[:8]

    @property
    def group(self) -> tuple[str, str]:
        """Rows of equal groups are ranked together."""
        return self.facts["protocol_id"], self.data_id

    @property
    def weights(self) -> str:
        """What the backbone started from."""
        source = self.runs[0].recipe.model.start
        if source is None:
            return "random"
        path = Path(source)
        return path.parent.name if path.name == "best.safetensors" else path.name

    @property
    def scores(self) -> list[float]:
        """The main figure of each seed, in the papers' units."""
        spec = spec_of(self.runs[0].recipe)
        shown = [spec.shown_figures(run.score).get(spec.main_figure) for run in self.runs]
        return [value for value in shown if value is not None and math.isfinite(value)]

    @property
    def score(self) -> float:
        """Mean over the seeds; NaN without a score."""
        return statistics.fmean(self.scores) if self.scores else math.nan

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


@dataclass(frozen=True)
class ProbeTable:
    """All finished rows of a probe's folder, groups by protocol and data, the best first."""

    rows: Sequence[ProbeRow]
    machine: dict[str, Any] = field(default_factory=dict)
    """The machine that times were measured on."""
    problems: Sequence[str] = ()

    @property
    def label(self) -> str:
        """Of the score."""
        spec = spec_of(self.rows[0].runs[0].recipe)
        return spec.figure(spec.main_figure).label

    @property
    def groups(self) -> list[list[ProbeRow]]:
        found: dict[tuple[str, str], list[ProbeRow]] = {}
        for row in self.rows:
            found.setdefault(row.group, []).append(row)
        return list(found.values())


COLUMNS = (
    *("rank", "backbone", "weights", "score", "spread", "seeds", "parameters, M", "multiply-adds, G"),
    *("latency p50, ms", "peak memory, MiB", "image, px", "protocol", "data"),
)


def collect_probe(out: Path, *, seconds: float | None, device: str, say: Callable[[str], None]) -> ProbeTable:
    """Read, count and (with `seconds`) time all finished rows in a probe's folder; one that cannot be read is a problem.

    Raises PvtctlError if no row can be read.
    """
    rows, problems = [], []
    for folder in sorted((out / "rows").iterdir()):
        try:
            paths = sorted(path for path in folder.glob("seed*") if read_info(path).get("status") == "finished")
            if not paths:
                continue
            runs = tuple(read_run(path) for path in sorted(paths, key=lambda path: int(path.name.removeprefix("seed"))))
            case = case_of(runs[0])
            cost = count_own(case.backbone, case.head, case.num_classes, case.options, case.size)
        except (PvtctlError, ValueError) as error:
            problems.append(f"{folder.name} is left out: {error}")
            continue
        rows.append(ProbeRow(runs, case, cost))
    if not rows:
        raise PvtctlError(f"no row of {out} can be read", problems[0] if problems else "run the probe again")
    machine: dict[str, Any] = {}
    if seconds is not None:
        cases = list(dict.fromkeys(row.case for row in rows))
        sizes = [[case for case in cases if case.size == size] for size in dict.fromkeys(case.size for case in cases)]
        found, failed, machine = time_cases(sizes, strict=False, seconds=seconds, device=device, on_progress=say)
        rows = [ProbeRow(row.runs, row.case, row.cost, found.get(row.case)) for row in rows]
        problems += [f"{case.backbone}: {why}" for case, why in failed.items()]
    groups = list(dict.fromkeys(row.group for row in rows))
    lower = _lower_is_better(rows)
    rows.sort(key=lambda row: (groups.index(row.group), _order(row.score, lower)))
    return ProbeTable(rows, machine, problems)


def _order(score: float, lower: bool) -> float:
    return math.inf if math.isnan(score) else score if lower else -score


def _lower_is_better(rows: Sequence[ProbeRow]) -> bool:
    spec = spec_of(rows[0].runs[0].recipe)
    return spec.figure(spec.main_figure).lower_is_better


def numbers(table: ProbeTable) -> list[list[Any]]:
    """The table's rows under COLUMNS, unrounded; ranks begin again in each group."""
    lines = []
    for group in table.groups:
        for rank, row in enumerate(group, 1):
            time = row.latency
            lines.append(
                [
                    rank if len(group) > 1 and not math.isnan(row.score) else None,
                    row.name,
                    row.weights,
                    row.score,
                    row.spread,
                    len(row.runs),
                    row.cost.params / 1e6,
                    row.cost.macs / 1e9,
                    time.p50_ms if time else None,
                    time.peak_memory_bytes / 2**20 if time else None,
                    "{}x{}".format(*row.case.size),
                    row.facts["protocol_id"],
                    row.data_id,
                ]
            )
    return lines


def cells(table: ProbeTable) -> list[list[str]]:
    """The same as text; the best of a group is bold."""
    spec = spec_of(table.rows[0].runs[0].recipe)
    score = spec.digits_of(spec.main_figure)
    digits = {3: score, 4: score, 6: 3, 7: 3, 8: 2, 9: 0}
    rows = []
    for line in numbers(table):
        texts = []
        for at, value in enumerate(line):
            missing = value is None or (isinstance(value, float) and math.isnan(value))
            texts.append("-" if missing else f"{value:.{digits[at]}f}" if at in digits else str(value))
        rows.append([*texts[:3], Strong(texts[3]) if line[0] == 1 else texts[3], *texts[4:]])
    return rows


def notes(table: ProbeTable) -> list[str]:
    """What a reader of the table must know, a sentence each."""
    said = [
        f"score: {table.label}, mean over the seeds of the last weights, on {data_label(table.rows[0].runs[0].recipe)}; "
        "spread: standard deviation over the seeds",
        "backbones are frozen; parameters and multiply-adds are of backbone and head",
    ]
    if len(table.groups) > 1:
        said.append("rows of different protocols or data are not ranked together")
    if random := [row.name for row in table.rows if row.weights == "random"]:
        said.append(f"random weights: {', '.join(dict.fromkeys(random))}")
    for group in table.groups:
        protocol, train = group[0].facts["protocol"], group[0].runs[0].recipe.train
        head = protocol.get("model.head.name", "linear")
        length = plural(train.epochs, "epoch") if train.max_steps is None else plural(train.max_steps, "step")
        size = spec_of(group[0].runs[0].recipe).sizes(group[0].runs[0].recipe).label
        said.append(
            f"protocol {group[0].facts['protocol_id']}: {head}, {length} of batches of {train.total_batch}, images {size}, "
            f"{plural(protocol['views'], 'view')} of each training image, features in {protocol['features']}"
        )
        for one in group[1:]:
            if len(one.runs) != len(group[0].runs):
                said.append(f"{one.name} has {plural(len(one.runs), 'seed')}, {group[0].name} {len(group[0].runs)}")
    return [*said, *table.problems]


def document(table: ProbeTable) -> dict[str, Any]:
    """For JSON: the rows with all scores, protocols and fingerprints."""
    rows = [
        {
            **dict(zip(COLUMNS, line, strict=True)),
            "scores": row.scores,
            "figures": [run.score for run in row.runs],
            "runs": [str(run.path) for run in row.runs],
            "data": row.facts["data"],
            "weights_hash": row.facts["weights"],
        }
        for row, line in zip(table.rows, numbers(table), strict=True)
    ]
    protocols = {row.facts["protocol_id"]: row.facts["protocol"] for row in table.rows}
    plain = {
        "figure": table.label,
        "rows": rows,
        "protocols": protocols,
        "notes": notes(table),
        "machine": table.machine,
    }
    return dict(without_nan(plain))


def write_probe(out: Path, table: ProbeTable) -> dict[str, Path]:
    """Write probe.md, .csv, .json, and scatter.png and .svg if two rows of a group can be drawn."""
    files = {kind: out / f"probe.{kind}" for kind in ("md", "csv", "json")}
    lines = "".join(f"- {markdown_line(note)}\n" for note in notes(table))
    title = f"Probe on {data_label(table.rows[0].runs[0].recipe)}"
    write_text(files["md"], f"# {markdown_line(title)}\n\n{markdown_table(COLUMNS, cells(table), texts=3)}\n{lines}")
    write_text(files["csv"], csv_text([COLUMNS, *numbers(table)]))
    write_text(files["json"], json.dumps(document(table), indent=2, allow_nan=False) + "\n")
    for kind in ("png", "svg"):
        if _draw(out / f"scatter.{kind}", table, title):
            files[f"scatter.{kind}"] = out / f"scatter.{kind}"
    return files


def _draw(path: Path, table: ProbeTable, title: str) -> bool:
    """Draw the largest group: score against parameters, multiply-adds and latency, with Pareto fronts."""
    group = [row for row in max(table.groups, key=len) if not math.isnan(row.score)]
    if len(group) < 2:
        return False
    costs: list[tuple[str, Callable[[ProbeRow], float]]] = [
        ("parameters, M", lambda row: row.cost.params / 1e6),
        ("multiply-adds, G", lambda row: row.cost.macs / 1e9),
        ("latency p50, ms", lambda row: row.latency.p50_ms if row.latency else math.nan),
    ]
    higher = not _lower_is_better(group)
    panels = [
        ScatterPanel(
            [Point(row.name, of(row), row.score, _family(row.name), y_error=row.spread) for row in group],
            label,
            table.label,
            front=True,
            higher_is_better=higher,
        )
        for label, of in costs
        if any(math.isfinite(of(row)) for row in group)
    ]
    draw_scatters(path, panels, title=f"{title}: frozen backbones; dashed: the Pareto front")
    return True


def _family(name: str) -> str:
    spec = find_backbone(name)
    return spec.family if spec is not None else name.partition(":")[0]
