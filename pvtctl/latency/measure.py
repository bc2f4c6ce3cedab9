"""Measure time and peak memory of backbones, detectors, segmentation and depth models on this machine, in turns.

Every case has a process of its own (with its own allocator and peak memory), and the processes take turns of about a
quarter of a second, in alternating order, while the others wait: changes of the machine (clocks, other processes) then
affect all of them alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import InitVar, asdict, dataclass
from typing import Any, Literal

from pvtctl.errors import ExitCode, PvtctlError, UsageError, nearest
from pvtctl.extensions import loaded
from pvtctl.inference import EngineName
from pvtctl.io.machine import OthersShare
from pvtctl.latency.layers import TimedLayer, timed_layers

TURN_SECONDS = 0.25
MIN_CALLS = 7


@dataclass(frozen=True)
class Case:
    """A case to time. `size` is (height, width) in pixels; `head` as in `pvtctl.cost.counting.count`."""

    backbone: str
    size: tuple[int, int] = (224, 224)
    batch_size: int = 1
    head: str = "classifier"
    mode: Literal["forward", "train"] = "forward"
    """`train` is forward, loss, backward and one AdamW step."""
    dtype: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """bf16 and fp16 run under autocast, fp16 training with a gradient scaler; tf32 is for CUDA."""
    engine: str = "torch"
    """What computes the network: `torch`, `compile` or `onnxruntime`; in training the first two."""
    channels_last: bool = False
    num_classes: int | None = None
    output_stride: int | None = None
    """Both as in `count`."""
    options: str = ""
    """JSON of the options of `pvtctl.cost.build.build_own`, for a model other than the papers'."""
    compile: InitVar[bool] = False
    """The same as `engine="compile"`."""

    def __post_init__(self, compile: bool) -> None:
        if compile:
            object.__setattr__(self, "engine", EngineName.compile.value)

    def __str__(self) -> str:
        engine = "" if self.engine == "torch" else f", {self.engine}"
        return f"{self.backbone} at {self.size[0]}x{self.size[1]}, batch {self.batch_size}{engine}"

    def require_possible(self) -> None:
        """Raise UsageError for a built model, and for what the engine does not do."""
        if not (isinstance(self.backbone, str) and isinstance(self.head, str)):
            raise UsageError(
                "a built model cannot be timed: each case has a process of its own, which builds it by name",
                "register a BackboneSpec or HeadSpec, and give its name",
            )
        if self.engine not in list(EngineName):
            raise UsageError(f"no engine {self.engine!r}", nearest(self.engine, list(EngineName)))
        if self.engine == EngineName.auto:
            raise UsageError("auto takes one of two engines, and each is timed here", "--engine torch,onnxruntime")
        if self.engine == EngineName.onnxruntime:
            for wrong, what in (
                (self.mode == "train", "does not train"),
                (self.dtype != "fp32", f"computes in fp32, not {self.dtype}"),
                (self.channels_last, "chooses layouts itself, also where images are channels-last"),
            ):
                if wrong:
                    raise UsageError(f"the engine onnxruntime {what}", "leave that out, or use another --engine")


@dataclass(frozen=True)
class Latency:
    """Result of one case; times in milliseconds per call (a call is one batch)."""

    case: Case
    calls: int
    p50_ms: float
    p90_ms: float
    mean_ms: float
    min_ms: float
    first_ms: float
    """The very first call, with compilation if enabled; not part of the others."""
    images_per_second: float
    """All timed images over all timed seconds."""
    peak_memory_bytes: int
    """Growth over the loaded libraries, weights included: resident set (CPU) or torch's allocator (CUDA)."""
    others_cpu_share: float | None
    """Fraction of this machine's CPU time used by other processes meanwhile; None where it cannot be read."""
    parts_ms: dict[str, float] | None = None
    """Medians of the parts of a detector or dense model, in order: preprocess, network, postprocess. None with layers."""
    layers: tuple[TimedLayer, ...] | None = None
    """The parts of the model in the order in which they run, then the rests; from calls between those timed above."""

    def to_dict(self) -> dict[str, Any]:
        """A row of `pvtctl latency --json`."""
        row = asdict(self)
        case = row.pop("case")
        if not case["options"]:
            del case["options"]
        if self.layers is None:
            del row["layers"]
        return case | {"size": list(self.case.size)} | row


def measure_latency(
    cases: Sequence[Case],
    *,
    device: str = "cpu",
    threads: int | None = None,
    warmup: int = 3,
    seconds: float = 5.0,
    repeats: int | None = None,
    layers: int | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> tuple[list[Latency], dict[str, Any]]:
    """Measure `cases`; those of equal size and batch take turns. Returns their results, in order, and the machine.

    Each case is called `repeats` times, or for `seconds` of timed calls and at least seven times, after `warmup` calls.
    `layers` times the parts of the model too, in forward passes that are not compiled: its modules of so many names, or with
    0 those that `pvtctl.latency.trace.LayerTrace` finds sensible.

    Raises PvtctlError when a case runs out of memory or fails; all processes are ended in any case.
    """
    if seconds <= 0 or (repeats is not None and repeats < 1) or warmup < 0 or (threads is not None and threads < 1):
        raise UsageError("seconds, repeats and threads must be positive, warm-up not negative", "pvtctl latency --help")
    for case in cases:
        case.require_possible()
        if case.dtype == "tf32" and not device.startswith("cuda"):
            raise UsageError(f"TF32 is a format of NVIDIA GPUs, and this is {device}", "use fp32 or bf16")
        if layers is not None and (case.mode != "forward" or case.engine != EngineName.torch):
            raise UsageError(
                "layers are timed in the forward pass of a model that is not compiled",
                "leave out --mode train, --compile and --engine, or --layers",
            )
    from pvtctl.models.fast_cpu.calibrate import calibrate_once

    calibrate_once(device, on_progress, threads=threads)
    modules = [str(extension.path) for extension in loaded()]
    options = {"device": device, "threads": threads, "warmup": warmup, "modules": modules, "layers": layers}
    groups: dict[tuple[object, ...], list[Case]] = {}
    for case in dict.fromkeys(cases):
        groups.setdefault((case.size, case.batch_size), []).append(case)
    results: dict[Case, Latency] = {}
    machine: dict[str, Any] = {}
    for group in groups.values():
        with contextlib.ExitStack() as stack:
            runs = []
            for case in group:
                on_progress(f"warming up {case}")
                run = _Run(case, stack.enter_context(_worker()))
                machine |= run.prepare(options)
                if run.said:  # it exported a graph: the memory for that is not the model's
                    on_progress("; ".join(run.said))
                    run = _Run(case, stack.enter_context(_worker()))
                    run.prepare(options)
                runs.append(run)
            on_progress(f"timing {', '.join([*(run.case.backbone for run in runs[:-1]), str(runs[-1].case)])}")
            others = OthersShare([os.getpid(), *(run.process.pid for run in runs)])
            _take_turns(runs, seconds, repeats)
            share = others.share()
        results |= {run.case: run.result(share) for run in runs}
    return [results[case] for case in cases], machine


class _Run:
    """One case and its process."""

    def __init__(self, case: Case, process: subprocess.Popen[str]) -> None:
        self.case = case
        self.process = process
        self.times: list[float] = []
        self.parts: dict[str, list[float]] = {}
        self._estimate = 0.0
        self._first = 0.0
        self._peak = 0
        self.said: list[str] = []
        """Messages of the engine."""
        self._layers: list[dict[str, Any]] | None = None

    def prepare(self, options: dict[str, Any]) -> dict[str, Any]:
        """Build and warm up; returns the process's description of the machine."""
        said = self._ask(asdict(self.case) | options)
        self._first, self._estimate, self.said = said["first_seconds"], said["seconds"], said["said"]
        self._peak, self._layers = said["peak_memory_bytes"], said["layers"]
        machine: dict[str, Any] = said["machine"]
        return machine

    def is_done(self, seconds: float, repeats: int | None) -> bool:
        if repeats is not None:
            return len(self.times) >= repeats
        return sum(self.times) >= seconds and len(self.times) >= MIN_CALLS

    def take_turn(self, repeats: int | None) -> None:
        """Time calls for about TURN_SECONDS. The first warms up caches and threads, so it counts only if it is the only one."""
        calls = max(1, min(200, round(TURN_SECONDS / max(self._estimate, 1e-6))))
        if repeats is not None:
            calls = min(calls, repeats - len(self.times))
        waking = 1 if self._estimate < TURN_SECONDS else 0
        said = self._ask({"calls": calls + waking})
        self.times += said["seconds"][waking:]
        for name, seconds in said.get("parts", {}).items():
            self.parts.setdefault(name, []).extend(seconds[waking:])
        if self._layers is None:
            self._peak = said["peak_memory_bytes"]
        self._estimate = statistics.median(self.times)

    def result(self, others_cpu_share: float | None) -> Latency:
        milliseconds = [1000 * seconds for seconds in self.times]
        p90 = (
            statistics.quantiles(milliseconds, n=10, method="inclusive")[8]
            if len(milliseconds) > 1
            else milliseconds[0]
        )
        parts = None if self._layers else {name: 1000 * statistics.median(each) for name, each in self.parts.items()}
        return Latency(
            case=self.case,
            calls=len(milliseconds),
            p50_ms=statistics.median(milliseconds),
            p90_ms=p90,
            mean_ms=statistics.fmean(milliseconds),
            min_ms=min(milliseconds),
            first_ms=1000 * self._first,
            images_per_second=self.case.batch_size * len(self.times) / sum(self.times),
            peak_memory_bytes=self._peak,
            others_cpu_share=others_cpu_share,
            parts_ms=parts or None,
            layers=timed_layers(self._layers, self.parts) if self._layers else None,
        )

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has died, which the empty reply shows
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        line = stdout.readline()
        if not line:
            code = self.process.wait()
            if code == -signal.SIGKILL:  # only the kernel's out-of-memory killer does this
                raise _out_of_memory(self.case)
            raise PvtctlError(
                f"{self.case} failed: its process ended with code {code}", "PVTCTL_DEBUG=1 shows its output"
            )
        said: dict[str, Any] = json.loads(line)
        if said.get("out_of_memory"):
            raise _out_of_memory(self.case)
        if "error" in said:
            if said.get("code") == ExitCode.USAGE:
                raise UsageError(said["error"], said.get("hint"))
            raise PvtctlError(f"{self.case} failed: {said['error']}", said.get("hint"))
        return said


def _take_turns(runs: Sequence[_Run], seconds: float, repeats: int | None) -> None:
    """Rounds in which every unfinished case has one turn; every second round is reversed."""
    forwards = True
    while waiting := [run for run in runs if not run.is_done(seconds, repeats)]:
        for run in waiting if forwards else reversed(waiting):
            run.take_turn(repeats)
        forwards = not forwards


def _out_of_memory(case: Case) -> PvtctlError:
    return PvtctlError(f"out of memory: {case}, {case.mode}", "a smaller --batch-size, --size or model needs less")


@contextlib.contextmanager
def _worker() -> Iterator[subprocess.Popen[str]]:
    """A `pvtctl.latency.worker` that is ended, with all its children, when the block ends.

    It has its own session, so that Ctrl-C reaches the parent only; when the parent is killed, it ends by itself.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "pvtctl.latency.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if os.environ.get("PVTCTL_DEBUG") else subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # an unsent request may be left in it
                assert pipe is not None
                pipe.close()
