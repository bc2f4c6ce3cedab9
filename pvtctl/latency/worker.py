"""The child process of one measured case: builds the model once, then runs it on request.

`python -m pvtctl.latency.worker` reads one JSON object per line from stdin and writes one per line to its original
stdout. The first is the case (`pvtctl.latency.measure.Case` and options); then `{"calls": n}` until stdin closes, which
also happens when the parent dies, so that no worker outlives it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvtctl.latency.trace import LayerTrace

from pvtctl.errors import is_out_of_memory
from pvtctl.io.cuda import use_tf32


def main() -> None:
    """Handle requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries is not part of the protocol

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    worker: _Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if worker is None:
                worker = _Worker(request)
                answer(worker.prepare())
            else:
                answer(worker.measure(request["calls"]))
        except Exception as error:  # the parent turns it into one line for the user
            hint = getattr(error, "hint", None)
            code = getattr(error, "exit_code", None)  # 2: an impossible request
            answer({"error": _explain(error), "hint": hint, "code": code, "out_of_memory": is_out_of_memory(error)})
            return


class _Worker:
    def __init__(self, case: dict[str, Any]) -> None:
        from pvtctl.extensions import load_module
        from pvtctl.io.allocator import keep_memory

        keep_memory()
        import torch

        for file in case["modules"]:
            load_module(file)
        from pvtctl.models.fast_cpu.choices import active
        from pvtctl.models.fast_cpu.threads import take_threads

        self._case = case
        self._device = torch.device(case["device"])
        if case["threads"]:
            torch.set_num_threads(case["threads"])
        elif self._device.type == "cpu":
            take_threads(active().threads)
        torch.manual_seed(0)
        if self._device.type == "cuda":
            use_tf32(case["dtype"] == "tf32")
            torch.cuda.set_device(self._device)
            torch.cuda.synchronize()  # creates the context before the memory is read
        from pvtctl.latency.steps import build_step, load_libraries

        load_libraries(case)
        self._memory = _PeakMemory(self._device)
        self._said: list[str] = []
        self._step, self._model = build_step(case, self._device, self._said.append)
        self._trace: LayerTrace | None = None

    def prepare(self) -> dict[str, Any]:
        """Warm up: the first call separately (it may compile), then the given number of calls."""
        import torch

        from pvtctl.io.allocator import allocator_state
        from pvtctl.latency.machine import describe_machine
        from pvtctl.models.fast_cpu.choices import active

        first = self._timed_call()
        for _ in range(self._case["warmup"]):
            warm = self._timed_call()
        peak = self._memory.peak_bytes()  # before the layers are counted: that call needs more
        if self._case["layers"] is not None:
            from pvtctl.latency.trace import LayerTrace

            self._trace = LayerTrace(self._step, self._model, self._device, self._case["layers"])
        return {
            "first_seconds": first,
            "seconds": warm if self._case["warmup"] else first,
            "said": self._said,
            "peak_memory_bytes": peak,
            "layers": self._trace.found if self._trace else None,
            "machine": describe_machine(self._case["device"])
            | {"threads": torch.get_num_threads(), "allocator": allocator_state(), "kernels": str(active())}
            | _engine_version(self._case["engine"]),
        }

    def measure(self, calls: int) -> dict[str, Any]:
        """Time `calls` calls: seconds of each, and of its parts where it has some, and the peak memory so far.

        With layers, whose hooks take a little time, each call is followed by one that times them.
        """
        seconds: list[float] = []
        parts: dict[str, list[float]] = {}
        for _ in range(calls):
            seconds.append(self._timed_call())
            found = self._trace.seconds() if self._trace else getattr(self._step, "seconds", {})
            for name, part in found.items():
                parts.setdefault(name, []).append(part)
        return {"seconds": seconds, "parts": parts, "peak_memory_bytes": self._memory.peak_bytes()}

    def _timed_call(self) -> float:
        self._synchronize()
        start = time.perf_counter()
        self._step()
        self._synchronize()
        return time.perf_counter() - start

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)


def _engine_version(engine: str) -> dict[str, str]:
    if engine != "onnxruntime":
        return {}
    import onnxruntime

    return {"onnxruntime": onnxruntime.__version__}


class _PeakMemory:
    """Peak since construction. CUDA: bytes of tensors in torch's allocator. CPU: growth of the resident set."""

    def __init__(self, device: Any) -> None:
        self._device = device
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
            return
        # reset the high-water mark (Linux); otherwise it includes the loading of libraries
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._start = _status_bytes("VmRSS") or _max_resident_bytes()

    def peak_bytes(self) -> int:
        if self._device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self._device)
        return max(0, (_status_bytes("VmHWM") or _max_resident_bytes()) - self._start)


def _status_bytes(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), None)


def _max_resident_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _explain(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


if __name__ == "__main__":
    main()
