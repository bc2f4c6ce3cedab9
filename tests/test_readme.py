"""The front page is true: its example runs, its commands and files exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pvtctl.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_commands_exist() -> None:
    named = set(re.findall(r"pvtctl ([a-z]+)", README))
    assert named <= set(COMMANDS)
    assert named == set(COMMANDS), f"not on the front page: {set(COMMANDS) - named}"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_it_is_a_front_page() -> None:
    assert len(README.splitlines()) <= 185


def test_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(python_blocks()[0], "README.md", "exec"), {})
    assert "(32, 64, 160, 256) torch.Size([1, 256, 8, 10])" in capsys.readouterr().out


def test_the_pyramid_stands_under_somebody_elses_head(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = [block for block in python_blocks() if "FCOS" in block]
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert {name for name, loss in names["losses"].items() if loss.isfinite()} == {
        "classification",
        "bbox_regression",
        "bbox_ctrness",
    }
    learned = names["detector"].backbone.body.parameters()
    assert all(parameter.grad is not None for parameter in learned), "the gradient reaches the whole pyramid"
    assert capsys.readouterr().out.count("torch.Size") == 6


@pytest.mark.parametrize(("page", "answer"), [("segmentation.md", "labels"), ("depth.md", "metres")])
def test_examples_of_dense_models_run(page: str, answer: str) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names[answer].shape[-2:] == names["images"].shape[-2:]


def test_no_unfilled_place() -> None:
    assert "@@" not in README
