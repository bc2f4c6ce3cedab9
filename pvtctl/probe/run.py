"""Run a probe: for each backbone its features, once, then its heads, one run per seed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pvtctl
from pvtctl.engine import Distributed, Progress, RunFolder, fit, read_info
from pvtctl.engine.log import Say, silent
from pvtctl.engine.run import FREE_KEYS
from pvtctl.errors import UsageError
from pvtctl.extensions import keep_copies
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.io.names import plural
from pvtctl.io.stop import Stopped, StopRequests, stopped_by
from pvtctl.models.backbones import prepare_backbones
from pvtctl.models.fast_cpu.choices import active
from pvtctl.models.fast_cpu.levers import lay_out
from pvtctl.models.layers.shapes import without_values
from pvtctl.probe.cache import FeatureCache
from pvtctl.probe.plan import FEATURES, ProbedBackbone, ProbePlan, check_plan
from pvtctl.probe.split import FeatureSplit, feature_split
from pvtctl.recipe.load import keys_of_other_heads
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.data_task import DataTask
from pvtctl.tasks.from_recipe import build_task, extensions_of, fit_settings, open_split
from pvtctl.tasks.registry import spec_of
from pvtctl.weights.describe import HeadClasses
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.save import save_safetensors

_AGAIN = "run the same command to continue"
_WAIT_SECONDS = 0.5


def run_probe(plan: ProbePlan, dist: Distributed, say: Say) -> None:
    """Train what is not finished, each run in its own directory (`ProbePlan.run_folder`).

    Raises UsageError for settings and heads that features cannot be kept for and for models that cannot be built or whose weights
    do not fit, before the first is probed, and Stopped after saving.
    """
    check_plan(plan)
    pending = [backbone for backbone in plan.backbones if _unfinished(plan, backbone)]
    done = len(plan.backbones) - len(pending)
    each = f"{plural(plan.seeds, 'seed')} each"
    say(f"probe: {plural(len(plan.backbones), 'backbone')}, {each}; {done} of {len(plan.backbones)} done")
    if not pending:
        return
    _check_models(pending)
    with _Meter(plan, pending) as meter:
        for backbone in pending:
            try:
                _probe(plan, backbone, dist, meter, say)
            except Stopped as stopped:
                stopped.hint = _AGAIN
                raise


def _unfinished(plan: ProbePlan, backbone: ProbedBackbone) -> list[int]:
    """Seeds whose run has not finished."""
    folders = {seed: plan.run_folder(backbone, seed) for seed in range(plan.seeds)}
    return [seed for seed, folder in folders.items() if read_info(folder).get("status") != "finished"]


def _check_models(pending: Sequence[ProbedBackbone]) -> None:
    """Build each model as shapes and load its weights, so that what does not fit is refused before the first is probed.

    Raises UsageError.
    """
    names = open_split(pending[0].recipe, "val", "evaluate").class_names or None  # depth has none
    classes = HeadClasses(len(names or ()), names)
    for backbone in pending:
        recipe = backbone.recipe
        with without_values():
            model = spec_of(recipe).new_model(recipe, classes)
        if recipe.model.start is not None:
            load_checkpoint(model, recipe.model.start, class_names=names)
        prepare_backbones(model, spec_of(recipe).sizes(recipe).training)


class _Meter(Progress):
    """Progress of the whole probe in images: those whose features are computed, and those that heads see."""

    def __init__(self, plan: ProbePlan, pending: Sequence[ProbedBackbone]) -> None:
        recipe = pending[0].recipe
        train, val = len(open_split(recipe, "train", "train")), len(open_split(recipe, "val", "evaluate"))
        heads = sum(len(_unfinished(plan, backbone)) for backbone in pending)
        features = sum(backbone.views * train + val for backbone in pending)
        super().__init__("probe", features + heads * (recipe.train.epochs * train + val), unit="images")
        self.note = ""

    def seen(self, images: int) -> None:
        """Images of the current part."""
        self.advance(self.note, by=images)


def _probe(plan: ProbePlan, backbone: ProbedBackbone, dist: Distributed, meter: _Meter, say: Say) -> None:
    """The features of a backbone and the heads of all seeds on them."""
    meter.note = f"{backbone.name}, features"
    say(f"{backbone.name}: {backbone.recipe.model.start or 'random weights'}")
    task = build_task(backbone.recipe, device=dist.device, say=say)
    model: Any = lay_out(task.model.to(dist.device).eval(), dist.device)
    weights = _weights_digest(model.backbone)
    train, val = _features(plan, backbone, task, weights, meter)
    for seed in _unfinished(plan, backbone):
        meter.note = f"{backbone.name}, seed {seed}"
        facts = {
            "protocol": backbone.protocol,
            "protocol_id": backbone.protocol_id,
            "data": task.fingerprints(),
            "weights": weights,
            "features": FEATURES,
        }
        began = time.monotonic()
        recipe = backbone.of_seed(seed)
        head = _head_on(recipe, train, val, dist)
        score = _train_head(plan.run_folder(backbone, seed), head, recipe, dist, facts, model.backbone)
        shown = ", ".join(f"{name} {score[name]:.4g}" for name in task.headline if name in score)
        say(f"{backbone.name}, seed {seed}: {shown} ({time.monotonic() - began:.0f} s)")


def _features(
    plan: ProbePlan, backbone: ProbedBackbone, task: DataTask, weights: str, meter: _Meter
) -> tuple[FeatureSplit, FeatureSplit]:
    """The features of both splits, computed where they are not on disk."""
    cache = FeatureCache(plan.cache, plan.cache_bytes)
    with StopRequests() as stop:

        def go_on() -> None:
            if stop.code:
                stopped = stopped_by(stop.code, meter.note)
                stopped.hint = _AGAIN
                raise stopped

        def wait() -> None:
            go_on()
            time.sleep(_WAIT_SECONDS)

        def computed(images: int) -> None:
            meter.seen(images)
            go_on()

        with cache.opened(_key(backbone, task, weights), wait) as entry:
            told = {"computed": computed, "used": meter.seen}
            train = feature_split(entry, "train", task.train, task.model, views=backbone.views, **told)
            return train, feature_split(entry, "val", task.val, task.model, views=1, **told)


def _key(backbone: ProbedBackbone, task: DataTask, weights: str) -> str:
    """Everything that the features depend on: weights, pixels and their sizes, data, and how they are computed."""
    recipe = backbone.recipe
    head = recipe.model.head
    parts = {
        "format": 1,
        "weights": weights,
        "backbone": recipe.model.backbone.plain_values(),
        "head": None if head is None else repr(head),
        "data": recipe.data.plain_values() | {"path": None, "workers": None},
        "pixels": str(task.val.normalization),
        "fingerprints": task.fingerprints(),
        "numbers": [
            FEATURES,
            pvtctl.__version__,
            torch.__version__,
            asdict(active()),
            str(next(task.model.parameters()).device),
        ],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", errors="surrogatepass")).hexdigest()[:24]


def _weights_digest(module: nn.Module) -> str:
    """Hash of names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _head_on(recipe: Recipe, train: FeatureSplit, val: FeatureSplit, dist: Distributed) -> DataTask:
    """The task of a seed with a new head on features; its model has no backbone, so that checkpoints are small."""
    bare = recipe.model_copy(update={"model": recipe.model.model_copy(update={"weights": None})})
    task = build_task(bare, device=dist.device, say=silent)
    model: Any = task.model
    model.backbone = nn.Module()
    task.train, task.val = train, val
    return task


def _train_head(
    out: Path, task: DataTask, recipe: Recipe, dist: Distributed, facts: dict[str, Any], backbone: nn.Module
) -> dict[str, float]:
    """Train one head in its run directory, or resume it; the score of its last weights.

    Raises UsageError if the run was begun with other data or weights.
    """
    before = read_info(out).get("probe")
    for what in ("data", "weights"):
        if before is not None and before.get(what) != facts[what]:
            raise UsageError(f"the {what} of the run in {out} are not those of today", "choose another --out")

    def save(path: Path, module: nn.Module, meta: CheckpointMeta) -> None:
        """With the backbone, as a model that every command reads."""
        state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
        save_safetensors(path, state | module.state_dict(), meta)

    free = [*FREE_KEYS, *keys_of_other_heads(recipe)]
    notes = {"data": facts["data"], "kernels": asdict(active())}
    resume = (out / "run.json").is_file()
    with RunFolder.open(out, recipe.plain_values(), resume=resume, dist=dist, notes=notes, free_keys=free) as run:
        if used := extensions_of(recipe):
            keep_copies(used, run.path)
            run.record(modules=[extension.as_meta() for extension in used])
        run.record(num_classes=len(task.class_names), probe=facts)
        result = fit(task, fit_settings(recipe, 1), run, dist, save_weights=save, talk=silent)
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
        return result.metrics
