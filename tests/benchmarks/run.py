"""Time ours against peers: `python tests/benchmarks/run.py`, about a quarter of an hour on two cores.

Every contestant runs in a process of its own, as its users run it: ours with the allocator setting that the command
line makes (`pvtctl.io.allocator`), peers with none. Then once more with the same setting on both sides. The two processes
of a case take turns, one call each, so that a drifting machine slows both alike; the ratio is the median over turns of
(peer / ours). Training steps use the optimiser as each side's users get it: ours from `pvtctl.engine`, the peer's
torch.optim.AdamW. Peak memory is the growth of the resident set from before the model is built to the highest point of the
timed calls (Linux).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CASES = {
    # name: (ours, peer, mode, batch, size, turns)
    "forward, batch 8, 224": ("ours", "transformers", "forward", 8, (224, 224), 15),
    "forward, batch 1, 224": ("ours", "transformers", "forward", 1, (224, 224), 40),
    "training step, batch 8, 224": ("ours", "transformers", "train", 8, (224, 224), 9),
    "pyramid, batch 1, 800x1216": ("ours-pyramid", "plain-pyramid", "forward", 1, (800, 1216), 15),
    "detection, PVT-Small, batch 1, 800x1216": (
        "ours-retinanet-pvt",
        "torchvision-retinanet",
        "forward",
        1,
        (800, 1216),
        9,
    ),
    "detection, PVT-Small against channels last, 800x1216": (
        "ours-retinanet-pvt",
        "torchvision-retinanet, channels last",
        "forward",
        1,
        (800, 1216),
        9,
    ),
    "detection, ResNet-50, batch 1, 800x1216": (
        "ours-retinanet-r50",
        "torchvision-retinanet",
        "forward",
        1,
        (800, 1216),
        9,
    ),
    "Semantic FPN, PVT-Small, batch 1, 512x512": ("ours-semantic-fpn", "plain-attention", "forward", 1, (512, 512), 15),
    "Semantic FPN against plain modules throughout, 512x512": (
        "ours-semantic-fpn",
        "plain-semantic-fpn",
        "forward",
        1,
        (512, 512),
        15,
    ),
    "DPT-Large, batch 1, 384x384": ("ours-dpt-large", "transformers-dpt", "forward", 1, (384, 384), 11),
    "input, one core": ("ours-input", "pil-input", "input", 0, (224, 224), 9),
}


def worker(name: str, mode: str, batch: int, size: tuple[int, int]) -> None:
    """A contestant: for each line on stdin one timed call, its seconds on stdout."""
    import torch  # the libraries' own share of memory does not count

    torch.ones(8, 8) @ torch.ones(8, 8)
    before = _resident("VmRSS")
    if mode == "input":
        from inputs import READERS

        call = READERS[name]()
    else:
        call = _model_call(name, mode, batch, size)
    with contextlib.suppress(OSError):  # start the high-water mark anew: building a model may have been its peak
        Path("/proc/self/clear_refs").write_text("5")
    for _ in range(2):
        call()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        call()
        print(time.perf_counter() - start, flush=True)
    print(_resident("VmHWM") - before, flush=True)


def _resident(field: str) -> int:
    """Bytes of this process's resident set: `VmRSS` now, `VmHWM` at its highest; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def _model_call(name: str, mode: str, batch: int, size: tuple[int, int]) -> Callable[[], object]:
    import torch
    from peers import BUILD

    torch.manual_seed(0)
    model = BUILD[name]()
    images = torch.randn(batch, 3, *size)
    if mode == "forward":
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)

        def forward() -> object:
            with torch.inference_mode():
                return model(images)

        return forward
    if name == "ours":
        from pvtctl.engine import build_optimizer
        from pvtctl.recipe.schema import Optimizer

        optimizer = build_optimizer(model, Optimizer(), 1e-4)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    labels = torch.randint(0, 1000, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


class Contestant:
    """A worker process and the times it has returned."""

    def __init__(self, name: str, case: tuple[object, ...], *, keep_memory: bool) -> None:
        command = [sys.executable, __file__, "--worker", json.dumps([name, *case]), "--allocator"]
        self.process = subprocess.Popen(
            [*command, "kept" if keep_memory else "system"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.seconds: list[float] = []

    def read(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"a contestant ended early: {self.process.args}")
        return line

    def turn(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.seconds.append(float(self.read()))

    def finish(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        peak = int(self.read())
        self.process.wait()
        return peak


def run_case(name: str, *, same_allocator: bool, quick: bool) -> dict[str, object]:
    ours_name, peer_name, mode, batch, size, turns = CASES[name]
    case = (mode, batch, size)
    ours = Contestant(ours_name, case, keep_memory=True)
    peer = Contestant(peer_name, case, keep_memory=same_allocator)
    for contestant in (ours, peer):
        assert contestant.read() == "ready"
    for _ in range(3 if quick else turns):
        ours.turn()
        peer.turn()
    ratios = sorted(theirs / mine for mine, theirs in zip(ours.seconds, peer.seconds, strict=True))
    ours_peak, peer_peak = ours.finish(), peer.finish()
    return {
        "case": name,
        "peer": peer_name,
        "allocator": "kept on both sides" if same_allocator else "as users run it",
        "ours_ms": 1e3 * statistics.median(ours.seconds),
        "peer_ms": 1e3 * statistics.median(peer.seconds),
        "speedup": statistics.median(ratios),
        "speedup_range": [ratios[0], ratios[-1]],
        "ours_peak_mib": ours_peak / 2**20,
        "peer_peak_mib": peer_peak / 2**20,
    }


def machine() -> str:
    import torch

    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    size = 2048
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    versions = [f"torch {torch.__version__}"]
    for package in ("torchvision", "transformers"):
        try:
            versions.append(f"{package} {__import__(package).__version__}")
        except ImportError:
            versions.append(f"no {package}")
    return f"{cpu}, {os.cpu_count()} cores, fp32 matmul {best:.0f} GFLOP/s; Python {platform.python_version()}, {', '.join(versions)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--allocator", choices=["kept", "system"], default="system", help=argparse.SUPPRESS)
    parser.add_argument("--case", help="only the cases whose name contains this")
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
    print(machine(), file=sys.stderr)
    rows = []
    print("| case | peer | allocator | ours ms | peer ms | speed-up (min-max) | peak MiB, ours / peer |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for same_allocator in (False, True):
        for name in CASES:
            if options.case and options.case not in name:
                continue
            row = run_case(name, same_allocator=same_allocator, quick=options.quick)
            rows.append(row)
            low, high = row["speedup_range"]
            print(
                f"| {name} | {row['peer']} | {row['allocator']} | {row['ours_ms']:.0f} | {row['peer_ms']:.0f} "
                f"| **{row['speedup']:.2f}x** ({low:.2f}-{high:.2f}) "
                f"| {row['ours_peak_mib']:.0f} / {row['peer_peak_mib']:.0f} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
