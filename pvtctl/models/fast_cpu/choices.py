"""Which kernels this machine takes: measured once (`calibrate`), and kept in the user's cache folder."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch

from pvtctl.io.files import user_folder, write_text
from pvtctl.io.foreign import BadFile, read_json
from pvtctl.io.machine import cpu_name
from pvtctl.models.fast_cpu.threads import own_threads

SWITCH = "PVTCTL_FAST_CPU"
"""Environment variable; 0 leaves every model plain."""


_RESTRICTIONS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""Variables that take instructions away from the libraries under torch, which `capability` does not show."""


@dataclass(frozen=True)
class Choices:
    """The kernels that replace plain torch; by default none does."""

    packed: bool = False
    """Inference: linear layers and convolutions by oneDNN, with weights in its layout (`FastLinear`, `FastConv`), and ResNets
    in channels-last layout (`lay_out`)."""
    joined_gelu: bool = False
    """With packed weights: the GELU of an MLP by oneDNN too, on the results of a product before they are written."""
    mlp_bytes: int = 0
    """Hidden activations of an MLP with no larger weights that are computed at a time (`FastMlp`); 0: all."""
    winograd_from: int = 0
    """Least number of channels of a 3x3 convolution over a large map that `winograd` computes; 0: none."""
    folded_norms: bool = False
    """Batch norm folded into the convolution before it (`FoldedConvNorm`)."""
    onednn_products: bool = False
    """Training in float32: results and input gradients of linear layers by oneDNN (`FastLinear`)."""
    winograd_trained_from: int = 0
    """Training in float32: the same as `winograd_from`."""
    patch_products: bool = False
    """Training: convolutions whose kernel is their stride as a product (`PatchConv`)."""
    split_readout: bool = False
    """DPT's readout without the concatenation (`SplitReassemble`)."""
    plain_from: int = 0
    """Training in float32: least number of queries from which attention to few keys is written out; 0: never."""
    plain_bf16: bool = False
    """The same for bf16 and fp16, whatever the number of queries."""
    split_queries: bool = False
    """Training: attention of parts of the queries, where there are fewer heads than threads (`query_parts`)."""
    threads: int = 0
    """Inference commands: threads of an operation (`take_threads`); 0: torch's own number."""

    @classmethod
    def from_json(cls, value: object) -> Self | None:
        """The choices that `asdict` gave, in this version or another: what is absent has its default, and what is unknown is
        left out. None if `value` is anything else."""
        kinds: dict[str, Any] = {key: type(default) for key, default in asdict(cls()).items()}
        known = {key: each for key, each in value.items() if key in kinds} if isinstance(value, Mapping) else {}
        if not known or any(type(each) is not kinds[key] or each < 0 for key, each in known.items()):
            return None
        return cls(**known)

    def __str__(self) -> str:
        said = [
            (self.packed, "packed weights"),
            (self.joined_gelu, "GELU joined to the product"),
            (self.mlp_bytes, f"MLPs {self.mlp_bytes / 2**20:g} MiB at a time"),
            (self.winograd_from, f"Winograd's convolution from {self.winograd_from} channels"),
            (self.folded_norms, "folded batch norm"),
            (self.onednn_products, "linear layers by oneDNN in training"),
            (
                self.winograd_trained_from,
                f"Winograd's convolution in training from {self.winograd_trained_from} channels",
            ),
            (self.patch_products, "patch convolutions as products in training"),
            (self.split_readout, "DPT's readout in two parts"),
            (self.plain_from, f"written-out attention in training from {self.plain_from} queries"),
            (self.plain_bf16, "written-out attention in bf16"),
            (self.split_queries, "attention in training split by queries"),
            (self.threads, f"{self.threads} threads"),
        ]
        return ", ".join(text for taken, text in said if taken) or "PyTorch's own kernels"


def before_measurement(capability: str) -> Choices:
    """What pvtctl up to 0.2.0 took on a processor of that vector width: a table made on two machines.

    A run that was begun then is resumed with it.
    """
    wide = capability.startswith("AVX512")
    return Choices(
        mlp_bytes=4 << 20,
        winograd_from=128 if wide else 256,
        folded_norms=True,
        patch_products=True,
        split_readout=True,
        plain_from=512,
        plain_bf16=True,
    )


_NONE = Choices()
_chosen: Choices | None = None


def active() -> Choices:
    """The choices of this process: those of `use`, else those measured on this machine, else none.

    PVTCTL_FAST_CPU=0 overrides both. While torch.compile traces a model there are none: it has kernels of its own.
    """
    if torch.compiler.is_compiling() or is_off():
        return _NONE
    return _chosen or _measured() or _NONE


@functools.cache
def _measured() -> Choices | None:
    return remembered()


def use(choices: Choices | None) -> None:
    """Take `choices` in this process; None: what was measured."""
    global _chosen
    _chosen = choices
    _measured.cache_clear()


def is_off() -> bool:
    """Whether PVTCTL_FAST_CPU=0 leaves every model plain."""
    return os.environ.get(SWITCH) == "0"


def is_chosen() -> bool:
    """Whether this process's choices come from `use` or the environment, so that none need be measured."""
    return _chosen is not None or is_off()


@contextmanager
def using(choices: Choices) -> Iterator[None]:
    """Context in which `choices` are active."""
    before = _chosen
    use(choices)
    try:
        yield
    finally:
        use(before)


def machine_key() -> dict[str, Any]:
    """What the choices hold for: another processor, version or number of threads is measured again."""
    return {
        "cpu": cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": own_threads(),
        "restrictions": {name: os.environ[name] for name in _RESTRICTIONS if name in os.environ},
    }


def choices_file() -> Path:
    """Where the choices for this machine are kept."""
    name = hashlib.sha256(json.dumps(machine_key(), sort_keys=True).encode()).hexdigest()[:16]
    return user_folder("cache") / "kernels" / f"{name}.json"


def remembered() -> Choices | None:
    """What was measured on this machine; None if nothing was, or if the file is damaged."""
    return Choices.from_json(_kept().get("choices"))


def is_measured() -> bool:
    """Whether all choices were measured on this machine: an earlier version of pvtctl had fewer."""
    return remembered() is not None and _kept()["choices"].keys() >= asdict(_NONE).keys()


def _kept() -> dict[str, Any]:
    """Content of the file for this machine; empty if it is missing, damaged, or another machine's."""
    try:
        kept = read_json(choices_file(), dict)
    except BadFile:
        return {}
    return kept if kept.get("machine") == machine_key() else {}


def remember(choices: Choices, timings: list[dict[str, Any]]) -> Path:
    """Keep the choices for this machine, with the `timings` behind them. Raises OSError."""
    file = choices_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine_key(), "choices": asdict(choices), "timings": timings}
    write_text(file, json.dumps(content, indent=2) + "\n")
    return file
