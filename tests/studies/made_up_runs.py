"""Run folders of a study as trained runs leave them, made up in no time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pvtctl.io.files import write_text
from pvtctl.recipe.load import dump
from pvtctl.studies.plan import Run, StudyPlan
from pvtctl.studies.run import failure_file, log_file

SIZES = {"_ap_small": 0.4, "_ap_medium": 1.0, "_ap_large": 1.3, "_ap50": 1.5, "_ap75": 1.1, "_ap": 1.0}


def score_of(run: Run, value: float) -> dict[str, float]:
    """A metric's numbers with `value` (a fraction) as the main one."""
    match run.recipe.task:
        case "classification":
            return {"top1": value, "top5": min(1.0, value + 0.2), "loss": 2.0, "ece": 0.05, "images": 48.0}
        case "depth":
            return {"abs_rel": value, "delta1": 1 - value, "rmse": 0.4, "images": 48.0}
        case _:
            return {f"{kind}{part}": value * by for kind in ("box", "mask") for part, by in SIZES.items()} | {
                "images": 48.0
            }


def finish(run: Run, value: float, *, weights: str | None = None, status: str = "finished", epochs: int = 4) -> None:
    """Leave `run` finished (or as `status` says) with the main score `value`."""
    model = run.recipe.model.model_copy(update={"weights": weights or run.recipe.model.weights})
    recipe = run.recipe.model_copy(update={"model": model})
    score = score_of(run, value)
    classes = {"depth": 0}.get(recipe.task, 12)
    info: dict[str, Any] = {"status": status, "name": recipe.name, "row": recipe.row, "profile": recipe.profile}
    info |= {"task": recipe.task, "version": "0.1.0", "started": "2026-11-21T10:00:00.000+00:00", "finished": None}
    info |= {"num_classes": classes, "precision": "fp32"}
    if status == "finished":
        info |= {"score": score, "finished": "2026-11-21T10:05:00.000+00:00"}
        info["result"] = {"best": score, "best_epoch": epochs, "epochs": epochs, "steps": 10 * epochs, "seconds": 90.0}
    lines = []
    for epoch in range(1, epochs + 1):
        part = score_of(run, value * (1 - 0.6**epoch))
        lines.append(
            {"event": "train", "epoch": epoch, "step": 10 * epoch, "loss": 3.0 / epoch, "seconds": 20.0 * epoch}
        )
        lines.append({"event": "eval", "epoch": epoch, "step": 10 * epoch, "metrics": part, "seconds": 1.0})
    write_text(run.out / "recipe.yaml", dump(recipe))
    write_text(run.out / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_text(run.out / "environment.json", json.dumps([{"cpu": "a CPU", "packages": {"torch": "2"}}]) + "\n")
    write_text(run.out / "run.json", json.dumps(info) + "\n")


def fail(run: Run, reason: str) -> None:
    """Leave `run` failed before it had a folder."""
    write_text(failure_file(run), json.dumps({"reason": reason, "exit_code": 1, "log": str(log_file(run))}) + "\n")
    write_text(log_file(run), f"error: {reason}\n")


def finish_all(plan: StudyPlan, values: Mapping[str, float], *, steps: float = 0.01) -> None:
    """Finish every run: `values` by row (fractions), each further seed `steps` higher; pretrainings reach 0.5."""
    for run in plan.runs:
        if run.kind == "pretraining":
            finish(run, 0.5)
    for row, value in values.items():
        for at, run in enumerate(plan.row_runs(row)):
            before = plan.pretraining_of(run)
            finish(run, value + at * steps, weights=str(before.out) if before else None)
