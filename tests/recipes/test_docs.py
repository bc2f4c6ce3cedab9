"""docs/recipes.md is true: its commands run, its files check, its messages are the real ones."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pvtctl.cli.main import main
from pvtctl.recipe.load import load_recipe, rows_of
from pvtctl.recipe.schema import Recipe
from pvtctl.recipe.source import FILE_KEYS, recipe_names

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_run(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 10
    for command in commands:
        words = shlex.split(command.split(" >")[0], comments=True)
        assert words[0] == "pvtctl"
        assert main(words[1:]) == 0, (command, capsys.readouterr().err)
    assert Path("mine.yaml").is_file()


def test_the_example_file_checks_and_merges_as_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    assert main(["recipes", "check", "x.yaml"]) == 0
    assert main(["recipes", "show", "x.yaml", "--row", "plain"]) == 0
    shown = capsys.readouterr().out
    assert "drop_path_rate: 0.0" in shown
    assert "name: sgd" in shown


@pytest.mark.parametrize(("file", "at"), [("broken.yaml", 1), ("unread.yaml", 2)])
def test_the_faults_are_the_real_ones(file: str, at: int, capsys: pytest.CaptureFixture[str]) -> None:
    Path(file).write_text(blocks("yaml")[at], encoding="utf-8")
    assert main(["recipes", "check", file]) == 2
    told = next(block for block in blocks("text") if block.startswith(f"$ pvtctl recipes check {file}"))
    assert capsys.readouterr().err == told.split("\n", 1)[1]


def test_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, object] = {}
    exec(compile(blocks("python")[0], str(PAGE), "exec"), scope)
    assert capsys.readouterr().out.startswith("name: imagenet_pvt_v1\nrow: pvt_small\n")


def test_every_recipe_is_listed() -> None:
    table = TEXT.split("## What came along")[1].split("\n## ")[0]
    assert sorted(re.findall(r"`(\w+)`", table)) == recipe_names()


def test_every_table_is_named_with_its_recipes() -> None:
    """Each recipe, and each row that stands in another table, is in the line of the table that it names."""
    section = TEXT.split("## Which table is which recipe")[1].split("\n## ")[0]
    told = set()
    for line in section.splitlines():
        if cells := re.match(r"\| (PVT v1|PVT v2|DPT) (Table|Figure)s? (\d+)(?: and (\d+))? \| (.*?) \|", line):
            paper, kind, first, second, recipes = cells.groups()
            names = re.findall(r"`(\w+)`", recipes)
            key = paper.lower().replace(" ", "_")
            if second:
                told |= {(key, kind.lower(), int(n), name) for n, name in zip((first, second), names, strict=True)}
            else:
                told |= {(key, kind.lower(), int(first), name) for name in names}
    stated = set()
    for name in recipe_names():
        for recipe in (load_recipe(name, row) for row in rows_of(name)):
            if recipe.paper is not None:
                kind = "table" if recipe.paper.table else "figure"
                stated.add((recipe.paper.key, kind, recipe.paper.table or recipe.paper.figure, name))
    assert told == stated


def test_every_key_of_a_file_is_told() -> None:
    table = TEXT.split("## The file")[1].split("\n## ")[0]
    told = set(
        re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `")))
    )
    written_by_runs = {"name", "row", "profile"}
    assert told == {*Recipe.model_fields, *FILE_KEYS} - written_by_runs
