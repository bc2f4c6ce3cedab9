"""Parameters and multiply-accumulates (MACs) of a model, counted on the meta device: no memory, no arithmetic.

One MAC is one multiplication and one addition, that is two FLOPs; the papers print GMACs under the name "GFLOPs".

Two conventions:

* `ops`: convolutions, linear layers and matrix products (attention's two among them), without biases. It equals
  `torch.utils.flop_counter` divided by two.
* `paper`: `ops` plus what the counter of the PVT repositories adds: convolution biases (1 per output), affine batch
  norm (2 per element), ReLU and pooling (1 per element), and, for PVT v2, affine LayerNorm (2 per element). The
  counter that was used for PVT v1 did not know LayerNorm, nor the synchronised batch norm under Semantic FPN; the one
  behind PVT v1's Table 7 (DeepLabV3+, Trans2Seg) knows batch norm, but neither ReLU nor attention's products.
  `docs/cost.md` lists which printed figure each reproduces.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pvtctl.cost.build import build_model, build_own, classes_of, with_raw_outputs
from pvtctl.cost.outcomes import outcome
from pvtctl.errors import UsageError, nearest
from pvtctl.models.backbones import Backbone, prepare_backbones
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.registry import PLAIN_HEADS, HeadSpec, find_backbone, find_head

Convention = Literal["ops", "paper"]
CONVENTIONS: tuple[Convention, ...] = ("ops", "paper")
PRODUCTS = frozenset({"attention"})
"""The terms of `ops`, as `what_papers_count` gives those of `paper`."""

# Operations that only move, view or create data; all others without a formula are reported as uncounted.
_MOVES = """
    alias arange as_strided cat clone constant_pad_nd contiguous copy detach empty empty_like empty_strided expand fill
    full index lift_fresh new_empty new_zeros ones permute pixel_shuffle repeat reshape reshape_alias roll scalar_tensor select
    slice split split_with_sizes squeeze stack t to_copy transpose unbind unfold unsafe_split unsafe_view unsqueeze view
    zero zeros zeros_like
"""
_NO_ARITHMETIC = frozenset(_MOVES.split())
_SHORT_NAMES = {
    "native_layer_norm": "layer_norm",
    "native_batch_norm": "batch_norm",
    "native_batch_norm_legit_no_training": "batch_norm",
    "safe_softmax": "softmax",
    "max_pool2d_with_indices": "max_pool2d",
}
_POOLS = frozenset({"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"})
_ATTENTION = frozenset({"bmm", "baddbmm", "scaled_dot_product_attention"})


@dataclass(frozen=True)
class StageCost:
    """Cost of one part of the model (`stem`, `stage1.patch_embed`, `stage1.blocks`, `head`, ...)."""

    name: str
    params: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """Cost of one image of `size` (height, width). Plain counts, not millions."""

    backbone: str
    head: str
    size: tuple[int, int]
    num_classes: int | None
    """None for the bare pyramid and for depth."""
    params: int
    trainable_params: int
    macs: int
    convention: Convention
    stages: tuple[StageCost, ...]
    uncounted: dict[str, int]
    """Operations that the convention leaves out -> number of calls."""
    paths: Mapping[str, int] = field(default_factory=dict)
    """Path of a module -> MACs of its own operations, without those of modules in it."""

    @property
    def flops(self) -> int:
        """Two per MAC."""
        return 2 * self.macs

    def to_dict(self) -> dict[str, Any]:
        """A row of `pvtctl flops --json`."""
        return {
            "backbone": self.backbone,
            "head": self.head,
            "size": list(self.size),
            "num_classes": self.num_classes,
            "params": self.params,
            "trainable_params": self.trainable_params,
            "macs": self.macs,
            "flops": self.flops,
            "convention": self.convention,
            "stages": [asdict(stage) for stage in self.stages],
            "uncounted": dict(self.uncounted),
        }


def count(
    backbone: str | Backbone,
    size: tuple[int, int],
    *,
    head: str | HeadSpec = "classifier",
    num_classes: int | None = None,
    output_stride: int | None = None,
    convention: Convention = "ops",
) -> Cost:
    """Count a backbone (a name, or a built one) on one image of `size` (height, width) pixels.

    `head` is `classifier` (pooling and 1000 classes), `none` (the bare pyramid), or a registered one: a detector (80
    classes), whose second stage is counted on the papers' number of boxes, segmentation (150 classes) or depth;
    `num_classes` sets another number, and switches a head of both (`dpt`) from depth to segmentation.
    `output_stride` applies to ResNets (unset: 32, with trans2seg and deeplabv3plus 16). Images are not padded, except for
    heads that need sides of a multiple. Parameters are those of the model built for 224 pixels, for any `size`: position
    tables are interpolated, not rebuilt.

    Raises UsageError for unknown names, and options that do not fit.
    """
    if convention not in CONVENTIONS:
        raise UsageError(f"no counting convention {convention!r}", nearest(convention, CONVENTIONS))
    classes = classes_of(head, num_classes)
    body = backbone if isinstance(backbone, str) else copy.deepcopy(backbone).to("meta")
    with without_values():
        model = build_model(body, head, num_classes, output_stride)
    return count_model(
        model,
        size,
        backbone=backbone if isinstance(backbone, str) else type(backbone).__name__,
        head=head if isinstance(head, str) else head.name,
        num_classes=classes,
        convention=convention,
    )


def count_own(
    backbone: str,
    head: str,
    num_classes: int | None,
    options: str,
    size: tuple[int, int],
    *,
    convention: Convention = "ops",
) -> Cost:
    """Count a model of `pvtctl.cost.build.build_own` on one image of `size` (height, width), as `count` does."""
    with without_values():
        model = build_own(backbone, head, num_classes, options)
    return count_model(model, size, backbone=backbone, head=head, num_classes=num_classes, convention=convention)


def count_model(
    model: nn.Module,
    size: tuple[int, int],
    *,
    backbone: str,
    head: str,
    num_classes: int | None = None,
    convention: Convention = "ops",
) -> Cost:
    """Count a model on the meta device: images (1, 3, H, W) -> anything (a detector: its raw outputs). The names are labels,
    except that they determine what `paper` counts (`what_papers_count`).
    """
    model = with_raw_outputs(model)
    counter = OperationCounter(what_papers_count(backbone, head) if convention == "paper" else PRODUCTS)
    prepare_backbones(model, size)
    with torch.no_grad(), _tracked_paths(model, counter.path), counter:
        model(torch.empty(1, 3, *size, device="meta"))
    return Cost(
        backbone=backbone,
        head=head,
        size=size,
        num_classes=num_classes,
        params=sum(p.numel() for p in model.parameters()),
        trainable_params=sum(p.numel() for p in model.parameters() if p.requires_grad),
        macs=sum(counter.macs.values()),
        convention=convention,
        stages=_stages(model, counter.macs, head),
        uncounted=dict(counter.uncounted.most_common()),
        paths=dict(counter.macs),
    )


def what_papers_count(backbone: str, head: str) -> frozenset[str]:
    """Terms that convention `paper` adds to the products of convolutions and linear layers: `attention` (its products),
    `bias`, `batch_norm`, `layer_norm`, `activation` (ReLU, pooling).
    """
    above, below = find_head(head), find_backbone(backbone)
    if above is not None and above.counted is not None:
        return above.counted
    if below is not None and below.counts_layer_norm:
        norms = {"layer_norm", "batch_norm"}
    else:
        norms = {"batch_norm"} if above is None or above.counts_batch_norm else set()
    return frozenset({"attention", "bias", "activation", *norms})


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Intercepts every aten operation of a forward pass; torch's own formulas give the cost of products.

    `counted`: terms of `what_papers_count`. `on_values`: the model computes, and is not on the meta device.
    """

    def __init__(self, counted: frozenset[str], *, on_values: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.path: list[str] = [""]  # names of the running modules, outermost first
        self.macs: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        """With `on_values`: read and written by each operation that is not a mere view."""
        self._formulas = dict(FlopCounterMode(display=False).flop_registry)
        attention = torch.ops.aten._scaled_dot_product_flash_attention
        self._formulas[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu] = self._formulas[attention]
        self._counted = counted
        self._on_values = on_values

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._on_values and func._can_decompose():  # in inference mode composite operations come here whole
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs) if self._on_values else outcome(func, args, kwargs)
        if self._on_values and not func.is_view:
            self.bytes[self.path[-1]] += bytes_of([args, kwargs, out])
        name = func._overloadpacket.__name__.strip("_")
        name = _SHORT_NAMES.get(name, name)
        formula = self._formulas.get(func._overloadpacket)
        if formula is not None and not ("attention" not in self._counted and name in _ATTENTION):
            self.macs[self.path[-1]] += formula(*args, **kwargs, out_val=out) // 2
        extra = self._extra(name, args, out)
        if extra:
            self.macs[self.path[-1]] += extra
        elif formula is None and name not in _NO_ARITHMETIC:
            self.uncounted[name] += 1
        return out

    def _extra(self, name: str, args: Any, out: Any) -> int:
        """Term that the papers' counter adds to the products of operation `name` (0: nothing)."""
        if name == "convolution":
            return out.numel() if args[2] is not None and "bias" in self._counted else 0
        if name in ("batch_norm", "layer_norm"):
            return 2 * args[0].numel() if name in self._counted else 0
        if name in ("relu", "max_pool2d") and self.path[-1].startswith(("head.rpn", "neck")):
            return 0  # functions there, not modules: their counter missed them
        if (name == "relu" or name in _POOLS) and "activation" in self._counted:
            return args[0].numel()
        return 0


def bytes_of(tensors: Any) -> int:
    """Bytes of all tensors in nested containers, each once; of an expanded one only those in memory."""
    different = {id(leaf): leaf for leaf in tree_leaves(tensors) if isinstance(leaf, torch.Tensor)}
    return sum(min(each.nbytes, each.untyped_storage().nbytes()) for each in different.values())


@contextmanager
def _tracked_paths(model: nn.Module, path: list[str]) -> Iterator[None]:
    """Keep `path` equal to the stack of running module names. Layers with hooks are called and never bypassed
    (`pvtctl.models.fast_cpu.conditions.is_plain`), so that every convolution runs as one, under its own name.
    """
    hooks = []

    def enter(name: str) -> Any:
        return lambda module, args: path.append(name)

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        path.pop()

    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(enter(name)))
        hooks.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def stage_of(path: str) -> str:
    """Part of the model that a module or parameter belongs to, from its dotted name.

    >>> stage_of("backbone.stages.0.blocks.2.attn.q"), stage_of("backbone.layer3.0.conv1"), stage_of("head")
    ('stage1.blocks', 'stage3', 'head')
    """
    path = path.removeprefix("backbone.")
    if found := re.match(r"stages\.(\d+)\.(\w+)", path):
        part = "patch_embed" if found[2] in ("patch_embed", "pos_embed") else "blocks"
        return f"stage{int(found[1]) + 1}.{part}"
    if found := re.match(r"layer(\d)\.", path + "."):
        return f"stage{found[1]}"
    if re.match(r"(conv1|bn1|relu|maxpool)\b", path):
        return "stem"
    if found := re.match(r"(patch_embed|blocks|head)\b", path):
        return found[1]
    return "other"


def part_of(path: str, head_parts: Mapping[str, str]) -> str:
    """Like `stage_of`, for a model with a neck and head: `backbone.stage1.blocks`, `neck`, `head.rpn`, `head.other`."""
    top, _, rest = path.partition(".")
    if top == "backbone" and rest:
        return f"backbone.{stage_of(rest)}"
    if top == "head":
        found = next((part for start, part in head_parts.items() if (rest + ".").startswith(start + ".")), "other")
        return f"head.{found}"
    return top or "other"


def _stages(model: nn.Module, macs: Counter[str], head: str) -> tuple[StageCost, ...]:
    """Sum by part, in execution order."""
    spec = find_head(head)

    def part(path: str) -> str:
        return stage_of(path) if head in PLAIN_HEADS else part_of(path, spec.parts if spec is not None else {})

    stage_macs: Counter[str] = Counter()
    stage_params: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        stage_params[part(name)] += parameter.numel()
    for path, amount in macs.items():
        stage_macs[part(path)] += amount
    names = dict.fromkeys([*stage_macs, *stage_params])
    return tuple(StageCost(name, stage_params[name], stage_macs[name]) for name in names)
