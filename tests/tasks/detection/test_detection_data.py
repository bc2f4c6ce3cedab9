from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pvtctl.data.base import Unusable
from pvtctl.data.loader import Loader
from pvtctl.data.samplers import EvalSampler, GroupedTrainSampler
from pvtctl.data.scenes.export import export_scenes
from pvtctl.data.transforms import denormalize, normalize, pad_images
from pvtctl.errors import UsageError
from pvtctl.tasks.detection.data import DetectionDataset, open_detection_split
from pvtctl.tasks.detection.settings import DetectionData

SMALL = DetectionData(short_sides=(64,), long_side=120, test_short_side=64, test_long_side=120)


@pytest.fixture
def make_coco(tmp_path: Path):
    """`make_coco(count)` writes so many images, wide and tall in turn, each with a bright box of class image % 3."""

    def make(count: int = 6, mode: str = "RGB", split: str = "train") -> Path:
        folder = tmp_path / "set" / "images" / split
        folder.mkdir(parents=True)
        images, annotations = [], []
        for at in range(count):
            height, width = (48, 80) if at % 2 else (72, 56)
            pixels = np.full((height, width, 3), 20 + at, np.uint8)
            x, y, w, h = 8 + at, 12, 20, 16
            pixels[y : y + h, x : x + w] = 220
            Image.fromarray(pixels).convert(mode).save(folder / f"{at:03d}.png")
            images.append({"id": 100 + at, "file_name": f"{at:03d}.png", "height": height, "width": width})
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append(
                {
                    "id": at + 1,
                    "image_id": 100 + at,
                    "category_id": 10 * (1 + at % 3),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [outline],
                }
            )
        categories = [{"id": 10 * (1 + at), "name": name} for at, name in enumerate("abc")]
        write(tmp_path / "set", split, {"images": images, "annotations": annotations, "categories": categories})
        return tmp_path / "set"

    return make


def write(root: Path, split: str, data: dict[str, Any]) -> None:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))


def read(root: Path, split: str = "train") -> dict[str, Any]:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def open_train(root: Path | None, name: str = "coco", masks: bool = True, sizes: DetectionData = SMALL, **options: Any):
    return open_detection_split(name, root, "train", settings=sizes, training=True, with_masks=masks, **options)


def open_eval(root: Path | None, name: str = "coco", split: str = "train", masks: bool = False, **options: Any):
    return open_detection_split(name, root, split, settings=SMALL, training=False, with_masks=masks, **options)


def train_loader(dataset: DetectionDataset, workers: int = 0, batch_size: int = 2):
    return Loader(dataset, GroupedTrainSampler(dataset.wide, batch_size=batch_size, seed=3), workers=workers)


def test_batches_hold_what_a_detector_takes(make_coco):
    dataset = open_train(make_coco())
    batches = list(train_loader(dataset))
    assert len(batches) == 3
    for batch in batches:
        assert len(batch) == 2
        assert batch.images.dtype == torch.float32
        assert all(side % 32 == 0 for side in batch.images.shape[-2:])
        for row, (height, width), target in zip(batch.images, batch.sizes, batch.targets, strict=True):
            assert not row[:, height:].any()
            assert not row[:, :, width:].any()
            assert (target.boxes.dtype, target.labels.dtype, target.masks.dtype) == (
                torch.float32,
                torch.int64,
                torch.bool,
            )
            assert target.masks.shape == (len(target), height, width)
            bright = denormalize(row)[0, :height, :width] > 128  # the object is where its box and mask say it is
            assert (bright ^ target.masks[0]).float().mean() < 0.02
            rows, columns = torch.where(bright)
            box = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (box - target.boxes[0]).abs().max() <= 1.5
    assert {(48, 80), (72, 56)} == {size for batch in batches for size in batch.original_sizes}
    ids = sorted((image, name) for batch in batches for image, name in zip(batch.image_ids, batch.ids, strict=True))
    assert ids == [(100 + at, f"{at:03d}.png") for at in range(6)]
    assert len({batch.key for batch in batches}) == 3


def test_same_bits_for_any_number_of_workers_and_after_a_restart(make_coco):
    root = make_coco()
    sizes = DetectionData(short_sides=(48, 64, 80), sampling="range", long_side=120, crop=0.5)
    alone, workers = (train_loader(open_train(root, sizes=sizes), workers=count) for count in (0, 2))
    before = torch.get_rng_state()
    alone.sampler.set_epoch(1)
    whole = list(alone)
    for first in (0, 1):
        workers.sampler.set_epoch(1, first)
        for batch, expected in zip(workers, whole[first:], strict=True):
            assert torch.equal(batch.images, expected.images)
            assert (batch.key, batch.ids, batch.sizes) == (expected.key, expected.ids, expected.sizes)
            for target, wanted in zip(batch.targets, expected.targets, strict=True):
                assert torch.equal(target.boxes, wanted.boxes)
                assert torch.equal(target.masks, wanted.masks)
    workers.close()
    assert torch.equal(torch.get_rng_state(), before)
    alone.sampler.set_epoch(2)
    assert any(a.sizes != b.sizes for a, b in zip(alone, whole, strict=True))


def test_evaluation_gives_every_image_once_in_order(make_coco):
    dataset = open_eval(make_coco(5))
    batches = list(Loader(dataset, EvalSampler(5, batch_size=2), workers=0))
    assert [batch.image_ids for batch in batches] == [[100, 101], [102, 103], [104]]
    assert batches[0].sizes == [(82, 64), (64, 107)]
    box = batches[0].targets[0].boxes[0]
    assert torch.allclose(box, torch.tensor([8, 12, 28, 28]) * torch.tensor([64 / 56, 82 / 72] * 2))
    assert batches[0].targets[0].masks is None
    truth = dataset.to_coco()
    assert [entry["id"] for entry in truth["images"]] == [100, 101, 102, 103, 104]
    assert truth["annotations"][1]["category_id"] == 20
    assert (dataset.class_names, dataset.category_ids) == (["a", "b", "c"], [10, 20, 30])


def test_training_leaves_out_images_without_objects_and_small_ones(make_coco):
    root = make_coco()
    data = read(root)
    data["annotations"][0]["iscrowd"] = 1
    data["annotations"][1]["bbox"] = [3, 3, 0, 9]
    data["images"][2] |= {"height": 31}
    write(root, "train", data)
    dataset = open_train(root, masks=False)
    assert dataset.ids == ["003.png", "004.png", "005.png"]
    assert dataset.problems == {"zero_area": 1, "images_without_objects": 2, "images_below_32_pixels": 1}
    assert len(open_eval(root)) == 6
    assert len(open_eval(root).to_coco()["annotations"]) == 5  # the crowd is scored


def test_nothing_to_train_on(make_coco):
    root = make_coco()
    write(root, "train", read(root) | {"annotations": []})
    with pytest.raises(UsageError, match="no image to train on: 6 have no objects"):
        open_train(root, masks=False)
    assert len(open_eval(root)) == 6


def test_missing_and_broken_files_are_skipped(make_coco):
    root = make_coco()
    folder = root / "images" / "train"
    (folder / "000.png").unlink()
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes()[:60])
    Image.new("RGB", (50, 50)).save(folder / "002.png")
    bad = {"000.png": "No such file", "001.png": "", "002.png": "50x50 pixels, but its annotations are for 56x72"}
    dataset = open_train(root)
    loader = train_loader(dataset, batch_size=6)
    (batch,) = list(loader)
    assert len(batch) == 6
    assert set(batch.ids) == {"003.png", "004.png", "005.png"}
    assert set(loader.skipped) == set(bad)
    assert all(reason in loader.skipped[name] for name, reason in bad.items())
    evaluation = Loader(open_eval(root), EvalSampler(6, batch_size=3), workers=0)
    assert [batch.ids for batch in evaluation] == [["003.png", "004.png", "005.png"]]
    assert set(evaluation.skipped) == set(bad)
    assert isinstance(evaluation.dataset[0], Unusable)


def test_all_files_missing_says_where_it_looked(make_coco):
    root = make_coco()
    folder = root / "images" / "train"
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(UsageError, match=f"none of the 6 images .* is in {folder}; the first is 000.png"):
        open_train(root)
    folder.rmdir()
    assert len(open_eval(root, need_images=False, masks=True).to_coco()["annotations"]) == 6


def test_masks_are_asked_of_a_set_of_boxes(make_coco):
    root = make_coco()
    data = read(root)
    for entry in data["annotations"]:
        entry["segmentation"] = []
    write(root, "train", data)
    with pytest.raises(UsageError, match="holds no masks, only boxes") as error:
        open_train(root)
    assert "--head retinanet" in error.value.hint
    assert open_train(root, masks=False)[0].target.masks is None


def test_an_unknown_name():
    with pytest.raises(UsageError, match="unknown detection data 'cocoo'") as error:
        open_train(None, name="cocoo")
    assert "coco" in error.value.hint


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK"])
def test_images_of_any_mode(make_coco, mode):
    if mode == "CMYK":
        root = make_coco(2)
        for file in (root / "images" / "train").iterdir():
            Image.open(file).convert("CMYK").save(file, "JPEG")
    else:
        root = make_coco(2, mode=mode)
    assert open_train(root)[0].image.shape[0] == 3


def test_some_samples_spread_over_the_set(make_coco):
    dataset = open_train(make_coco(6), samples=3)
    assert dataset.ids == ["000.png", "002.png", "004.png"]
    assert dataset[1].image_id == 102
    assert [entry["id"] for entry in dataset.to_coco()["images"]] == [100, 102, 104]


def test_fingerprints_tell_data_apart(make_coco):
    root = make_coco()
    first = open_train(root).fingerprint()
    assert first == open_train(root).fingerprint() != open_train(root, samples=3).fingerprint()
    data = read(root)
    data["annotations"][0]["bbox"][0] += 1
    write(root, "train", data)
    assert open_train(root).fingerprint() != first


def test_other_sizes_for_scoring_at_several(make_coco):
    dataset = open_eval(make_coco(2))
    image, size = dataset.image_at(0, 36, 200)
    assert (tuple(image.shape), size) == ((3, 46, 36), (46, 36))
    assert torch.equal(dataset.image_at(0, 36, 200, flip=True)[0], image.flip(-1))
    original = dataset.original(0)
    assert (original.dtype, original.shape) == (np.uint8, (72, 56, 3))
    plain = normalize(torch.from_numpy(original).permute(2, 0, 1))
    assert torch.equal(dataset.image_at(0, 56, 200)[0], plain)


def test_scenes_need_no_folder():
    options: dict[str, Any] = {"name": "scenes", "samples": 8, "image_size": 64}
    dataset = open_train(None, **options)
    assert (len(dataset), len(dataset.class_names)) == (8, 12)
    (batch, *_) = list(train_loader(dataset))
    assert batch.images.shape == (2, 3, 64, 64)
    assert all(target.masks.any((1, 2)).all() for target in batch.targets)
    evaluated = open_eval(None, split="val", **options)
    truth = evaluated.to_coco()
    assert len(truth["images"]) == 8
    assert len({entry["image_id"] for entry in truth["annotations"]}) == 8
    sample = evaluated[3]
    found = [entry for entry in truth["annotations"] if entry["image_id"] == sample.image_id]
    assert [entry["category_id"] - 1 for entry in found] == sample.target.labels.tolist()
    boxes = torch.tensor([entry["bbox"] for entry in found])
    assert torch.equal(boxes[:, :2], sample.target.boxes[:, :2])
    assert torch.equal(boxes[:, :2] + boxes[:, 2:], sample.target.boxes[:, 2:])
    assert evaluated.fingerprint() != dataset.fingerprint()
    with pytest.raises(UsageError, match="no split"):
        open_eval(None, split="test", **options)


def test_exported_scenes_are_read_as_coco(tmp_path):
    export_scenes(tmp_path / "coco", "coco", train=4, val=2, size=64)
    written = open_eval(tmp_path / "coco", split="val", masks=True)
    drawn = open_eval(None, name="scenes", split="val", samples=2, image_size=64)
    assert written.class_names == drawn.class_names
    for index in range(2):
        assert torch.equal(written.truth(index).boxes, drawn.truth(index).boxes)
        assert torch.equal(written.truth(index).labels, drawn.truth(index).labels)
    assert len(open_train(tmp_path / "coco")) == 4


def test_padding_an_empty_batch():
    assert pad_images([], 32).shape == (0, 3, 0, 0)
    assert pad_images([torch.ones(3, 5, 9), torch.ones(3, 7, 2)], 4).shape == (2, 3, 8, 12)


def test_a_batch_moves_as_a_whole(make_coco):
    (batch, *_) = list(train_loader(open_train(make_coco())))
    moved = batch.to("meta")
    assert {moved.images.device.type, moved.indices.device.type, moved.targets[0].masks.device.type} == {"meta"}
    assert (moved.ids, moved.sizes) == (batch.ids, batch.sizes)


@pytest.mark.parametrize(("name", "masks"), [("coco_tiny", True), ("bccd", False), ("nuclei", True)])
def test_real_sets(shared: Path, name, masks):
    root = shared / "data" / name
    sizes = DetectionData(short_sides=(96, 128), long_side=200, crop=0.2)
    dataset = open_train(root, masks=masks, sizes=sizes, samples=12)
    loader = train_loader(dataset, batch_size=4)
    batches = list(loader)
    assert len(batches) == 3
    assert loader.skipped == {}
    for batch in batches:
        for (height, width), target in zip(batch.sizes, batch.targets, strict=True):
            assert (target.boxes[:, 2:] - target.boxes[:, :2] >= 1).all()
            assert (target.boxes >= 0).all()
            assert (target.boxes[:, 2:] <= torch.tensor([width, height]) + 1e-3).all()
            assert (target.masks is not None) == masks
    assert len(open_eval(root, split="val")) == {"bccd": 87, "nuclei": 30, "coco_tiny": 80}[name]
