"""Names of the tasks. Imports nothing."""

from __future__ import annotations

Names = tuple[str, ...]

TASKS: Names = ("classification", "detection", "segmentation", "depth")
