"""Tasks, and the heads that belong to each. Nothing else is imported: the command line reads it at once."""

from __future__ import annotations

Names = tuple[str, ...]

TASKS: Names = ("classification", "detection", "segmentation", "depth")
HEADS_OF: dict[str, Names] = {
    "classification": (),
    "detection": ("retinanet", "mask_rcnn", "detr"),
    "segmentation": ("semantic_fpn", "trans2seg", "deeplabv3plus", "dpt"),
    "depth": ("dpt", "midas"),
}
"""The heads of each task; the first is taken where none is named."""


def tasks_of_head(name: str) -> Names:
    """The tasks that a head is for; empty for an unknown one."""
    return tuple(task for task in TASKS if name in HEADS_OF[task])


def all_heads() -> list[str]:
    """Every head's name once."""
    return list(dict.fromkeys(head for heads in HEADS_OF.values() for head in heads))
