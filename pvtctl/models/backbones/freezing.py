"""Freezing of backbones, the same for every family: parameters without gradients, layers in evaluation mode."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import nn

from pvtctl.models.parts import NORMS, STATISTICS, WHOLE, Parts, part_with, parts_of_stages, require_freezable

if TYPE_CHECKING:
    from pvtctl.models.backbones.base import Backbone


def freeze(backbone: Backbone, names: Sequence[str]) -> None:
    """Freeze parts of `backbone` (see `pvtctl.models.parts`), besides those that are frozen already.

    Their parameters get no gradient, so that nothing is kept for a backward pass through what comes first in the network,
    and their layers stay in evaluation mode: stored batch norm statistics, no dropout. Raises UsageError for parts that the
    backbone does not have.
    """
    require_freezable(names, backbone.parts, type(backbone).__name__)
    backbone.frozen = tuple(dict.fromkeys([*backbone.frozen, *names]))
    modules = dict(backbone.named_modules())
    for name, parameter in backbone.named_parameters():
        owner = modules[name.rpartition(".")[0]]
        if _holds(backbone, name) or (_is_norm(owner) and _holds(backbone, name, NORMS)):
            parameter.requires_grad_(False)
    backbone.train(backbone.training)


def count_frozen(model: nn.Module) -> tuple[int, int]:
    """Parameters of a model that are not trained, and all of them."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if not trained), sum(size for size, _ in sizes)


def hold(backbone: Backbone) -> None:
    """Put the frozen layers into evaluation mode."""
    if not backbone.frozen:
        return
    for name, module in backbone.named_modules():
        place = f"{name}." if name else ""
        if _holds(backbone, place) or any(_holds(backbone, place, kind) for kind in _kinds(module)):
            module.training = False  # of this module alone: those within it may belong to another part


def _holds(backbone: Backbone, name: str, kind: str = "") -> bool:
    """Whether the part with `name` is frozen; with `kind`, whether this kind of its layers is."""
    suffix = f".{kind}" if kind else ""
    return f"{WHOLE}{suffix}" in backbone.frozen or f"{part_with(name, backbone.parts)}{suffix}" in backbone.frozen


def _kinds(module: nn.Module) -> Iterator[str]:
    if _is_norm(module):
        yield NORMS
    if getattr(module, "running_mean", None) is not None:
        yield STATISTICS


def _is_norm(module: nn.Module) -> bool:
    """Also those of timm, which derive from torch's or are called so."""
    known = nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm
    return isinstance(module, known) or type(module).__name__.lower().endswith("norm")


def parts_by_outputs(net: nn.Module, outputs: Sequence[str]) -> Parts:
    """The parts of a network whose modules are in the order of computation, by the modules that give its four maps.

    A stage ends with the module of its map. The first begins with the first module that is numbered like it (`stages.0` of
    `stages.1`, `layer1`), and what comes before that is the stem. Dots in names may have become underscores, and a wrapper
    may have put `model.` before them, as timm does. No parts if a module is not found.
    """
    names = [name for name, _ in net.named_modules()]
    plain = [name.removeprefix("model.").replace(".", "_") for name in names]
    ends = [_last(plain, output.replace(".", "_")) for output in outputs]
    if None in ends:
        return {}
    numbered = re.compile(re.escape(re.sub(r"_?\d+$", "", outputs[0].replace(".", "_"))) + r"_?\d")
    begin = next((at for at, name in enumerate(plain) if numbered.match(name)), 1)
    edges = [begin - 1, *(end for end in ends if end is not None)]
    part = {name: sum(edge < at for edge in edges) for at, name in enumerate(names)}
    groups: list[list[str]] = [[] for _ in range(6)]
    for name, _ in net.named_parameters():
        groups[part[name.rpartition(".")[0]]].append(name)
    stem, *stages = (_prefixes(group, groups) for group in groups[:5])
    return parts_of_stages(stem, stages)


def _last(names: Sequence[str], output: str) -> int | None:
    """Position of the last module within the module `output`."""
    within = [at for at, name in enumerate(names) if name == output or name.startswith(f"{output}_")]
    return max(within, default=None)


def _prefixes(own: Sequence[str], groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The shortest prefixes that all parameters of one group have and no other's."""
    others = [name for group in groups if group is not own for name in group]
    found = []
    for name in own:
        words = name.split(".")
        tries = [".".join(words[:length]) + "." for length in range(1, len(words))] + [name]
        found.append(next(each for each in tries if not any(other.startswith(each) for other in others)))
    return tuple(dict.fromkeys(found))
