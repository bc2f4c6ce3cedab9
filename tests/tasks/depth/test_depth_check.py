"""The verdict on depth sets: what is wrong is told with the setting that mends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from pvtctl.data.preview import draw_views
from pvtctl.data.scenes.export import export_scenes
from pvtctl.errors import ExitCode, UsageError
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.depth import pictures
from pvtctl.tasks.depth.check import DepthVerdict, check_depth_data, figure_rows, suggested_scale
from pvtctl.tasks.depth.data import open_depth_split
from pvtctl.tasks.depth.settings import DepthData

SIZE = (40, 60)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two splits of three images; depth from 1 to 3 m in millimetres, with a hole."""
    for split in ("train", "val"):
        for number in range(3):
            for folder in ("rgb", "depth"):
                (tmp_path / split / folder).mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([number, len(split)]).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / split / "rgb" / f"{number}.png")
            put(tmp_path, f"{split}/depth/{number}.png", ramp())
    return tmp_path


def ramp(low: float = 1000, high: float = 3000) -> np.ndarray:
    values = np.linspace(low, high, SIZE[0] * SIZE[1]).reshape(SIZE)
    values[:10, :15] = 0
    return values.astype(np.uint16)


def put(root: Path, name: str, values: np.ndarray) -> None:
    Image.fromarray(values).save(root / name)


def told(verdict: DepthVerdict) -> dict[tuple[str, str], int]:
    return {(each.kind, each.split): each.count for each in verdict.problems}


def example(verdict: DepthVerdict, kind: str) -> str:
    return next(each.examples[0] for each in verdict.problems if each.kind == kind)


def test_a_sound_set(root: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    verdict = check_depth_data(root, settings=DepthData(scale=1000.0), on_progress=lambda *now: seen.append(now))
    assert told(verdict) == {}
    assert verdict.exit_code is ExitCode.DONE
    assert seen == [("train", 3, 3), ("val", 3, 3)]
    figures = verdict.splits["train"]
    assert figures.types == {"uint16": 3}
    assert figures.valid_share == pytest.approx(1 - 150 / 2400)
    assert figures.median == pytest.approx(2.06, abs=0.02)
    assert [figures.low, figures.high] == pytest.approx([1.15, 2.9], abs=0.06)
    assert figures.farthest == 3
    assert verdict.to_json()["splits"]["val"]["scale"] == 1000
    assert [row["pixels with depth"] for row in figure_rows(verdict)] == ["93.8%", "93.8%"]
    assert check_depth_data(root, settings=DepthData(scale=1000.0), workers=1) == verdict


def test_exported_scenes_are_sound(tmp_path: Path) -> None:
    export_scenes(tmp_path / "nyu", "nyu", train=3, val=2, size=48)
    verdict = check_depth_data(tmp_path / "nyu")
    assert told(verdict) == {}
    assert verdict.splits["train"].scale == 1000


def test_without_a_scale_one_is_suggested(root: Path) -> None:
    verdict = check_depth_data(root)
    assert set(told(verdict)) == {("no_scale", "train"), ("no_scale", "val")}
    assert verdict.exit_code is ExitCode.USAGE
    assert "data.depth.scale=1000 would make it 2.06 m" in example(verdict, "no_scale")
    assert verdict.splits["train"].median is None
    assert figure_rows(verdict)[0]["median m"] is None
    assert told(check_depth_data(root, name="nyu")) == {}


@pytest.mark.parametrize(("scale", "median"), [(0.4, "5.15 km"), (700000.0, "2.95 mm"), (1.0, "2.06 km")])
def test_scales_that_look_wrong(root: Path, scale: float, median: str) -> None:
    verdict = check_depth_data(root, settings=DepthData(scale=scale, min_depth=1e-6))
    assert set(told(verdict)) == {("scale", "train"), ("scale", "val")}
    assert verdict.exit_code is ExitCode.FAILED
    assert f"median {median} at scale {scale:g}; data.depth.scale=1000" in example(verdict, "scale")


def test_suggestions() -> None:
    assert suggested_scale(3008, share=0.04).startswith("data.depth.scale=256 would make it 11.8 m")
    assert suggested_scale(12000).startswith("data.depth.scale=1000 would make it 12 m")
    assert suggested_scale(1.2e7) == "no usual scale makes it a depth: are the files inverse depth?"
    assert suggested_scale(5).startswith("data.depth.scale=1 would")


def test_splits_of_different_scales(root: Path) -> None:
    for number in range(3):
        put(root, f"val/depth/{number}.png", ramp(30, 60))
    verdict = check_depth_data(root, settings=DepthData(scale=500.0))
    assert told(verdict) == {("scales_differ", "val"): 1}
    assert example(verdict, "scales_differ") == "train 4.12 m, val 90 mm"


def test_values_that_are_no_depth(root: Path) -> None:
    put(root, "train/depth/0.png", np.zeros(SIZE, np.uint16))
    put(root, "train/depth/1.png", np.full(SIZE, 2000, np.uint16))
    put(root, "val/depth/0.png", np.where(ramp() > 2500, 65535, ramp()).astype(np.uint16))
    verdict = check_depth_data(root, settings=DepthData(scale=1000.0))
    assert told(verdict) == {("no_depth", "train"): 1, ("all_equal", "train"): 1, ("saturated", "val"): 1}
    assert "data.depth.invalid=[65535]" in example(verdict, "saturated")
    assert ("saturated", "val") not in told(
        check_depth_data(root, settings=DepthData(scale=1000.0, invalid=(65535.0,)))
    )


def test_floats_with_values_that_are_none(root: Path) -> None:
    for number in range(3):
        (root / f"val/depth/{number}.png").unlink()
        values = ramp().astype(np.float32) / 1000
        values[0, :3] = (np.nan, np.inf, -1)
        np.save(root / f"val/depth/{number}.npy", values)
    np.save(root / "val/depth/1.npy", np.full(SIZE, np.nan, np.float32))
    verdict = check_depth_data(root, name="nyu")
    assert told(verdict) == {("not_finite", "val"): 3, ("negative", "val"): 2, ("no_depth", "val"): 1}
    assert verdict.splits["val"].scale == 1
    assert verdict.splits["val"].median == pytest.approx(2.06, abs=0.02)


def test_files_that_are_no_depth_or_do_not_fit(root: Path) -> None:
    put(root, "train/depth/0.png", np.zeros(SIZE, np.uint8))
    put(root, "train/depth/1.png", np.zeros((*SIZE, 3), np.uint8))
    put(root, "val/depth/0.png", ramp()[:20])
    (root / "val/rgb/1.png").write_bytes(b"no image")
    (root / "val/rgb/2.png").unlink()
    np.save(root / "train/depth/2.npy", ramp().astype(np.float32) / 1000)
    (root / "train/depth/2.png").unlink()
    put(root, "train/depth/3.png", ramp())
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / "train/rgb/3.png")
    verdict = check_depth_data(root, name="nyu")
    assert told(verdict) == {
        ("bad_depth", "train"): 2,
        ("mixed_types", "train"): 1,
        ("no_depth_at_all", "val"): 1,
        ("other_size", "val"): 1,
        ("unreadable", "val"): 1,
        ("nothing_readable", "val"): 1,
        ("without_image", "val"): 1,
    }
    assert example(verdict, "bad_depth") == (
        "0.png: 8-bit grey: depth needs one channel of 16-bit integers or floats "
        "(steps this coarse are not read; write the values as 16 bits and say data.depth.scale)"
    )
    assert example(verdict, "other_size") == "0.png: 60x40, its depth 60x20"


def test_a_cap_that_leaves_nothing(root: Path) -> None:
    verdict = check_depth_data(root, settings=DepthData(scale=1000.0, max_depth=0.5))
    assert told(verdict) == {
        ("out_of_range", "train"): 3,
        ("out_of_range", "val"): 3,
        ("no_depth_at_all", "train"): 1,
        ("no_depth_at_all", "val"): 1,
    }


def test_missing_splits_and_folders(root: Path, tmp_path: Path) -> None:
    (root / "train").rename(root / "other")
    verdict = check_depth_data(root, name="nyu")
    assert told(verdict) == {("missing_split", "train"): 1}
    (root / "val/depth").rename(root / "val/disparity")
    assert set(told(check_depth_data(root))) == {("layout", "train"), ("layout", "val")}
    with pytest.raises(UsageError, match="no data folder"):
        check_depth_data(tmp_path / "none")
    with pytest.raises(UsageError, match="unknown depth data 'nyuu'"):
        check_depth_data(root, name="nyuu")


def test_ordinal_pairs_that_evaluation_would_refuse(root: Path) -> None:
    (root / "ordinal.csv").write_text("image,y1,x1,y2,x2,nearer\n9.png,1,1,2,2,1\n")
    verdict = check_depth_data(root, settings=DepthData(scale=1000.0))
    assert told(verdict) == {("ordinal", "val"): 1}
    assert "no image '9.png' in the split" in example(verdict, "ordinal")
    assert verdict.exit_code is ExitCode.USAGE


def test_the_same_image_in_train_and_val(root: Path) -> None:
    (root / "val/rgb/1.png").write_bytes((root / "train/rgb/2.png").read_bytes())
    assert told(check_depth_data(root, name="nyu")) == {("in_train_and_val", "val"): 1}


def test_split_files_tell_the_layout(root: Path) -> None:
    lines = [f"val/rgb/{number}.png val/depth/{number}.png 1" for number in range(3)]
    (root / "eigen_test_files_with_gt.txt").write_text("\n".join([*lines, "val/rgb/9.png None 1"]))
    verdict = check_depth_data(root)
    assert verdict.images == {"train": 3, "val": 3}
    assert verdict.splits["val"].scale == 256
    assert told(verdict) == {("without_depth", "val"): 1}


@pytest.mark.parametrize("training", [True, False])
def test_preview(root: Path, tmp_path: Path, training: bool) -> None:
    dataset = open_depth_split("nyu", root, "train", settings=DepthData(size=(64, 96)), training=training, samples=2)
    drawn = preview(dataset, tmp_path / "a.png", count=5, copies=2, side=120)
    assert drawn == ["0.png", "1.png"]
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 6 + (3 if training else 2) * 126
    with pytest.raises(UsageError, match="does not end in"):
        preview(dataset, tmp_path / "a.jpg")


def test_preview_of_sparse_depth_and_of_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = np.zeros(SIZE, np.uint16)
    sparse[::8, ::8] = 2000
    put(root, "val/depth/0.png", sparse)
    seen: list[np.ndarray] = []

    def draw(values: np.ndarray, space: str) -> Any:
        seen.append(values)
        return np.zeros((*values.shape, 3), np.uint8)

    dataset = open_depth_split("nyu", root, "val", settings=DepthData(test_size=(40, 60)), training=False)
    monkeypatch.setattr(pictures, "draw_depth", draw)
    preview(dataset, tmp_path / "a.png", count=1, side=30)
    assert [int((values > 0).sum()) for values in seen] == [40, 40]  # 5 x 8 points, none lost at half the size
    for number in range(3):
        (root / f"val/rgb/{number}.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match="no image could be read"):
        preview(dataset, tmp_path / "a.png")


@pytest.mark.slow
def test_shared_sets(shared: Path) -> None:
    root = shared / "data" / "depth_7scenes"
    verdict = check_depth_data(root, settings=DepthData(scale=1000.0))
    assert told(verdict) == {("saturated", "val"): 6}
    assert verdict.splits["val"].farthest == pytest.approx(65.535)
    verdict = check_depth_data(root, settings=DepthData(scale=1000.0, invalid=(65535.0,)))
    assert verdict.exit_code is ExitCode.DONE
    assert verdict.splits["val"].farthest == pytest.approx(4, abs=0.1)
    kitti = check_depth_data(shared / "data" / "depth_kitti_sample")
    assert "data.depth.scale=256" in example(kitti, "no_scale")


def preview(dataset: DenseDataset, path: Path, *, count: int = 6, copies: int = 3, side: int = 400) -> list[str]:
    def tile(pixels: Tensor, depth: Tensor) -> Image.Image:
        return Image.fromarray(pictures.depth_tile(dataset, pixels, depth, side))

    return draw_views(dataset, path, tile, dataset.read, count=count, copies=copies, side=side)
