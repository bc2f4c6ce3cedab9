"""Writes the built-in scenes as files in the layouts of ImageNet, COCO, ADE20K and NYU Depth, for their readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pvtctl.data.scenes.scene import IGNORE, SCENE_CLASSES, SEMANTIC_CLASSES, VERSION, Scene, render_scene
from pvtctl.errors import UsageError, nearest
from pvtctl.io.files import new_folder

LAYOUTS = ("imagenet", "coco", "ade20k", "nyu")

DEPTH_SCALE = 1000
"""Depth files hold millimetres: metres = value / 1000, 0 = no value."""

INFO_FILE = "scenes.json"
"""Written at the top of every export: rendering settings and class names."""

_JPEG_QUALITY = 95


def export_scenes(
    root: Path | str,
    layout: str,
    *,
    train: int = 600,
    val: int = 120,
    size: int | tuple[int, int] = 224,
    seed: int = 0,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Render `train` and `val` images of `size` (H, W) and write them to the new folder `root`.

    - `imagenet`: `{train,val}/CLASS/NAME.JPEG`
    - `coco`: `{train,val}2017/NAME.jpg`, `annotations/instances_{train,val}2017.json` (masks as compressed RLE)
    - `ade20k`: `images/{training,validation}/NAME.jpg`, `annotations/{training,validation}/NAME.png` (0 = unlabelled,
      1.. = lines of `classes.txt`)
    - `nyu`: `{train,val}/rgb/NAME.jpg`, `{train,val}/depth/NAME.png` (16 bits, millimetres, 0 = no value), and
      `depth.json` with that scale

    `scenes.json` next to them describes what was rendered. Files are equal for equal arguments. `on_progress` is called
    with (split, images done, images in all). The folder appears when all of it is written. Raises UsageError for an
    unknown layout, too few images, or a folder that holds anything, and PvtctlError when it cannot be written.
    """
    root = Path(root)
    if layout not in LAYOUTS:
        raise UsageError(f"unknown layout {layout!r}", nearest(layout, LAYOUTS))
    counts = {"train": train, "val": val}
    least = len(SCENE_CLASSES) if layout == "imagenet" else 1
    if min(counts.values()) < least:
        each = f"{least} of each, one for every class folder" if layout == "imagenet" else "one of each"
        raise UsageError(f"cannot export {train} train and {val} val images", f"ask for at least {each}")
    size = (size, size) if isinstance(size, int) else size
    with new_folder(root) as folder:
        for split, count in counts.items():
            records = []
            for index in range(count):
                scene = render_scene(seed, split, index, size)
                records.append(_write(scene, folder, layout, split, index))
                if on_progress is not None:
                    on_progress(split, len(records), count)
            if layout == "coco":
                _write_json(folder / "annotations" / f"instances_{split}2017.json", _coco_document(records))
        if layout == "ade20k":
            lines = (f"{number} {name}\n" for number, name in enumerate(SEMANTIC_CLASSES, 1))
            (folder / "classes.txt").write_text("".join(lines), encoding="utf-8")
        if layout == "nyu":  # so that it can also be read as a depth set of no known layout
            _write_json(folder / "depth.json", {"scale": DEPTH_SCALE})
        _write_json(folder / INFO_FILE, _info(layout, counts, size, seed))


def _write(scene: Scene, folder: Path, layout: str, split: str, index: int) -> dict[str, Any]:
    """Write the files of one scene. Returns its record for layouts with one annotation file."""
    name = f"{split}_{index:06d}"
    match layout:
        case "imagenet":
            _save(scene.image, folder / split / SCENE_CLASSES[scene.label] / f"{name}.JPEG")
        case "coco":
            _save(scene.image, folder / f"{split}2017" / f"{name}.jpg")
            return _coco_record(scene, name, index + 1)
        case "ade20k":
            split = {"train": "training", "val": "validation"}[split]
            _save(scene.image, folder / "images" / split / f"{name}.jpg")
            labels = np.where(scene.semantic == IGNORE, 0, scene.semantic + 1).astype(np.uint8)
            _save(labels, folder / "annotations" / split / f"{name}.png")
        case _:
            _save(scene.image, folder / split / "rgb" / f"{name}.jpg")
            millimetres = np.rint(scene.depth.astype(np.float64) * DEPTH_SCALE).astype(np.uint16)
            _save(millimetres, folder / split / "depth" / f"{name}.png")
    return {}


def _save(pixels: NDArray[Any], path: Path) -> None:
    """Write a JPEG or PNG, by the ending of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=_JPEG_QUALITY)


def _coco_record(scene: Scene, name: str, image_id: int) -> dict[str, Any]:
    """An entry of `images`, and its annotations without ids."""
    from pycocotools import mask as coco_mask

    height, width = scene.depth.shape
    annotations = []
    for mask, label, box in zip(scene.masks, scene.labels.tolist(), scene.boxes.tolist(), strict=True):
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        x0, y0, x1, y1 = box
        annotations.append(
            {
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": [height, width], "counts": rle["counts"].decode("ascii")},
            }
        )
    image = {"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width, "license": 1}
    return {"image": image, "annotations": annotations}


def _coco_document(records: list[dict[str, Any]]) -> dict[str, Any]:
    annotations = [annotation for record in records for annotation in record["annotations"]]
    return {
        "info": {"description": "Rendered by pvtctl (scenes)", "version": str(VERSION), "contributor": "pvtctl"},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "categories": [
            {"id": label + 1, "name": name, "supercategory": "object"} for label, name in enumerate(SCENE_CLASSES)
        ],
        "images": [record["image"] for record in records],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
    }


def _info(layout: str, counts: dict[str, int], size: tuple[int, int], seed: int) -> dict[str, Any]:
    info: dict[str, Any] = {
        "made_by": "pvtctl data export scenes",
        "renderer_version": VERSION,
        "layout": layout,
        "seed": seed,
        "size": list(size),
        "images": counts,
        "classes": list(SEMANTIC_CLASSES if layout == "ade20k" else SCENE_CLASSES),
    }
    if layout == "nyu":
        info["depth"] = {"metres": f"value / {DEPTH_SCALE}", "scale": DEPTH_SCALE, "no_value": 0}
    return info


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document) + "\n", encoding="utf-8")
