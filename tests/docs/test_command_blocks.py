"""What README.md and docs/*.md tell people to type is true: every command parses, what is marked is executed."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import typer
from doc_pages import (
    OTHER,
    PAGES,
    ROOT,
    SHELL,
    Block,
    Command,
    anchors_of,
    blocks_of,
    commands_of,
    links_of,
    programs,
    prose_of,
)

from pvtctl.cli.main import COMMANDS, command_of, main
from pvtctl.errors import UsageError
from pvtctl.models.backbone_names import TIMM_PREFIX, split_list, split_name
from pvtctl.models.registry import backbone_spec, head_specs
from pvtctl.recipe.load import find_row, load_recipe, rows_of
from pvtctl.recipe.source import read_recipe, recipe_names
from pvtctl.studies.plan import study_names

CLICK_ERROR: Any = typer.BadParameter.__mro__[2]
PROGRAMS = {
    "pip",
    "pytest",
    "python",
    "torchrun",
    "srun",
    "sbatch",
    "bash",
    "ruff",
    "mypy",
    "sed",
    "tail",
    "test",
    "cd",
}
"""Others than pvtctl that a page may call."""
OWN_TESTS = {
    "export.md": "tests/export/test_export_docs.py",
    "recipes.md": "tests/recipes/test_docs.py",
    "segmentation.md": "tests/test_readme.py",
    "depth.md": "tests/test_readme.py",
}
"""Pages whose Python a test of their own executes."""
NAMES_PROFILES = ("mini", "smoke", "paper")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def placeholder(word: str) -> bool:
    """FILE, RUN, NAME, DIR ...: what a reader puts in; paths too, whose files are the reader's."""
    return word.isupper() or "/" in word or "." in word


def parse(words: list[str], *, whole: bool) -> tuple[str, dict[str, Any]]:
    """The command that `words` call and its values; raises what the command line would print."""
    name, *rest = words
    if name not in COMMANDS:
        raise AssertionError(f"no command {name}")
    command = command_of(name)
    rest = [word for at, word in enumerate(rest) if word != "--module" and rest[at - 1 : at] != ["--module"]]
    if not rest and not whole:
        return name, {}
    try:
        context: Any = command.make_context(name, list(rest))
        while hasattr(context.command, "commands") and (left := _left(context)):
            name, inner, more = context.command.resolve_command(context, left)
            context = inner.make_context(name, list(more), parent=context)
    except typer.Exit:
        return name, {}
    except CLICK_ERROR as error:
        if not whole and re.search("Missing|requires an argument", error.format_message()):
            return name, {}
        raise AssertionError(error.format_message()) from None
    return name, dict(context.params)


def _left(context: Any) -> list[str]:
    return [*getattr(context, "_protected_args", []), *context.args]


@pages
def test_blocks_say_what_they_are(page: Path) -> None:
    for block in blocks_of(page):
        assert block.kind in (*SHELL, *OTHER), f"{block}: a block of kind {block.kind!r}"
        marked = block.mark and not block.mark.startswith(("run", "compiled: ", "module "))
        assert not marked, f"{block}: the comment {block.mark!r} above a block"


@pages
def test_commands_parse(page: Path) -> None:
    faults = []
    for command in commands_of(page):
        if not command.words or command.words[0].startswith("-"):
            continue
        try:
            parse(command.words, whole=command.whole)
        except (AssertionError, UsageError) as error:
            faults.append(f"{command}\n    {error}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "line",
    [
        "fly --high",
        "flops --nonsense 3",
        "latency --threads many",
        "weights inspekt FILE",
        "recipes show small_photos --nope",
        "finetune",
        "recipes diff one",
    ],
)
def test_wrong_commands_do_not_parse(line: str) -> None:
    with pytest.raises((AssertionError, UsageError)):
        parse(line.split(), whole=True)


@pytest.mark.parametrize(
    "line",
    [
        "pretrain imagenet --backbone pvt_smal",
        "finetune x/ --recipe small_photo",
        "finetune x/ --head fcos",
        "flops --head no_head",
        "ablate vit-vs-cnn",
        "ablate gcnet --rows pvt_huge",
        "recipes show imagenet_pvt_v1 --row pvt_huger",
        "recipes show imagenet_pvt_v1 --profile maxi",
        "finetune x/ --set train.epoch=3",
    ],
)
def test_wrong_names_are_found(line: str) -> None:
    with pytest.raises((AssertionError, UsageError)):
        check_names(Command("", line.split()))


@pages
def test_other_programs_are_known_and_their_files_exist(page: Path) -> None:
    for block in blocks_of(page):
        for line in block.lines() if block.kind in SHELL else []:
            for words in programs(line):
                assert words[0] in PROGRAMS | {"pvtctl"}, f"{block}: {line}"
                if words[0] == "python" and not words[1].startswith("-"):
                    assert (ROOT / words[1]).is_file(), f"{block}: {words[1]}"


@pages
def test_names_in_commands_exist(page: Path) -> None:
    faults = []
    for command in commands_of(page):
        try:
            check_names(command)
        except (AssertionError, UsageError) as error:
            faults.append(f"{command}\n    {error}")
    assert not faults, "\n".join(faults)


def check_names(command: Command) -> None:
    """Recipes, rows, profiles, backbones, heads, studies and keys of `--set`."""
    if not command.words:
        return
    said = _options(command.words)
    if "--module" in said:  # names and keys are those of the page's own files, which tests/test_extensions.py runs
        page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
        assert all(placeholder(file) and f"<!-- module {file} -->" in page for file in said["--module"])
        return
    recipe = next((name for name in said.get("--recipe", []) if not placeholder(name)), None)
    if command.words[:1] == ["ablate"] and len(command.words) > 1:
        study = command.words[1]
        if not study.startswith("-") and study != "ls" and not placeholder(study):
            assert study in study_names() or study.replace("-", "_") in recipe_names(), f"no study {study}"
            recipe = study.replace("-", "_")
    if command.words[:1] == ["recipes"]:
        named = [word for word in command.words[2:3] if not word.startswith("-")]
        recipe = next((re.split("[:@]", name)[0] for name in named if not placeholder(name)), recipe)
    if recipe is not None:
        assert recipe in recipe_names(), f"no recipe {recipe}"
    for profile in said.get("--profile", []):
        known = list(read_recipe(recipe).profiles) if recipe else [*NAMES_PROFILES]
        assert placeholder(profile) or profile in known, f"no profile {profile}"
    for row in [row for rows in (*said.get("--row", []), *said.get("--rows", [])) for row in rows.split(",")]:
        assert placeholder(row) or (recipe is not None and row in rows_of(recipe)), f"no row {row}"
    for name in [name for names in said.get("--backbone", []) for name in split_list(names)]:
        if not (placeholder(name.partition("@")[0]) or name.startswith(TIMM_PREFIX)):
            check_backbone(name, recipe)
    attention = command.words[:2] == ["visualize", "attention"]  # its heads are those of a block, by number
    for head in [] if attention else said.get("--head", []):
        assert placeholder(head) or head in (*(spec.name for spec in head_specs()), "classifier", "none"), (
            f"no head {head}"
        )
    for setting in said.get("--set", []):
        faults = check_settings(setting)
        assert "unknown key" not in faults, f"{setting}: {faults}"


def check_settings(setting: str) -> str:
    """What a recipe has against `--set`."""
    try:
        load_recipe("imagenet_pvt_v1", "pvt_tiny", overrides=[setting])
    except UsageError as error:
        return error.message
    return ""


def check_backbone(name: str, recipe: str | None) -> None:
    plain = split_name(name).name
    if recipe is not None and plain in rows_of(recipe):
        return
    try:
        backbone_spec(plain)
    except UsageError:
        find_row("imagenet", plain)


def _options(words: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--") and "=" in word and not word.startswith("--set"):
            word, _, value = word.partition("=")
        if word.startswith("--"):
            found.setdefault(word, []).append(value)
    return found


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in links_of(page):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors_of(file), f"{page.name}: {target}#{anchor}"


@pages
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:tests|pvtctl|docs|recipes)/[\w./-]+)`", prose_of(page)):
        assert "NAME" in name or (ROOT / name).exists(), f"{page.name}: {name}"


@pages
def test_python_blocks_compile(page: Path) -> None:
    for block in blocks_of(page):
        if block.kind == "python":
            compile(block.text, str(block), "exec")


def test_pages_with_tests_of_their_own_have_them() -> None:
    for page, test in OWN_TESTS.items():
        assert page in (ROOT / test).read_text(encoding="utf-8"), f"{test} does not read {page}"


def runnable(page: Path) -> tuple[list[Block], list[Block]]:
    """What is executed of a page: the marked shell blocks, then its Python."""
    blocks = blocks_of(page)
    shell = [block for block in blocks if block.kind in SHELL and block.runs]
    python = [block for block in blocks if block.kind == "python" and not block.mark.startswith("compiled: ")]
    python = [block for block in python if "FCOS" not in block.text]  # tests/test_readme.py executes that
    return shell, [] if page.name in OWN_TESTS else python


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(runnable(page))], ids=lambda page: page.name)
def test_what_is_marked_runs(page: Path, tmp_path: Path) -> None:
    """In one new folder a page, as somebody would who reads it from top to bottom; its Python in one process."""
    shell, python = runnable(page)
    for block in shell:
        for line in block.lines():
            if line.startswith("pip "):
                continue  # the tests run in an installed environment
            command = line.partition(" #")[0]
            if block.added and f"pvtctl {block.added[0]} " in command:
                command += f" {block.added[1]}"
            run_line(command, tmp_path, f"{block}: {command}")
    if python:
        text = "\n".join(f"# {block}\n{block.text}" for block in python)
        (tmp_path / "doc_page.py").write_text(text, encoding="utf-8")
        execute([sys.executable, "-m", "doc_page"], tmp_path, f"Python of {page.name}")


def run_line(line: str, folder: Path, what: str) -> None:
    """One call of pvtctl runs in this process, which has torch already; all else in a shell."""
    words = shlex.split(line)
    if words[0] != "pvtctl" or programs(line) != [words]:
        execute(["bash", "-ec", line], folder, what)
        return
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        for name in ("PVTCTL_DATA", "PVTCTL_RUNS"):
            patch.delenv(name, raising=False)
        code = main(words[1:])
    assert code == 0, f"{what}\n{out.getvalue()}\n{err.getvalue()}"


def execute(command: list[str], folder: Path, what: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("PVTCTL_DATA", "PVTCTL_RUNS")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{what}\n{run.stdout}\n{run.stderr}"
