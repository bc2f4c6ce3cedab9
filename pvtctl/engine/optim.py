"""Optimisers with the papers' parameter groups, and scaling of the learning rate with the batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, assert_never

import torch
from torch import nn

from pvtctl.errors import PvtctlError
from pvtctl.io.names import plural
from pvtctl.recipe.schema import Optimizer

LrScaling = Literal["linear", "sqrt", "none"]
BACKBONE = "backbone."


def scale_lr(lr: float, batch: int, stated_batch: int, rule: LrScaling = "linear") -> float:
    """Scale `lr`, stated for `stated_batch` images per step, to `batch` images per step.

    >>> scale_lr(1e-3, batch=256, stated_batch=1024)
    0.00025
    """
    match rule:
        case "linear":
            return lr * batch / stated_batch
        case "sqrt":
            return lr * math.sqrt(batch / stated_batch)
        case "none":
            return lr
        case _:
            assert_never(rule)


def describe_lr(lr: float, batch: int, stated_batch: int, rule: LrScaling) -> str:
    """One sentence describing the result of `scale_lr`."""
    scaled = scale_lr(lr, batch, stated_batch, rule)
    if batch == stated_batch:
        return f"learning rate {lr:g} at {plural(batch, 'image')} a step, as the recipe states it"
    if rule == "none":
        return f"learning rate {lr:g}, not scaled: {plural(batch, 'image')} a step, stated at {stated_batch}"
    stated = f"{lr:g} at {stated_batch}, scaled by the {rule} rule"
    return f"learning rate {scaled:g} for {plural(batch, 'image')} a step: {stated}"


def parameter_groups(
    model: nn.Module, settings: Optimizer, layer_depths: tuple[Mapping[str, int], int] | None = None
) -> list[dict[str, Any]]:
    """Parameter groups of the trainable parameters, each with `params`, `names`, `weight_decay` and `lr_scale`.

    `layer_depths` is (depth of each parameter by name, number of layers), depth 0 nearest to the image; the lr factor
    of a layer is `layer_decay ** (layers - depth)`, times `backbone_lr_mult` for parameters under `backbone.`.

    Raises PvtctlError when nothing is trainable, or when a parameter has no depth although layer decay is requested.
    """
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = settings.backbone_lr_mult if name.startswith(BACKBONE) else 1.0
        if settings.layer_decay != 1.0:
            scale *= settings.layer_decay ** _distance(name, layer_depths)
        decayed = _is_decayed(name, parameter, settings.no_decay)
        group = groups.setdefault(
            (decayed, scale),
            {"params": [], "names": [], "weight_decay": settings.weight_decay if decayed else 0.0, "lr_scale": scale},
        )
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise PvtctlError("no parameter of the model is trainable", "unfreeze a part of it")
    return list(groups.values())


def _is_decayed(name: str, parameter: nn.Parameter, rule: Literal["papers", "norms", "none"]) -> bool:
    spared = rule == "papers" and name.rsplit(".", 1)[-1] in ("bias", "class_token")
    return rule == "none" or (parameter.ndim > 1 and not spared)


def _distance(name: str, layer_depths: tuple[Mapping[str, int], int] | None) -> int:
    """Number of layers between the parameter and the model's output."""
    if layer_depths is None:
        raise PvtctlError("layer-wise decay needs the depth of each layer, which this model does not define")
    depths, num_layers = layer_depths
    if name not in depths:
        raise PvtctlError(f"layer-wise decay: {name} belongs to no layer")
    return num_layers - depths[name]


def build_optimizer(
    model: nn.Module, settings: Optimizer, lr: float, layer_depths: tuple[Mapping[str, int], int] | None = None
) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD over `parameter_groups(model)`, at `lr`. Each group has an `lr_scale`: see `set_lr`."""
    groups = parameter_groups(model, settings, layer_depths)
    # The fused kernels make one pass over the memory: torch's fastest on both CPU and CUDA.
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for g in groups for p in g["params"])
    optimizer: torch.optim.Optimizer
    if settings.name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=fused)
    else:
        kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
        optimizer = kind(groups, lr=lr, betas=settings.betas, eps=settings.eps, fused=fused)
    set_lr(optimizer, lr)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
