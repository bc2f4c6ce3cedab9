"""Time ours against peers on a GPU, in bf16: `python tests/benchmarks/gpu.py --out gpu.md`, ten minutes at most.

First the tests that need a GPU, then the cases below, by the mechanism of `run.py`: each contestant in a process of its own, in
turns; a turn is the mean of calls that take 0.1 s together. A ratio is the median over turns of (other / ours). Memory is the
highest of torch's allocator. Cases for which no time is left are named, not shortened. TF32 is off on all sides; bf16 leaves it
little to do. `--dry-run --device cpu` tries the script, with tiny sizes, and measures nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import run
from run import Case, run_case

HERE = Path(__file__).parent
DETECTION, PYRAMIDS = (800, 1216), ("plain-pyramid", "torchvision-pyramid, channels last")
DETECTORS = ("retinanet-r50", "torchvision-retinanet", "torchvision-retinanet, channels last")
CLASSIFIERS = ("transformers", "torchvision-r50, channels last")
CASES = (
    Case("PVT-Small, 224", "pvt", CLASSIFIERS, batch=64),
    Case("PVT-Small, training step, 224", "pvt", CLASSIFIERS, batch=64, mode="train"),
    Case("PVT-Small, pyramid", "pvt-pyramid", PYRAMIDS, batch=2, size=DETECTION),
    Case("PVT-Small, pyramid, training step", "pvt-pyramid", PYRAMIDS, batch=2, size=DETECTION, mode="train"),
    Case("RetinaNet, PVT-Small", "retinanet-pvt", DETECTORS, batch=2, size=DETECTION),
    Case("RetinaNet, PVT-Small, training step", "retinanet-pvt", DETECTORS, batch=2, size=DETECTION, mode="train"),
    Case("DPT-Large", "dpt-large", ("transformers-dpt",), batch=8, size=(384, 384)),
)
TRIAL = (
    Case("PVT-Small, pyramid", "pvt-pyramid", PYRAMIDS[1:], size=(64, 96)),
    Case(
        "RetinaNet, PVT-Small, training step",
        "retinanet-pvt",
        ("torchvision-retinanet-64",),
        size=(64, 96),
        mode="train",
    ),
)
HEADER = "| case | batch, size | contestant | ms | time, ours 1 (min-max) | peak MiB |\n| --- | --- | --- | ---: | ---: | ---: |"


def machine(device: str) -> str:
    """The GPU, what it reaches, and versions."""
    import torch

    if device == "cpu":
        return run.machine()
    from pvtctl.latency.ceilings import matmul_gflops

    properties = torch.cuda.get_device_properties(device)
    speed = matmul_gflops(torch.device(device), torch.bfloat16)
    where = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, bf16 matmul {speed / 1000:.0f} TFLOP/s"
    return f"{where}; CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}; host: {run.machine()}"


def gpu_tests() -> str:
    """The last line of pytest."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(HERE.parent)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE.parents[1])
    print(done.stdout, file=sys.stderr)
    return (done.stdout.strip().splitlines() or ["no output"])[-1].strip("= ")


def rows_of(cases: Sequence[Case], ends: float, turns: int | None) -> list[str]:
    """Lines of the table; cases that would begin after `ends` only say so."""
    lines = []
    for case in cases:
        if time.monotonic() > ends:
            lines.append(f"| {case.title} | | not measured: the time was up | | | |")
            continue
        for row in run_case(case, same_allocator=False, turns=turns):
            low, high = row["range"]  # type: ignore[misc]
            lines.append(
                f"| {case.title} | {case.batch}, {'x'.join(map(str, case.size))} | {row['contestant']} | {row['ms']:.2f} "
                f"| **{row['ratio']:.2f}** ({low:.2f}-{high:.2f}) | {row['peak_mib']:.0f} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1; cpu only with --dry-run")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes and one turn: a trial of the script")
    parser.add_argument("--minutes", type=float, default=9, help="begin no case after so long")
    parser.add_argument("--out", type=Path, help="also write the Markdown here")
    options = parser.parse_args(arguments)
    if options.device == "cpu" and not options.dry_run:
        parser.error("--device cpu is for --dry-run; tests/benchmarks/run.py measures CPUs")
    ends = time.monotonic() + 60 * options.minutes
    tested = "not run" if options.dry_run else gpu_tests()
    dtype = "fp32" if options.device == "cpu" else "bf16"  # which many CPUs emulate, a hundred times slower
    cases = [replace(each, device=options.device, dtype=dtype) for each in (TRIAL if options.dry_run else CASES)]
    lines = rows_of(cases, ends, 1 if options.dry_run else None)
    note = "A trial of the script: no measurement.\n\n" if options.dry_run else ""
    text = "\n".join([f"{note}{machine(options.device)}. Tests that need a GPU: {tested}.\n", HEADER, *lines, ""])
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
