"""Operations of a transformer by stage: what spatial reduction of keys and values costs and saves (PVT v1, section 3.3)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

from torch import nn

from pvtctl.cost.build import build_model, classes_of
from pvtctl.cost.counting import Cost, count_model
from pvtctl.errors import UsageError
from pvtctl.models.backbones.base import Backbone
from pvtctl.models.layers.attention import MultiHeadAttention
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.registry import HeadSpec, backbone_spec

_FAMILIES = ("pvt_v1", "pvt_v2", "vit")

OPERATIONS = ("patch embedding", "Q", "K", "V", "SR", "QK^T", "AV", "projection", "FFN")
"""Of a stage: its patches; the linear layers of queries, keys and values; the reduction of what keys and values are made
of; both products of attention; the layer after them; the feed-forward part, with v2's depthwise convolution.
"""
_PRODUCTS = ("QK^T", "AV")
_BY_PATH = (
    (r"patch_embed\b.*", ("patch embedding",)),
    (r"blocks\.\d+\.attn\.q", ("Q",)),
    (r"blocks\.\d+\.attn\.kv", ("K", "V")),
    (r"blocks\.\d+\.attn\.qkv", ("Q", "K", "V")),
    (r"blocks\.\d+\.attn\.sr", ("SR",)),
    (r"blocks\.\d+\.attn\.proj", ("projection",)),
    (r"blocks\.\d+\.attn", _PRODUCTS),
    (r"blocks\.\d+\.mlp\..*", ("FFN",)),
)
"""Path of a module within a stage -> the operations that share its MACs equally: the layers of keys and values are one
module here, of equal halves, and both products have N x M x C.
"""


@dataclass(frozen=True)
class Operation:
    """MACs of one operation in all blocks of a stage."""

    stage: str
    """`stage1`; the blocks of a ViT are one."""
    name: str
    """Of `OPERATIONS`, `other` for everything else."""
    macs: int


@dataclass(frozen=True)
class AttentionSize:
    """The attention matrices of a stage: `blocks` times `heads` of `queries` x `keys`."""

    stage: str
    blocks: int
    heads: int
    queries: int
    keys: int

    @property
    def entries(self) -> int:
        """In one block."""
        return self.heads * self.queries * self.keys


@dataclass(frozen=True)
class Operations:
    """The operations of a model on one image, next to those with keys and values from every token (R = 1)."""

    cost: Cost
    rows: tuple[Operation, ...]
    attention: tuple[AttentionSize, ...]
    unreduced: Operations | None
    """With R = 1; None where it is so already."""

    def beside(self) -> list[tuple[Operation, int | None]]:
        """Every operation, and its MACs with R = 1."""
        other = {} if self.unreduced is None else {(row.stage, row.name): row.macs for row in self.unreduced.rows}
        return [(row, other.get((row.stage, row.name), 0) if other else None) for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """For `pvtctl flops --stages ops --json`."""
        sizes = {each.stage: each for each in self.unreduced.attention} if self.unreduced else {}
        return {
            "operations": [asdict(row) | {"macs_r1": other} for row, other in self.beside()],
            "attention": [
                asdict(each) | {"entries": each.entries, "entries_r1": sizes[each.stage].entries if sizes else None}
                for each in self.attention
            ],
            "macs_r1": self.unreduced.cost.macs if self.unreduced else None,
            "params_r1": self.unreduced.cost.params if self.unreduced else None,
        }


def operations(
    backbone: str,
    size: tuple[int, int],
    *,
    head: str | HeadSpec = "classifier",
    num_classes: int | None = None,
    output_stride: int | None = None,
) -> Operations:
    """Count the operations of a PVT or ViT, alone or under a head, on one image of `size`; as `count` by convention `ops`.

    Raises UsageError for other backbones, and where `count` does.
    """
    spec = backbone_spec(backbone)
    if spec.family not in _FAMILIES:
        raise UsageError(
            f"{spec.name} has no transformer blocks of pvtctl's",
            "--stages lists its parts; ops are those of PVT and ViT",
        )
    options = {"head": head, "num_classes": num_classes, "output_stride": output_stride}
    found = _counted(spec.name, size, options)
    ratios = {"sr_ratios": [1, 1, 1, 1]} | ({"linear_sra": False} if spec.stated_options.get("linear_sra") else {})
    if "sr_ratios" not in spec.option_names or (plain := spec.with_options(ratios)).name == spec.name:
        return found
    return replace(found, unreduced=_counted(plain.name, size, options))


def _counted(backbone: str, size: tuple[int, int], options: Mapping[str, Any]) -> Operations:
    with without_values():
        model = build_model(backbone, **options)
    body = model if isinstance(model, Backbone) else model.backbone
    sizes: dict[str, tuple[int, int, int]] = {}
    hooks = [
        module.register_forward_pre_hook(partial(_note_size, sizes, path))
        for path, module in cast("nn.Module", body).named_modules()
        if isinstance(module, MultiHeadAttention)
    ]
    head = options["head"]
    name = head if isinstance(head, str) else head.name
    cost = count_model(model, size, backbone=backbone, head=name, num_classes=classes_of(head, options["num_classes"]))
    for hook in hooks:
        hook.remove()
    macs: Counter[tuple[str, str]] = Counter()
    for path, amount in cost.paths.items():
        stage, names = _operation(path)
        for each in names:
            macs[stage, each] += amount // len(names)
    order = {each: at for at, each in enumerate((*OPERATIONS, "other"))}
    stages = {stage: at for at, stage in enumerate(dict.fromkeys(stage for stage, _ in macs))}
    ranked = sorted(macs, key=lambda key: (stages[key[0]], order[key[1]]))
    rows = tuple(Operation(stage, each, macs[stage, each]) for stage, each in ranked if macs[stage, each])
    return Operations(cost, rows, _attention(sizes), None)


def _note_size(sizes: dict[str, tuple[int, int, int]], path: str, module: MultiHeadAttention, args: Any) -> None:
    """Heads, queries and keys of an attention layer, from its arguments."""
    tokens, size = args
    keys = tokens.shape[1]
    if getattr(module, "reduces", False):
        rows, columns = module.key_spans(size)
        keys = len(rows) * len(columns)
    sizes[path] = module.num_heads, tokens.shape[1], keys


def _attention(sizes: Mapping[str, tuple[int, int, int]]) -> tuple[AttentionSize, ...]:
    blocks = Counter((_operation(path)[0], *size) for path, size in sizes.items())
    return tuple(AttentionSize(stage, times, *size) for (stage, *size), times in blocks.items())


def _operation(path: str) -> tuple[str, tuple[str, ...]]:
    """Stage and operations of a module's path in the model."""
    inner = path.removeprefix("backbone.")
    found = re.match(r"stages\.(\d+)\.(.*)", inner)
    stage, rest = (f"stage{int(found[1]) + 1}", found[2]) if found else ("blocks", inner)
    for pattern, names in _BY_PATH:
        if not inner.startswith(("head.", "neck.")) and re.fullmatch(pattern, rest):
            return stage, names
    return inner.partition(".")[0] or "other", ("other",)
