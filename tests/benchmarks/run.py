"""Time ours against peers on this machine: `python tests/benchmarks/run.py --all`, over an hour on two cores.

Every contestant runs in a process of its own, as its users run it: ours with the allocator setting that the command line
makes (`pvtctl.io.allocator`), and the CPU kernels, layout and threads that are measured first (`pvtctl doctor --calibrate`),
peers with none. Then once more with the same allocator setting on all sides. The processes of a case take turns of half a
second, and of at least one call, so that a drifting machine slows all alike; a ratio is the median over turns of
(other / ours). Training steps use the optimiser as each side's users get it: ours from `pvtctl.engine`, the peer's
torch.optim.AdamW. Peak memory is the growth of the resident set from before the model is built, with all libraries loaded,
to the highest point of the timed calls (Linux).

`ours, plain torch` is the same model without our CPU kernels. Where ours is slower than that, by more than chance, the exit
code is 1: a kernel that loses on a machine must not be taken there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLAIN, ONNX, INDUCTOR = "plain torch", "onnxruntime", "Inductor"
ENGINES = {ONNX: "onnxruntime", INDUCTOR: "compile"}
"""How ours is run -> the engine of `pvtctl eval`, `predict` and `latency` (`pvtctl.inference`)."""
TURN, GPU_TURN = 0.5, 0.1
"""Seconds of the calls of a turn, of which the mean counts."""
SLOW = 10
"""Seconds of a call from which one before the timed ones is enough."""
LOSS = 0.97
"""A ratio below this matters."""
CHANCE = 0.05
"""What happens by chance less often than this does not count as chance."""


@dataclass(frozen=True)
class Case:
    """What all contestants compute. A name is one of `peers.BUILD` or for `inputs.pipeline`; after a comma follows how it is run."""

    title: str
    ours: str
    others: tuple[str, ...]
    batch: int = 1
    size: tuple[int, int] = (224, 224)
    turns: int = 15
    mode: str = "forward"
    device: str = "cpu"
    dtype: str = "fp32"
    """bf16: under autocast."""

    @property
    def contestants(self) -> tuple[str, ...]:
        return (self.ours, *self.others)


def variants(name: str, *kinds: str) -> tuple[str, ...]:
    return tuple(f"{name}, {kind}" for kind in kinds)


DETECTION = (800, 1216)
CASES = (
    Case("PVT-Small, 224", "pvt", ("transformers", *variants("pvt", PLAIN, ONNX, INDUCTOR)), batch=8),
    Case("PVT-Small, 224", "pvt", ("transformers", *variants("pvt", PLAIN, ONNX, INDUCTOR)), turns=40),
    Case(
        "PVT-Small, training step, 224",
        "pvt",
        ("transformers", *variants("pvt", PLAIN, INDUCTOR)),
        batch=8,
        turns=9,
        mode="train",
    ),
    Case(
        "PVT-Small, training step in bf16, 224",
        "pvt",
        ("transformers", *variants("pvt", PLAIN)),
        batch=8,
        turns=9,
        mode="train",
        dtype="bf16",
    ),
    Case(
        "RetinaNet, training step",
        "retinanet-pvt",
        ("torchvision-retinanet", "torchvision-retinanet, channels last", *variants("retinanet-pvt", PLAIN)),
        batch=2,
        size=DETECTION,
        turns=3,
        mode="train",
    ),
    Case(
        "PVT-Small, pyramid",
        "pvt-pyramid",
        ("plain-pyramid", *variants("pvt-pyramid", PLAIN, ONNX, INDUCTOR)),
        size=DETECTION,
        turns=7,
    ),
    Case(
        "RetinaNet, PVT-Small",
        "retinanet-pvt",
        ("torchvision-retinanet", "torchvision-retinanet, channels last", *variants("retinanet-pvt", PLAIN, ONNX)),
        size=DETECTION,
        turns=5,
    ),
    Case(
        "Mask R-CNN, PVT-Small",
        "mask-rcnn-pvt",
        ("torchvision-mask-rcnn", *variants("mask-rcnn-pvt", PLAIN, ONNX)),
        size=DETECTION,
        turns=5,
    ),
    Case(
        "DETR, PVT-Small",
        "detr-pvt",
        ("transformers-detr", *variants("detr-pvt", PLAIN, ONNX)),
        size=DETECTION,
        turns=5,
    ),
    Case(
        "RetinaNet, ResNet-50",
        "retinanet-r50",
        ("torchvision-retinanet", "torchvision-retinanet, channels last", *variants("retinanet-r50", PLAIN, ONNX)),
        size=DETECTION,
        turns=5,
    ),
    Case(
        "Semantic FPN, PVT-Small",
        "semantic-fpn",
        ("plain-attention", "plain-semantic-fpn", *variants("semantic-fpn", PLAIN, ONNX)),
        size=(512, 512),
        turns=7,
    ),
    Case("DPT-Large", "dpt-large", ("transformers-dpt", *variants("dpt-large", PLAIN, ONNX)), size=(384, 384), turns=5),
    Case("DPT, PVT-Small", "dpt-pvt", variants("dpt-pvt", PLAIN, ONNX), size=(384, 384), turns=5),
    *(
        Case(f"Input, {task}", f"ours-input {task}", (f"torchvision-input {task}",), batch, size, turns=5, mode="input")
        for task, batch, size in (
            ("classification", 64, (224, 224)),
            ("classification+colours", 64, (224, 224)),
            ("detection", 8, (800, 1333)),
            ("segmentation", 16, (512, 512)),
            ("segmentation+colours", 16, (512, 512)),
            ("depth", 16, (384, 384)),
            ("depth+colours", 16, (384, 384)),
        )
    ),
)


def worker(name: str, mode: str, batch: int, size: tuple[int, int], device: str, dtype: str) -> None:
    """A contestant: for each line on stdin a turn of timed calls, the seconds of one on stdout."""
    import torch

    torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)
    if mode != "input":
        _load_libraries(name)
    before = _resident("VmRSS")
    clock = time.perf_counter
    if mode == "input":
        from inputs import pipeline, shares

        call, clock = pipeline(name), time.process_time  # of one core, whatever else the machine does
    else:
        call = _model_call(name, mode, batch, size, device, dtype)
    with contextlib.suppress(OSError):  # start the high-water mark anew: building a model may have been its peak
        Path("/proc/self/clear_refs").write_text("5")
    seconds = _seconds(call, 1, device)
    if seconds < SLOW:
        seconds = _seconds(call, 1, device)
    calls = max(1, round((TURN if device == "cpu" else GPU_TURN) / seconds))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(_seconds(call, calls, device, clock), flush=True)
    print(_resident("VmHWM") - before if device == "cpu" else torch.cuda.max_memory_allocated(device), flush=True)
    if mode == "input":
        print(json.dumps(shares(call)), flush=True)


def _load_libraries(name: str) -> None:
    """What a contestant imports is no memory of its model: transformers takes 200 MiB."""
    from peers import BUILD

    from pvtctl.models.layers.shapes import without_values

    base, _, how = name.partition(", ")
    with without_values():
        BUILD[name if name in BUILD else base]()
    for library in {ONNX: ("onnx", "onnxscript", "onnxruntime"), INDUCTOR: ("torch._inductor.compile_fx",)}.get(
        how, ()
    ):
        importlib.import_module(library)


def _seconds(
    call: Callable[[], object], calls: int, device: str, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of one of `calls` calls, until a GPU has done them."""
    import torch

    start = clock()
    for _ in range(calls):
        call()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return (clock() - start) / calls


def _resident(field: str, process: int | str = "self") -> int:
    """Bytes of a process's resident set: `VmRSS` now, `VmHWM` at its highest; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def _model_call(
    name: str, mode: str, batch: int, size: tuple[int, int], device: str, dtype: str
) -> Callable[[], object]:
    import torch
    from peers import BUILD, loss_of

    from pvtctl.inference.engines import make_engine
    from pvtctl.models.fast_cpu.choices import active
    from pvtctl.models.fast_cpu.levers import lay_out
    from pvtctl.models.fast_cpu.threads import take_threads

    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    base, _, how = name.partition(", ")
    model = BUILD[name if name in BUILD else base]().to(device)
    images = torch.randn(batch, 3, *size).to(device)
    low = torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16")
    if mode == "forward":
        model.eval()
        if type(model).__module__.startswith("pvtctl"):
            lay_out(model, torch.device(device))
            take_threads(active().threads if device == "cpu" else 0)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        run = make_engine(ENGINES.get(how, "torch"), torch.device(device))(model)
        guard = torch.no_grad if how == INDUCTOR else torch.inference_mode

        def forward() -> object:
            with guard(), low:
                return run(images)

        return forward
    if type(model).__module__.startswith("pvtctl"):
        from pvtctl.engine import build_optimizer
        from pvtctl.recipe.schema import Optimizer

        optimizer = build_optimizer(model, Optimizer(), 1e-4)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    trained = torch.compile(model) if how == INDUCTOR else model

    def step() -> None:
        optimizer.zero_grad()
        with low:
            loss = loss_of(trained, images)
        loss.backward()
        optimizer.step()

    return step


class Contestant:
    """A worker process and the times it has returned."""

    def __init__(self, name: str, case: Case, *, keep_memory: bool) -> None:
        what = json.dumps([name, case.mode, case.batch, case.size, case.device, case.dtype])
        allocator = "kept" if keep_memory else "system"
        environment = dict(os.environ)
        if name.endswith(PLAIN):
            environment["PVTCTL_FAST_CPU"] = "0"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "run", "--worker", what, "--allocator", allocator],
            cwd=Path(__file__).parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.name = name
        self.seconds: list[float] = []
        self.parts: dict[str, float] = {}
        """Share of the time of each part of an input pipeline, after `finish`."""

    def read(self) -> str:
        """The next answer: `ready` once it has begun, then the seconds of a turn, at last the bytes of `finish`."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.strip() == "ready" or line[:1].isdigit():  # exporters print what they do
                return line.strip()
        code = self.process.wait()
        why = "; the system kills a process so when memory runs out" if code == -signal.SIGKILL else ""
        raise SystemExit(f"{self.name} ended early, with code {code}{why}")

    def turn(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.seconds.append(float(self.read()))

    def finish(self) -> int:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        peak = int(self.read())
        assert self.process.stdout
        self.parts = json.loads(self.process.stdout.read() or "{}")
        self.process.wait()
        self.process.stdout.close()
        return peak


def run_case(case: Case, *, same_allocator: bool, turns: int | None = None) -> list[dict[str, Any]]:
    """A row for each contestant, after `turns` turns instead of the case's own.

    Where memory does not hold all of them, the rest take turns with ours afterwards.
    """
    rows: list[dict[str, Any]] = []
    waiting = list(case.others)
    while waiting or not rows:
        runs: list[Contestant] = []
        try:
            while not runs or (waiting and (len(runs) == 1 or has_room(runs))):
                name = waiting.pop(0) if runs else case.ours
                runs.append(Contestant(name, case, keep_memory=same_allocator or name.partition(", ")[0] == case.ours))
                assert runs[-1].read() == "ready"
            for _ in range(turns or case.turns):
                for run in runs:
                    run.turn()
            rows += rows_of(runs, case, same_allocator)[1 if rows else 0 :]
        finally:
            for run in runs:
                run.process.kill()
    return rows


def has_room(runs: list[Contestant]) -> bool:
    """Whether another contestant fits into memory if it needs a third more than any of `runs` did in its first calls, next to
    one of those at its peak.

    Where the allocator gives memory back, one that waits for its turn holds less than it will need.
    """
    from pvtctl.io.machine import available_memory

    available = available_memory()
    peaks = [_resident("VmHWM", run.process.pid) for run in runs]
    given_back = [peak - _resident("VmRSS", run.process.pid) for peak, run in zip(peaks, runs, strict=True)]
    return available is None or available - max(given_back) > 4 / 3 * max(peaks)


def rows_of(runs: list[Contestant], case: Case, same_allocator: bool) -> list[dict[str, Any]]:
    """A row for each of `runs`, of which the first is ours."""
    rows = []
    for run in runs:
        ratios = sorted(theirs / mine for mine, theirs in zip(runs[0].seconds, run.seconds, strict=True))
        rows.append(
            {
                "case": case.title,
                "batch": case.batch,
                "size": case.size,
                "contestant": run.name if run is not runs[0] else f"{run.name} (ours)",
                "allocator": "kept on all sides" if same_allocator else "as users run it",
                "ms": 1e3 * statistics.median(run.seconds),
                "ratio": statistics.median(ratios),
                "range": [ratios[0], ratios[-1]],
                "faster": is_faster(ratios),
                "peak_mib": run.finish() / 2**20,
                "parts": run.parts,
            }
        )
    return rows


def is_faster(ratios: list[float]) -> bool:
    """Whether another is faster than ours, by its median, and in more rounds than by chance (sign test)."""
    rounds, won = len(ratios), sum(ratio < 1 for ratio in ratios)
    chance = sum(math.comb(rounds, wins) for wins in range(won, rounds + 1)) / 2**rounds
    return statistics.median(ratios) < LOSS and chance < CHANCE


def print_inputs(rows: list[dict[str, Any]]) -> None:
    """Images per second of one core, and where the time goes."""
    if not rows:
        return
    parts = list(rows[0]["parts"])
    print(f"\n| input | contestant | allocator | images/s and core | {' | '.join(f'{part}, %' for part in parts)} |")
    print(f"| --- | --- | --- | {' | '.join(['---:'] * (1 + len(parts)))} |")
    for row in rows:
        speed = f"{1e3 * row['batch'] / row['ms']:.1f}"
        told = [row["case"], row["contestant"], row["allocator"], speed]
        print(f"| {' | '.join([*told, *(f'{100 * share:.0f}' for share in row['parts'].values())])} |")


def trains_in_bf16() -> bool:
    """Whether that is faster on this CPU, so that training commands do it."""
    import torch

    from pvtctl.engine.precision import choose_precision

    return choose_precision("auto", torch.device("cpu")).name == "bf16"


def machine() -> str:
    import platform

    import torch

    from pvtctl.io.machine import cpu_name
    from pvtctl.latency.ceilings import matmul_gflops
    from pvtctl.models.fast_cpu.choices import active

    best = matmul_gflops(torch.device("cpu"), torch.float32)
    versions = [f"torch {torch.__version__}"]
    for package in ("torchvision", "transformers", "onnxruntime"):
        try:
            versions.append(f"{package} {__import__(package).__version__}")
        except ImportError:
            versions.append(f"no {package}")
    where = f"{cpu_name()} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"
    return (
        f"{where}, fp32 matmul {best:.0f} GFLOP/s; Python {platform.python_version()}, {', '.join(versions)}; "
        f"CPU kernels: {active()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--allocator", choices=["kept", "system"], default="system", help=argparse.SUPPRESS)
    parser.add_argument("--all", action="store_true", help="all cases")
    parser.add_argument("--case", help="only the cases whose title contains this")
    parser.add_argument("--quick", action="store_true", help="three turns a case: a trial of the script, not a result")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    if options.worker:
        if options.allocator == "kept":
            from pvtctl.io.allocator import keep_memory

            keep_memory()
        worker(*json.loads(options.worker))
        return
    if not options.all and not options.case:
        parser.error("--all, or --case TITLE")
    subprocess.run([sys.executable, "-m", "pvtctl", "doctor", "--no-measure", "--calibrate"], check=True)
    print(machine(), file=sys.stderr)
    rows: list[dict[str, Any]] = []
    print("| case | batch, size | contestant | allocator | ms | time, ours 1 (min-max) | peak MiB |")
    print("| --- | --- | --- | --- | ---: | ---: | ---: |")
    for case in CASES:
        if not (options.all or options.case in case.title) or (case.dtype == "bf16" and not trains_in_bf16()):
            continue
        for same_allocator in (False, True):
            for row in run_case(case, same_allocator=same_allocator, turns=3 if options.quick else None):
                rows.append(row)
                low, high = row["range"]
                print(
                    f"| {row['case']} | {case.batch}, {'x'.join(map(str, case.size))} | {row['contestant']} "
                    f"| {row['allocator']} | {row['ms']:.0f} | **{row['ratio']:.2f}** ({low:.2f}-{high:.2f}) "
                    f"| {row['peak_mib']:.0f} |",
                    flush=True,
                )
    print_inputs([row for row in rows if row["parts"]])
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2))
    slower = [row for row in rows if str(row["contestant"]).endswith(PLAIN) and row["faster"]]
    for row in slower:
        print(f"slower than plain torch: {row['case']}, {row['allocator']}, {row['ratio']:.2f}", file=sys.stderr)
    raise SystemExit(1 if slower else 0)


if __name__ == "__main__":
    main()
