"""Tasks, and the data sets and heads that belong to each. Nothing else is imported: the command line reads it at once."""

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
HEADS_OF: dict[str, Names] = {
    "classification": (),
    "detection": ("retinanet", "mask_rcnn", "detr"),
    "segmentation": ("semantic_fpn", "trans2seg", "deeplabv3plus", "dpt"),
    "depth": ("dpt", "midas"),
}
"""The heads of each task; the first is taken where none is named."""
USUAL_DATA = {"classification": "imagenet", "detection": "coco", "segmentation": "ade20k", "depth": "nyu"}
"""What the papers train each task on."""


def tasks_of_data(name: str) -> Names:
    """The tasks that read a data set."""
    return tuple(task for task in TASKS if name in DATA_OF[task])


def tasks_of_head(name: str) -> Names:
    """The tasks that a head is for; empty for an unknown one."""
    return tuple(task for task in TASKS if name in HEADS_OF[task])


def all_heads() -> list[str]:
    """Every head's name once."""
    return list(dict.fromkeys(head for heads in HEADS_OF.values() for head in heads))
