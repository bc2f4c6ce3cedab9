"""Body of `pvtctl eval`: score the plan and show the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._console import print_json, table
from pvtctl.cli.eval import EvalOptions
from pvtctl.cli.eval._plan import EvalPlan, make_eval_plan
from pvtctl.cli.pretrain import differences_line, one_voice, say_skipped
from pvtctl.io.console import say
from pvtctl.io.files import require_place

if TYPE_CHECKING:
    from pvtctl.engine import Distributed
    from pvtctl.runs.evaluate import Scored
    from pvtctl.runs.report import ReportContent
    from pvtctl.tasks.base import EvaluationReport


def run_evaluation(options: EvalOptions) -> None:
    """Score and show the results. Raises PvtctlError."""
    from pvtctl.engine import read_info, start_distributed, stop_distributed
    from pvtctl.runs.evaluate import score_recipe

    plan = make_eval_plan(options)
    dist = start_distributed(options.device)
    try:
        with one_voice(dist):
            if plan.out is not None:
                require_place(plan.out)
            # a run uses its own precision; published figures are best reproduced in fp32
            precision = read_info(plan.found.source).get("precision", "fp32")
            scored = score_recipe(plan.recipe, plan.head, dist, precision=precision, partial=options.partial, say=say)
            if dist.is_main:
                _show(plan, options, scored, dist)
    finally:
        stop_distributed()


def _show(plan: EvalPlan, options: EvalOptions, scored: Scored, dist: Distributed) -> None:
    from pvtctl.engine.environment import describe_environment
    from pvtctl.runs.paper_table import ComparedFigure, compare_with_paper, data_label, paper_label
    from pvtctl.runs.report import ReportContent

    recipe, task = plan.recipe, scored.task
    numbers = scored.metric.compute()
    figures, differences = compare_with_paper(recipe, numbers, len(task.val.class_names))
    if (published := plan.found.published_top1) is not None:
        top1 = 100 * numbers["top1"]
        figures.append(
            ComparedFigure("top1_published", "top-1, % (as published)", top1, None, published, not differences)
        )
    report = task.report(scored.metric)
    head = f" + {recipe.model.head.name}" if recipe.model.head else ""
    findings = ReportContent(
        title=f"{recipe.model.backbone.spec}{head} on {data_label(recipe)}",
        lead=f"{plan.found.source} ({plan.found.why}), {int(numbers['images'])} images",
        figures=figures,
        differences=differences,
        recipe=recipe.model_dump(mode="json"),
        environment=describe_environment(dist.device),
        skipped=scored.skipped,
        paper=paper_label(recipe),
        notes=report.notes(),
    )
    chosen = {
        "weights": plan.found.source,
        "why": plan.found.why,
        "backbone": recipe.model.backbone.spec,
        "head": recipe.model.head and recipe.model.head.name,
        "published_top1": published and published / 100,
    }
    data = {
        "name": recipe.data.name,
        "path": recipe.data.path or recipe.data.val_annotations,
        "images": len(task.val),
        "classes": len(task.val.class_names),
        **task.spec.sizes(recipe).scored,
        "skipped": scored.skipped,
    }
    files = write_evaluation(plan.out, report, findings, report.files)
    show_evaluation(numbers, report, findings, files, as_json=options.as_json, chosen=chosen, data=data)


def write_evaluation(
    out: Path | None,
    report: EvaluationReport,
    findings: ReportContent,
    write_files: Callable[[Path], dict[str, Path]],
) -> dict[str, Path]:
    """Write report.html, its pictures and other files into `out`, if there is one."""
    from pvtctl.runs.report import write_findings

    if out is None:
        return {}
    out.mkdir(parents=True, exist_ok=True)
    pictures = report.pictures(out)
    files = {"report": write_findings(out / "report.html", findings, report, pictures), **pictures}
    return files | write_files(out)


def show_evaluation(
    numbers: Mapping[str, float],
    report: EvaluationReport,
    findings: ReportContent,
    files: Mapping[str, Path],
    *,
    as_json: bool,
    **more: Any,
) -> None:
    """Print the tables of an evaluation and the paths of its files, or one JSON document."""
    from pvtctl.runs.paper_table import result_rows

    if as_json:
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
        return
    caption = differences_line(report.score, findings.paper, findings.differences)
    table(findings.title, *result_rows(findings.figures), caption=caption)
    table(*report.terminal())
    for text in findings.notes:
        say(f"note: {text}")
    say_skipped(findings.skipped)
    for name, path in files.items():
        print(f"{name.lower()}: {path}")
