"""`python tests/references/make.py [GROUP ...]`: compute reference outputs with the present code and write their files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from reference_data import AUGMENTATIONS, EXACT, SCORES
from reference_models import BACKBONES, DEPTH_MODELS, DETECTORS, SEGMENTERS
from reference_values import difference, record

FOLDER = Path(__file__).parent


class Group(NamedTuple):
    """The cases of one file, and how far an output may be from its reference (`reference_values.difference`)."""

    cases: Mapping[str, Callable[[], dict[str, Any]]]
    tolerance: float


GROUPS = {
    "backbones": Group(BACKBONES, 3e-4),
    "detectors": Group(DETECTORS, 3e-4),
    "segmenters": Group(SEGMENTERS, 3e-4),
    "depth_models": Group(DEPTH_MODELS, 3e-4),
    "augmentations": Group(AUGMENTATIONS, 0.04),  # two of 256 levels: resampling rounds differently on other processors
    "scores": Group(SCORES, 1e-5),
    "exact": Group(EXACT, 1e-7),
}


def read(group: str) -> dict[str, dict[str, Any]]:
    """The references of a group by case and output."""
    cases: dict[str, dict[str, Any]] = json.loads((FOLDER / f"{group}.json").read_text("utf-8"))["cases"]
    return cases


def compute(group: str, case: str) -> dict[str, Any]:
    """What the present code gives, as records."""
    return {name: record(value) for name, value in GROUPS[group].cases[case]().items()}


def differing(group: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, float]:
    """How far the outputs beyond their tolerance are from the expected; infinite for those that only one of both has.

    Gradients, in which rounding grows, have ten times the group's tolerance.
    """
    apart = {name: difference(expected.get(name), found.get(name)) for name in {**expected, **found}}
    return {
        name: distance
        for name, distance in apart.items()
        if distance > GROUPS[group].tolerance * (10 if name.startswith("gradient") else 1)
    }


def write(group: str, cases: Mapping[str, Mapping[str, Any]]) -> None:
    """One line an output, so that a changed one is one changed line."""
    blocks = []
    for case, outputs in cases.items():
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in outputs.items())
        blocks.append(f"{json.dumps(case)}: {{\n{lines}\n}}")
    made_with = {
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
    }
    text = f'{{"made_with": {json.dumps(made_with)}, "cases": {{\n' + ",\n".join(blocks) + "\n}}\n"
    fresh = FOLDER / f"{group}.json.new"
    fresh.write_text(text, "utf-8")
    fresh.replace(FOLDER / f"{group}.json")


def main(groups: list[str]) -> None:
    torch.set_num_threads(1)
    for group in groups or GROUPS:
        cases = {case: compute(group, case) for case in GROUPS[group].cases}
        before = read(group) if (FOLDER / f"{group}.json").exists() else {}
        write(group, cases)
        for case, outputs in cases.items():
            if changed := differing(group, before.get(case, {}), outputs):
                print(f"{group}, {case}: {', '.join(changed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
