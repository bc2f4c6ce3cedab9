"""Loss of accuracy of depth models at a higher resolution than in training (DPT, Figure 4), measured after training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pvtctl.errors import PvtctlError
from pvtctl.io.files import write_text
from pvtctl.io.foreign import BadFile, foreign, read_json
from pvtctl.studies.results import Attempt, RowResult

FIGURE = "resolution_loss"
FACTOR = 640 / 384
"""The largest size in the paper's figure over its training size."""


def with_resolution_loss(
    rows: Sequence[RowResult], out: Path, *, device: str, say: Callable[[str], None]
) -> list[RowResult]:
    """`rows` with the relative increase of AbsRel at FACTOR of the test size, in percent, of every finished depth run.

    Results are kept in `out`/resolution.json. Runs whose weights cannot be tested do not get the figure.
    """
    file = out / "resolution.json"
    kept: dict[str, float] = {}
    with suppress(BadFile), foreign(file):  # tested again then
        kept = {str(key): float(value) for key, value in read_json(file, dict).items()}
    result = []
    for row in rows:
        losses = []
        for attempt in row.finished:
            key = f"{attempt.run.name} {attempt.read.info.get('finished') if attempt.read else ''}"
            if key not in kept:
                say(f"testing {attempt.run.name} at more pixels")
                try:
                    kept[key] = _loss(attempt, device)
                except PvtctlError as error:
                    say(f"{attempt.run.name} could not be tested at more pixels: {error.message}")
                    continue
                write_text(file, json.dumps(kept, indent=2) + "\n")
            losses.append(kept[key])
        result.append(replace(row, added={FIGURE: losses} if losses else {}))
    return result


def larger(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """FACTOR times a test size, rounded to a size that the model supports."""
    height, width = (max(multiple, round(side * FACTOR / multiple) * multiple) for side in size)
    return height, width


def _loss(attempt: Attempt, device: str) -> float:
    from pvtctl.runs.evaluate import evaluate_run

    depth = attempt.run.recipe.data.depth
    size = larger(depth.test_size, depth.multiple)
    overrides = [("data.depth.test_size", list(size))]
    found = evaluate_run(attempt.run.out, overrides=overrides, device=device, quiet=True)
    return 100 * (found.numbers["abs_rel"] / attempt.figures["abs_rel"] - 1)
