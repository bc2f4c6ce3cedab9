"""Body of `pvtctl eval`: score the plan, or existing detections, and show the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._console import print_json, print_text, table
from pvtctl.cli._resolve_recipe import choose_data
from pvtctl.cli.eval import EvalOptions
from pvtctl.cli.eval._plan import EvalPlan, make_eval_plan
from pvtctl.cli.pretrain import differences_line, one_voice, say_skipped
from pvtctl.errors import UsageError
from pvtctl.io.console import say
from pvtctl.io.files import require_place
from pvtctl.io.foreign import BadFile, foreign, read_json
from pvtctl.io.names import plural
from pvtctl.runs.paths import runs_root

if TYPE_CHECKING:
    from pvtctl.engine import Distributed
    from pvtctl.runs.evaluate import Scored
    from pvtctl.runs.report import ReportContent
    from pvtctl.tasks.base import EvaluationReport
    from pvtctl.tasks.detection.coco import CocoAnnotations


def run_evaluation(options: EvalOptions) -> None:
    """Score and show the results. Raises PvtctlError."""
    from pvtctl.engine import start_distributed, stop_distributed
    from pvtctl.models.fast_cpu.calibrate import calibrate_once

    plan = make_eval_plan(options)
    dist = start_distributed(options.device)
    calibrate_once(dist.device.type, say)
    try:
        with one_voice(dist):
            _evaluate(plan, options, dist)
    finally:
        stop_distributed()


def _evaluate(plan: EvalPlan, options: EvalOptions, dist: Distributed) -> None:
    from pvtctl.engine import read_info
    from pvtctl.inference import EngineName
    from pvtctl.runs.evaluate import score_recipe

    if plan.out is not None:
        require_place(plan.out)
    # a run uses its own precision; published figures are best reproduced in fp32
    precision = read_info(plan.found.source).get("precision", "fp32")
    engine = options.engine or EngineName.torch
    scored = score_recipe(
        plan.recipe, plan.head, dist, precision=precision, partial=options.partial, engine=engine, say=say
    )
    if dist.is_main:
        _show(plan, options, scored, dist)


def _show(plan: EvalPlan, options: EvalOptions, scored: Scored, dist: Distributed) -> None:
    from pvtctl.engine.environment import describe_environment
    from pvtctl.runs.paper_table import ComparedFigure
    from pvtctl.runs.report import report_content

    recipe, task = plan.recipe, scored.task
    numbers, report = scored.metric.compute(), task.report(scored.metric)
    findings = report_content(
        recipe,
        numbers,
        task,
        report,
        model=recipe.model.backbone.spec,
        lead=f"{plan.found.source} ({plan.found.why}), {plural(int(numbers['images']), 'image')}, by {scored.computed}",
        environment=describe_environment(dist.device),
        skipped=scored.skipped,
    )
    if (published := plan.found.published_top1) is not None:
        top1, comparable = 100 * numbers["top1"], not findings.differences
        findings.figures.append(
            ComparedFigure("top1_published", "top-1, % (as published)", top1, None, published, comparable)
        )
    chosen = {
        "weights": plan.found.source,
        "why": plan.found.why,
        "backbone": recipe.model.backbone.spec,
        "head": recipe.model.head and recipe.model.head.name,
        "published_top1": published and published / 100,
        "engine": scored.engine,
        "precision": scored.precision,
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
        print_text(f"{name.lower()}: {path}")


def run_results(options: EvalOptions, results: Path) -> None:
    """Score and show the results. Images are only needed for pictures. Raises PvtctlError."""
    import torch

    from pvtctl.data.find import find_data
    from pvtctl.engine.environment import describe_environment
    from pvtctl.runs.paper_table import ComparedFigure
    from pvtctl.runs.report import ReportContent
    from pvtctl.tasks.detection.data import open_detection_split
    from pvtctl.tasks.detection.report import DetectionReport
    from pvtctl.tasks.detection.scoring.results import score_results
    from pvtctl.tasks.detection.settings import DetectionData
    from pvtctl.tasks.registry import task_spec

    data = choose_data(options.target, options.folder, options.files)
    if data.name != "coco":
        raise UsageError(
            f"--results are COCO detections, and {options.target} is in {data.name} layout", "pvtctl eval coco ..."
        )
    out = options.out
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file", "name a folder; it is created if missing")
    images, annotations = (data.files.get(key) for key in ("val_images", "val_annotations"))
    dataset = open_detection_split(
        "coco",
        Path() if annotations else find_data("coco", data.path),
        "val",
        settings=DetectionData(),
        training=False,
        with_masks=True,
        images=images,
        annotations=annotations,
        need_images=False,
    )
    _check_ids(results, dataset.annotations)
    names, ids, limit = dataset.class_names, dataset.category_ids, options.max_detections
    backend = options.backend or "auto"
    metric = score_results(names, ids, dataset.to_coco(), results, backend=backend, max_detections=limit)
    numbers = metric.compute()
    report = DetectionReport(dataset, metric, {})
    spec = task_spec("detection")
    findings = ReportContent(
        title=f"{results.name} on {data.label or data.path or 'coco'}",
        lead=f"{results}, {plural(int(numbers['images']), 'image')}, {plural(int(numbers['detections']), 'detection')}",
        figures=[
            ComparedFigure(name, spec.figure(name).label, value, None, None, True)
            for name, value in spec.shown_figures(numbers).items()
        ],
        environment=describe_environment(torch.device("cpu")),
        notes=report.notes(),
    )
    if out is None and not options.as_json:
        out = runs_root() / f"eval-{results.stem}"
    files = write_evaluation(out, report, findings, lambda folder: {"classes": report.write_classes(folder)})
    if not options.as_json:
        say(f"scored by {metric.backend}")
    show_evaluation(numbers, report, findings, files, as_json=options.as_json, chosen={"results": str(results)})


def _check_ids(results: Path, truth: CocoAnnotations) -> None:
    """Raise UsageError if the image ids of `predict` do not match those of the annotations."""
    numbered = results.parent / "images.json"
    if results.name != "detections.json" or not numbered.is_file():
        return
    theirs: dict[int, str] = {}
    with suppress(BadFile), foreign(numbered):  # if it is not a file written by predict
        theirs = {int(one["id"]): Path(one["file_name"]).name for one in read_json(numbered, dict)["images"]}
    ours = {int(number): Path(name).name for number, name in zip(truth.image_ids, truth.file_names, strict=True)}
    for number, name in theirs.items():
        if number in ours and ours[number] != name:
            raise UsageError(
                f"{results} has other image ids than the annotations: image {number} is {name} in {numbered}, "
                f"and {ours[number]} in the annotations",
                "score the model itself: pvtctl eval coco --images DIR --annotations FILE --weights ...",
            )
