"""Faster CPU kernels for a built model: `optimize_for_cpu`.

The layers of pvtctl are plain torch. The commands, `load_run` and the benchmarks replace them by subclasses with the same
names and parameters. Each computes the same as its layer, up to float32 rounding:

| kernel | where | when it is used |
| --- | --- | --- |
| `FastLinear` | linear layers of attention and MLPs | float32 inference on a CPU with AVX-512 |
| `FastMlp` | MLPs without convolution | float32 inference on a CPU |
| `FoldedConvNorm` | convolution and batch norm of dense heads | float32 inference on a CPU |
| `WinogradConv` | 3x3 convolutions of necks and heads | float32 inference on a CPU, large maps, from 128 channels (256 without AVX-512) |
| `PatchConv` | convolutions whose kernel is their stride | always, except in `torch.export` |
| `SplitReassemble` | DPT's "project" readout | always |
| attention | all attention of pvtctl's own layers | on a CPU: training in float32, and everything in bf16 |

A modified layer (hooks, pruning, parametrisations, adapters, quantised replacements, a patched `forward`) is called
unchanged. Gradients, autocast, tracing, compiling, export and operation counters use the plain kernels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from pvtctl.models.fast_cpu.levers import LEVERS, PLAIN_OF
from pvtctl.models.layers.patches import ModuleT

SWITCH = "PVTCTL_FAST_CPU"
"""Environment variable; 0 leaves every model plain."""


def optimize_for_cpu(model: ModuleT, *, enabled: bool = True) -> ModuleT:
    """Replace layers of `model` by faster CPU kernels, in place, and return it.

    Names and values of parameters, hooks and the training mode stay, and outputs are equal up to float32 rounding. On
    other devices the model runs as before, except that patch convolutions become matmuls there too. A second call changes
    nothing.

    Args:
        model: A model of pvtctl, or any module with such layers.
        enabled: False restores the plain layers, as does the environment variable PVTCTL_FAST_CPU=0.
    """
    for module in model.modules():
        if type(module) in PLAIN_OF:
            module.__class__ = PLAIN_OF[type(module)]
    if enabled and os.environ.get(SWITCH) != "0":
        for lever in LEVERS:
            if lever.pays():
                for module in lever.find(model):
                    module.__class__ = lever.kernels[type(module)]
    return model


@contextmanager
def plain_kernels(model: nn.Module) -> Iterator[None]:
    """Context in which `model` has its plain layers, as `torch.export` needs them."""
    before = [(module, type(module)) for module in model.modules() if type(module) in PLAIN_OF]
    optimize_for_cpu(model, enabled=False)
    try:
        yield
    finally:
        for module, kind in before:
            module.__class__ = kind
