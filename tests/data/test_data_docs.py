"""docs/data.md is true: its commands and options exist, its recipes too."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import typer

from pvtctl.cli.data import app
from pvtctl.recipe.load import load_recipe

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def shown() -> list[list[str]]:
    lines = re.findall(r"^\$ pvtctl data (.+)$", PAGE, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_commands_and_options_exist() -> None:
    commands = typer.main.get_command(app).commands
    assert {words[0] for words in shown()} >= {"check", "preview", "convert", "fetch", "export"}
    for command, *words in shown():
        options = {name for param in commands[command].params for name in param.opts}
        given = {word for word in words if word.startswith("-")}
        assert given <= options, f"{command}: {given - options}"


def test_recipes_exist() -> None:
    for words in shown():
        if "--recipe" in words:
            load_recipe(words[words.index("--recipe") + 1], words[words.index("--row") + 1])
