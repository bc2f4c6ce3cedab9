"""The check asks what training asks: what a run refuses, the check does not pass; what trains, it does not condemn."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pvtctl.data.check import DatasetVerdict
from pvtctl.data.find import find_data
from pvtctl.data.layouts import guess_layout
from pvtctl.data.scenes.export import export_scenes
from pvtctl.errors import ExitCode, PvtctlError, UsageError
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Data, Recipe
from pvtctl.tasks.base import BuildRequest
from pvtctl.tasks.from_recipe import open_splits, settled
from pvtctl.tasks.registry import spec_of, task_spec, tasks_of_data

Edit = Callable[[Path], None]
RECIPES = {
    "classification": "small_photos",
    "detection": "small_objects",
    "segmentation": "small_maps",
    "depth": "small_depth",
}
LAYOUTS = {"classification": "imagenet", "detection": "coco", "segmentation": "ade20k", "depth": "nyu"}


def check(root: Path) -> DatasetVerdict:
    name = guess_layout(root) or "imagenet"
    return task_spec(tasks_of_data(name)[0]).check_data(name, root, Data())


def recipe_of(root: Path, task: str) -> Recipe:
    name = guess_layout(root) or "imagenet"
    return load_recipe(RECIPES[task], overrides=[f"data.path={root}", f"data.name={name}", "data.workers=0"])


def refusal(root: Path, task: str) -> str | None:
    """Why a run does not start on the data: as `finetune --dry-run`, without a model."""
    try:
        recipe = recipe_of(root, task)
        find_data(recipe.data.name, root)
        said: list[str] = []
        request = BuildRequest(recipe, torch.device("cpu"), say=said.append)
        train, val = open_splits(request)
        settled(request, train, val)
        if train.class_names != val.class_names:
            return "other classes"
        for split in (train, val):
            batch = split.collate(split.__getitems__([*_draws(min(4, len(split)))]))
            if not len(batch):
                return f"no image can be read: {batch.skipped}"
    except PvtctlError as error:
        return error.message
    return None


def _draws(count: int) -> list[Any]:
    from pvtctl.data.samplers import Draw

    return [Draw(0, index) for index in range(count)]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    for task, layout in LAYOUTS.items():
        train, val = (12, 12) if layout == "imagenet" else (3, 2)  # one of each class
        export_scenes(root / task, layout, train=train, val=val, size=48)
    return root


def annotations(change: Callable[[dict[str, Any]], None], *splits: str) -> Edit:
    def edit(root: Path) -> None:
        for split in splits or ("train", "val"):
            file = root / "annotations" / f"instances_{split}2017.json"
            document = json.loads(file.read_text())
            change(document)
            file.write_text(json.dumps(document))

    return edit


def each(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for entry in document["annotations"]:
            entry |= changes

    return change


def first(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["annotations"][0].update(changes)


def files(pattern: str, data: bytes | None) -> Edit:
    """Every file that matches holds `data`, or is gone."""

    def edit(root: Path) -> None:
        for file in sorted(root.glob(pattern)):
            file.unlink()
            if data is not None:
                file.write_bytes(data)

    return edit


def half(pattern: str) -> Edit:
    def edit(root: Path) -> None:
        for file in sorted(root.glob(pattern)):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return edit


def shift_ids(document: dict[str, Any]) -> None:
    for entry in document["categories"]:
        entry["id"] += 100
    for entry in document["annotations"]:
        entry["category_id"] += 100


def turn_ids(document: dict[str, Any]) -> None:
    for entry in document["categories"]:
        entry["id"] = 100 - entry["id"]
    for entry in document["annotations"]:
        entry["category_id"] = 100 - entry["category_id"]


CASES: list[tuple[str, str, Edit, ExitCode]] = [
    ("detection", "as exported", lambda root: None, ExitCode.DONE),
    ("detection", "all crowd", annotations(each(iscrowd=1)), ExitCode.USAGE),
    ("detection", "no object in train", annotations(lambda d: d["annotations"].clear(), "train"), ExitCode.USAGE),
    ("detection", "no object in val", annotations(lambda d: d["annotations"].clear(), "val"), ExitCode.FAILED),
    ("detection", "a text flag", annotations(each(iscrowd="0")), ExitCode.FAILED),
    ("detection", "one bad box", annotations(first(bbox=[1, 2])), ExitCode.FAILED),
    ("detection", "one reversed box", annotations(first(bbox=[9, 9, -4, 3])), ExitCode.FAILED),
    ("detection", "all boxes reversed", annotations(each(bbox=[9, 9, -4, 3])), ExitCode.USAGE),
    ("detection", "a short polygon", annotations(first(segmentation=[[1, 1, 2, 2]])), ExitCode.FAILED),
    ("detection", "every mask broken", annotations(each(segmentation="?")), ExitCode.FAILED),
    ("detection", "no areas", annotations(each(area=0)), ExitCode.FAILED),
    ("detection", "other ids of classes", annotations(shift_ids, "val"), ExitCode.DONE),
    ("detection", "other order of classes", annotations(turn_ids, "val"), ExitCode.USAGE),
    ("detection", "a class of no list", annotations(first(category_id=999)), ExitCode.USAGE),
    ("detection", "no images of val", files("val2017/*", None), ExitCode.USAGE),
    ("detection", "broken images", files("*2017/*.jpg", b"x"), ExitCode.USAGE),
    ("detection", "no JSON", files("annotations/*train*", b"{"), ExitCode.USAGE),
    ("classification", "as exported", lambda root: None, ExitCode.DONE),
    ("classification", "an empty class", files("train/ball/*", None), ExitCode.USAGE),
    ("classification", "broken images", files("*/*/*", b"x"), ExitCode.USAGE),
    ("segmentation", "as exported", lambda root: None, ExitCode.DONE),
    ("segmentation", "no masks of val", files("annotations/validation/*", None), ExitCode.USAGE),
    ("segmentation", "half masks", half("annotations/*/*"), ExitCode.USAGE),
    ("depth", "as exported", lambda root: None, ExitCode.DONE),
    ("depth", "half depth files", half("*/depth/*"), ExitCode.USAGE),
    ("depth", "no images", files("*/rgb/*", b""), ExitCode.USAGE),
]


@pytest.mark.parametrize(
    ("task", "name", "edit", "expected"), CASES, ids=[f"{task}-{name}" for task, name, *_ in CASES]
)
def test_check_and_training_agree(
    sets: Path, tmp_path: Path, task: str, name: str, edit: Edit, expected: ExitCode
) -> None:
    root = tmp_path / task
    for file in (path for path in (sets / task).rglob("*") if path.is_file()):
        copy = root / file.relative_to(sets / task)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    edit(root)
    found = check(root)
    refused = refusal(root, task)
    assert (refused is not None) == (expected == ExitCode.USAGE), refused
    severities = {each.severity for each in found.problems if each.kind not in ("only_in_val",)}
    verdict = {"error": ExitCode.USAGE, "warning": ExitCode.FAILED, "note": ExitCode.DONE}
    assert min((verdict[each] for each in severities), default=ExitCode.DONE, key=lambda code: -code) == expected, [
        (each.kind, each.examples[:1]) for each in found.problems if each.severity != "note"
    ]


MUST_TRAIN = (
    "annotation-no-id", "area-zero", "bbox-negative", "bbox-strings", "box-from-mask", "boxes-xyxy", "exif-90",
    "image-float-size", "image-no-size", "mask-255-training", "no-annotations-val", "polygon-flat", "polygon-two-points",
)  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [*MUST_TRAIN, "all-crowd", "depth-8bit", "mask-grey-rgb", "mask-labelmap-colours", "mask-suffix", "paths-dotdot"],
)
def test_reported_cases(shared: Path, name: str) -> None:
    root = shared / "cases" / name / "data"
    if not root.is_dir():
        pytest.skip("needs the reported cases in the shared folder")
    task = "segmentation" if name.startswith("mask") else "depth" if name.startswith("depth") else "detection"
    refused, found = refusal(root, task), check(root)
    assert (refused is None) == (name in MUST_TRAIN), refused
    assert (found.exit_code == ExitCode.USAGE) == (name not in MUST_TRAIN), found.problems
    assert (found.exit_code == ExitCode.DONE) == (name == "image-float-size")


@pytest.mark.parametrize("name", ["cvat-one-file", "mask-voc-layout", "paths-backslash", "roboflow-layout"])
def test_layouts_of_other_tools_are_named(shared: Path, name: str) -> None:
    from pvtctl.data.layouts import require_known_layout

    root = shared / "cases" / name / "data"
    if not root.is_dir():
        pytest.skip("needs the reported cases in the shared folder")
    with pytest.raises(UsageError, match=r"export|layout|annotations/"):
        require_known_layout(root)


def test_a_run_says_what_the_check_says(sets: Path, tmp_path: Path) -> None:
    """In one line for each split: what was mended or dropped, and that nothing can be scored."""
    root = tmp_path / "coco"
    root.mkdir()
    for part in ("train2017", "val2017"):
        (root / part).symlink_to(sets / "detection" / part)
    (root / "annotations").mkdir()
    for file in (sets / "detection" / "annotations").iterdir():
        (root / "annotations" / file.name).write_bytes(file.read_bytes())
    annotations(first(bbox=[9, 9, -4, 3]), "train")(root)
    annotations(each(iscrowd=1), "val")(root)
    said: list[str] = []
    request = BuildRequest(recipe_of(root, "detection"), torch.device("cpu"), say=said.append)
    settled(request, *open_splits(request))
    [train, val] = said
    assert train == "warning: training data: boxes of negative width or height (1), dropped"
    assert val.startswith("warning: validation data: ")
    assert "crowd regions and no other object" in val
    assert "not one object to score" in val


def test_masks_of_0_and_255_are_told(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(3):
            for folder, values in (("images", 90), ("masks", 255 * (np.indices((40, 40))[0] > 20))):
                (tmp_path / folder / split).mkdir(parents=True, exist_ok=True)
                pixels = np.full((40, 40), values, np.uint8) if folder == "images" else values.astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / folder / split / f"{number}.png")
    (tmp_path / "classes.txt").write_text("background\nforeground\n")
    said: list[str] = []
    request = BuildRequest(recipe_of(tmp_path, "segmentation"), torch.device("cpu"), say=said.append)
    settled(request, *open_splits(request))
    assert len(said) == 2
    assert all("the masks hold 0 and 255 alone" in line and "`255 object`" in line for line in said)
    assert {each.kind for each in check(tmp_path).problems if each.severity == "warning"} >= {"looks_binary"}
    (tmp_path / "classes.txt").write_text("0 background\n255 foreground\n")
    assert spec_of(request.recipe).open_split(request.recipe, "train", "train").cautions == []


@pytest.mark.parametrize("task", list(LAYOUTS))
def test_pipes_and_folders_called_like_images_are_left_out(sets: Path, tmp_path: Path, task: str) -> None:
    root = tmp_path / task
    for file in (path for path in (sets / task).rglob("*") if path.is_file()):
        copy = root / file.relative_to(sets / task)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    for folder in [path.parent for path in root.rglob("*") if path.suffix in (".jpg", ".png", ".JPEG")]:
        if not (folder / "pipe.png").exists():
            os.mkfifo(folder / "pipe.png")
            (folder / "folder.jpg").mkdir()
    assert check(root).exit_code in (ExitCode.DONE, ExitCode.FAILED)
    assert refusal(root, task) is None
