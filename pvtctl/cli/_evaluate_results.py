"""What `pvtctl eval coco --results FILE` does: score detections that are already made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pvtctl.cli._choose import choose_data, runs_root
from pvtctl.cli._console import say
from pvtctl.cli._evaluate import print_account, show_account
from pvtctl.errors import UsageError


def run_results(
    target: str,
    folder: Path | None,
    files: Mapping[str, Path | None],
    results: Path,
    *,
    backend: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Score and show. Images are only looked at for pictures: without them there are none. Raises PvtctlError."""
    import torch

    from pvtctl.data import find_data
    from pvtctl.data.detection import open_detection_split
    from pvtctl.engine.environment import describe_environment
    from pvtctl.metrics.coco_results import score_results
    from pvtctl.recipe.schema import DetectionData
    from pvtctl.tasks.detection_report import DetectionAccount
    from pvtctl.tasks.reports import Findings, write_findings
    from pvtctl.tasks.results import Figure, coco_label

    data = choose_data(target, folder, files)
    if data.name != "coco":
        raise UsageError(
            f"--results are COCO detections, and {target} is in {data.name} layout", "pvtctl eval coco ..."
        )
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file", "name a folder, which is made where it is not there")
    images, annotations = (data.files.get(key) for key in ("val_images", "val_annotations"))
    dataset = open_detection_split(
        "coco",
        Path() if annotations else find_data("coco", data.path),
        "val",
        detection=DetectionData().model_dump(),
        training=False,
        with_masks=True,
        images=images,
        annotations=annotations,
        need_images=False,
    )
    metric = score_results(
        dataset.class_names, dataset.category_ids, dataset.to_coco(), results, backend=backend or "auto"
    )
    numbers = metric.compute()
    account = DetectionAccount(dataset, metric, {})
    shown = {name: value for name, value in numbers.items() if name.startswith(("box_", "mask_"))}
    findings = Findings(
        title=f"{results.name} on {data.label or data.path or 'coco'}",
        lead=f"{results}, {int(numbers['images'])} images, {int(numbers['detections'])} detections",
        figures=[Figure(name, coco_label(name), 100 * value, None, None, True) for name, value in shown.items()],
        differences=[],
        recipe={},
        environment=describe_environment(torch.device("cpu")),
        notes=account.notes(),
    )
    if out is None and not as_json:
        out = runs_root() / f"eval-{results.stem}"
    written: dict[str, Path] = {}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        pictures = account.pictures(out)
        written = {"report": write_findings(out / "report.html", findings, account, pictures), **pictures}
        written["classes"] = account.write_classes(out)
    if as_json:
        chosen: dict[str, Any] = {"results": str(results)}
        print_account(numbers, account, findings, written, chosen=chosen)
        return
    say(f"scored by {metric.backend}")
    show_account(account, findings, written)
