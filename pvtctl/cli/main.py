"""Entry point: finds the command, runs it, and is the one place that prints errors and picks exit codes.

Commands live in `pvtctl/cli/<command>.py`, each with a typer `app`; only the one that is called is imported.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from pvtctl import __version__
from pvtctl.errors import ExitCode, PvtctlError

# One line each, in the order of a project: the modules themselves are imported only when called.
COMMANDS = {
    "pretrain": "Train a backbone as a classifier from scratch, by a paper's recipe.",
    "finetune": "Train on your data from pretrained weights.",
    "eval": "Score a run, a checkpoint or a published model.",
    "flops": "Count parameters and multiply-accumulates at any size.",
    "latency": "Time backbones against each other on this machine.",
    "models": "List and describe the backbones.",
    "weights": "Inspect, convert, fetch and verify checkpoints.",
    "data": "Check, preview, export and locate data sets.",
    "recipes": "List, show, check and compare experiments.",
    "doctor": "Say what this machine and environment can do.",
}


class _Commands(TyperGroup):
    """Knows every command's name and summary without importing its module."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        if ctx.resilient_parsing or _wants_summary_only():
            return typer.main.get_command(_summary_app(cmd_name))
        module = importlib.import_module(f"pvtctl.cli.{cmd_name}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command


def _wants_summary_only() -> bool:
    """True while the top-level help is printed: it needs one line a command, not the command."""
    return not any(arg in COMMANDS for arg in sys.argv[1:])


def _summary_app(name: str) -> typer.Typer:
    app = typer.Typer(help=COMMANDS[name], add_completion=False)
    app.command(name, help=COMMANDS[name])(lambda: None)
    return app


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
    """Run the command line; returns the exit code (see `pvtctl.errors.ExitCode`)."""
    raise NotImplementedError
