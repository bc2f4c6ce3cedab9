"""Tasks, and the data sets that belong to each (heads: `pvtctl.models.registry`). Nothing else is imported."""

from __future__ import annotations

Names = tuple[str, ...]

TASKS: Names = ("classification", "detection", "segmentation", "depth")
DENSE: Names = ("segmentation", "depth")
DATA_OF: dict[str, Names] = {
    "classification": ("imagenet", "scenes"),
    "detection": ("coco", "scenes"),
    "segmentation": ("ade20k", "pascal_context", "cityscapes", "masks", "scenes"),
    "depth": ("nyu", "kitti", "depth", "mix", "scenes"),
}
"""The data sets that each task reads."""
USUAL_DATA = {"classification": "imagenet", "detection": "coco", "segmentation": "ade20k", "depth": "nyu"}
"""What the papers train each task on."""


def tasks_of_data(name: str) -> Names:
    """The tasks that read a data set."""
    return tuple(task for task in TASKS if name in DATA_OF[task])
