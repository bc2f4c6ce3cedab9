"""`pvtctl eval coco --results FILE`: score existing detections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pvtctl.cli._resolve_recipe import choose_data
from pvtctl.cli.eval import EvalOptions
from pvtctl.cli.eval._score import show_evaluation, write_evaluation
from pvtctl.errors import UsageError
from pvtctl.io.console import say
from pvtctl.runs.paths import runs_root

if TYPE_CHECKING:
    from pvtctl.tasks.detection.coco import CocoAnnotations


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
    metric = score_results(
        dataset.class_names, dataset.category_ids, dataset.to_coco(), results, backend=options.backend or "auto"
    )
    numbers = metric.compute()
    report = DetectionReport(dataset, metric, {})
    spec = task_spec("detection")
    findings = ReportContent(
        title=f"{results.name} on {data.label or data.path or 'coco'}",
        lead=f"{results}, {int(numbers['images'])} images, {int(numbers['detections'])} detections",
        figures=[
            ComparedFigure(name, spec.figure(name).label, value, None, None, True)
            for name, value in spec.shown_figures(numbers).items()
        ],
        differences=[],
        recipe={},
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
    try:
        theirs = {
            int(one["id"]): Path(one["file_name"]).name for one in json.loads(numbered.read_text("utf-8"))["images"]
        }
    except (ValueError, KeyError, TypeError):  # not a file written by predict
        return
    ours = {int(number): Path(name).name for number, name in zip(truth.image_ids, truth.file_names, strict=True)}
    for number, name in theirs.items():
        if number in ours and ours[number] != name:
            raise UsageError(
                f"{results} has other image ids than the annotations: image {number} is {name} in {numbered}, "
                f"and {ours[number]} in the annotations",
                "score the model itself: pvtctl eval coco --images DIR --annotations FILE --weights ...",
            )
