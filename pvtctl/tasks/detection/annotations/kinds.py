"""The kinds of faults of a COCO file: how severe each is, and what was done about it."""

from __future__ import annotations

from typing import Literal

from pvtctl.tasks.detection.annotations.plausible import SHAPE_KINDS

CocoSeverity = Literal["error", "warning", "note"]

KINDS: dict[str, tuple[CocoSeverity, str]] = {
    "no_images": ("error", "no images in the list"),
    "no_classes": ("error", "no categories: there is nothing to learn or to score"),
    "bad_category": ("error", "categories without a whole number as id or a text as name"),
    "duplicate_category_id": ("error", "category ids that occur twice"),
    "duplicate_category_name": ("error", "categories of the same name"),
    "duplicate_image_id": ("error", "image ids that occur twice"),
    "missing_image": ("error", "annotations for images that the file does not list"),
    "missing_category": ("error", "annotations of categories that the file does not list"),
    "mostly_faulty": ("error", "more than half of the entries cannot be used: is this another format?"),
    "bad_image": (
        "warning",
        "images without a whole number as id, a file_name, or a width and height above 0; dropped",
    ),
    "bad_annotation": ("warning", "annotations without whole numbers as image_id and category_id; dropped"),
    "bad_box": ("warning", "boxes that are not four finite numbers [x, y, width, height], and no mask; dropped"),
    "bad_crowd": ("warning", "objects whose iscrowd is neither 0 nor 1; dropped"),
    "reversed_box": ("warning", "boxes of negative width or height; dropped"),
    "zero_area": ("warning", "boxes without area; dropped"),
    "outside": ("warning", "boxes wholly outside of their image; dropped"),
    "clipped": ("warning", "boxes partly outside of their image; clipped"),
    **{kind: ("warning", words) for kind, words in SHAPE_KINDS.items()},
    "text_numbers": ("warning", "entries with numbers written as text; read"),
    "size_from_file": ("warning", "images without width and height; read from their files"),
    "no_id": ("warning", "annotations without a whole number as id; given one"),
    "duplicate_annotation_id": ("warning", "annotation ids that occur twice; given new ones"),
    "box_from_mask": ("warning", "objects without a box; taken from their masks"),
    "bad_area": ("warning", "areas that are not a finite number from 0; taken from mask or box"),
    "area_zero": ("warning", "objects of area 0, more than half of all; taken from mask or box"),
    "all_crowd": (
        "warning",
        "crowd regions and no other object: neither learned nor scored, unless data.detection.crowds=objects",
    ),
    "flat_polygon": ("warning", "polygons that are not in a list of polygons; read as one"),
    "short_polygon": ("warning", "objects with polygons of fewer than three points, which are dropped"),
    "bad_polygon": ("warning", "polygons that are not x, y pairs of finite numbers; without a mask"),
    "bad_mask": ("warning", "run-length masks that cannot be decoded; without a mask"),
    "mask_size": ("warning", "masks of another size than their image; without a mask"),
    "no_mask": ("warning", "objects without a mask; left out where masks are learned"),
    "whole_floats": ("note", "entries with whole numbers written as 160.0; read"),
}
"""kind -> (severity, what is wrong and what was done). Of most kinds the ids are those of annotations."""

COSTS_AN_OBJECT = ("bad_annotation", "bad_box", "bad_crowd", "reversed_box")
"""Of more than half of the annotations, these make the file unusable."""
