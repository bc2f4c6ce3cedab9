"""Verify MACs with two more counters: `fvcore` on a traced graph and `torch.utils.flop_counter` on the meta device."""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pvtctl.cost.build import build_model, with_raw_outputs
from pvtctl.models.fast_cpu import optimize_for_cpu
from pvtctl.models.layers.shapes import without_values

TOLERANCE = 0.01
"""Relative difference above which two counters disagree."""

# Operations with a formula in fvcore that convention `ops` does not count.
_NOT_IN_OPS = ("layer_norm", "batch_norm", "adaptive_avg_pool2d", "upsample_bilinear2d", "upsample_bicubic2d")


@dataclass(frozen=True)
class Verification:
    """MACs of convention `ops` by two independent counters, for one image."""

    fvcore_macs: int
    torch_macs: int
    fvcore_uncounted: dict[str, int]
    """Operations without a formula in fvcore -> number of occurrences in the graph."""

    @property
    def difference(self) -> float:
        """(fvcore - torch) / torch."""
        return self.fvcore_macs / self.torch_macs - 1

    @property
    def agree(self) -> bool:
        return abs(self.difference) <= TOLERANCE


def verify_macs(
    name: str,
    size: tuple[int, int],
    *,
    head: str = "classifier",
    num_classes: int | None = None,
    output_stride: int | None = None,
) -> Verification:
    """Count `name` at `size` (height, width) with both counters.

    fvcore traces a real forward pass of one image on the CPU, with its time and memory; the other counter needs neither.
    Norms, pooling and upsampling are switched off in fvcore: convention `ops` has none of them.
    """

    def built() -> nn.Module:
        return optimize_for_cpu(with_raw_outputs(build_model(name, head, num_classes, output_stride)))

    with without_values():
        torch_macs = macs_by_torch(built().requires_grad_(False), size)
    fvcore_macs, uncounted = macs_by_fvcore(built(), size)
    return Verification(fvcore_macs, torch_macs, uncounted)


def macs_by_torch(model: nn.Module, size: tuple[int, int]) -> int:
    """MACs of one image by `torch.utils.flop_counter`, on the device of `model`."""
    images = torch.empty(1, 3, *size, device=next(model.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() // 2


def macs_by_fvcore(model: nn.Module, size: tuple[int, int]) -> tuple[int, dict[str, int]]:
    """MACs of one image by fvcore with a formula for fused attention, and the operations without a formula."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit, which fvcore uses, is deprecated
        from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(model, torch.zeros(1, 3, *size))
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
    for name in _NOT_IN_OPS:
        analysis.set_op_handle(f"aten::{name}", lambda inputs, outputs: Counter())
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            total = int(analysis.total())
            unsupported = analysis.unsupported_ops()
    finally:
        logger.setLevel(level)
    return total, {op.removeprefix("aten::"): times for op, times in unsupported.most_common()}


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Two products: queries (..., N, C) with keys (..., M, C), weights (..., N, M) with values (..., M, D)."""
    query, key, value = (each.type().sizes() for each in inputs[:3])
    products = math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return Counter({"scaled_dot_product_attention": products})
