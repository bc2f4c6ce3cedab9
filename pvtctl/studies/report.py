"""The report of a study: the paper's table with measured figures, verdicts, pictures, runs and the command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pvtctl
from pvtctl.errors import UsageError
from pvtctl.io.files import without_nan, write_text
from pvtctl.io.names import plural
from pvtctl.io.tables import markdown_line
from pvtctl.latency.machine import describe_machine
from pvtctl.recipe.scale import changes_line
from pvtctl.recipe.source import recipes_folder
from pvtctl.runs.paper_table import differences_from_paper, paper_label
from pvtctl.studies.claims import COUNTED, TIMES, ClaimVerdict, ScoreSample, judge
from pvtctl.studies.costs import ModelCost, study_costs
from pvtctl.studies.pictures import draw_pictures
from pvtctl.studies.plan import StudyPlan, as_typed
from pvtctl.studies.resolution import FIGURE as RESOLUTION
from pvtctl.studies.resolution import with_resolution_loss
from pvtctl.studies.results import OF_PRETRAINING, RowResult, collect_results, pretrainings
from pvtctl.studies.tables import (
    Measured,
    cost_table,
    long_csv,
    markdown,
    measured_cell,
    paper_table,
    run_table,
    verdict_table,
)
from pvtctl.views.report import Report, ReportPicture, ReportTable, Text, write_report

SCHEMA = 1
"""Version of study.json's format."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class StudyReport:
    """Files of the report, and its summary for the terminal."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    caption: str
    verdicts: list[list[str]]
    """Claim, verdict, reason."""
    files: dict[str, Path]
    document: dict[str, Any]
    """study.json."""


def write_study(
    plan: StudyPlan, *, latency: bool = True, device: str | None = None, say: Say = lambda text: None
) -> StudyReport:
    """Write the report of the finished runs: report.html, table.md, table.csv, study.json and figures/ in the study's
    directory.

    `latency` times the paper's models on `device` (default: a GPU if available). Raises UsageError if no row has
    finished, or a run directory contains a run of other settings.
    """
    rows = collect_results(plan)
    if not any(row.finished for row in rows):
        raise UsageError(
            f"no row of {plan.study} at profile {plan.profile} is finished",
            f"pvtctl ablate {plan.study} --profile {plan.profile} runs them",
        )
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    about = plan.about
    if about is not None and any(claim.figure == RESOLUTION for claim in about.claims):
        rows = with_resolution_loss(rows, plan.out, device=device, say=say)
    costs = study_costs(rows, plan.out, latency=latency, device=device, say=say)
    verdicts = verdicts_of(plan, rows, costs)
    all_of = Measured(plan, rows, costs, verdicts, pretrainings(plan))
    say("drawing the figures")
    pictures = draw_pictures(all_of, plan.out / "figures")
    return _write(all_of, pictures, device)


def verdicts_of(plan: StudyPlan, rows: Sequence[RowResult], costs: Mapping[str, ModelCost]) -> list[ClaimVerdict]:
    """The verdicts on all claims of the study."""
    verdicts = []
    for claim in plan.about.claims if plan.about is not None else ():
        samples = {row.row: _sample(row, costs.get(row.row), claim.figure) for row in rows}
        printed = {row.row: row.printed(claim.figure) for row in rows}
        verdicts.append(judge(claim, samples, printed, small=plan.profile != "paper"))
    return verdicts


def _sample(row: RowResult, cost: ModelCost | None, figure: str) -> ScoreSample:
    if figure in (*COUNTED, *TIMES):
        value = cost.value(figure) if cost is not None else None
        if cost is None or value is None:
            return ScoreSample(
                missing=(cost.untimed if cost and figure not in ("params_m", "gmacs") else "") or "not counted"
            )
        if figure in TIMES and cost.timing is not None:
            return ScoreSample((value,), cost.timing.fastest_ms, cost.timing.p90_ms)
        return ScoreSample((value,))
    spread = row.spread(figure)
    missing = f"{row.row}: {row.state}" if row.state else ""
    if spread is not None and not missing and figure not in OF_PRETRAINING and spread.n < len(row.finished):
        missing = f"{row.row}: {spread.n} of {plural(len(row.finished), 'seed')} with a figure"
    if spread is None:
        return ScoreSample(missing=row.state or ("it has no pretraining here" if row.finished else ""))
    return ScoreSample(spread.values, missing=missing)


def _write(all_of: Measured, pictures: dict[str, Path], device: str) -> StudyReport:
    plan, out = all_of.plan, all_of.plan.out
    source = all_of.of_paper(paper_label(all_of.recipe))
    title = f"{': '.join([plan.study, *source])} at profile {plan.profile}"
    warnings = _warnings(all_of)
    tables = [
        paper_table(all_of, ", next to ".join(["What came out here", *source])),
        verdict_table(all_of),
        cost_table(all_of),
        run_table(all_of),
    ]
    if not all_of.verdicts:
        del tables[1]
    commands = [_command(plan)]
    # of the last start of each finished run
    reads = {attempt.run.name: attempt.read for row in all_of.rows for attempt in row.finished}
    starts = {name: read.environment[-1] for name, read in reads.items() if read and read.environment}
    environment = {"machine": describe_machine(device), "runs": starts}
    lead = f"Claim: {plan.about.claim}." if plan.about is not None else f"{all_of.recipe.about or plan.study}."
    report = Report(title, lead, warnings)
    report.parts += [*tables[:-2]]
    report.parts += [ReportPicture(name, path) for name, path in pictures.items() if path.suffix == ".svg"]
    report.parts += [
        *tables[-2:],
        Text("Commands that make this again", "\n".join(commands)),
        Text("Environment", json.dumps(environment, indent=2)),
    ]
    document = _document(all_of, title, warnings, commands, environment)
    files = {"report": out / "report.html", "table": out / "table.md", "csv": out / "table.csv"}
    files["json"] = out / "study.json"
    write_report(files["report"], report)
    write_text(files["table"], _page(report, tables, commands))
    write_text(files["csv"], long_csv(all_of))
    files |= {path.name: path for path in pictures.values()} | {
        path.with_suffix(".png").name: path.with_suffix(".png") for path in pictures.values()
    }
    document["files"] = {name: str(path) for name, path in files.items()}
    document = without_nan(document)
    write_text(files["json"], json.dumps(document, indent=2, allow_nan=False) + "\n")
    verdicts = [[verdict.text, verdict.outcome, verdict.reason] for verdict in all_of.verdicts]
    return StudyReport(title, *_terminal(all_of), verdicts, files, document)


def _warnings(all_of: Measured) -> list[str]:
    """Warnings above the tables."""
    plan = all_of.plan
    told = []
    attempts = all_of.attempts
    done = sum(attempt.status == "finished" for attempt in attempts)
    at_this_scale = plan.about.left_out if plan.about is not None and plan.profile == "mini" else {}
    left = [row for row in plan.rows if row not in plan.picked and row not in at_this_scale]
    if done < len(attempts) or left:
        parts = [f"{done} of {plural(len(attempts), 'run')} have finished"]
        parts += [f"rows not picked: {', '.join(left)}"] if left else []
        told.append(f"Partial results: {'; '.join(parts)}.")
    told += [
        f"Row {row} runs at profile mini only where --rows names it: {why}."
        for row, why in at_this_scale.items()
        if row not in plan.picked
    ]
    if changes := changes_line(plan.profile, plan.changes):
        told.append(f"{changes[0].upper()}{changes[1:]}.")
    if plan.profile != "paper":
        told.append(
            f"The scores are of profile {plan.profile}, a smaller experiment: the order of rows and the sign of margins can be "
            "compared with those of the full one, the level of the scores cannot."
        )
    if plan.profile == "mini" and plan.about is not None:
        told.append(f"What this scale can and cannot show: {plan.about.scale}")
    if other := [attempt for attempt in attempts if attempt.other_weights]:
        begun = "; ".join(f"{attempt.run.name} from {attempt.weights}" for attempt in other)
        told.append(f"Started from other weights than this study's pretraining: {begun}.")
    if reasons := _unlike_the_paper(all_of):
        (full,) = all_of.of_paper("the paper") or ["the study at full size"]
        told.append(f"What differs from {full}: {'; '.join(reasons)}.")
    return told


def _unlike_the_paper(all_of: Measured) -> list[str]:
    reasons: dict[str, None] = {}
    for row in all_of.rows:
        for attempt in row.finished[:1]:
            assert attempt.read is not None  # as it has finished
            classes = int(attempt.read.info.get("num_classes") or 0)
            numbers = {"images": 0.0, **attempt.read.score}
            reasons |= dict.fromkeys(differences_from_paper(attempt.run.recipe, numbers, classes))
            width = attempt.run.recipe.model.backbone.width
            if width != 1:
                reasons[f"backbones {width:g} times as wide"] = None
            if attempt.run.needs and not attempt.other_weights:
                reasons["backbones start from a pretraining of this study's profile, not from ImageNet's"] = None
    return list(reasons)


def _command(plan: StudyPlan) -> str:
    """The command that repeats the study."""
    shipped = plan.source.path.is_relative_to(recipes_folder())
    study, request = plan.study if shipped else str(plan.source.path.absolute()), plan.request
    words = ["pvtctl", "ablate", study, "--profile", plan.profile, "--seeds", str(plan.seeds)]
    words += ["--rows", ",".join(plan.picked)] if plan.picked != plan.rows else []
    words += ["--out", str(plan.out.parent), *(["--pretrain"] if request.pretrain else [])]
    for option, values in (
        ("--weights", [f"{row}={source}" for row, source in request.row_weights.items() if row in plan.picked]),
        ("--set", map(as_typed, request.row_overrides)),
        ("--set-pretraining", map(as_typed, request.pretraining_overrides)),
    ):
        words += [word for value in values for word in (option, value)]
    return shlex.join(words)


def _page(report: Report, tables: Sequence[ReportTable], commands: Sequence[str]) -> str:
    """table.md."""
    parts = [f"# {markdown_line(report.title)}", "", markdown_line(report.lead), ""]
    parts += [line for warning in report.warnings for line in (f"> {markdown_line(warning)}", "")]
    parts += [markdown(table) for table in tables]
    return "\n".join([*parts, "## Commands", "", "```sh", *commands, "```", ""])


def _terminal(all_of: Measured) -> tuple[list[str], list[list[str]], str]:
    """Columns, rows and caption of a table for the terminal: the main score and the costs."""
    score, label = all_of.score, all_of.label(all_of.score)
    scores = [*all_of.of_paper(f"{label}: paper"), f"{label}: here, {all_of.plan.profile}"]
    columns = ["row", *scores, "params M", "GMACs", "latency ms", "trained M"]
    rows = []
    for row in all_of.rows:
        cost, printed = all_of.costs.get(row.row), row.printed(score)
        here = measured_cell(row, cost, score, score)
        if row.recipe is not None and not row.attempts:
            here = row.state
        cells = [row.title, *all_of.of_paper("-" if printed is None else f"{printed:g}"), here]
        for value, digits in (
            (cost and cost.params_m, 1),
            (cost and cost.gmacs, 1),
            (cost and cost.value("latency_ms"), 0),
            (cost and cost.trained_params_m, 2),
        ):
            cells.append("-" if value is None else f"{value:.{digits}f}")
        rows.append(cells)
    caption = (
        f"{label}: mean ± standard deviation over seeds; parameters, multiply-adds and latency are of the models at full size, "
        "`trained M` are the parameters of what was trained here"
    )
    return columns, rows, caption


def _document(
    all_of: Measured, title: str, warnings: Sequence[str], commands: Sequence[str], environment: Mapping[str, Any]
) -> dict[str, Any]:
    plan = all_of.plan
    return {
        "schema": SCHEMA,
        "pvtctl": pvtctl.__version__,
        "study": plan.study,
        "title": title,
        "claim": plan.about.claim if plan.about is not None else None,
        "score": all_of.score,
        "profile": plan.profile,
        "profile_changes": {key: list(pair) for key, pair in plan.changes.items()},
        "seeds": plan.seeds,
        "warnings": list(warnings),
        "figures": {name: all_of.label(name) for name in all_of.figures},
        "rows": [_row_document(row, all_of.costs.get(row.row)) for row in all_of.rows],
        "claims": [asdict(verdict) for verdict in all_of.verdicts],
        "runs": [
            {
                "run": attempt.run.name,
                "kind": attempt.run.kind,
                "row": attempt.run.row,
                "seed": attempt.run.seed,
                "status": attempt.status,
                "reason": attempt.reason,
                "folder": str(attempt.run.out),
                "log": str(attempt.log),
                "epochs": attempt.epochs,
                "images": attempt.images,
                "seconds": attempt.seconds,
                "precision": attempt.precision,
                "weights": attempt.weights,
                "needs": attempt.run.needs,
                "figures": dict(attempt.figures),
            }
            for attempt in [*all_of.pretrainings, *all_of.attempts]
        ],
        "commands": list(commands),
        "environment": dict(environment),
    }


def _row_document(row: RowResult, cost: ModelCost | None) -> dict[str, Any]:
    names = dict.fromkeys([*(name for one in row.finished for name in one.figures), *row.added])
    return {
        "row": row.row,
        "title": row.title,
        "state": row.state or "finished",
        "note": row.note or None,
        "printed": {name: figure.plain_values() for name, figure in row.expect.items()},
        "measured": {
            name: {"mean": spread.mean, "sd": spread.deviation, "n": spread.n, "values": list(spread.values)}
            for name in names
            if (spread := row.spread(name)) is not None
        },
        "cost": asdict(cost) if cost is not None else None,
    }
