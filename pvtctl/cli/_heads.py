"""Choices of `--head` for commands with `--backbone`, from the registry. No torch."""

from __future__ import annotations

from pvtctl.errors import UsageError, nearest
from pvtctl.models.registry import DEPTH, DETECTION, PLAIN_HEADS, SEGMENTATION, HeadSpec, find_head, head_specs


def head_names() -> list[str]:
    """Valid values of `--head`: the plain ones, then the registered heads."""
    return [*PLAIN_HEADS, *(spec.name for spec in head_specs())]


def chosen_head(text: str) -> HeadSpec | None:
    """The head that `--head` names; None for the plain ones. Raises UsageError with the nearest names."""
    if text in PLAIN_HEADS:
        return None
    if (found := find_head(text)) is None:
        raise UsageError(f"no head {text!r}", nearest(text, head_names()))
    return found


def head_help() -> str:
    """Help text of `--head`, by task."""
    alone = {
        task: ", ".join(spec.name for spec in head_specs() if spec.tasks == (task,))
        for task in (DETECTION, SEGMENTATION, DEPTH)
    }
    both = ", ".join(spec.name for spec in head_specs() if len(spec.tasks) > 1)
    parts = [f"{names}: {task}" for task, names in alone.items() if names]
    return "; ".join(
        ["classifier", "none: the bare pyramid", *parts, f"{both}: depth, and with --num-classes segmentation."]
    )
