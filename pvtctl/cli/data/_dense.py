"""What `pvtctl data` does with label maps and depth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._console import say, table
from pvtctl.errors import PvtctlError, UsageError

if TYPE_CHECKING:
    from pvtctl.data.check import Verdict
    from pvtctl.recipe.schema import Data
    from pvtctl.tasks.depth.check import DepthVerdict
    from pvtctl.tasks.segmentation.check import LabelVerdict

LABEL_DATA = ("ade20k", "pascal_context", "cityscapes", "masks")
DEPTH_DATA = ("nyu", "kitti", "depth")

_CLASS_ROWS = 60
"""More classes than these are not all printed."""


def data_settings(overrides: Sequence[str]) -> Data:
    """A recipe's `data` block with its defaults and `--set data.KEY=VALUE`. Raises UsageError."""
    from pydantic import ValidationError

    from pvtctl.recipe.layers import nest
    from pvtctl.recipe.schema import Data
    from pvtctl.recipe.yaml_loader import parse_value

    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        block, *path = key.strip().split(".")
        if not equals or block != "data" or not path:
            raise UsageError(f"--set {override}: not a setting of the data", "for example: --set data.depth.scale=5000")
        values[tuple(path)] = parse_value(text)
    try:
        return Data.model_validate_json(json.dumps(nest(values)), strict=True)
    except ValidationError as error:
        from pvtctl.recipe.layers import Layer, check

        first = error.errors()[0]
        where = ".".join(("data", *map(str, first["loc"])))
        known = check(Layer("--set", {("data", *path): value for path, value in values.items()}))
        if known:
            text = known[0].text.replace(" (None)", "")
            raise UsageError(f"--set {text}", "`pvtctl recipes schema` lists all settings") from error
        raise UsageError(
            f"--set {where}: {first['msg'][0].lower()}{first['msg'][1:]}", "`pvtctl recipes schema` lists all settings"
        ) from error


def check_dense(name: str, root: Path, settings: Data, **options: Any) -> Verdict:
    """`data check` of a set of label maps or depth."""
    if name in LABEL_DATA:
        from pvtctl.tasks.segmentation.check import check_segmentation_data

        return check_segmentation_data(root, name=name, segmentation=settings.segmentation.model_dump(), **options)
    from pvtctl.tasks.depth.check import check_depth_data

    return check_depth_data(root, name=name, depth=settings.depth.model_dump(), **options)


def print_labels(verdict: LabelVerdict) -> None:
    """Which values the masks hold, and the settings that would fit them."""
    from pvtctl.tasks.segmentation.check import class_rows

    rows = class_rows(verdict)
    if rows:
        columns = [f"{split} {what}" for split in verdict.splits for what in ("share", "images")]
        cells = [
            [row["value"], row["class"] or "(not a class)", *_shares(row, list(verdict.splits))]
            for row in rows
            if row["class"] == "" or any(row[split][1] for split in verdict.splits)
        ]
        left = len(cells) - _CLASS_ROWS
        more = f" {left} more are not shown: --json lists all." if left > 0 else ""
        table(
            "",
            ["value", "class", *columns],
            cells[:_CLASS_ROWS],
            caption=f"Values as they lie; shares of the labelled pixels of the masks that were examined.{more}",
        )
    for split, found in verdict.splits.items():
        if found.pixels and found.classes:
            print(f"{split}: {100 * found.unlabelled_share:.1f} % of the pixels have no class")
    for each in verdict.advice:
        print(f"setting: {each}")


def _shares(row: dict[str, Any], splits: list[str]) -> list[str]:
    cells = []
    for split in splits:
        share, images = row.get(split, (0.0, 0))
        cells += [f"{100 * share:.2f} %" if share else "-", str(images)]
    return cells


def print_depths(verdict: DepthVerdict) -> None:
    """What the depth files hold, by split."""
    from pvtctl.tasks.depth.check import figure_rows

    rows = figure_rows(verdict)
    if rows:
        cells = [["-" if cell is None else cell for cell in row.values()] for row in rows]
        table("", list(rows[0]), cells, caption="Metres = value / scale (data.depth.scale).")


def draw_dense(
    name: str,
    root: Path | None,
    output: Path,
    *,
    task: str,
    data: Data,
    split: str,
    count: int,
    copies: int,
    side: int,
    seed: int,
) -> None:
    """`data preview` of label maps or depth."""
    options: dict[str, Any] = {
        "training": split == "train",
        "normalization": data.normalization,
        "seed": seed,
        "samples": count if name == "scenes" else None,
        "image_size": data.image_size,
    }
    drawing: dict[str, Any] = {"count": count, "copies": copies, "side": side}
    if task == "segmentation":
        from pvtctl.tasks.segmentation.data import open_segmentation_split
        from pvtctl.tasks.segmentation.pictures import draw_overlay
        from pvtctl.tasks.segmentation.preview import draw_segmentation_preview
        from pvtctl.views.class_colours import class_colours

        dataset = open_segmentation_split(name, root, split, segmentation=data.segmentation.model_dump(), **options)
        names = dataset.class_names
        colours = class_colours(len(names), dataset.source.palette)
        ids = draw_segmentation_preview(
            dataset, output, lambda image, labels: draw_overlay(image, labels, names, colours), **drawing
        )
    else:
        from pvtctl.tasks.depth.data import open_depth_split
        from pvtctl.tasks.depth.pictures import draw_depth
        from pvtctl.tasks.depth.preview import draw_depth_preview

        dataset = open_depth_split(name, root, split, depth=data.depth.model_dump(), **options)
        ids = draw_depth_preview(dataset, output, lambda metres: draw_depth(metres, "metres"), **drawing)
    views = f"{copies} training views each" if dataset.training else "as evaluated"
    say(f"{output}: {len(ids)} of {len(dataset)} {split} images, {views}")


def found_dense(name: str, place: Path) -> dict[str, Any]:
    """Classes and images of a set of label maps or depth, for `data ls`; no file is read."""
    row: dict[str, Any] = {}
    for split in ("train", "val"):
        try:
            if name in LABEL_DATA:
                from pvtctl.tasks.segmentation.data import open_masks

                masks = open_masks(name, place, split, segmentation={})
                row |= {"classes": len(masks.class_names), split: len(masks)}
            else:
                from pvtctl.tasks.depth.layouts import find_pairs

                row[split] = len(find_pairs(name, place, split, {}))
        except PvtctlError as error:
            row["state"] = error.message
    return row
