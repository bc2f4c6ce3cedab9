"""What `main` makes of errors of the operating system, of names that others chose, and of streams that are closed."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from tiny_run import Cli

from pvtctl.cli._console import print_json, print_text, table
from pvtctl.cli.main import COMMANDS, command_of, main
from pvtctl.errors import ExitCode, UsageError
from pvtctl.io.console import say

HOSTILE = "cat\x1b[2J\u202e\udce9"
SAFE = "cat\\x1b[2J\\u202e\\udce9"


@pytest.fixture
def failing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], tuple[int, list[str]]]:
    """Exit code and lines of stderr of a command that raises an error."""

    def run(error: Exception) -> tuple[int, list[str]]:
        def raises(*_: object) -> None:
            raise error

        monkeypatch.setattr("pvtctl.recipe.source.recipe_names", raises)
        result = cli("recipes", "ls")
        assert result.out == ""
        return result.code, result.err.splitlines()

    return run


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((number, ExitCode.USAGE) for number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)),
        *((number, ExitCode.USAGE) for number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)),
        *((number, ExitCode.FAILED) for number in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ESTALE)),
    ],
)
def test_what_the_system_refuses_names_the_file(
    failing: Callable[[Exception], tuple[int, list[str]]], number: int, code: int
) -> None:
    found, lines = failing(OSError(number, os.strerror(number), "some/file.json"))
    assert found == code
    reason = "the disk is full" if number in (errno.ENOSPC, errno.EDQUOT) else os.strerror(number)
    assert lines[0] == f"error: some/file.json: {reason}"
    assert "bug" not in " ".join(lines)


def leaves(command: Any, words: list[str]) -> Iterator[tuple[Any, list[str]]]:
    """The commands of a group, and the words that call them."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield command, words
    for name, each in (inner or {}).items():
        yield from leaves(each, [*words, name])


def test_no_option_takes_what_is_not_a_finite_number(cli: Cli) -> None:
    """No sum of seconds reaches infinity, and no difference is within a tolerance of NaN."""
    options = 0
    for name in COMMANDS:
        for command, words in leaves(command_of(name), [name]):
            needed = ["x" for each in command.params if each.param_type_name == "argument" and each.required]
            needed += ["--from", "voc", "--to", "out"] if words == ["data", "convert"] else []
            for each in command.params:
                kind = command.callback.__annotations__.get(each.name)
                if float not in (kind, *get_args(kind)):
                    continue
                options += 1
                for value in ("nan", "inf", "-inf"):
                    result = cli(*words, *needed, f"{each.opts[-1]}={value}")
                    assert result.code == ExitCode.USAGE, (words, each.opts)
                    assert each.opts[-1] in result.err
                    assert "not a number to use" in result.err or "Invalid value" in result.err
    assert options >= 8


def test_a_number_that_torch_does_not_take_is_refused(cli: Cli) -> None:
    result = cli("flops", "--num-classes", "9" * 20)
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert f"--num-classes {'9' * 20} is not a number to use" in result.err


def test_a_number_that_python_does_not_read_is_told(cli: Cli) -> None:
    for words in (
        ["flops", "--size", "9" * 5000],
        ["latency", "--batch-size", "9" * 5000],
        ["recipes", "show", "imagenet_pvt_v1", "--row", "pvt_tiny", "--set", f"data.shards.train={{0..{'9' * 5000}}}"],
    ):
        result = cli(*words)
        assert "bug" not in result.err
        assert result.code in (ExitCode.DONE, ExitCode.USAGE)


def test_other_errors_are_reported_as_bugs(failing: Callable[[Exception], tuple[int, list[str]]]) -> None:
    for error in (OSError("odd"), ChildProcessError(errno.ECHILD, "No child"), ValueError("x" * 5000 + "\ny")):
        code, lines = failing(error)
        assert code == ExitCode.FAILED
        assert "this is a bug in pvtctl" in lines[-1]
        assert all(len(line) <= 1000 for line in lines)


def test_the_system_may_name_no_file(failing: Callable[[Exception], tuple[int, list[str]]]) -> None:
    assert failing(OSError(errno.EIO, "Input/output error"))[1][0] == "error: Input/output error"
    assert failing(OSError(errno.ENOSPC, "No space"))[1][0] == "error: the disk is full"


def test_messages_are_short_and_show_hidden_characters(failing: Callable[[Exception], tuple[int, list[str]]]) -> None:
    code, lines = failing(UsageError(f"{HOSTILE}\nsecond line", f"hint {HOSTILE}"))
    assert code == ExitCode.USAGE
    assert lines == [f"error: {SAFE}", "second line", f"hint: hint {SAFE}"]
    lines = failing(UsageError("a" * 100_000 + "\n" + "b\n" * 5000))[1]
    assert max(map(len, lines)) <= 1000
    assert len(lines) <= 60
    assert "lines more" in lines[-1]


def test_a_file_that_may_not_be_read(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)  # as root may read everything
    result = cli("recipes", "check", "closed/mine.yaml")
    assert result.code == ExitCode.USAGE
    assert result.err.startswith("error: closed/mine.yaml: Permission denied\nhint: ")


def test_a_name_that_no_file_can_have(cli: Cli) -> None:
    for words in (["recipes", "check"], ["weights", "inspect"]):
        result = cli(*words, "x" * 300 + ".yaml")
        assert result.code == ExitCode.USAGE
        assert "bug" not in result.err


def test_results_show_hidden_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_text(HOSTILE)
    say(HOSTILE)
    table(HOSTILE, [HOSTILE, "number"], [[HOSTILE, 1]], caption=HOSTILE)
    print_json({HOSTILE: HOSTILE})
    said = capsys.readouterr()
    both = said.out + said.err
    assert "\x1b" not in both
    assert "\u202e" not in both
    assert both.count(SAFE) == 6
    both.encode()


def test_an_ascii_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main(["--version"]) == ExitCode.DONE
    print_text("café \U0001f408")
    sys.stdout.flush()
    assert raw.getvalue().decode("ascii").endswith("caf\\xe9 \\U0001f408\n")


@pytest.mark.parametrize("words", [["recipes", "schema"], ["models", "ls", "--json"], ["--help"], ["recipes", "ls"]])
def test_a_reader_that_has_enough(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(words) == ExitCode.DONE
        monkeypatch.undo()


@pytest.mark.parametrize("words", [["recipes", "ls"], ["--version"], ["nonsense"]])
def test_closed_streams(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    code = main(words)
    for name in ("stdin", "stdout", "stderr"):
        getattr(sys, name).close()
    monkeypatch.undo()
    assert code == (ExitCode.USAGE if words == ["nonsense"] else ExitCode.DONE)
