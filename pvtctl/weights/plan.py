"""Pair the tensors of a backbone with those of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from pvtctl.models.backbones import Backbone, TimmBackbone
from pvtctl.models.layers.patches import resize_position_table
from pvtctl.weights.files.inside import prefixes, under
from pvtctl.weights.layouts.timm import to_timm_bridge
from pvtctl.weights.read import Checkpoint
from pvtctl.weights.recognise import strip_wrappers
from pvtctl.weights.report import LoadReport

_OTHERWISE = ("head.fc.fc2", "aux_head")
"""timm's names of the last layers of classifiers with a hidden one (MetaFormers), and with one for every patch (VOLO)."""
Plan = list[tuple[Tensor, Tensor]]
"""(tensor of the module, value to copy into it)"""


def targets_of(module: nn.Module) -> dict[str, Tensor]:
    """The module's tensors under checkpoint names: those of a bare backbone are prefixed with `backbone.`."""
    prefix = "" if isinstance(getattr(module, "backbone", None), Backbone) else "backbone."
    return {prefix + key: value for key, value in module.state_dict().items()}


def named_as(
    targets: Mapping[str, Tensor], checkpoint: Checkpoint, module: nn.Module | None = None
) -> dict[str, Tensor]:
    """The checkpoint's tensors under checkpoint names: those of `targets`, of `module`.

    Tensors of an unknown layout get the module's names where they agree, as does every file for a `timm:NAME` backbone,
    which holds timm's own model.
    """
    if is_bridge(targets):
        renamed = any(name.startswith("backbone.net.") for name in checkpoint.state)  # Depth Anything's
        raw = checkpoint.state if renamed else checkpoint.raw
        return _as_bridge(targets, raw, _classifiers_of(module))
    if checkpoint.format != "unknown":
        return checkpoint.state
    return {f"backbone.{key}" if f"backbone.{key}" in targets else key: v for key, v in checkpoint.state.items()}


def _as_bridge(
    targets: Mapping[str, Tensor], state: Mapping[str, Tensor], classifiers: tuple[str, ...]
) -> dict[str, Tensor]:
    """timm's names as those of a `timm:NAME` backbone, whatever a framework has put before them: of all prefixes, none
    included, the one under which most names have a place.
    """

    def named(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return to_timm_bridge(raw, targets, classifiers)

    def placed(found: Mapping[str, Tensor]) -> int:
        return len(found.keys() & targets.keys())

    best = named(strip_wrappers(state))
    for prefix in prefixes(state) if placed(best) < len(best) else ():
        part = under(state, prefix)
        found = named(part.state)
        if placed(found) > placed(best):
            best = found | {f"timm.{name}": state[name] for name in part.left_out}
    return best


def is_bridge(targets: Mapping[str, Tensor]) -> bool:
    """Whether the module's backbone is a `timm:NAME` one."""
    return any(name.startswith("backbone.net.") for name in targets)


def _classifiers_of(module: nn.Module | None) -> tuple[str, ...]:
    head = getattr(module, "head", None)
    return timm_classifiers(getattr(module, "backbone", None)) if isinstance(head, nn.Linear) else ()


def timm_classifiers(backbone: object) -> tuple[str, ...]:
    """timm's names of the linear layers that take what a `timm:NAME` backbone pools, and whose mean are its logits.

    Two of distilled models and of CrossViT; none without `classifier`, and of models that end otherwise.
    """
    if not isinstance(backbone, TimmBackbone) or backbone.model.features:
        return ()
    stated = cast("Any", backbone.net).default_cfg.get("classifier") or ()
    names = (stated,) if isinstance(stated, str) else tuple(stated)
    return () if any(name in _OTHERWISE for name in names) else names


def plan_backbone(
    module: nn.Module,
    targets: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    checkpoint: Checkpoint,
    report: LoadReport,
) -> Plan:
    """Pair each tensor of the module's backbone with the file's; fills the report's lists.

    Parts that start as identities (`Backbone.begins_as_identity`) are not counted where the file has none.
    """
    backbone: Any = getattr(module, "backbone", module)
    parameters = {f"backbone.{name}" for name, _ in backbone.named_parameters()}
    plan: Plan = []
    for name, target in targets.items():
        if not name.startswith("backbone."):
            continue
        value = state.get(name)
        if value is None and backbone.begins_as_identity(name.removeprefix("backbone.")):
            report.identities.append(name)
            continue
        counted = target.numel() if name in parameters else 0
        report.backbone_total += counted
        if value is None:
            if not name.endswith("num_batches_tracked"):
                report.missing.append((name, shape_of(target)))
            continue
        if value.shape != target.shape and name.endswith("pos_embed"):
            value = _resized(name, value, target, _slots(name, targets), _slots(name, state), report)
        if value is None or value.shape != target.shape:
            report.mismatched.append((name, f"file {shape_of(state[name])}, here {shape_of(target)}"))
            continue
        plan.append((target, value))
        report.loaded.append(name)
        report.backbone_loaded += counted
    return plan


def _slots(name: str, tensors: Mapping[str, Tensor]) -> int:
    """Number of a position table's slots for tokens other than patches."""
    if name == "backbone.pos_embed":
        return 2 if "backbone.distillation_token" in tensors else 1
    return 1 if name == "backbone.stages.3.pos_embed" else 0


def _resized(
    name: str, table: Tensor, target: Tensor, slots: int, source_slots: int, report: LoadReport
) -> Tensor | None:
    """A position table interpolated to the module's grid; None when the grids are unknown or the slots differ."""
    if table.ndim != 3 or table.shape[0] != 1 or table.shape[2] != target.shape[2] or slots != source_slots:
        return None
    # published tables and pvtctl's are trained on square images
    tokens = [each.shape[1] - slots for each in (table, target)]
    there, here = (math.isqrt(max(number, 0)) for number in tokens)
    if not there or not here or [there * there, here * here] != tokens:
        return None
    resized = resize_position_table(table[:, slots:].float(), (there, there), (here, here))
    report.resized.append((name, f"{there}x{there} to {here}x{here}"))
    return torch.cat([table[:, :slots], resized.to(table.dtype)], dim=1)


def shape_of(tensor: Tensor) -> str:
    """`256x128x1x1`."""
    return "x".join(str(side) for side in tensor.shape) or "scalar"
