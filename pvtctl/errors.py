"""Base class of all errors shown to users, and the exit codes of the command line."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every `pvtctl` command."""

    DONE = 0
    FAILED = 1
    """The command was understood but the run failed."""
    USAGE = 2
    """Wrong usage, recipe or data: running it again unchanged fails again."""
    RESUMABLE = 75
    """A signal (SIGTERM, SIGUSR1) stopped the run after it was saved; `--resume` continues it."""
    INTERRUPTED = 130
    """Ctrl-C. A training run is saved before it exits."""


class PvtctlError(Exception):
    """An error that the user can fix: one line on what is wrong, and a hint on what to do.

    Only `pvtctl.cli.main` prints it and converts it to an exit code.
    """

    exit_code: int = ExitCode.FAILED

    def __init__(self, message: str, hint: str | None = None, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code

    def __reduce__(self) -> tuple[object, ...]:
        """As it is, whatever the constructor of its class takes: loader processes pass errors on."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[PvtctlError], args: tuple[object, ...], state: dict[str, object]) -> PvtctlError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UsageError(PvtctlError):
    """Wrong arguments, recipe or data (exit code 2)."""

    exit_code = ExitCode.USAGE


class ToldElsewhereError(PvtctlError):
    """Exit with a code and no message, because another process reports the error."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine or its GPU had too little memory; torch and CUDA's libraries say so in many ways."""
    words = ("out of memory", "not enough memory", "allocate memory", "_alloc_failed")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which is not loaded here
        or (isinstance(error, RuntimeError) and any(each in str(error).lower() for each in words))
    )


def nearest(word: str, valid: list[str] | tuple[str, ...]) -> str:
    """`did you mean ...?` with the closest valid words, whatever their case, or all valid words if there are at most 40.

    >>> nearest("PVT_smal", ["pvt_tiny", "pvt_small"])
    'did you mean pvt_small?'
    """
    import difflib

    lower = {each.lower(): each for each in valid}
    if close := [lower[each] for each in difflib.get_close_matches(word.lower(), lower, n=3, cutoff=0.6)]:
        return f"did you mean {' or '.join(close)}?"
    return f"one of: {', '.join(valid)}" if len(valid) <= 40 else f"{len(valid)} are known"
