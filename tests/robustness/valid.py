"""Small valid inputs of every kind that the commands read, made once; each attempt damages a copy of one."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from child import run_forked
from PIL import Image

from pvtctl.cli.main import main

SIDE = 48
RUN = ["--backbone", "pvt_v2_b0@0.25", "--profile", "smoke"]
RUN += ["--set", "data.train_samples=16", "--set", "data.val_samples=8", "--set", "train.precision=fp32"]
RUN += ["--set", "train.save_minutes=0.000001", "--set", "train.keep_checkpoints=3", "--set", "data.workers=0"]
"""Four steps of eight images at 32 pixels, with a checkpoint after each."""
RECIPE = """# A recipe as a user writes one.
about: small photos, in a hurry
task: detection
base: small_objects
data:
  name: coco
  image_size: 96
  workers: 0
model:
  backbone: {name: pvt_tiny, drop_path_rate: 0.05}
  head: {name: retinanet}
train:
  epochs: 3
  total_batch: 4
  optimizer: {name: adamw, lr: 2.5e-4, weight_decay: 0.05}
  schedule: {name: cosine, min_lr: 1e-6, warmup_epochs: 2}
  clip_grad: 1.0
profiles:
  mini:
    train: {epochs: 2, eval_every: 1}
"""


def picture(seed: int, side: int = SIDE) -> Image.Image:
    """Smooth random colours."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def make_valid(root: Path) -> None:
    """Write all inputs below `root`."""
    (root / "recipe.yaml").write_text(RECIPE)
    _images(root / "images")
    _classes(root / "classes")
    _coco(root / "coco")
    _yolo(root / "yolo")
    _voc(root / "voc")
    _maps(root / "maps")
    _depth(root / "depth")
    ended = run_forked(lambda: plain_figures() or train(), root)
    assert ended.code == 0, ended.err
    _checkpoints(root)


def train(*words: str) -> int:
    """The run of RUN in the folder `run`."""
    return main(["pretrain", "scenes", *RUN, "--out", "run", *words])


def plain_figures() -> None:
    """White pictures of the right size, as in other tests of whole runs."""
    from matplotlib.figure import Figure

    def save(self: Figure, path: Any, *, format: str, dpi: int, **options: Any) -> None:
        size = tuple(int(side * dpi) for side in self.get_size_inches())
        Image.new("RGB", size, "white").save(path, format="PNG")

    Figure.savefig = save  # type: ignore[method-assign, assignment]


def _images(folder: Path) -> None:
    folder.mkdir()
    for suffix, options in {
        "png": {},
        "jpg": {"exif": _exif()},
        "bmp": {},
        "tif": {"compression": "tiff_lzw"},
        "webp": {},
        "ppm": {},
    }.items():
        picture(1).save(folder / f"photo.{suffix}", **options)
    picture(2).convert("P").save(folder / "palette.png")
    picture(2).convert("L").point(lambda value: value * 200, "I").convert("I;16").save(folder / "deep.png")
    picture(2).convert("CMYK").save(folder / "print.jpg")
    picture(2).save(folder / "progressive.jpg", progressive=True)


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _classes(root: Path) -> None:
    for at, (split, label) in enumerate([("train", "blue"), ("train", "red"), ("val", "blue"), ("val", "red")]):
        (root / split / label).mkdir(parents=True)
        for number, suffix in enumerate(("png", "jpg", "png")):
            picture(10 * at + number).save(root / split / label / f"{number}.{suffix}")


def _coco(root: Path) -> None:
    results = []
    for split in ("train", "val"):
        (root / f"{split}2017").mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, 4):
            picture(number).save(root / f"{split}2017" / f"{number:03d}.png")
            images.append({"id": number, "file_name": f"{number:03d}.png", "width": SIDE, "height": SIDE})
            for at in range(2):
                x, y, w, h = 4 + 18 * at, 6, 14, 20
                polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                rle = {"size": [SIDE, SIDE], "counts": [SIDE * 4, 20, SIDE * SIDE - SIDE * 4 - 20]}
                annotations.append(
                    {
                        "id": 2 * number + at,
                        "image_id": number,
                        "category_id": 1 + at,
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": int(at == 1 and number == 3),
                        "segmentation": rle if at and number == 3 else [polygon],
                    }
                )
                if split == "val":
                    box = {"image_id": number, "category_id": 1 + at, "bbox": [x, y, w, h], "score": 0.9 - number / 10}
                    results.append(box | {"segmentation": rle if at else [polygon]})
        categories = [{"id": 1, "name": "pen"}, {"id": 2, "name": "cup", "supercategory": "kitchen"}]
        (root / "annotations").mkdir(exist_ok=True)
        whole = {"images": images, "annotations": annotations, "categories": categories, "info": {"year": 2020}}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(whole))
    (root / "results.json").write_text(json.dumps(results))


def _yolo(root: Path) -> None:
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(2):
            picture(number).save(root / "images" / split / f"{split}{number}.png")
            (root / "labels" / split / f"{split}{number}.txt").write_text("0 0.5 0.5 0.25 0.5\n1 0.3 0.3 0.2 0.2\n")
    data = {"path": ".", "train": "images/train", "val": "images/val", "nc": 2, "names": {0: "pen", 1: "cup"}}
    (root / "data.yaml").write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in data.items()) + "\n")
    (root / "classes.txt").write_text("pen\ncup\n")


def _voc(root: Path) -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(3):
        picture(number).save(root / "JPEGImages" / f"{number}.jpg")
        objects = "".join(
            f"<object><name>{name}</name><difficult>{number % 2}</difficult><bndbox><xmin>{x}</xmin><ymin>5</ymin>"
            f"<xmax>{x + 12}</xmax><ymax>30</ymax></bndbox></object>"
            for name, x in (("pen", 3), ("cup", 25))
        )
        (root / "Annotations" / f"{number}.xml").write_text(
            f'<?xml version="1.0" encoding="utf-8"?>\n<annotation><folder>JPEGImages</folder><filename>{number}.jpg</filename>'
            f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>{objects}</annotation>\n"
        )
    (root / "ImageSets/Main/train.txt").write_text("0\n1\n")
    (root / "ImageSets/Main/val.txt").write_text("2\n")


def _maps(root: Path) -> None:
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(2):
            picture(number).save(root / "images" / split / f"{number}.jpg")
            labels = np.random.default_rng(number).integers(0, 3, (SIDE, SIDE), dtype=np.uint8)
            Image.fromarray(labels).save(root / "masks" / split / f"{number}.png")
    (root / "classes.txt").write_text("0 sky 128 128 128\n1 road 10 20 30\n2 tree 0 200 0\n")


def _depth(root: Path) -> None:
    for split in ("train", "val"):
        for kind in ("rgb", "depth"):
            (root / split / kind).mkdir(parents=True)
        for number in range(2):
            picture(number).save(root / split / "rgb" / f"{number}.jpg")
            metres = np.random.default_rng(number).uniform(0.5, 9, (SIDE, SIDE))
            if number:
                np.save(root / split / "depth" / f"{number}.npy", metres.astype(np.float32))
            else:
                Image.fromarray((metres * 1000).astype(np.uint16)).save(root / split / "depth" / f"{number}.png")
    (root / "depth.json").write_text('{"scale": 1000, "invalid": 0}\n')


def _checkpoints(root: Path) -> None:
    """The run's weights in three file formats; and the run as it was a step before its end."""
    from safetensors.torch import load_file

    shutil.copy(root / "run" / "best.safetensors", root / "weights.safetensors")
    state = load_file(root / "weights.safetensors")
    torch.save({"state_dict": state, "epoch": 3}, root / "weights.pth")
    torch.save(state, root / "legacy.pth", _use_new_zipfile_serialization=False)
    shutil.copytree(root / "run", root / "stopped", ignore=shutil.ignore_patterns("*.png", "*.html", "tensorboard"))
    for file in sorted((root / "stopped" / "checkpoints").iterdir())[-2:]:  # the last one and its hash
        file.unlink()
    info = json.loads((root / "stopped" / "run.json").read_text())
    (root / "stopped" / "run.json").write_text(
        json.dumps(info | {"status": "stopped", "result": None, "finished": None})
    )


def pick_file(root: Path, patterns: tuple[str, ...], rng: random.Random) -> Path:
    """One of the files below `root` that match."""
    return rng.choice(sorted(file for pattern in patterns for file in root.rglob(pattern) if file.is_file()))
