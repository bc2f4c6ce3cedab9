"""`pvtctl finetune` for detectors: from words to a run folder, whatever the data and the weights are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import NARROW_DETECTOR, TINY_DETECTOR, Cli

FILES = {
    "best.safetensors",
    "checkpoints",
    "classes.csv",
    "curves.png",
    "detections.json",
    "environment.json",
    "metrics.jsonl",
    "recipe.yaml",
    "report.html",
    "run.json",
    "samples",
}
DRY = [*NARROW_DETECTOR, "--dry-run"]


def metrics_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_s")} for line in lines]


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = (load_file(run / "best.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_what_a_run_leaves(detector_run: Path) -> None:
    assert {path.name for path in detector_run.iterdir()} >= FILES
    report = (detector_run / "report.html").read_text()
    assert report.count("data:image/png;base64") >= 6
    for title in ("Curves", "Samples after epoch 1", "Precision and recall", "Confusion with background"):
        assert title in report
    assert "AP is not comparable with that of PVT v2, Table 3: profile smoke" in report
    assert {path.name for path in (detector_run / "samples").iterdir()} == {"epoch_001.png", "epoch_002.png"}
    logged = [line for line in metrics_of(detector_run) if line["event"] == "train"]
    assert logged
    assert {"loss", "recall"} <= logged[0].keys()


@pytest.mark.slow
@pytest.mark.parametrize(("head", "tiny"), [("mask_rcnn", NARROW_DETECTOR), ("detr", TINY_DETECTOR)])
def test_every_head_trains_and_is_scored_as_it_ended(cli: Cli, head: str, tiny: list[str]) -> None:
    result = cli("finetune", "scenes", "--head", head, "--weights", "none", *tiny, "--set", "train.epochs=1", "--json")
    assert result.code == 0, result.err
    run = Path(result.json["run"])
    assert {path.name for path in run.iterdir()} >= FILES
    kinds = {name.split("_")[0] for name in result.json["metrics"]}
    assert ("mask" in kinds) == (head == "mask_rcnn")
    scored = cli("eval", run, "--json")
    assert scored.code == 0, scored.err
    assert scored.json["metrics"] == result.json["metrics"]
    assert scored.json["chosen"]["head"] == head


@pytest.mark.slow
def test_stopped_and_resumed_equals_unbroken(cli: Cli, detector_run: Path) -> None:
    command = ["finetune", "scenes", "--head", "retinanet", "--weights", "none", "--out", "broken", *NARROW_DETECTOR]
    stopped = cli(*command, "--set", "train.max_minutes=1e-9")
    assert stopped.code == 75
    assert "--resume" in stopped.err
    resumed = cli(*command, "--resume")
    assert resumed.code == 0, resumed.err
    assert metrics_of(Path("broken")) == metrics_of(detector_run)
    assert_same_weights(Path("broken"), detector_run)


def test_a_folder_in_coco_layout_and_a_head_reused_by_class_name(
    cli: Cli, detector_run: Path, coco_folder: Path, tmp_path: Path
) -> None:
    """Three of the run's classes and one that it has never met."""
    for split in ("train", "val"):
        file = coco_folder / "annotations" / f"instances_{split}2017.json"
        data = json.loads(file.read_text())
        kept = [each["id"] for each in data["categories"]][:3]
        data["annotations"] = [each for each in data["annotations"] if each["category_id"] in kept]
        data["categories"] = [*data["categories"][:3], {"id": 99, "name": "zebra"}]
        (tmp_path / f"{split}.json").write_text(json.dumps(data))
    result = cli(
        *("finetune", "coco", "--images", coco_folder / "train2017", "--annotations", tmp_path / "train.json"),
        *("--val-images", coco_folder / "val2017", "--val-annotations", tmp_path / "val.json"),
        *("--weights", detector_run, *DRY),
    )
    assert result.code == 0, result.err
    assert "3 classes kept, 1 new, 9 dropped" in result.err
    assert not (tmp_path / "runs").exists()


def test_from_a_classifier(cli: Cli, smoke_run: Path, coco_folder: Path) -> None:
    result = cli("finetune", coco_folder, "--weights", smoke_run, "--profile", "smoke", "--dry-run", "--json")
    assert result.code == 0, result.err
    assert "backbone: pvt_v2_b0, from the weights" in result.err
    assert "head: retinanet, as none was named" in result.err
    assert result.json["recipe"]["data"]["path"] == str(coco_folder)
    assert result.json["recipe"]["model"]["head"]["name"] == "retinanet"
    assert result.json["dry_run"]["steps"] > 0


def test_a_recipe_for_small_sets(cli: Cli, coco_folder: Path, tmp_path: Path) -> None:
    sets = ["--set", "data.detection.short_sides=[64]", "--set", "data.detection.test_short_side=64"]
    sets += ["--set", "model.backbone.width=0.25", "--set", "model.head.width=32"]
    command = ["finetune", coco_folder, "--recipe", "small_objects", "--weights", "none", *sets, "--dry-run"]
    result = cli(*command)
    assert result.code == 0, result.err
    assert "recipe: small_objects" in result.err
    masks = cli(*command, "--head", "mask_rcnn", "--json")
    assert masks.code == 0, masks.err
    assert masks.json["recipe"]["model"]["head"]["name"] == "mask_rcnn"


def test_a_batch_larger_than_the_images(cli: Cli, coco_folder: Path, tmp_path: Path) -> None:
    command = ["finetune", coco_folder, "--head", "retinanet", "--weights", "none", *NARROW_DETECTOR]
    result = cli(*command, "--set", "train.total_batch=16")
    assert_told(result, "4 training images do not fill one batch of 16", "total_batch")
    assert not (tmp_path / "runs").exists()


def assert_told(result: Any, *parts: str) -> None:
    """Exit code 2, one line that says what is wrong, and what to do."""
    assert result.code == 2, result.err
    assert result.err.count("error: ") == result.err.count("\nhint: ") == 1, result.err
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err[result.err.index("error: ") :], result.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["scenes", "--head", "retinanett"], ["no head 'retinanett'", "did you mean retinanet?"]),
        (["scenes", "--head", "retinanet", "--backbone", "pvt_smal"], ["pvt_smal", "pvt_small"]),
        (["coco", "--images", "photos"], ["--images and --annotations go together"]),
        (["coco", "--images", "p", "--annotations", "a.json"], ["two annotation files", "--val-annotations"]),
        (["scenes", "--head", "detr", "--images", "p", "--annotations", "a", "--val-annotations", "b"], ["say coco"]),
        (["scenes", "--head", "detr", "--recipe", "coco_retinanet_1x"], ["trains retinanet, not detr"]),
        (["scenes", "--head", "detr", "--weights", "none", "--set", "eval.flip=true"], ["DETR has no NMS"]),
        (["scenes", "--head", "detr", "--weights", "none", "--set", "eval.nms_iou=0.4"], ["DETR has no NMS"]),
        (["imagenet", "--head", "retinanet", "--data", "."], ["--head retinanet needs boxes", "pvtctl data convert"]),
        ([".", "--recipe", "small_objects"], ["recipe small_objects needs boxes", "in the layout of imagenet"]),
    ],
)
def test_words_that_do_not_fit(cli: Cli, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    backbone = [] if "--backbone" in arguments else ["--backbone", "pvt_v2_b0"]
    result = cli("finetune", *arguments, *backbone, "--profile", "smoke")
    assert_told(result, *parts)
    assert not (tmp_path / "runs").exists()


def test_nothing_here_to_train_on(cli: Cli, tmp_path: Path) -> None:
    assert_told(cli("finetune", "coco", "--weights", "none"), "coco", "pvtctl data fetch coco")
    before_weights = cli("finetune", "coco", "--backbone", "pvt_v2_b0")
    assert_told(before_weights, "no data for 'coco'", "--images FOLDER --annotations FILE.json")
    assert "fetching" not in before_weights.err


def _changed(**values: Any) -> Any:
    return lambda objects: objects[0].update(values)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            _changed(segmentation=[[1.0, 1.0, 9.0, 9.0]]),
            "objects with polygons of fewer than three points, which are dropped (1)",
        ),
        (_changed(segmentation={"size": [3, 4], "counts": [0, 12]}), "masks of another size than their image (1)"),
        (lambda objects: [each.update(segmentation=[]) for each in objects], None),
    ],
)
def test_masks_that_mask_rcnn_cannot_learn(
    cli: Cli, coco_folder: Path, tmp_path: Path, change: Any, told: str | None
) -> None:
    """An object without a usable mask is counted and left out; a set without any is refused."""
    data = json.loads((coco_folder / "annotations" / "instances_train2017.json").read_text())
    change(data["annotations"])
    (tmp_path / "train.json").write_text(json.dumps(data))
    result = cli(
        *("finetune", "coco", "--images", coco_folder / "train2017", "--annotations", tmp_path / "train.json"),
        *("--val-images", coco_folder / "val2017"),
        *("--val-annotations", coco_folder / "annotations" / "instances_val2017.json"),
        *("--head", "mask_rcnn", "--weights", "none", *DRY),
    )
    if told is None:
        assert_told(result, "holds no masks", "--head retinanet")
    else:
        assert result.code == 0, result.err
        assert f"warning: training data: {told}" in result.err
        assert "objects without a mask (1), left out" in result.err
    assert not (tmp_path / "runs").exists()
