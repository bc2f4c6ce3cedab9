"""Faster CPU kernels for a built model: `optimize_for_cpu`.

The layers of pvtctl are plain torch. The commands, `load_run` and the benchmarks replace them by subclasses with the same
names and parameters. Each computes the same as its layer, up to float32 rounding:

| kernel | where | when it is used |
| --- | --- | --- |
| `FastLinear` | linear layers | float32 on a CPU: training, and inference after `pack` |
| `FastConv` | convolutions of channels-last maps | float32 inference on a CPU, after `pack` |
| `FastMlp` | MLPs without convolution | float32 inference on a CPU |
| `FoldedConvNorm` | convolution and batch norm of dense heads | float32 inference on a CPU |
| `WinogradConv` | 3x3 convolutions of necks and heads | float32 on a CPU, also in training, where maps and channels are large enough |
| `PatchConv` | convolutions whose kernel is their stride | training |
| `SplitReassemble` | DPT's "project" readout | always |
| attention | all attention of pvtctl's own layers | on a CPU: training in float32, and everything in bf16 |

Which of them a machine takes is measured on that machine, once (`calibrate`); until then none. What is slower on one processor
than plain torch is not taken there.

A modified layer (hooks, pruning, parametrisations, adapters, quantised replacements, a patched `forward`) is called
unchanged. Autocast, tracing, compiling, export, operation counters and the transforms of torch.func use the plain kernels, as do
gradients but for those of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from pvtctl.models.fast_cpu.choices import Choices, active
from pvtctl.models.fast_cpu.levers import PLAIN_OF, take
from pvtctl.models.fast_cpu.packed import pack, unpack
from pvtctl.models.layers.patches import ModuleT

__all__ = ["optimize_for_cpu", "pack", "plain_kernels", "unpack"]


def optimize_for_cpu(model: ModuleT, *, enabled: bool = True) -> ModuleT:
    """Replace layers of `model` by the CPU kernels that are faster on this machine, in place, and return it.

    Names and values of parameters, hooks and the training mode stay, and outputs are equal up to float32 rounding. On
    other devices the model runs as before, except that patch convolutions are trained as matmuls there too. A second call
    changes nothing. On a machine that was not measured yet (`pvtctl doctor --calibrate`) the model stays plain.

    For inference, `pack` makes it faster still: weights are then kept in the layout of the processor's library as well.

    Args:
        model: A model of pvtctl, or any module with such layers.
        enabled: False restores the plain layers, as does the environment variable PVTCTL_FAST_CPU=0.
    """
    return take(model, active() if enabled else Choices())


@contextmanager
def plain_kernels(model: nn.Module) -> Iterator[None]:
    """Context in which `model` has its plain layers, as `torch.export` needs them."""
    before = [(module, type(module)) for module in model.modules() if type(module) in PLAIN_OF]
    take(model, Choices())
    try:
        yield
    finally:
        for module, kind in before:
            module.__class__ = kind
