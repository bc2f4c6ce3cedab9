"""Body of `pvtctl eval`: score the plan and show the results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._console import print_json, table
from pvtctl.cli._train import differences_line, one_voice, say_skipped
from pvtctl.cli.eval._plan import EvalOptions, EvalPlan, make_eval_plan
from pvtctl.io.console import say
from pvtctl.io.files import require_place

if TYPE_CHECKING:
    from pvtctl.engine import Distributed
    from pvtctl.recipe.schema import Recipe
    from pvtctl.runs.report import ReportContent
    from pvtctl.tasks.base import EvaluationReport
    from pvtctl.tasks.data_task import DataTask


def run_evaluation(options: EvalOptions) -> None:
    """Score and show the results. Raises PvtctlError."""
    from pvtctl.engine import start_distributed, stop_distributed

    plan = make_eval_plan(options)
    dist = start_distributed(options.device)
    try:
        with one_voice(dist):
            _evaluate(plan, options, dist)
    finally:
        stop_distributed()


def _evaluate(plan: EvalPlan, options: EvalOptions, dist: Distributed) -> None:
    from pvtctl.engine import read_info
    from pvtctl.runs.evaluate import score_recipe

    if plan.out is not None:
        require_place(plan.out)
    # a run uses its own precision; published figures are best reproduced in fp32
    precision = read_info(plan.found.source).get("precision", "fp32")
    scored = score_recipe(plan.recipe, plan.head, dist, precision=precision, partial=options.partial, say=say)
    if dist.is_main:
        _show(plan, options, scored.task, scored.metric, scored.skipped, dist)


def _show(
    plan: EvalPlan, options: EvalOptions, task: DataTask, metric: Any, skipped: dict[str, str], dist: Distributed
) -> None:
    from pvtctl.engine.environment import describe_environment
    from pvtctl.runs.paper_table import ComparedFigure, compare_with_paper, data_label, paper_label
    from pvtctl.runs.report import ReportContent, write_findings

    numbers = metric.compute()
    figures, differences = compare_with_paper(plan.recipe, numbers, len(task.val.class_names))
    if (published := plan.found.published_top1) is not None:
        top1 = 100 * numbers["top1"]
        figures.append(
            ComparedFigure("top1_published", "top-1, % (as published)", top1, None, published, not differences)
        )
    report = task.report(metric)
    head = f" + {plan.recipe.model.head.name}" if plan.recipe.model.head else ""
    findings = ReportContent(
        title=f"{plan.recipe.model.backbone.spec}{head} on {data_label(plan.recipe)}",
        lead=f"{plan.found.source} ({plan.found.why}), {int(numbers['images'])} images",
        figures=figures,
        differences=differences,
        recipe=plan.recipe.plain_values(),
        environment=describe_environment(dist.device),
        skipped=skipped,
        paper=paper_label(plan.recipe),
        notes=report.notes(),
    )
    files: dict[str, Path] = {}
    if plan.out is not None:
        plan.out.mkdir(parents=True, exist_ok=True)
        pictures = report.pictures(plan.out)
        files = {"report": write_findings(plan.out / "report.html", findings, report, pictures), **pictures}
        files |= report.files(plan.out)
    if options.as_json:
        chosen = {
            "weights": plan.found.source,
            "why": plan.found.why,
            "backbone": plan.recipe.model.backbone.spec,
            "head": plan.recipe.model.head and plan.recipe.model.head.name,
            "published_top1": plan.found.published_top1 and plan.found.published_top1 / 100,
        }
        print_evaluation(numbers, report, findings, files, chosen=chosen, data=_data(plan.recipe, task, skipped))
    else:
        show_evaluation(report, findings, files)


def show_evaluation(report: EvaluationReport, findings: ReportContent, files: Mapping[str, Path]) -> None:
    """Print the tables of an evaluation and the paths of its files."""
    from pvtctl.runs.paper_table import result_rows

    caption = differences_line(report.score, findings.paper, findings.differences)
    table(findings.title, *result_rows(findings.figures), caption=caption)
    table(*report.terminal())
    for text in findings.notes:
        say(f"note: {text}")
    say_skipped(findings.skipped)
    for name, path in files.items():
        print(f"{name.lower()}: {path}")


def print_evaluation(
    numbers: Mapping[str, float],
    report: EvaluationReport,
    findings: ReportContent,
    files: Mapping[str, Path],
    **more: Any,
) -> None:
    """Print the results as one JSON document."""
    print_json(
        {
            "metrics": numbers,
            **more,
            **report.document(),
            "notes": list(findings.notes),
            "environment": findings.environment,
            "files": {name: str(path) for name, path in files.items()},
        }
    )


def _data(recipe: Recipe, task: DataTask, skipped: dict[str, str]) -> dict[str, Any]:
    return {
        "name": recipe.data.name,
        "path": recipe.data.path or recipe.data.val_annotations,
        "images": len(task.val),
        "classes": len(task.val.class_names),
        **task.spec.sizes(recipe).scored,
        "skipped": skipped,
    }
