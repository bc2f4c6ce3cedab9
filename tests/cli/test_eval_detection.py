"""`pvtctl eval` of detectors and of results files: the numbers, and every bad input a user may give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import Cli, Result

from pvtctl.data.scenes.scene import SCENE_CLASSES
from pvtctl.models.detector import build_detector
from pvtctl.weights.save import save_safetensors

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def truth(coco_folder: Path) -> dict[str, Any]:
    """The validation annotations, to be changed."""
    found: dict[str, Any] = json.loads((coco_folder / "annotations" / "instances_val2017.json").read_text())
    return found


@pytest.fixture
def pair(coco_folder: Path, tmp_path: Path) -> Callable[[Any], list[str | Path]]:
    """Options that name the images and other annotations than theirs."""

    def named(annotations: Any) -> list[str | Path]:
        text = annotations if isinstance(annotations, str) else json.dumps(annotations)
        (tmp_path / "own.json").write_text(text)
        return ["coco", "--images", coco_folder / "val2017", "--annotations", tmp_path / "own.json"]

    return named


def assert_told(result: Result, *parts: str, code: int = 2) -> None:
    """An exit code, one line that says what is wrong, and what to do."""
    assert result.code == code, result.err
    assert result.err.count("error: ") == result.err.count("\nhint: ") == 1, result.err
    assert "Traceback" not in result.err
    assert result.out == ""
    for part in parts:
        assert part in result.err[result.err.index("error: ") :], result.err


def test_data_and_weights_score_as_the_run(cli: Cli, detector_run: Path, coco_folder: Path, tmp_path: Path) -> None:
    """The exported files hold other pixels than the scenes (JPEG), so the data is the folder in both."""
    one = cli("eval", coco_folder, "--weights", detector_run, "--score-threshold", "0", "--out", "one")
    assert one.code == 0, one.err
    assert "box AP, %" in one.out
    assert {"report.html", "detections.json", "classes.csv", "worst.png"} <= {
        each.name for each in Path("one").iterdir()
    }
    assert "4 images of 12 classes, at a short side of 64 pixels (long side up to 96)" in one.err
    again = cli("eval", coco_folder, "--weights", detector_run / "best.safetensors", "--score-threshold", "0", "--json")
    assert again.code == 0, again.err
    saved = cli("eval", coco_folder, "--results", "one/detections.json", "--json")
    assert saved.code == 0, saved.err
    assert saved.json["metrics"] == again.json["metrics"], "the file holds every bit of what was found"
    assert again.json["metrics"]["detections"] == 400


def test_options_are_followed(cli: Cli, detector_run: Path) -> None:
    few = cli("eval", detector_run, "--score-threshold", "0", "--max-detections", "3", "--json")
    assert few.code == 0, few.err
    assert few.json["metrics"]["detections"] == 12
    several = cli("eval", detector_run, "--score-threshold", "0", "--scales", "64,96", "--flip", "--json")
    assert several.code == 0, several.err
    assert "at a short side of 64 and 96 pixels (long side up to 96), mirrored too, in fp32" in several.err
    assert several.json["metrics"]["detections"] == 400


@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco"])
@pytest.mark.parametrize(("kind", "what"), [("bbox", "box"), ("segm", "mask")])
def test_numbers_that_coco_published(cli: Cli, shared: Path, backend: str, kind: str, what: str) -> None:
    folder = shared / "data" / "coco_eval_check"
    annotations = folder / "annotations" / "instances_val2014_100.json"
    file = folder / "results" / f"instances_val2014_fake{kind}100_results.json"
    result = cli("eval", "coco", "--annotations", annotations, "--results", file, "--backend", backend, "--json")
    assert result.code == 0, result.err
    text = (folder / "results" / "val2014_fake_eval_res.txt").read_text().split(f"type={kind}")[1].split("type=")[0]
    published = [float(line.split("=")[-1]) for line in text.splitlines() if "Average" in line]
    ours = {name: value for name, value in result.json["metrics"].items() if name.startswith(f"{what}_")}
    order = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100"]
    order += ["ar_small", "ar_medium", "ar_large"]
    assert [round(ours[f"{what}_{name}"], 3) for name in order] == published


@pytest.mark.slow
def test_two_processes_score_every_image_once(cli: Cli, detector_run: Path, tmp_path: Path) -> None:
    alone = cli("eval", detector_run, "--score-threshold", "0", "--json")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pvtctl"]
    process = subprocess.run(
        [sys.executable, *torchrun, "eval", str(detector_run), "--score-threshold", "0", "--device", "cpu", "--json"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},  # torchrun would say 1
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["metrics"] == alone.json["metrics"]
    assert process.stderr.count("data: scenes") == 1, "one process talks"


def test_words_alone_without_weights(cli: Cli, coco_folder: Path) -> None:
    """Neither data nor weights are here; then the data is."""
    assert_told(cli("eval", "coco", "--backbone", "pvt_large"), "no data for 'coco'", "pvtctl data fetch coco")
    result = cli("eval", "coco", "--data", coco_folder, "--backbone", "pvt_large")
    assert_told(
        result, "no weights for pvt_large + retinanet", "--weights", "pvtctl finetune coco --backbone pvt_large"
    )


def test_truncated(cli: Cli, detector_run: Path, truth: dict[str, Any], pair: Any) -> None:
    result = cli("eval", *pair(json.dumps(truth)[:-200]), "--weights", detector_run)
    assert_told(result, "own.json is not JSON: ", "cut short")


def _change(key: str, **values: Any) -> Change:
    return lambda data: data[key][0].update(values)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda data: data.pop("categories"), ["not a COCO instances file", "categories"]),
        (lambda data: data.update(categories=[], annotations=[]), ["categor"]),
        (_change("annotations", image_id=12345), ["12345"]),
        (_change("annotations", category_id=777), ["777"]),
        (_change("categories", name="zebra"), ["1 of the data's 12 classes are not among the model's 12: zebra"]),
    ],
)
def test_annotations_that_do_not_fit(
    cli: Cli, detector_run: Path, truth: dict[str, Any], pair: Any, change: Change, parts: list[str], tmp_path: Path
) -> None:
    change(truth)
    assert_told(cli("eval", *pair(truth), "--weights", detector_run, "--out", "out"), *parts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("box", "told"),
    [
        ([60.0, 3.0, 0.0, 9.0], "boxes without area"),
        ([80.0, 80.0, 5.0, 5.0], "boxes wholly outside of their image"),
        ([1.0, float("nan"), 4.0, 4.0], "boxes that are not four finite numbers [x, y, width, height], and no mask"),
        ([10.0, 10.0, -4.0, 5.0], "boxes of negative width or height"),
    ],
)
def test_a_box_that_cannot_be_used_is_counted_and_left_out(
    cli: Cli, detector_run: Path, truth: dict[str, Any], pair: Any, box: list[float], told: str
) -> None:
    truth["annotations"][0]["bbox"] = box
    result = cli("eval", *pair(truth), "--weights", detector_run, "--json")
    assert result.code == 0, result.err
    assert f"validation data: {told} (1)" in result.err
    assert result.json["metrics"]["images"] == 4


def test_images_that_are_absent(cli: Cli, detector_run: Path, truth: dict[str, Any], pair: Any) -> None:
    gone = truth["images"][0]["file_name"] = "gone.jpg"
    some = cli("eval", *pair(truth), "--weights", detector_run)
    assert some.code == 0, some.err
    assert "warning: 1 image(s) could not be read and were left out" in some.err
    assert f"val/{gone}" in some.err
    for image in truth["images"]:
        image["file_name"] = f"gone_{image['id']}.jpg"
    assert_told(cli("eval", *pair(truth), "--weights", detector_run), "none of the 4 images of the annotations is in")


def test_numbers_that_the_data_cannot_give_are_explained(cli: Cli, detector_run: Path) -> None:
    result = cli("eval", detector_run)
    assert result.code == 0, result.err
    assert "note: " in result.err
    assert "96x96" in result.err, "no object is large in images of 64 pixels"


def test_one_class_works(cli: Cli, truth: dict[str, Any], pair: Any, detector_run: Path) -> None:
    """The model's other classes are none of the data's."""
    kept = truth["categories"][0]
    truth["categories"] = [kept]
    truth["annotations"] = [each for each in truth["annotations"] if each["category_id"] == kept["id"]]
    result = cli("eval", *pair(truth), "--weights", detector_run, "--json")
    assert result.code == 0, result.err
    assert result.json["data"]["classes"] == 1


def test_results_with_numbers_of_their_own(cli: Cli, coco_folder: Path, tmp_path: Path) -> None:
    """`predict` numbers images of any names 1, 2, ...: beside annotations with other numbers they are of strangers."""
    truth = json.loads((coco_folder / "annotations" / "instances_val2017.json").read_text())
    numbered = {"images": [{"id": truth["images"][0]["id"], "file_name": "mine/other.jpg"}]}
    (tmp_path / "images.json").write_text(json.dumps(numbered))
    (tmp_path / "detections.json").write_text("[]")
    result = cli("eval", coco_folder, "--results", "detections.json")
    assert_told(result, "has other image ids", "other.jpg", truth["images"][0]["file_name"], "--weights")
    (tmp_path / "images.json").write_text('{"images": 3}')
    assert cli("eval", coco_folder, "--results", "detections.json", "--json").code == 0


def test_results_of_unknown_images(cli: Cli, coco_folder: Path, tmp_path: Path) -> None:
    rows = [{"image_id": 9000 + at, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5} for at in range(7)]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    result = cli("eval", coco_folder, "--results", "r.json", "--out", "out")
    assert_told(result, "9000, 9001, 9002, 9003, 9004", "score it against the annotations it was made for")
    assert "9005" not in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["RUN", "--weights", "RUN"], ["leave out --weights"]),
        (["scenes", "--weights", "RUN", "--head", "mask_rcnn"], ["under retinanet for detection, not a mask_rcnn"]),
        (
            ["COCO", "--weights", "CLASSIFIER"],
            ["for classification, and", "has boxes, not class folders", "pvtctl finetune"],
        ),
        (
            ["COCO", "--weights", "CLASSIFIER", "--head", "detr"],
            ["for classification, not a detr", "pvtctl finetune", "--head detr"],
        ),
        (
            ["scenes", "--weights", "CLASSIFIER", "--flip"],
            ["--flip is for detection and", "these weights are for classification"],
        ),
        (["scenes", "--weights", "RUN", "--resize", "70"], ["--resize is for classifiers"]),
        (["coco", "--annotations", "a.json", "--weights", "RUN"], ["--images and --annotations go together"]),
        (["COCO", "--results", "nowhere.json"], ["nowhere.json"]),
        (["scenes", "--results", "nowhere.json"], ["scenes layout"]),
    ],
)
def test_words_that_do_not_fit(
    cli: Cli, detector_run: Path, smoke_run: Path, coco_folder: Path, arguments: list[str], parts: list[str]
) -> None:
    places = {"RUN": detector_run, "CLASSIFIER": smoke_run, "COCO": coco_folder}
    assert_told(cli("eval", *(places.get(word, word) for word in arguments)), *parts)


@pytest.fixture(scope="module")
def detr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained DETR. Read only."""
    model = build_detector("pvt_v2_b0@0.25", "detr", num_classes=len(SCENE_CLASSES), num_queries=5)
    path = tmp_path_factory.mktemp("weights") / "detr.safetensors"
    save_safetensors(path, model, {"backbone": "pvt_v2_b0@0.25", "class_names": list(SCENE_CLASSES)})
    return path


@pytest.mark.parametrize("option", [["--nms-iou", "0.4"], ["--scales", "64,96"], ["--flip"]])
def test_detr_has_no_nms(cli: Cli, detr: Path, tmp_path: Path, option: list[str]) -> None:
    result = cli("eval", "scenes", "--weights", detr, "--profile", "smoke", *option, "--out", "out")
    assert_told(result, "DETR has no NMS")
    assert not (tmp_path / "out").exists()
