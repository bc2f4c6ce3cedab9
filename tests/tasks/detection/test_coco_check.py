"""The verdict on COCO sets: every kind of fault is told, with its severity."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pvtctl.data import check
from pvtctl.data.layouts import guess_layout
from pvtctl.data.scenes.export import export_scenes
from pvtctl.errors import ExitCode, UsageError
from pvtctl.tasks.detection.check import check_coco_data, object_class_rows
from pvtctl.tasks.detection.data import open_detection_split
from pvtctl.tasks.detection.preview import draw_detection_preview
from pvtctl.tasks.detection.settings import DetectionData

Edit = Callable[[Callable[[dict[str, Any]], None]], None]
"""Changes a parsed annotation file in place."""


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco") / "scenes"
    export_scenes(root, "coco", train=4, val=3, size=(64, 96))
    return root


@pytest.fixture
def root(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "coco")


@pytest.fixture
def edit(root: Path) -> Edit:
    def change(how: Callable[[dict[str, Any]], None], split: str = "val") -> None:
        file = root / "annotations" / f"instances_{split}2017.json"
        document = json.loads(file.read_text())
        how(document)
        file.write_text(json.dumps(document))

    return change


def told(
    root: Path | None, severities: tuple[str, ...] = ("error", "warning"), **options: Any
) -> dict[tuple[str, str], int]:
    problems = check_coco_data(root, **options).problems
    return {(each.kind, each.split): each.count for each in problems if each.severity in severities}


def test_exported_scenes_are_sound(root: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    verdict = check_coco_data(root, on_progress=lambda *state: seen.append(state))
    assert verdict.verdict == "ok", verdict.problems
    assert verdict.exit_code == ExitCode.DONE
    assert (verdict.images, verdict.examined, verdict.classes) == ({"train": 4, "val": 3}, {"train": 4, "val": 3}, 12)
    train = verdict.splits["train"]
    document = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    areas = [each["area"] for each in document["annotations"]]
    assert (train.objects, train.with_mask, train.crowds) == (len(areas), len(areas), 0)
    assert (train.small, train.medium) == (sum(a < 1024 for a in areas), sum(1024 <= a < 9216 for a in areas))
    assert sum(train.classes.values()) == len(areas)
    rows = object_class_rows(verdict)
    assert len(rows) == 12
    assert [row["train"] for row in rows] == sorted((row["train"] for row in rows), reverse=True)
    assert seen[-1] == ("val", 3, 3)
    assert verdict.to_json()["splits"]["train"]["objects"] == len(areas)


def test_files(root: Path) -> None:
    first, second, third = sorted((root / "val2017").iterdir())
    first.unlink()
    Image.new("RGB", (50, 40)).save(second)
    third.write_bytes(b"no image")
    train = sorted((root / "train2017").iterdir())
    (root / "val2017" / "more.jpg").write_bytes(train[0].read_bytes())
    (root / "val2017" / "notes.txt").touch()
    everything = told(root, ("error", "warning", "note"))
    assert everything["not_listed", "val"] == 1
    assert {key: count for key, count in everything.items() if key[1] == "val" and "only" not in key[0]} == {
        ("absent", "val"): 1,
        ("other_size", "val"): 1,
        ("unreadable", "val"): 1,
        ("not_listed", "val"): 1,
        ("nothing_readable", "val"): 1,
    }
    verdict = check_coco_data(root)
    assert (verdict.verdict, verdict.examined["val"]) == ("unusable", 2)
    [problem] = [each for each in verdict.problems if each.kind == "other_size"]
    assert problem.examples == [f"{second.name}: 50x40, annotations for 96x64"]
    shutil.rmtree(root / "val2017")
    (root / "val2017").mkdir()
    assert told(root)["none_there", "val"] == 1
    shutil.rmtree(root / "val2017")
    assert told(root) == {("layout", "val"): 1}
    (root / "annotations" / "instances_val2017.json").unlink()
    assert told(root) == {("missing_split", "val"): 1}


def test_the_same_image_in_both(root: Path) -> None:
    train, val = (sorted((root / f"{split}2017").iterdir()) for split in ("train", "val"))
    val[0].write_bytes(train[1].read_bytes())
    assert told(root)["in_train_and_val", "val"] == 1


def test_boxes_and_masks(root: Path, edit: Edit) -> None:
    def spoil(document: dict[str, Any]) -> None:
        annotations = document["annotations"]
        annotations[0]["bbox"] = [1, 1, 0, 5]
        annotations[1]["bbox"] = [500, 1, 5, 5]
        annotations[2]["segmentation"] = [[1, 1, 2, 2, 3]]
        annotations[3]["segmentation"]["size"] = [10, 10]
        annotations[4]["bbox"] = [1, 1, -3, 5]
        annotations[5]["image_id"] = 999

    edit(spoil)
    found = told(root)
    kinds = ("zero_area", "outside", "bad_polygon", "mask_size", "reversed_box", "missing_image")
    assert {kind: found.get((kind, "val")) for kind in kinds} == dict.fromkeys(kinds, 1)
    verdict = check_coco_data(root)
    assert verdict.exit_code == ExitCode.USAGE
    assert next(each for each in verdict.problems if each.kind == "bad_polygon").examples == ["3"]


def test_classes(root: Path, edit: Edit) -> None:
    def rename(document: dict[str, Any]) -> None:
        document["categories"][0]["name"] = "bow"
        first, second = document["categories"][1:3]
        first["id"], second["id"] = second["id"], first["id"]
        document["annotations"] = [
            each for each in document["annotations"] if each["image_id"] == document["images"][0]["id"]
        ]
        document["images"][2]["file_name"] = document["images"][1]["file_name"]

    edit(rename)
    found = told(root, ("error", "warning", "note"))
    expected = {"no_class": 1, "no_class_in_val": 1, "class_ids": 2, "no_objects": 2, "listed_twice": 1}
    assert {kind: found[kind, "val"] for kind in expected} == expected
    assert found["not_listed", "val"] == 1
    assert ("only_in_train", "val") in found


@pytest.mark.parametrize(("text", "message"), [('{"images": [', "is not JSON"), ("[]", "is not a COCO instances")])
def test_broken_files(root: Path, text: str, message: str) -> None:
    (root / "annotations" / "instances_val2017.json").write_text(text)
    verdict = check_coco_data(root)
    [problem] = [each for each in verdict.problems if each.severity == "error"]
    assert (problem.kind, problem.split) == ("layout", "val")
    assert message in problem.examples[0]
    assert list(verdict.splits) == ["train"]


def test_a_pair_of_folder_and_file(root: Path, tmp_path: Path) -> None:
    pair = {"images": root / "val2017", "annotations": root / "annotations" / "instances_val2017.json"}
    assert check_coco_data(None, **pair).images == {"instances_val2017": 3}
    with pytest.raises(UsageError, match="but not their annotations"):
        check_coco_data(None, images=root / "val2017")
    with pytest.raises(UsageError, match="no data folder"):
        check_coco_data(tmp_path / "nowhere")
    assert guess_layout(root) == "coco"
    assert guess_layout(tmp_path) != "coco"


def test_a_large_set_is_sampled_unless_full(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "QUICK_LIMIT", 2)
    assert check_coco_data(root).examined == {"train": 2, "val": 2}
    assert check_coco_data(root, full=True).examined == {"train": 4, "val": 3}


@pytest.mark.slow
def test_the_real_sets(shared: Path) -> None:
    for name, images in (("coco_tiny", 80), ("bccd", 205), ("nuclei", 100)):
        verdict = check_coco_data(shared / "data" / name)
        told = [(each.kind, each.examples) for each in verdict.problems if each.severity != "note"]
        # two pictures of one place on the slide, in train and in val
        near = [("near_equal", ["BloodImage_00037.jpg ~ train/BloodImage_00038.jpg"])] if name == "bccd" else []
        assert told == near
        assert verdict.images["train"] == images


@pytest.mark.parametrize("with_masks", [True, False])
def test_preview(root: Path, tmp_path: Path, with_masks: bool) -> None:
    def opened(split: str = "train") -> Any:
        return open_detection_split(
            "coco",
            root,
            split,
            settings=DetectionData(),
            training=split == "train",
            with_masks=with_masks,
        )

    dataset = opened()
    ids = draw_detection_preview(dataset, tmp_path / "p.png", count=2, copies=2, side=64)
    assert ids == [dataset.ids[0], dataset.ids[-1]]
    with Image.open(tmp_path / "p.png") as sheet:
        assert sheet.width == 6 + 3 * (64 + 6)
        assert len(sheet.getcolors(1 << 20)) > 100
    draw_detection_preview(dataset, tmp_path / "q.png", count=2, copies=2, side=64)
    assert (tmp_path / "p.png").read_bytes() == (tmp_path / "q.png").read_bytes()
    draw_detection_preview(opened("val"), tmp_path / "v.png", count=2, side=64)
    with pytest.raises(UsageError, match=r"does not end in \.png"):
        draw_detection_preview(dataset, tmp_path / "p.jpg")
    for file in (root / "train2017").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UsageError, match="no image could be read"):
        draw_detection_preview(dataset, tmp_path / "n.png")
    assert not (tmp_path / "n.png").exists()
