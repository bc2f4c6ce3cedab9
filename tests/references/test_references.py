"""Outputs equal those kept in this folder, which the code gave when it agreed with the original implementations."""

from __future__ import annotations

from pathlib import Path

import pytest
from make import GROUPS, compute, differing, read
from reference_models import DEPTH_MODELS, DETECTORS, SEGMENTERS
from reference_values import image, uniform

CASES = [(group, case) for group, (cases, _) in GROUPS.items() for case in cases]


def test_the_formula_gives_the_values_of_the_references() -> None:
    assert uniform("references", (2, 2)).tolist() == [
        [-0.8593530654907227, -0.20981013774871826],
        [-0.4811406135559082, 0.26196885108947754],
    ]
    assert image(1, 3, 9, 17)[0, 2, 8, 16].item() == 0.8199489116668701


@pytest.mark.parametrize(("group", "case"), CASES, ids=["-".join(each).replace(" ", "-") for each in CASES])
def test_outputs_equal_the_references(group: str, case: str) -> None:
    expected, found = read(group)[case], compute(group, case)
    wrong = [
        f"{name} is {distance:.1e} apart: expected {expected.get(name)}, found {found.get(name)}"
        for name, distance in differing(group, expected, found).items()
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("group", GROUPS)
def test_every_reference_is_compared(group: str) -> None:
    assert list(read(group)) == list(GROUPS[group].cases)


def test_references_and_parity_numbers_are_of_the_same_models(shared: Path) -> None:
    backbones = {case.split("@")[0] for case in read("backbones")}
    heads = {case.split()[0] for cases in (DETECTORS, SEGMENTERS, DEPTH_MODELS) for case in cases}

    def kind(golden: str) -> str:
        name = golden.removesuffix("_pyramid").removesuffix("_224").replace("sem_fpn", "semantic_fpn")
        if name.startswith("gc_block"):
            return f"resnet50_gc_{name.rsplit('_', 1)[1]}"
        return next((head for head in heads if name.startswith(head)), name)

    kinds = {kind(file.stem) for file in (shared / "parity" / "goldens").glob("*.json")}
    assert kinds <= heads | backbones
    assert heads - kinds == {"midas"}, "of which there are no parity numbers"
