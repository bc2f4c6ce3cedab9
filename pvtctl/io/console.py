"""Messages to the user."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print a line to stderr, so that stdout stays what a program may read."""
    print(text, file=sys.stderr, flush=True)
