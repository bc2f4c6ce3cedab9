"""Which engine computes a network faster: torch or onnxruntime, measured with the first images, and kept."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, replace
from multiprocessing import active_children
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.inference import EngineName
from pvtctl.inference.onnx_graphs import OnnxNetwork, require_engine
from pvtctl.io.machine import OthersShare
from pvtctl.models.fast_cpu.calibrate import BUSY, GAIN, shortest_seconds
from pvtctl.models.fast_cpu.choices import active, machine_key

SECONDS = 0.5
"""Of timed calls of each engine."""
FEW = 20
"""Batches: measuring takes the time of ten, and can save half of the others' at most."""
WORTH = 120.0
"""Seconds of torch's time from which a new graph can pay: writing it takes about a minute."""


@dataclass(frozen=True)
class Choice:
    """An engine, and why it was taken, in words."""

    engine: EngineName
    why: str

    def __str__(self) -> str:
        return f"{self.engine}, since {self.why}"


def why_torch(device: torch.device) -> str | None:
    """Why torch is taken without a measurement; None if it is not."""
    if device.type != "cpu":
        return f"auto measures CPUs only, and this is {device.type}"
    if "LOCAL_RANK" in os.environ:
        return "several processes would measure at the same time"
    if torch.is_autocast_enabled("cpu"):
        return "onnxruntime computes in fp32 only"
    try:
        require_engine(device)
    except UsageError as error:
        return f"{error.message} ({error.hint})"
    return None


def choose(network: OnnxNetwork, images: Tensor, expected: int | None = None) -> Choice:
    """The engine that takes less time for `images` (B, 3, H, W); the other one must win by 3 %, as CPU kernels must.

    The choice is kept with the network's graphs, for this machine, its CPU kernels, and batches of about this size; not on a
    busy machine, where chance would decide for later.
    `expected`: number of images to come; unset, many. For few of them torch is taken, which is not kept.
    """
    label = f"auto-{_machine()}-{_size_class(images)}"
    size = int(images.shape[2]), int(images.shape[3])
    kept = _kept(network.cache.noted(label))
    if kept is not None and (kept.engine is EngineName.torch or network.has_graph(size)):
        return kept
    try:
        if few := _too_few(network, images, expected):
            return Choice(EngineName.torch, few)
        others = OthersShare([os.getpid(), *(child.pid for child in active_children() if child.pid is not None)])
        choice, share = _faster(network, images), others.share() or 0.0
    except UsageError as error:
        choice = Choice(EngineName.torch, error.message)
    except (OSError, MemoryError) as error:
        return Choice(EngineName.torch, f"no graph could be written: {error}")
    else:
        if share > BUSY:
            return replace(choice, why=f"{choice.why} (not kept: other programs use {share:.0%} of this machine)")
    network.cache.note(label, asdict(choice))
    return choice


def _faster(network: OnnxNetwork, images: Tensor) -> Choice:
    """By calls in turns, after one of each."""
    torchs, others = shortest_seconds([lambda: network.raw.eager(images), lambda: network(images)], SECONDS)
    engine = EngineName.onnxruntime if others <= GAIN * torchs else EngineName.torch
    batch, _, height, width = images.shape
    what = f"a batch of {batch} at {height}x{width}"
    return Choice(engine, f"{what} takes torch {1e3 * torchs:.3g} ms and onnxruntime {1e3 * others:.3g} ms")


def _too_few(network: OnnxNetwork, images: Tensor, expected: int | None) -> str | None:
    """Why so few images are not worth a measurement, or not a new graph; None if they are."""
    if expected is None:
        return None
    batches = math.ceil(expected / len(images))
    if batches <= FEW:
        return f"measuring both can pay from {FEW + 1} batches, and {expected} images are {batches}"
    if network.has_graph((int(images.shape[2]), int(images.shape[3]))):
        return None
    for _ in range(2):  # the first call of a process takes longer
        start = perf_counter()
        network.raw.eager(images)
        seconds = batches * (perf_counter() - start)
        if seconds <= WORTH:
            paying = f"a new graph for onnxruntime can pay from {WORTH:g} s of its time"
            return f"{expected} images take it {seconds:.2g} s, and {paying}"
    return None


def _kept(noted: dict[str, Any]) -> Choice | None:
    engine, why = noted.get("engine"), noted.get("why")
    if engine not in (EngineName.torch, EngineName.onnxruntime) or not isinstance(why, str):
        return None
    return Choice(EngineName(engine), why)


def _machine() -> str:
    """Hash of the machine and of what torch computes with there."""
    content = json.dumps([machine_key(), asdict(active())], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _size_class(images: Tensor) -> str:
    """Images and mean side, as powers of two."""
    batch, _, height, width = images.shape
    return f"{2 ** round(math.log2(batch))}x{2 ** round(math.log2(height * width) / 2)}"
