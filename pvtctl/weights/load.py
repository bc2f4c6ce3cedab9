"""Load a checkpoint into a backbone or classifier and report what happened."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.layers.position import resize_position_table
from pvtctl.weights.head import load_head
from pvtctl.weights.names_timm import timm_bridge_name
from pvtctl.weights.read import Checkpoint, find_state, read_checkpoint
from pvtctl.weights.recognise import convert_state, identify, strip_wrappers
from pvtctl.weights.report import LoadReport, listed, percent
from pvtctl.weights.resolve import resolve_weights

LEAST_SHARE = 0.95
"""A load of less of the backbone's parameters than this is refused."""

# v1 and ViT have these for classification; the dense models of the official code do not.
_CLASSIFICATION_ONLY = ("backbone.class_token", "backbone.norm.weight", "backbone.norm.bias")

Plan = list[tuple[Tensor, Tensor]]
"""(tensor of the module, what to copy into it)"""


def load_weights(
    module: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    *,
    partial: bool = False,
    class_names: Sequence[str] | None = None,
    source_class_names: Sequence[str] | None = None,
) -> LoadReport:
    """Load a checkpoint of ours or of another project into `module`, a Backbone or a Classifier.

    `source`: a file, a run or transformers folder, a published name, or a state dict in any known layout.
    `class_names`: the module's classes, in the order of its head's rows. The file's own names come from its metadata,
    or, where it has none, from `source_class_names`. With both known, head rows are matched by name; otherwise a head
    of equal size is loaded whole and one of another size not at all.
    Position tables of another grid are interpolated. `module` changes only if nothing is raised.

    Raises UsageError for files that are no checkpoint, and, unless `partial`, for files that hold less than 95 % of the
    backbone's parameters, or parts that this backbone has no place for; always when nothing at all fits.
    """
    checkpoint = _checkpoint(source)
    targets = _targets(module)
    state = _named_as(targets, checkpoint)
    models = identify(state)
    report = LoadReport(
        source=str(checkpoint.path) if checkpoint.path else "a state dict",
        format="timm" if _is_bridge(targets) else checkpoint.format,
        model=" or ".join(models) or None,
        nonfinite=[key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()],
        note=_note(checkpoint),
    )
    plan = _plan_backbone(module, targets, state, checkpoint, report)
    _sort_out_rest(targets, state, report)
    head = _head(module)
    names = checkpoint.meta.get("class_names") or source_class_names
    plan += load_head(head, state, class_names, names, report) if head is not None else []
    _refuse_misfit(targets, state, report, partial)
    with torch.no_grad():
        for target, value in plan:
            target.copy_(value)
    return report


def _checkpoint(source: str | Path | Mapping[str, Tensor]) -> Checkpoint:
    if isinstance(source, str | Path):
        return read_checkpoint(resolve_weights(str(source)))
    state, meta = find_state("the state dict", source)
    converted = convert_state(state)
    return Checkpoint(converted.state, converted.format, meta, raw=state)


def _note(checkpoint: Checkpoint) -> str:
    also = checkpoint.meta.get("also_averaged")
    return f"taken from {checkpoint.meta['inside']!r}; the file also holds {', '.join(also)}" if also else ""


def _targets(module: nn.Module) -> dict[str, Tensor]:
    """The module's tensors under checkpoint names: a bare backbone's get `backbone.` before them."""
    prefix = "" if isinstance(getattr(module, "backbone", None), nn.Module) else "backbone."
    return {prefix + key: value for key, value in module.state_dict().items()}


def _head(module: nn.Module) -> nn.Linear | None:
    head = getattr(module, "head", None)
    return head if isinstance(head, nn.Linear) and hasattr(module, "backbone") else None


def _named_as(targets: Mapping[str, Tensor], checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The checkpoint's tensors under checkpoint names.

    A layout that nobody knows gets the module's names where they agree, and so does every file for a `timm:NAME`
    backbone, which holds timm's own model.
    """
    if _is_bridge(targets):
        raw = strip_wrappers(checkpoint.raw)
        ours = any(key.startswith(("backbone.net.", "net.")) for key in raw)
        return {timm_bridge_name(key, targets, ours=ours): value for key, value in raw.items()}
    if checkpoint.format != "unknown":
        return checkpoint.state
    return {f"backbone.{key}" if f"backbone.{key}" in targets else key: v for key, v in checkpoint.state.items()}


def _is_bridge(targets: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("backbone.net.") for name in targets)


def _plan_backbone(
    module: nn.Module,
    targets: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    checkpoint: Checkpoint,
    report: LoadReport,
) -> Plan:
    """Pair each tensor of the module, its classification head apart, with the file's; fills the report's lists."""
    parameters = {name for name, _ in _parameters(module)}
    plan: Plan = []
    for name, target in targets.items():
        if name in ("head.weight", "head.bias"):
            continue
        counts = name.startswith("backbone.") and name in parameters
        report.backbone_total += target.numel() if counts else 0
        value = state.get(name)
        if value is None:
            if not name.endswith("num_batches_tracked"):
                report.missing.append((name, _shape(target)))
            continue
        if value.shape != target.shape and name.endswith("pos_embed"):
            value = _resized(name, value, target, checkpoint, report)
        if value is None or value.shape != target.shape:
            report.mismatched.append((name, f"file {_shape(state[name])}, here {_shape(target)}"))
            continue
        plan.append((target, value))
        report.loaded.append(name)
        report.backbone_loaded += target.numel() if counts else 0
    return plan


def _parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    prefix = "" if isinstance(getattr(module, "backbone", None), nn.Module) else "backbone."
    return ((prefix + name, parameter) for name, parameter in module.named_parameters())


def _resized(name: str, table: Tensor, target: Tensor, checkpoint: Checkpoint, report: LoadReport) -> Tensor | None:
    """A position table interpolated to the module's grid; None when the grids cannot be told."""
    if table.ndim != 3 or table.shape[0] != 1 or table.shape[2] != target.shape[2]:
        return None
    extra = 1 if name in ("backbone.pos_embed", "backbone.stages.3.pos_embed") else 0  # the class token's slot
    source_grid = _grid(table.shape[1] - extra)
    grid = _grid(target.shape[1] - extra)
    if source_grid is None or grid is None:
        return None
    resized = resize_position_table(table[:, extra:].float(), source_grid, grid)
    report.resized.append((name, f"{source_grid[0]}x{source_grid[1]} to {grid[0]}x{grid[1]}"))
    return torch.cat([table[:, :extra], resized.to(table.dtype)], dim=1)


def _grid(tokens: int) -> tuple[int, int] | None:
    """Published tables and ours are learned on square images."""
    side = math.isqrt(max(tokens, 0))
    return (side, side) if side and side * side == tokens else None


def _sort_out_rest(targets: Mapping[str, Tensor], state: Mapping[str, Tensor], report: LoadReport) -> None:
    """List what the file holds and the module does not, apart from its head: needless here, or foreign."""
    for name, value in state.items():
        if name in targets or name.endswith("num_batches_tracked") or name in ("head.weight", "head.bias"):
            if name.startswith("head.") and name not in targets:
                report.dropped.append((name, "no classification head here"))
        elif name in _CLASSIFICATION_ONLY:
            report.dropped.append((name, "for classification only"))
        elif name.startswith("backbone."):
            report.unexpected.append((name, _shape(value)))
        else:
            report.dropped.append((name, "not part of a backbone"))


def _refuse_misfit(
    targets: Mapping[str, Tensor], state: Mapping[str, Tensor], report: LoadReport, partial: bool
) -> None:
    lost_buffers = [pair for pair in report.missing if pair[0].startswith("backbone.") and "running_" in pair[0]]
    fits = report.backbone_share >= LEAST_SHARE and not report.unexpected and not lost_buffers
    if report.backbone_loaded and (fits or partial):
        return
    here = " or ".join(identify(targets)) or "this backbone"
    if report.model:
        what = f"{report.source} holds {report.model} ({report.format} layout), not {here}"
    elif report.format != "unknown":
        what = f"{report.source} holds a {report.format} model that is none of ours, and does not fit {here}"
    else:
        some = ", ".join(list(state)[:3])
        what = f"{report.source} holds no model that pvtctl knows ({len(state)} tensors: {some}, ...)"
    if report.backbone_share >= LEAST_SHARE and report.unexpected:
        message = f"{what}: {len(report.unexpected)} of its tensors have no place here"
    else:
        message = f"{what}: {percent(report.backbone_share)} of the backbone's parameters would be loaded"
    for word, pairs in (
        ("not in the file", report.missing),
        ("of another shape", report.mismatched),
        ("without a place here", report.unexpected),
    ):
        if pairs:
            largest = sorted(pairs, key=lambda pair: -_numel(pair[0], targets, state))
            message += f"; {word}: {listed(largest)}"
    known = f"build {report.model.split(' or ')[0]}, or " if report.model else ""
    hint = f"{known}pass --partial (partial=True) to load what fits" if report.backbone_loaded else None
    raise UsageError(message, hint or f"{known or 'give '}a file of {here}")


def _numel(name: str, targets: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> int:
    return (targets[name] if name in targets else state[name]).numel()


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "scalar"
