"""Pixels and labels are in one frame, and 16-bit grey has one range, in training, evaluation and prediction."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pvtctl.data.images import read_image
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Data
from pvtctl.tasks.base import PreviewRequest
from pvtctl.tasks.from_recipe import build_task
from pvtctl.tasks.predict import read_pixels
from pvtctl.tasks.reading import read_as_trained, reading_of, reading_of_meta
from pvtctl.tasks.registry import spec_of, task_spec

STORED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""EXIF orientation -> what a camera held so stores of an upright picture."""
BOX = (10, 4, 16, 12)
"""Left, top, right, bottom of the red object in the upright picture of 64 x 40 pixels."""


def photo(path: Path, orientation: int) -> None:
    """A grey picture with a red object, stored turned."""
    pixels = np.full((40, 64, 3), 90, np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = (250, 10, 10)
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels)
    (image.transpose(STORED[orientation]) if orientation in STORED else image).save(path, exif=exif)


def is_red(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels[0] > 200) & (pixels[1] < 60)


def write_coco(root: Path, orientation: int, size: tuple[int, int], box: list[int]) -> None:
    for split in ("train", "val"):
        photo(root / f"{split}2017" / "0.png", orientation)
        image = {"id": 1, "file_name": "0.png", "width": size[0], "height": size[1]}
        entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 48, "iscrowd": 0}
        document = {"images": [image], "annotations": [entry], "categories": [{"id": 1, "name": "red"}]}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(document))


def opened(root: Path, recipe: str, name: str, *settings: str) -> Any:
    found = load_recipe(recipe, overrides=[f"data.path={root}", f"data.name={name}", *settings])
    return spec_of(found).open_split(found, "train", "evaluate")


SHOWN = [10, 4, 6, 8]
IN_STORED = {3: [48, 28, 6, 8], 6: [4, 48, 8, 6], 8: [28, 10, 8, 6]}


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("setting", ["apply", "ignore"])
def test_boxes_are_on_their_objects(tmp_path: Path, orientation: int, setting: str) -> None:
    """Where the sizes tell the frame, in both; else in the one that the setting says."""
    frames = {"shown": ((64, 40), SHOWN)}
    if orientation != 1:
        size = (64, 40) if orientation == 3 else (40, 64)
        frames["stored"] = (size, IN_STORED[orientation])
    for frame, (size, box) in frames.items():
        if orientation == 3 and frame != {"apply": "shown", "ignore": "stored"}[setting]:
            continue
        root = tmp_path / frame
        write_coco(root, orientation, size, box)
        pixels, objects = opened(root, "small_objects", "coco", f"data.exif={setting}").read(0)
        assert pixels.shape[1:] == size[::-1]
        rows, columns = is_red(pixels).nonzero().unbind(1)
        around = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        assert objects.boxes[0].tolist() == around


def test_boxes_and_maps_are_turned_unless_said_otherwise_and_classes_are_not(tmp_path: Path) -> None:
    for recipe, expected in {
        "small_objects": True,
        "small_maps": True,
        "small_depth": True,
        "small_photos": False,
    }.items():
        assert reading_of(load_recipe(recipe)).exif == expected
        for setting in ("apply", "ignore"):
            assert reading_of(load_recipe(recipe, overrides=[f"data.exif={setting}"])).exif == (setting == "apply")
    for split in ("train", "val"):
        for name in ("a", "b"):
            photo(tmp_path / split / name / "0.png", 6)
    assert opened(tmp_path, "small_photos", "imagenet").read(0)[0].shape == (3, 64, 40)
    assert opened(tmp_path, "small_photos", "imagenet", "data.exif=apply").read(0)[0].shape == (3, 40, 64)


@pytest.mark.parametrize("orientation", [6, 8])
@pytest.mark.parametrize("shown", [True, False])
def test_images_are_in_the_frame_of_their_maps(tmp_path: Path, orientation: int, shown: bool) -> None:
    for split in ("train", "val"):
        photo(tmp_path / "masks" / "images" / split / "0.png", orientation)
        photo(tmp_path / "depth" / split / "rgb" / "0.png", orientation)
        labels = np.zeros((40, 64), np.uint8)
        labels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1
        image = Image.fromarray(labels)
        values = np.asarray(image if shown else image.transpose(STORED[orientation]))
        (tmp_path / "masks" / "masks" / split).mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / "masks" / "masks" / split / "0.png")
        (tmp_path / "depth" / split / "depth").mkdir()
        np.save(tmp_path / "depth" / split / "depth" / "0.npy", values.astype(np.float32) + 1)
    (tmp_path / "masks" / "classes.txt").write_text("grey\nred\n")
    pixels, target = opened(tmp_path / "masks", "small_maps", "masks").read(0)
    assert torch.equal(is_red(pixels), target == 1)
    pixels, metres = opened(tmp_path / "depth", "small_depth", "depth").read(0)
    assert torch.equal(is_red(pixels), metres == 2)


def grey_set(root: Path, low: int, high: int) -> Path:
    for split in ("train", "val"):
        for label, name in enumerate(("cold", "warm")):
            for number in range(3):
                level = np.linspace(low, high - 100 * number * (split == "train"), 40 * 40).reshape(40, 40)
                (root / split / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray((level + label).astype(np.uint16)).save(root / split / name / f"{number}.png")
    return root


def test_the_range_of_grey_is_said_and_goes_with_the_checkpoint(tmp_path: Path) -> None:
    root = grey_set(tmp_path / "set", 1000, 2000)
    recipe = load_recipe("small_photos", overrides=[f"data.path={root}", "data.name=imagenet", "data.image_size=32"])
    said: list[str] = []
    task = build_task(recipe, device="cpu", say=said.append)
    assert "16-bit grey images: 1000 becomes black, 2001 white (data.grey_range)" in said
    assert task.train.source.reading == task.val.source.reading
    pixels, _ = task.val.read(0)
    assert len(pixels.unique()) > 200
    meta = task.meta()
    assert meta.grey_range == [1000, 2001]
    found = read_pixels(root / "val" / "cold" / "0.png", reading_of_meta(meta))[0]
    assert torch.equal(found, pixels)
    scored = read_as_trained(recipe, CheckpointMeta.read(json.loads(json.dumps(meta.as_json())), "x"))
    assert reading_of(scored).grey == (1000, 2001)
    stated = load_recipe(
        "small_photos", overrides=[f"data.path={root}", "data.name=imagenet", "data.grey_range=[0, 4095]"]
    )
    task = build_task(stated, device="cpu", say=said.append)
    assert task.val.source.reading.grey == (0, 4095)
    assert reading_of(read_as_trained(stated, meta)).grey == (0, 4095)


def test_a_prediction_is_of_the_picture_as_shown(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 6)
    pixels, notes = read_pixels(tmp_path / "a.png", reading_of_meta(CheckpointMeta()))
    assert (pixels.shape, notes.turned, notes.stretched) == ((3, 40, 64), True, False)
    assert read_pixels(tmp_path / "a.png", reading_of_meta(CheckpointMeta(exif="ignore")))[0].shape == (3, 64, 40)
    out = io.BytesIO()
    Image.fromarray(np.array([[1000, 1500]], np.uint16)).save(out, "PNG")
    (tmp_path / "grey.png").write_bytes(out.getvalue())
    assert read_pixels(tmp_path / "grey.png")[1].stretched
    assert not read_pixels(tmp_path / "grey.png", reading_of_meta(CheckpointMeta(grey_range=[0.0, 4095.0])))[
        1
    ].stretched


def deep_set(root: Path, task: str) -> Path:
    """Two images a split of 16-bit grey: up to 2000 in train, up to 1500 in val, each over another part of that."""
    ends = {"train": (1400, 2000), "val": (1200, 1500)}
    document = {"categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]}
    for split, highest in ends.items():
        for number, high in enumerate(highest):
            level = np.linspace(1000, high, 40 * 40).reshape(40, 40).astype(np.uint16)
            files = {
                "classification": f"{split}/{'ab'[number]}/x.png",
                "detection": f"{split}2017/{number}.png",
                "segmentation": f"images/{split}/{number}.png",
                "depth": f"{split}/rgb/{number}.png",
            }
            (root / files[task]).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(level).save(root / files[task])
            beside = {"segmentation": root / "masks" / split, "depth": root / split / "depth"}.get(task)
            if beside is not None:
                beside.mkdir(parents=True, exist_ok=True)
                target = (level > 1100).astype(np.uint8 if task == "segmentation" else np.uint16) * (number + 1)
                Image.fromarray(target).save(beside / f"{number}.png")
        document["images"] = [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 40} for n in (0, 1)]
        document["annotations"] = [
            {"id": n + 1, "image_id": n, "category_id": n + 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
            for n in (0, 1)
        ]
        (root / "annotations").mkdir(exist_ok=True)
        if task == "detection":
            (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(document))
    (root / "classes.txt").write_text("none\nred\nblue\n")
    (root / "depth.json").write_text('{"scale": 1}')
    return root


NAMES = {"classification": "imagenet", "detection": "coco", "segmentation": "masks", "depth": "depth"}


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_preview_shows_grey_in_the_range_of_training(tmp_path: Path, task: str, split: str) -> None:
    root = deep_set(tmp_path / "set", task)

    def drawn(grey: tuple[float, float] | None) -> bytes:
        data = Data.model_validate({"grey_range": grey, "image_size": 32})
        file = tmp_path / "preview.png"
        task_spec(task).preview(PreviewRequest(NAMES[task], root, file, data, split, 2, 1, 64, 0))
        return file.read_bytes()

    assert drawn(None) == drawn((1000, 2000)) != drawn((1000, 1500))


DEEP_COLOURS = [0, 1, 255, 256, 257, 32767, 32768, 65279, 65280, 65535]


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_keep_their_upper_byte(channels: int) -> None:
    """PIL reads such files as 8 bits, which is what the models take."""
    levels = np.array(DEEP_COLOURS, np.uint16)
    pixels = np.stack([levels, levels[::-1], np.roll(levels, 3), np.full(10, 65535, np.uint16)][:channels], -1)
    header = struct.pack(">IIBBBBB", 10, 1, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, part in (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(b"\0" + pixels.astype(">u2").tobytes())),
        (b"IEND", b""),
    ):
        data += struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
    assert np.array_equal(read_image(data)[:, 0].T.numpy(), pixels[:, :3] >> 8)


def test_pnm_of_16_bits_is_scaled() -> None:
    levels = np.array(DEEP_COLOURS, np.uint16)
    for kind, pixels in ((b"P6", np.stack([levels] * 3, -1)), (b"P5", levels)):
        found = read_image(kind + b" 10 1 65535\n" + pixels.astype(">u2").tobytes())[:, 0].numpy().astype(int)
        assert np.abs(found - levels.astype(int) / 257).max() <= 1
