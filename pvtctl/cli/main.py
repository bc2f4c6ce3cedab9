"""Entry point: find and run the command, print errors, and choose the exit code.

Commands are in `pvtctl/cli/<command>.py`, each with a typer `app`; only the one that is called is imported.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup

from pvtctl import __version__
from pvtctl.errors import ExitCode, PvtctlError, ToldElsewhereError, UsageError, is_out_of_memory, nearest
from pvtctl.io.allocator import keep_memory
from pvtctl.io.console import say_once
from pvtctl.io.files import os_refusal
from pvtctl.io.names import shown
from pvtctl.io.stop import StopNow, stops_raise

# Typer may bundle Click or use the installed one: its exception classes show which.
_ClickException: Any = typer.BadParameter.__mro__[2]

_LONGEST_LINE, _MOST_LINES = 1000, 60
"""Of a message: names and values of others in it have any length."""

# One line each, in the order of a project; the modules are imported only when called.
COMMANDS = {
    "pretrain": "Train a backbone as a classifier from scratch, by a paper's recipe.",
    "finetune": "Train on your data from pretrained weights.",
    "eval": "Score a run, a checkpoint or a published model.",
    "predict": "Run a trained model on images.",
    "ablate": "Run a study of the papers: published and measured figures, and a verdict per claim.",
    "probe": "Compare frozen backbones by heads trained on their features.",
    "compare": "Compare runs, or backbones with a head.",
    "visualize": "Draw attention, features, predictions, curves, architectures.",
    "export": "Write torch.export programs, ONNX files and other projects' checkpoints.",
    "flops": "Count parameters and multiply-accumulates at any size.",
    "latency": "Time backbones on this machine.",
    "models": "List and describe the backbones.",
    "weights": "Inspect, convert, fetch and verify checkpoints.",
    "data": "Check, preview, export and locate data sets.",
    "recipes": "List, show, check and compare experiments.",
    "doctor": "Report what this machine and environment can do.",
}


RESUMABLE = ("pretrain", "finetune", "ablate", "probe")
"""The commands that continue where a signal stopped them."""


class _Commands(TyperGroup):
    """Group of all commands; imports a command's module only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        summary = typer.Typer(add_completion=False)
        summary.command(cmd_name, help=COMMANDS[cmd_name])(lambda: None)
        return typer.main.get_command(summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name.startswith("-"):
            return super().resolve_command(ctx, args)
        if name not in COMMANDS:
            raise UsageError(f"no command {name!r}", nearest(name, list(COMMANDS)))
        return name, command_of(name), args[1:]


def command_of(name: str) -> Any:
    """The command of COMMANDS with this name, which has the option `--module` of all commands too."""
    command = typer.main.get_command(importlib.import_module(f"pvtctl.cli.{name}").app)
    command.name = name
    _add_module_option(command)
    return command


def _load_modules(files: list[str]) -> list[str]:
    if files:
        from pvtctl.extensions import load_module

        for file in files:
            load_module(file)
    return files


def _module_option(
    module: list[str] = typer.Option(
        [],
        "--module",
        metavar="FILE.py",
        callback=_load_modules,
        expose_value=False,
        is_eager=True,
        show_default=False,
        help="Load your own backbones and heads from this Python file (docs/extending.md). Repeatable.",
    ),
) -> None:
    """The option that every command has."""


def _add_module_option(command: Any) -> None:
    """Add the option `--module` to a command, or to each command of a group."""
    commands = getattr(command, "commands", None)
    for inner in (commands or {}).values():
        _add_module_option(inner)
    if commands is None:
        holder = typer.Typer(add_completion=False)
        holder.command()(_module_option)
        command.params.append(typer.main.get_command(holder).params[0])


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Choose, train and measure Pyramid Vision Transformers and the backbones they are compared with.",
)


def _print_version(value: bool) -> None:
    if value:
        print(f"pvtctl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    if debug:
        os.environ["PVTCTL_DEBUG"] = "1"


def main(argv: list[str] | None = None) -> int:
    """Run the command line on `argv` (default: `sys.argv`); returns the exit code (`pvtctl.errors.ExitCode`)."""
    words = sys.argv[1:] if argv is None else argv
    try:
        with stops_raise(last=argv is None):
            return _run(words)
    except StopNow as stop:
        return _explain_stop(stop, words)


def _explain_stop(stop: StopNow, words: list[str]) -> int:
    """Report a signal that came where no training loop waited for it; returns the exit code."""
    if next((word for word in words if not word.startswith("-")), "") not in RESUMABLE:
        _explain_usage(str(stop), None)
        return 128 + stop.number  # as a shell reports a program that the signal has ended
    _explain_usage(
        str(stop), "the same command continues what was saved; add --resume if its run directory has a run.json"
    )
    return ExitCode.RESUMABLE


def _run(words: list[str]) -> int:
    """The command line under its handlers of signals; every other end has its exit code here."""
    keep_memory()
    say_once.cache_clear()  # of an earlier command in this process
    _prepare_streams()
    try:
        result = typer.main.get_command(app)(args=words, prog_name="pvtctl", standalone_mode=False)
        sys.stdout.flush()
        if result == ExitCode.INTERRUPTED:  # Typer turns Ctrl-C into a result
            raise KeyboardInterrupt
    except ToldElsewhereError as error:
        return int(error.exit_code)
    except UsageError as error:
        _explain_usage(error.message, error.hint)
        return int(error.exit_code)
    except PvtctlError as error:
        _explain(error.message, error.hint)
        return int(error.exit_code)
    except _ClickException as error:  # wrong options or arguments
        if not error.format_message():  # a group called without a command has printed its help
            return ExitCode.USAGE
        context = getattr(error, "ctx", None)
        hint = f"{context.command_path} --help" if context is not None else "pvtctl --help"
        _explain_usage(error.format_message().replace("': Value error, '", "': '"), hint)
        return ExitCode.USAGE
    except (KeyboardInterrupt, typer.Abort):
        _explain_usage("interrupted", None)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return _leave_quietly()
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # Click's way to end then
            return _leave_quietly()
        raise
    except Exception as error:
        return _explain_unforeseen(error)
    return result if isinstance(result, int) else ExitCode.DONE


def _prepare_streams() -> None:
    """Let no output fail for its characters, nor for a stream that is closed, as after `>&-`."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # in this order: it takes the lowest descriptor that is free, which is the closed one
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _leave_quietly() -> int:
    """The reader (`| head`) has closed the pipe: print nothing more, and flush nothing at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
            continue
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    return ExitCode.DONE


def _explain_usage(message: str, hint: str | None) -> None:
    """Print an error shared by all processes (torchrun or `--gpus`) only in the first process of each machine."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        _explain(message, hint)


def _explain(message: str, hint: str | None) -> None:
    if os.environ.get("PVTCTL_DEBUG"):
        traceback.print_exc()
    for kind, text in (("error", message), ("hint", hint)):
        if text:
            lines = [shown(line, most=_LONGEST_LINE) for line in f"{kind}: {text}".splitlines()]
            if len(lines) > _MOST_LINES:
                lines[_MOST_LINES - 1 :] = [f"  and {len(lines) - _MOST_LINES + 1} lines more"]
            print("\n".join(lines), file=sys.stderr)


def _explain_unforeseen(error: Exception) -> int:
    """Report out of memory, what the operating system refuses, or else a bug in pvtctl; returns the exit code."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if is_out_of_memory(error):
        _explain("out of memory", "fewer or smaller images at a time, or a smaller model, need less")
    elif isinstance(error, OSError) and (refused := os_refusal(error)) is not None:
        _explain_usage(refused.message, refused.hint)
        return int(refused.exit_code)
    elif text == "Could not determine home directory.":  # Path.expanduser, of `~NAME`
        _explain_usage("a path begins with ~ and the name of a user who is not here", "write it in full, or ./~NAME")
        return ExitCode.USAGE
    elif "for integer string conversion" in text:  # of Python's int()
        _explain_usage("a number has more digits than can be read", "a few thousand are the most")
        return ExitCode.USAGE
    else:
        hint = "this is a bug in pvtctl: please report it with the output of the same command after `pvtctl --debug`"
        _explain(f"{type(error).__name__}: {text}", hint)
    return ExitCode.FAILED


if __name__ == "__main__":
    sys.exit(main())
