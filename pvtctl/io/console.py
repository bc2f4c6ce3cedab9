"""Messages to the user."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print a line to stderr; stdout is reserved for results."""
    print(text, file=sys.stderr, flush=True)
