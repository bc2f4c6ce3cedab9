"""Messages to the user."""

from __future__ import annotations

import sys

from pvtctl.io.names import shown


def say(text: str) -> None:
    """Print a line to stderr, hidden characters of names in it as escapes; stdout is reserved for results."""
    print(shown(text, most=None, keep="\n"), file=sys.stderr, flush=True)
