"""Time, multiply-adds and bytes of the parts of a model, from calls of its step.

Parts are found by the model's own structure, so that timm's models and your own have parts too. They are
watched by torch's hooks for all modules: a hook of a layer's own would take its fast CPU kernel away
(`pvtctl.models.fast_cpu.conditions.is_plain`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from pvtctl.cost.counting import PRODUCTS, OperationCounter, bytes_of
from pvtctl.models.fast_cpu import plain_kernels

OUTSIDE = "outside of the model"
"""Preparing images, and what is done with the outputs of a dense model."""
MODEL = "model"
"""The model's own name among its parts."""
BLOCK = 3
"""Children with parameters that make a numbered module a block, whose children are parts."""


class LayerTrace:
    """The parts of `model` while `step`, which calls it, runs on `device`.

    `depth`: the parts are the modules of that many names (`backbone.stages.0` has two), or shallower ones that have no
    more; 0: down to the children of blocks, which are attention, MLP and norms in a transformer.
    """

    def __init__(self, step: Callable[[], object], model: nn.Module, device: torch.device, depth: int = 0) -> None:
        self._step = step
        self._model = model
        self._device = device
        self._names = layer_names(model, self._called(), depth)
        self.found = self._counted()
        """Of each part `name`, `calls`, `rest`, `macs` and `bytes`, as in `pvtctl.latency.layers.TimedLayer`."""

    def seconds(self) -> dict[str, float]:
        """Seconds of each part in one call: together they are the whole call."""
        marks = [(OUTSIDE, self._now())]
        running = [OUTSIDE]

        def enter(module: nn.Module) -> None:
            if (name := self._names.get(id(module))) is not None:
                running.append(name)
                marks.append((name, self._now()))

        def leave(module: nn.Module) -> None:
            if id(module) in self._names:
                running.pop()
                marks.append((running[-1], self._now()))

        with _watching(enter, leave):
            self._step()
        marks.append((OUTSIDE, self._now()))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = dict.fromkeys((row["name"] for row in self.found), 0.0)
        for (name, start), (_, end) in pairwise(marks):
            seconds[name] = seconds.get(name, 0.0) + _between(start, end)
        return seconds

    def _now(self) -> Any:
        """A moment: on a GPU an event in its stream, so that nothing waits."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _called(self) -> set[int]:
        """Ids of the modules that a call runs: a fast kernel reads the weights of its layers instead."""
        called: set[int] = set()
        with _watching(lambda module: called.add(id(module)), lambda module: None):
            self._step()
        return called

    def _counted(self) -> list[dict[str, Any]]:
        """One call with plain kernels, whose operations are counted."""
        counter = OperationCounter(PRODUCTS, on_values=True)
        counter.path[:] = [OUTSIDE]
        calls: Counter[str] = Counter({OUTSIDE: 1})
        traffic: Counter[str] = Counter()
        around = {OUTSIDE}
        begun: list[int] = []

        def enter(module: nn.Module, args: Any) -> None:
            around.add(counter.path[-1])
            counter.path.append(self._names[id(module)])
            calls[counter.path[-1]] += 1
            begun.append(counter.bytes.total())

        def leave(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            if counter.bytes.total() > begun.pop():  # else it returns its input, or a view of it
                traffic[counter.path[-1]] += bytes_of([args, kwargs, out, *module.parameters(), *module.buffers()])
            counter.path.pop()

        hooks = []
        for module in self._model.modules():
            if id(module) in self._names:
                hooks.append(module.register_forward_pre_hook(enter))
                hooks.append(module.register_forward_hook(leave, with_kwargs=True))
        try:
            with plain_kernels(self._model), counter:
                self._step()
        finally:
            for hook in hooks:
                hook.remove()

        def row(name: str) -> dict[str, Any]:
            rest = name in around
            moved = counter.bytes[name] if rest else traffic[name]
            return {"name": name, "calls": calls[name], "rest": rest, "macs": counter.macs[name], "bytes": moved}

        return sorted(map(row, calls), key=lambda row: row["rest"])


def layer_names(model: nn.Module, called: set[int], depth: int) -> dict[int, str]:
    """Names of the parts of `model`, and of the modules around them, by the ids of the modules; see `LayerTrace`.

    Only modules in `called` are parts: others are looked into. Neighbours in a list that have the same class and the same
    shapes of parameters are one part, `blocks.0-2`.
    """
    names: dict[int, str] = {}

    def visit(module: nn.Module, name: str, level: int, block: bool) -> None:
        if id(module) in called:
            names.setdefault(id(module), name or MODEL)
            if not (level < depth if depth else block or _holds_block(module)):
                return
        for label, child, is_block in _children(module):
            visit(child, f"{name}.{label}".lstrip("."), level + (not label[0].isdigit()), is_block)

    visit(model, "", 0, False)
    return names


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    """Label of each child, the child, and whether it is a block."""

    def alike(child: tuple[str, nn.Module]) -> object:
        return _kind(child[1]) if child[0].isdigit() else child[0]

    for _, together in groupby(module.named_children(), alike):
        labels, children = zip(*together, strict=True)
        label = labels[0] if len(labels) == 1 else f"{labels[0]}-{labels[-1]}"
        for child in children:
            parts = sum(any(True for _ in part.parameters()) for part in child.children())
            yield label, child, label[0].isdigit() and parts >= BLOCK


def _kind(module: nn.Module) -> tuple[Any, ...]:
    return type(module), *((name, parameter.shape) for name, parameter in module.named_parameters())


def _holds_block(module: nn.Module) -> bool:
    return any(block or _holds_block(child) for _, child, block in _children(module))


def _between(start: Any, end: Any) -> float:
    """Seconds between two moments of `LayerTrace`."""
    return end - start if isinstance(end, float) else start.elapsed_time(end) / 1e3


@contextmanager
def _watching(enter: Callable[[nn.Module], object], leave: Callable[[nn.Module], object]) -> Iterator[None]:
    """Context in which `enter` and `leave` are called with every module that begins and ends its forward pass."""

    def after(module: nn.Module, args: Any, out: Any) -> None:
        leave(module)

    def before(module: nn.Module, args: Any) -> None:
        enter(module)

    hooks = [register_module_forward_pre_hook(before), register_module_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
