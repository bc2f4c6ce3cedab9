"""The long version: `python -m tests.robustness --inputs 2000 --kills 100`.

Prints a table, and writes a summary as JSON and Markdown with every failure; `--seed N --inputs 1` repeats one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from attempts import Found, try_inputs  # noqa: E402
from kinds import KINDS  # noqa: E402
from valid import make_valid  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness", description=__doc__)
    parser.add_argument("--inputs", type=int, default=300, help="damaged inputs")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next ones follow")
    parser.add_argument("--kind", choices=list(KINDS), help="one kind only")
    parser.add_argument("--keep", type=Path, help="keep each failure's input below this new folder")
    parser.add_argument("--out", type=Path, help="write summary.json and summary.md to this folder")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="robustness-") as folder:
        valid = Path(folder) / "valid"
        valid.mkdir()
        make_valid(valid)
        print(f"valid inputs made in {time.monotonic() - began:.0f} s", file=sys.stderr)
        seeds = range(args.seed, args.seed + args.inputs)
        found = try_inputs(valid, Path(folder) / "work", seeds, only=args.kind, keep=args.keep, say=_say)
    summary = {
        "inputs": {kind: found.tried[kind] for kind in KINDS if kind in found.tried},
        "failures": [vars(failure) for failure in found.failures],
        "slowest": found.slowest,
        "seconds": round(time.monotonic() - began),
        "processor": _processor(),
    }
    text = _markdown(summary, found)
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        (args.out / "summary.md").write_text(text)
    return int(bool(found.failures))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _markdown(summary: dict, found: Found) -> str:  # type: ignore[type-arg]
    lines = ["| inputs | tried | failures | CPU seconds |", "| --- | --- | --- | --- |"]
    for kind, number in summary["inputs"].items():
        lines.append(
            f"| {kind} | {number} | {sum(failure.kind == kind for failure in found.failures)} | {found.cpu[kind]:.1f} |"
        )
    lines.append(f"| all | {sum(summary['inputs'].values())} | {len(found.failures)} | {found.cpu.total():.1f} |")
    lines += [f"- seed {each.seed}, {each.kind}: `{each.command}`: {each.fault}" for each in found.failures]
    lines.append(f"{summary['seconds']} s on {summary['processor']}")
    return "\n".join(lines) + "\n"


def _processor() -> str:
    from pvtctl.io.machine import cpu_name

    return f"{os.cpu_count()} cores of {cpu_name()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
