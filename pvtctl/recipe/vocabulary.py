"""The tasks' names. Nothing else is imported."""

from __future__ import annotations

Names = tuple[str, ...]

TASKS: Names = ("classification", "detection", "segmentation", "depth")
