"""Class names of the public data sets: ImageNet-1k, COCO, ADE20K, Pascal Context. Loads without torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

COCO_CATEGORIES: dict[int, str] = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench", 16: "bird", 17: "cat",
    18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe",
    27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove", 41: "skateboard",
    42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife",
    50: "spoon", 51: "bowl", 52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot",
    58: "hot dog", 59: "pizza", 60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard",
    77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book",
    85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}  # fmt: skip
"""Category id -> name, in the order that class numbers 0 to 79 are given in."""

COCO_NAMES = tuple(COCO_CATEGORIES.values())


def names_by_id(first: int, last: int) -> list[str]:
    """A name for every id from `first` to `last`; unused ids are called `N/A 12` and so on."""
    return [COCO_CATEGORIES.get(each, f"N/A {each}") for each in range(first, last + 1)]


@cache
def imagenet_classes() -> dict[str, str]:
    """wnid -> English name of the 1000 ImageNet-1k classes, in the order of their indices."""
    text = (Path(__file__).parent / "imagenet_classes.txt").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines())


@cache
def wnid_to_index() -> dict[str, int]:
    """wnid -> index 0..999 of ImageNet-1k."""
    return {wnid: index for index, wnid in enumerate(imagenet_classes())}


def imagenet_indices(class_names: Sequence[str]) -> list[int] | None:
    """For each class of a data set its ImageNet-1k index, or None unless all are wnids of ImageNet-1k.

    With it a 1000-class head is scored on a folder with only some of the classes:
    `target = indices[label]`, against all 1000 logits.
    """
    known = wnid_to_index()
    if not all(name in known for name in class_names):
        return None
    return [known[name] for name in class_names]


def readable_name(class_name: str) -> str:
    """`n01440764` -> `tench`; other names are unchanged."""
    return imagenet_classes().get(class_name, class_name)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.replace("\n", " ").split(","))


ADE20K_CLASSES = _names(
    """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth,
door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug,
field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column,
signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path,
stairs, runway, case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table,
toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar,
arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television,
airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van,
ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake,
dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt
screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""
)
"""Label k + 1 of a file is entry k (objectInfo150.txt, the first name of each)."""

PASCAL_CONTEXT_CLASSES = _names(
    """
background, aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet,
car, cat, ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, food, grass,
ground, horse, keyboard, light, motorbike, mountain, mouse, person, plate, platform, pottedplant, road, rock,
sheep, shelves, sidewalk, sign, sky, snow, sofa, table, track, train, tree, truck, tvmonitor, wall, water,
window, wood
"""
)
"""Label k of a file is entry k; 59 classes and the background."""
