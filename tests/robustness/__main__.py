"""The long version: `python -m tests.robustness --inputs 2000 --kills 100 --disks 8`.

Prints a table, and writes a summary as JSON and Markdown with every failure; `--seed N --inputs 1` repeats an input,
`--seed N --kills 1` the chain of that number.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from itertools import takewhile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from attempts import Found, try_inputs  # noqa: E402
from child import warm  # noqa: E402
from kills import Killed, try_full_disks, try_kills  # noqa: E402
from kinds import KINDS  # noqa: E402
from valid import make_valid  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness", description=__doc__)
    parser.add_argument("--inputs", type=int, default=0, help="damaged inputs")
    parser.add_argument("--kills", type=int, default=0, help="killed or stopped runs, resumed")
    parser.add_argument("--disks", type=int, default=0, help="runs on a full disk")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next ones follow")
    parser.add_argument("--kind", choices=list(KINDS), help="inputs of one kind only")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing new after so long")
    parser.add_argument("--keep", type=Path, help="keep each failing input in this folder")
    parser.add_argument("--out", type=Path, help="write summary.json and summary.md to this folder")
    args = parser.parse_args()
    began = time.monotonic()
    end = began + args.minutes * 60
    warm()
    with tempfile.TemporaryDirectory(prefix="robustness-") as folder:
        valid, work = Path(folder) / "valid", Path(folder) / "work"
        valid.mkdir()
        make_valid(valid)
        killed = try_kills(args.kills, args.seed, valid / "run", work, end, _say)
        disks = try_full_disks(args.disks, args.seed, valid / "run", work, end, _say)
        seeds = takewhile(lambda _: time.monotonic() < end, range(args.seed, args.seed + args.inputs))
        found = try_inputs(valid, work, seeds, only=args.kind, keep=args.keep, say=_say)
    summary = {
        "inputs": {kind: found.tried[kind] for kind in KINDS if kind in found.tried},
        "kills": dict(killed.kills),
        "chains": killed.chains,
        "full_disks": disks.chains,
        "failures": [vars(failure) for failure in found.failures],
        "kill_failures": killed.failures + disks.failures,
        "slowest": found.slowest,
        "seconds": round(time.monotonic() - began),
        "processor": _processor(),
    }
    text = _markdown(summary, found, killed, disks)
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        (args.out / "summary.md").write_text(text)
    return int(bool(found.failures or killed.failures or disks.failures))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _markdown(summary: dict[str, Any], found: Found, killed: Killed, disks: Killed) -> str:
    rows = [("kind", "tried", "failures", "CPU seconds"), ("---",) * 4]
    for kind, number in summary["inputs"].items():
        failed = sum(failure.kind == kind for failure in found.failures)
        rows.append((kind, str(number), str(failed), f"{found.cpu[kind]:.1f}"))
    if found.tried:
        rows.append(("all inputs", str(found.tried.total()), str(len(found.failures)), f"{found.cpu.total():.1f}"))
    if killed.chains:
        told = ", ".join(f"{number} {name}" for name, number in killed.kills.most_common())
        name = f"kills ({told}) of {killed.chains} runs, resumed"
        rows.append((name, str(killed.kills.total()), str(len(killed.failures)), f"{killed.cpu:.1f}"))
    if disks.chains:
        rows.append(("full disks", str(disks.chains), str(len(disks.failures)), f"{disks.cpu:.1f}"))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += [f"- seed {each.seed}, {each.kind}: `{each.command}`: {each.fault}" for each in found.failures]
    lines += [f"- {failure}" for failure in summary["kill_failures"]]
    lines.append(f"{summary['seconds']} s on {summary['processor']}")
    return "\n".join(lines) + "\n"


def _processor() -> str:
    from pvtctl.io.machine import cpu_name

    return f"{os.cpu_count()} cores of {cpu_name()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
