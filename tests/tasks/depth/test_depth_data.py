"""Depth sets of every layout: which pairs, which metres, what is refused, and that draws decide everything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pvtctl.data.base import Sample, Unusable
from pvtctl.data.loader import Loader
from pvtctl.data.samplers import Draw, EvalSampler, TrainSampler
from pvtctl.data.scenes.export import export_scenes
from pvtctl.data.scenes.scene import render_scene
from pvtctl.errors import UsageError
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.depth.data import open_depth_split
from pvtctl.tasks.depth.settings import DepthData

SMALL = {"size": (64, 96), "test_size": (64, 64)}
Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("val/rgb/a.png", "val/depth/a.png", metres=2)` writes a grey image and its depth in millimetres."""

    def put(
        image: str | None, depth: str | None, metres: float = 2.0, size: tuple[int, int] = (48, 64), scale: int = 1000
    ) -> None:
        for name in (image, depth):
            if name is not None:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if image is not None:
            Image.fromarray(np.full((*size, 3), int(metres * 10), np.uint8)).save(tmp_path / image)
        if depth is not None:
            values = np.full(size, round(metres * scale), np.uint16)
            values[: size[0] // 2] = 0
            Image.fromarray(values).save(tmp_path / depth)

    return put


def opened(name: str, root: Path | None, split: str = "val", training: bool = False, **depth: Any) -> DenseDataset:
    options: dict[str, Any] = {key: depth.pop(key) for key in ("seed", "samples", "image_size") if key in depth}
    settings = DepthData.model_validate(SMALL | depth)
    return open_depth_split(name, root, split, settings=settings, training=training, **options)


def metres(dataset: DenseDataset) -> dict[str, float]:
    """The deepest value of each image."""
    found = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        assert isinstance(sample, Sample)
        found[sample.id] = round(float(sample.target.max()), 3)
    return found


def test_exported_scenes_come_back(tmp_path: Path) -> None:
    export_scenes(tmp_path / "nyu", "nyu", train=3, val=2, size=(48, 64))
    for name in ("nyu", "depth"):  # depth.json says the scale to the second
        dataset = opened(name, tmp_path / "nyu")
        assert dataset.ids == ["val_000000.jpg", "val_000001.jpg"]
        for index in range(2):
            sample = dataset[index]
            assert isinstance(sample, Sample)
            scene = render_scene(0, "val", index, (48, 64))
            assert sample.target.dtype == torch.float32
            assert np.abs(sample.target.numpy() - scene.depth).max() < 1e-3
            assert sample.original_size == (48, 64)
            assert sample.image.shape == (3, 64, 64)  # the width stays, the height goes to a multiple of 32
    assert len(opened("nyu", tmp_path / "nyu", "train", training=True)) == 3


@pytest.mark.parametrize("images", ["rgb", "images"])
def test_folders_pair_by_name(tmp_path: Path, write: Write, images: str) -> None:
    write(f"train/{images}/room/a.jpg", "train/depth/room/a.png", 2)
    write(f"train/{images}/room/b.png", "train/depth/room/b.tif", 3)
    write(f"train/{images}/only.png", None)
    write(None, "train/depth/other.png")
    dataset = opened("nyu", tmp_path, "train")
    assert metres(dataset) == {"room/a.jpg": 2, "room/b.png": 3}
    assert dataset.problems == {"images_without_depth": 1, "depth_files_without_image": 1}


def test_folders_without_splits_are_for_evaluation(tmp_path: Path, write: Write) -> None:
    write("rgb/a.png", "depth/a.png", 2.5)
    assert metres(opened("nyu", tmp_path)) == {"a.png": 2.5}
    assert metres(opened("kitti", tmp_path)) == {"a.png": round(2500 / 256, 3)}
    with pytest.raises(UsageError, match="without splits") as error:
        opened("nyu", tmp_path, "train", training=True)
    assert "train/rgb" in str(error.value.hint)


def test_nyu_split_files(tmp_path: Path, write: Write) -> None:
    write("sync/kitchen/rgb_1.jpg", "sync/kitchen/sync_depth_1.png", 3)
    write("official_splits/test/bath/rgb_2.jpg", "official_splits/test/bath/sync_depth_2.png", 4)
    (tmp_path / "nyudepthv2_train_files_with_gt.txt").write_text(
        "/kitchen/rgb_1.jpg /kitchen/sync_depth_1.png 518.8579\n\n"
    )
    (tmp_path / "nyudepthv2_test_files_with_gt.txt").write_text("bath/rgb_2.jpg bath/sync_depth_2.png 518.8579\n")
    assert metres(opened("nyu", tmp_path, "train")) == {"kitchen/rgb_1.jpg": 3}
    assert metres(opened("nyu", tmp_path)) == {"bath/rgb_2.jpg": 4}


def test_kitti_split_file_counts_what_has_no_truth(tmp_path: Path, write: Write) -> None:
    for number, part in ((1, "train"), (2, "val")):
        drive = f"drive_{number}/proj_depth/groundtruth/image_02/7.png"
        write(
            f"raw/day/drive_{number}/image_02/data/7.png",
            f"data_depth_annotated/{part}/{drive}",
            number * 10,
            scale=256,
        )
    lines = [
        "day/drive_1/image_02/data/7.png drive_1/proj_depth/groundtruth/image_02/7.png 721.5377",
        "day/drive_3/image_02/data/7.png None 721.5377",
        "day/drive_2/image_02/data/7.png drive_2/proj_depth/groundtruth/image_02/7.png 721.5377",
    ]
    (tmp_path / "mine.txt").write_text("\n".join(lines))
    dataset = opened("kitti", tmp_path, split_file="mine.txt")
    assert metres(dataset) == {"day/drive_1/image_02/data/7.png": 10, "day/drive_2/image_02/data/7.png": 20}
    assert dataset.problems == {"images_without_depth": 1}
    assert len(opened("kitti", tmp_path, "train", train_split_file=str(tmp_path / "mine.txt"))) == 2


def test_unknown_and_broken_split_files(tmp_path: Path, write: Write) -> None:
    write("raw/a.png", "gt/a.png")
    (tmp_path / "eigen.txt").write_text("a.png\n")
    with pytest.raises(UsageError, match=r"no split file eigem.txt .*data.depth.split_file") as error:
        opened("kitti", tmp_path, split_file="eigem.txt")
    assert error.value.hint == "did you mean eigen.txt?"
    with pytest.raises(UsageError, match=r"eigen.txt:1: 1 words"):
        opened("kitti", tmp_path, split_file="eigen.txt")
    (tmp_path / "eigen.txt").write_text("a.png None 1\n")
    with pytest.raises(UsageError, match="lists no image with depth"):
        opened("kitti", tmp_path, split_file="eigen.txt")
    (tmp_path / "eigen.txt").write_text("b.png c.png 1\n")
    with pytest.raises(UsageError, match="lists 1 pair, none of which is there"):
        opened("kitti", tmp_path, split_file="eigen.txt")
    (tmp_path / "eigen.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read as text"):
        opened("kitti", tmp_path, split_file="eigen.txt")


def test_split_files_of_any_folder(tmp_path: Path, write: Write) -> None:
    write("train/rgb/a.png", "train/depth/a.png")
    write("train/rgb/b.png", "train/depth/b.png")
    (tmp_path / "mine.txt").write_text("train/rgb/b.png train/depth/b.png\n")
    assert len(opened("depth", tmp_path, split_file="mine.txt", scale=1000)) == 1
    with pytest.raises(UsageError, match=r"no split file mime.txt"):
        opened("depth", tmp_path, split_file="mime.txt", scale=1000)


def test_kb_crop_takes_the_bottom_middle_of_both(tmp_path: Path) -> None:
    for folder in ("rgb", "depth"):
        (tmp_path / folder).mkdir()
    places = np.arange(375 * 1242, dtype=np.float32).reshape(375, 1242) + 1
    np.save(tmp_path / "depth/a.npy", places)
    pixels = np.zeros((375, 1242, 3), np.uint8)
    pixels[23, 13] = 255
    Image.fromarray(pixels).save(tmp_path / "rgb/a.png")
    image, depth = opened("kitti", tmp_path, crop="kb").read(0)
    assert image.shape == (3, 352, 1216)
    assert np.array_equal(depth, places[23:, 13 : 13 + 1216])
    assert (image[:, 0, 0] == 255).all()
    assert int(image.sum()) == 3 * 255
    Image.fromarray(pixels[:300]).save(tmp_path / "rgb/a.png")
    assert isinstance(opened("kitti", tmp_path, crop="kb")[0], Unusable)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("{", "depth.json is not JSON"),
        ("[]", "is not an object"),
        ('{"skale": 1}', "is not an object"),
        ('{"scale": "1000"}', "must be a number"),
        ('{"scale": true}', "must be a number"),
        ('{"scale": 1000, "invalid": 5}', "must be a number"),
        ('{"scale": 0}', "no depth can be made"),
    ],
)
def test_depth_json_with_faults(tmp_path: Path, write: Write, told: str, says: str) -> None:
    write("val/rgb/a.png", "val/depth/a.png")
    (tmp_path / "depth.json").write_text(told)
    with pytest.raises(UsageError, match=says):
        opened("depth", tmp_path)


def test_depth_json_speaks_where_the_recipe_is_silent(tmp_path: Path, write: Write) -> None:
    write("val/rgb/a.png", "val/depth/a.png", 2)
    write("val/rgb/b.png", "val/depth/b.png", 4)
    with pytest.raises(UsageError, match="integers without a known value per metre"):
        opened("depth", tmp_path)
    (tmp_path / "depth.json").write_text(json.dumps({"scale": 500, "invalid": [2000]}))
    dataset = opened("depth", tmp_path)
    assert isinstance(dataset[0], Unusable)  # all of it is listed as invalid
    sample = dataset[1]
    assert isinstance(sample, Sample)
    assert float(sample.target.max()) == 8
    sample = opened("depth", tmp_path, scale=1000)[1]
    assert isinstance(sample, Sample)
    assert float(sample.target.max()) == 4


def test_bad_files_are_skipped_and_listed(tmp_path: Path, write: Write) -> None:
    for name in "abcde":
        write(f"train/rgb/{name}.png", f"train/depth/{name}.png", 2)
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / "train/depth/b.png")
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(tmp_path / "train/depth/c.png")
    write(None, "train/depth/d.png", size=(24, 32))
    (tmp_path / "train/rgb/e.png").write_bytes(b"no image")
    dataset = opened("nyu", tmp_path, "train", training=True)
    sample = dataset[Draw(0, 1)]
    assert isinstance(sample, Sample)
    assert sample.id == "a.png"
    reasons = {skip.id: skip.reason for skip in sample.skipped}
    assert list(reasons) == ["b.png", "c.png", "d.png", "e.png"]
    assert "8-bit grey" in reasons["b.png"]
    assert "no value of it is a depth" in reasons["c.png"]
    assert reasons["d.png"] == "64x48 pixels, but its map is 32x24"
    loader = Loader(opened("nyu", tmp_path, "train"), EvalSampler(5, batch_size=2), workers=0)
    assert [name for batch in loader for name in batch.ids] == ["a.png"]


def test_a_set_of_which_nothing_can_be_used_is_refused_at_once(tmp_path: Path, write: Write) -> None:
    for name in "ab":
        write(f"val/rgb/{name}.png", None)
        (tmp_path / "val/depth").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / f"val/depth/{name}.png")
    with pytest.raises(UsageError, match=r"none of the 2 examined depth files can be used; a.png: colours \(RGB\)"):
        opened("nyu", tmp_path)


def test_refusals(tmp_path: Path, write: Write) -> None:
    write("val/rgb/a.png", "val/depth/b.png")
    with pytest.raises(UsageError, match=r"no image of .* has a depth file of its name"):
        opened("nyu", tmp_path)
    with pytest.raises(UsageError, match="no train split"):
        opened("nyu", tmp_path, "train")
    with pytest.raises(UsageError, match="no data folder"):
        opened("kitti", tmp_path / "none")
    with pytest.raises(UsageError, match="no folder for 'depth'"):
        opened("depth", None)
    with pytest.raises(UsageError, match="unknown depth data 'nyuu'") as error:
        opened("nyuu", tmp_path)
    assert error.value.hint == "did you mean nyu?"
    with pytest.raises(UsageError, match="unknown split"):
        opened("nyu", tmp_path, "test")
    with pytest.raises(UsageError, match="scenes has no split"):
        opened("scenes", None, "test")
    with pytest.raises(UsageError, match="names no set"):
        opened("mix", None)


def test_scenes(tmp_path: Path) -> None:
    dataset = opened("scenes", None, "train", samples=4, image_size=48, max_depth=6.0)
    assert len(dataset) == 4
    sample = dataset[2]
    assert isinstance(sample, Sample)
    depth = render_scene(0, "train", 2, 48).depth
    assert np.array_equal(sample.target, np.where(depth <= 6, depth, 0))
    assert dataset.fingerprint() != opened("scenes", None, "train", samples=4, image_size=48).fingerprint()


def test_samples_depend_on_seed_epoch_and_index_alone() -> None:
    def images(seed: int, epoch: int, workers: int, batch_size: int) -> list[torch.Tensor]:
        dataset = opened("scenes", None, "train", training=True, seed=seed, samples=8, image_size=72)
        sampler = TrainSampler(8, batch_size=batch_size, seed=seed)
        sampler.set_epoch(epoch)
        loader = Loader(dataset, sampler, workers=workers)
        return [part for batch in loader for part in (*batch.images, *batch.targets)]

    first = sorted(float(part.sum()) for part in images(3, 1, 0, 2))
    assert first == sorted(float(part.sum()) for part in images(3, 1, 2, 4))
    assert first != sorted(float(part.sum()) for part in images(3, 2, 0, 2))
    assert first != sorted(float(part.sum()) for part in images(4, 1, 0, 2))


def test_fingerprints_tell_of_files_and_of_what_they_mean(tmp_path: Path, write: Write) -> None:
    write("val/rgb/a.png", "val/depth/a.png")
    first = opened("nyu", tmp_path).fingerprint()
    assert first == opened("nyu", tmp_path).fingerprint()
    assert first != opened("nyu", tmp_path, max_depth=5.0).fingerprint()
    assert first != opened("nyu", tmp_path, invalid=(7.0,)).fingerprint()
    write("val/rgb/a.png", "val/depth/a.png", size=(96, 128))
    assert first != opened("nyu", tmp_path).fingerprint()


@pytest.fixture
def mix(tmp_path: Path, write: Write) -> Mapping[str, Any]:
    """Two sets: 4 images at 2 m, and 12 of inverse depth, wanted three times as often as the first."""
    for number in range(4):
        write(f"near/train/rgb/{number}.png", f"near/train/depth/{number}.png", 2)
        write(f"near/val/rgb/{number}.png", f"near/val/depth/{number}.png", 2)
    for number in range(12):
        write(f"web/train/rgb/{number:02d}.png", f"web/train/depth/{number:02d}.png", 3, scale=7)
    return {
        "near": {"name": "nyu", "path": str(tmp_path / "near"), "weight": 1.0},
        "web": {"name": "depth", "path": str(tmp_path / "web"), "weight": 3.0, "inverse": True},
    }


def test_a_mix_shows_each_set_by_its_weight_and_all_of_it(mix: Mapping[str, Any]) -> None:
    dataset = opened("mix", None, "train", training=True, mix=mix)
    assert len(dataset) == 16
    shown: Counter[str] = Counter()
    for epoch in range(3):
        ids = [dataset.ids[dataset.chosen(Draw(epoch, index), 0)] for index in range(16)]
        assert Counter(name.split("/")[0] for name in ids) == {"near": 4, "web": 12}
        assert ids == [dataset.ids[dataset.chosen(Draw(epoch, index), 0)] for index in range(16)]
        shown.update(ids)
    assert set(shown.values()) == {3}
    other = {key: dict(one) | {"weight": 1.0} for key, one in mix.items()}
    even = opened("mix", None, "train", training=True, mix=other)
    shown = Counter(even.ids[even.chosen(Draw(epoch, index), 0)] for epoch in range(3) for index in range(16))
    assert Counter({key: sum(count for name, count in shown.items() if name.startswith(key)) for key in mix}) == {
        "near": 24,
        "web": 24,
    }
    assert {count for name, count in shown.items() if name.startswith("near")} == {6}
    assert {count for name, count in shown.items() if name.startswith("web")} == {2}
    assert even.fingerprint() != dataset.fingerprint()


def test_targets_and_evaluation_of_a_mix(mix: Mapping[str, Any]) -> None:
    train = opened("mix", None, "train", training=True, mix=mix, samples=8)
    assert len(train) == 8
    assert train.ids == [f"near/{number}.png" for number in (0, 2)] + [
        f"web/{number:02d}.png" for number in range(0, 12, 2)
    ]
    for index in range(8):
        sample = train[Draw(1, index)]
        assert isinstance(sample, Sample)
        assert float(sample.target.max()) == (2 if sample.id.startswith("near") else 1)
    val = opened("mix", None, mix=mix)  # of the second there is no val
    assert val.ids == [f"near/{number}.png" for number in range(4)]


def test_faults_of_a_mix_name_the_set(mix: Mapping[str, Any], tmp_path: Path) -> None:
    broken = dict(mix) | {"web": dict(mix["web"]) | {"inverse": False}}
    with pytest.raises(UsageError, match=r"data.depth.mix.web: depth files of integers"):
        opened("mix", None, "train", mix=broken)
    with pytest.raises(UsageError, match=r"data.depth.mix.far: no data folder"):
        opened("mix", None, "train", mix=dict(mix) | {"far": {"path": str(tmp_path / "none")}})
    with pytest.raises(UsageError, match=r"no set of data.depth.mix has a val split"):
        opened("mix", None, mix={"web": mix["web"]})


def test_seven_scenes(shared: Path) -> None:
    root = shared / "data" / "depth_7scenes"
    with pytest.raises(UsageError, match="integers without a known value per metre"):
        opened("depth", root)
    for invalid, deepest in (((), 65.535), ((65535.0,), 4.1)):
        dataset = opened("depth", root, scale=1000.0, invalid=invalid)
        assert len(dataset) == 20
        assert max(metres(dataset).values()) == pytest.approx(deepest, abs=0.2 if invalid else 1e-3)
    assert len(opened("depth", root, "train", scale=1000.0)) == 59


def test_kinect_and_kitti_samples(shared: Path) -> None:
    kinect = opened("nyu", shared / "data" / "depth_kinect")
    assert len(kinect) == 3
    assert max(metres(kinect).values()) == pytest.approx(9.8, abs=0.1)
    kitti = opened("kitti", shared / "data" / "depth_kitti_sample", crop="kb", max_depth=80.0)
    sample = kitti[0]
    assert isinstance(sample, Sample)
    assert sample.target.shape == (352, 1216)
    assert 0.03 < float((sample.target > 0).float().mean()) < 0.06
    assert max(metres(kitti).values()) == pytest.approx(76.7, abs=0.5)
