"""Exports of the built-in scenes, read back by the readers of the real data sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvtctl.data.scenes.export import INFO_FILE, LAYOUTS, export_scenes
from pvtctl.data.scenes.scene import IGNORE, SCENE_CLASSES, SEMANTIC_CLASSES, render_scene
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.tasks.classification.layouts import ImageFolder

SIZE = (48, 64)


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_imagenet_layout(tmp_path: Path) -> None:
    export_scenes(tmp_path / "out", "imagenet", train=24, val=12, size=SIZE, seed=5)
    for split, count in (("train", 24), ("val", 12)):
        folder = ImageFolder(tmp_path / "out", split)
        assert tuple(folder.class_names) == SCENE_CLASSES
        assert np.bincount(folder.labels).tolist() == [count // 12] * 12
        for place in (0, count - 1):
            scene = render_scene(5, split, int(Path(folder.ids[place]).stem[-6:]), SIZE)
            assert folder.labels[place] == scene.label
            read = _pixels(folder.folder / folder.ids[place]).astype(int)
            assert np.abs(read - scene.image).mean() < 8


# pycocotools' compiled code predates numpy 2
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    export_scenes(tmp_path / "out", "coco", train=4, val=3, size=SIZE)
    for split, count in (("train", 4), ("val", 3)):
        coco = COCO(str(tmp_path / "out" / "annotations" / f"instances_{split}2017.json"))
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(SCENE_CLASSES)
        assert len(coco.getImgIds()) == count
        assert {"info", "licenses"} <= coco.dataset.keys()
        for index, image in enumerate(coco.loadImgs(sorted(coco.getImgIds()))):
            scene = render_scene(0, split, index, SIZE)
            assert (image["height"], image["width"]) == SIZE
            assert _pixels(tmp_path / "out" / f"{split}2017" / image["file_name"]).shape == (*SIZE, 3)
            annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
            assert [a["category_id"] - 1 for a in annotations] == scene.labels.tolist()
            for annotation, mask, box in zip(annotations, scene.masks, scene.boxes, strict=True):
                x, y, width, height = annotation["bbox"]
                assert [x, y, x + width, y + height] == box.tolist()
                assert annotation["area"] == mask.sum()
                assert annotation["iscrowd"] == 0
                assert np.array_equal(coco.annToMask(annotation), mask)
    capsys.readouterr()


def test_ade20k_layout(tmp_path: Path) -> None:
    export_scenes(tmp_path / "out", "ade20k", train=3, val=2, size=SIZE)
    lines = (tmp_path / "out" / "classes.txt").read_text().splitlines()
    assert lines == [f"{number} {name}" for number, name in enumerate(SEMANTIC_CLASSES, 1)]
    for split, folder, count in (("train", "training", 3), ("val", "validation", 2)):
        images = sorted((tmp_path / "out" / "images" / folder).iterdir())
        assert len(images) == count
        for index, image in enumerate(images):
            labels = _pixels(tmp_path / "out" / "annotations" / folder / f"{image.stem}.png").astype(int)
            semantic = render_scene(0, split, index, SIZE).semantic
            assert np.array_equal(np.where(labels == 0, IGNORE, labels - 1), semantic)


def test_nyu_layout(tmp_path: Path) -> None:
    export_scenes(tmp_path / "out", "nyu", train=3, val=2, size=SIZE)
    info = json.loads((tmp_path / "out" / INFO_FILE).read_text())
    assert info["depth"]["scale"] == 1000
    for split, count in (("train", 3), ("val", 2)):
        depths = sorted((tmp_path / "out" / split / "depth").iterdir())
        assert len(depths) == count
        for index, path in enumerate(depths):
            stored = _pixels(path)
            assert stored.dtype == np.uint16
            depth = render_scene(0, split, index, SIZE).depth
            assert np.abs(stored / info["depth"]["scale"] - depth).max() < 1e-3
            assert np.array_equal(stored == 0, depth == 0)
            assert _pixels(tmp_path / "out" / split / "rgb" / f"{path.stem}.jpg").shape == (*SIZE, 3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exports_are_equal_for_equal_arguments(tmp_path: Path, layout: str) -> None:
    count = 12 if layout == "imagenet" else 2
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        export_scenes(tmp_path / name, layout, train=count, val=count, size=16, seed=seed)
    first = _files(tmp_path / "a")
    assert first == _files(tmp_path / "b")
    assert first != _files(tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    export_scenes(tmp_path / "out", "nyu", train=2, val=1, size=32, on_progress=lambda *told_now: told.append(told_now))
    assert told == [("train", 1, 2), ("train", 2, 2), ("val", 1, 1)]


def test_an_empty_folder_is_filled_and_another_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    export_scenes(tmp_path / "empty", "nyu", train=1, val=1, size=32)
    before = _files(tmp_path / "empty")
    with pytest.raises(UsageError, match="is not empty") as error:
        export_scenes(tmp_path / "empty", "coco", train=1, val=1, size=32)
    assert error.value.hint == "name a new folder; nothing is ever overwritten"
    assert _files(tmp_path / "empty") == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        export_scenes(tmp_path / "file", "coco", train=1, val=1, size=32)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown layout 'cocoo'") as error:
        export_scenes(tmp_path / "out", "cocoo")
    assert error.value.hint == "did you mean coco?"
    with pytest.raises(UsageError, match="0 train and 5 val"):
        export_scenes(tmp_path / "out", "coco", train=0, val=5)
    with pytest.raises(UsageError, match="11 train and 12 val") as error:
        export_scenes(tmp_path / "out", "imagenet", train=11, val=12)
    assert error.value.hint == "ask for at least 12 of each, one for every class folder"
    with pytest.raises(UsageError, match="4x4 pixels"):
        export_scenes(tmp_path / "out", "coco", train=1, val=1, size=4)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pvtctl.data.scenes.export._save", full)
    with pytest.raises(PvtctlError, match="No space left on device"):
        export_scenes(tmp_path / "out", "nyu", train=1, val=1, size=32)
    assert not list(tmp_path.iterdir())
