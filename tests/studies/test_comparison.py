"""Runs and models side by side: the table's figures are those of the runs and of `count`, and nothing is ranked that may not be."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pvtctl.cost.counting import count
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.latency.measure import Case, Latency
from pvtctl.recipe.load import dump, load_recipe
from pvtctl.recipe.schema import Recipe
from pvtctl.runs.read_run import read_run
from pvtctl.studies import cases
from pvtctl.studies.cases import case_of
from pvtctl.studies.comparability import images_seen, progress
from pvtctl.studies.compare import LatencySettings, compare_models, compare_runs, labels_of
from pvtctl.studies.compare_report import to_csv, to_json, to_markdown, write_comparison
from pvtctl.studies.comparison import Comparison, Row
from pvtctl.tasks.registry import spec_of
from pvtctl.weights.describe import HeadClasses

BOX = {
    "box_ap": 0.3,
    "box_ap50": 0.5,
    "box_ap_small": 0.1,
    "box_ap_medium": 0.3,
    "box_ap_large": 0.5,
    "box_ar_100": 0.4,
}
TOP = {"top1": 0.5, "top5": 0.9, "loss": 1.5, "ece": 0.1, "images": 512.0}


def make_run(path: Path, recipe: str, row: str, *overrides: str, score: dict[str, float] | None, **info: Any) -> Path:
    path.mkdir(parents=True)
    flat = load_recipe(recipe, row, "mini", overrides)
    (path / "recipe.yaml").write_text(dump(flat), "utf-8")
    said = {"status": "finished", "version": "0.1.0", "num_classes": 12, "score": score, "started": "2026-01-02T03:04"}
    said["result"] = {"steps": 100, "seconds": 90.0}
    (path / "run.json").write_text(json.dumps(said | info), "utf-8")
    start = {"cpu": "some CPU", "threads": 2, "device": "cpu", "processes": 1, "packages": {"torch": "2.15.0"}}
    (path / "environment.json").write_text(json.dumps([start]), "utf-8")
    return path


def test_images_are_those_that_the_processes_saw_and_steps_are_steps(tmp_path: Path) -> None:
    recipe, changes = "coco_retinanet_1x", ["train.batch_size=2", "train.accumulate=3", "train.max_steps=500"]
    score: dict[str, float] = {"box_ap": 0.1}
    path = make_run(tmp_path / "run", recipe, "pvt_tiny", *changes, score=score, status="stopped")
    run = read_run(path, finished=False)
    assert images_seen(run) == 100 * 2 * 3
    assert progress(run) == "100 of 500 steps"


@pytest.fixture
def detectors(tmp_path: Path) -> list[Path]:
    """Two finished runs of one recipe's rows."""
    recipe = "coco_retinanet_1x"
    first = make_run(tmp_path / "pvt" / "seed0", recipe, "pvt_tiny", score=BOX)
    second = make_run(
        tmp_path / "resnet" / "seed0", recipe, "resnet18", score=BOX | {"box_ap": 0.2, "box_ap_small": 0.2}
    )
    return [first, second]


def row_of(found: Comparison, name: str) -> Row:
    return next(row for row in found.rows if row.name == name)


def test_detectors_with_their_sizes_of_objects_and_the_best_of_each_row(detectors: list[Path]) -> None:
    found = compare_runs(detectors)
    assert [subject.label for subject in found.subjects] == ["pvt/seed0", "resnet/seed0"]
    assert found.rows[0].name == "box_ap"
    assert found.rows[0].cells() == ["30.00", "20.00"]
    assert found.rows[0].best == {0}
    assert row_of(found, "box_ap_small").best == {1}
    assert row_of(found, "box_ap_large").best == frozenset()  # the same
    assert "box_ar_100" not in [row.name for row in found.rows]
    assert not found.not_comparable
    assert row_of(found, "machine").values == ("some CPU, 2 threads",) * 2
    assert row_of(found, "training_minutes").values == (1.5, 1.5)


def test_a_models_figures_are_those_of_the_model_that_was_trained(tmp_path: Path, detectors: list[Path]) -> None:
    runs = [
        *detectors,
        make_run(tmp_path / "c", "imagenet_pvt_v1", "pvt_tiny", score=TOP),
        make_run(tmp_path / "s", "ade20k_semantic_fpn", "pvt_tiny", "model.head.width=64", score={"miou": 0.5}),
    ]
    for path in runs:
        run = read_run(path)
        with torch.device("meta"):
            model = spec_of(run.recipe).new_model(run.recipe, HeadClasses(12, None))
        params = row_of(compare_runs([path]), "params").values[0]
        assert params == sum(p.numel() for p in model.parameters()) / 1e6, path


def test_sizes_that_models_are_tested_at() -> None:
    def size_of(recipe: Recipe) -> tuple[int, int]:
        return spec_of(recipe).sizes(recipe).testing

    assert size_of(load_recipe("imagenet_pvt_v1", "pvt_tiny")) == (224, 224)
    assert size_of(load_recipe("coco_retinanet_1x", "pvt_tiny")) == (800, 1280)
    other = ["data.detection.test_short_side=300"]
    assert size_of(load_recipe("coco_retinanet_1x", "pvt_tiny", overrides=other)) == (320, 416)
    assert size_of(load_recipe("ade20k_semantic_fpn", "pvt_tiny")) == (512, 512)
    window = ["eval.window=[128,256]"]
    assert size_of(load_recipe("ade20k_semantic_fpn", "pvt_tiny", overrides=window)) == (128, 256)


def test_what_makes_scores_incomparable_is_said_and_nothing_is_ranked(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", "imagenet_pvt_v1", "pvt_tiny", score=TOP)
    changes = ["train.epochs=3", "data.image_size=96", "train.seed=1", "train.optimizer.lr=0.1"]
    other = make_run(
        tmp_path / "two", "imagenet_pvt_v1", "pvt_small", *changes, score=TOP | {"top1": 0.6, "images": 99.0}
    )
    found = compare_runs([one, other])
    told = "\n".join(found.not_comparable)
    for part in ("validation images: 512 (one); 99 (two)", "length of training", "3 epochs (two)", "image size"):
        assert part in told
    assert not any(row_of(found, name).best for name in ("top1_acc", "loss", "macs"))
    assert row_of(found, "params").best == {0}
    notes = "\n".join(found.notes)
    assert "seeds differ" in notes
    assert "train.optimizer.lr" in notes
    assert "data.image_size" in notes


def test_another_seed_is_comparable_and_an_unfinished_run_is_not(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", "imagenet_pvt_v1", "pvt_tiny", score=TOP)
    two = make_run(tmp_path / "two", "imagenet_pvt_v1", "pvt_tiny", "train.seed=1", score=TOP | {"loss": 1.0})
    found = compare_runs([one, two])
    assert not found.not_comparable
    assert row_of(found, "loss").best == {1}
    lines = [{"event": "eval", "epoch": 4, "step": 9, "metrics": TOP}]
    three = make_run(tmp_path / "three", "imagenet_pvt_v1", "pvt_tiny", score=None, status="stopped", result=None)
    with pytest.raises(UsageError, match="nothing was scored yet"):
        compare_runs([three])
    (three / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = compare_runs([one, three])
    assert row_of(found, "status").values == ("finished", "stopped")
    assert row_of(found, "top1_acc").values == (50.0, 50.0)
    assert any("three is stopped after 4 of" in reason for reason in found.not_comparable)


def test_other_data_of_the_same_name(tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        run = make_run(tmp_path / name, "imagenet_pvt_v1", "pvt_tiny", "data.name=imagenet", score=TOP)
        (run / "environment.json").write_text(json.dumps([{"data": {"val": f"print of {name}"}}]))
        runs.append(run)
    assert "other content: print of one (one); print of two (two)" in compare_runs(runs).not_comparable[0]


def test_wrong_choices_of_runs(tmp_path: Path, detectors: list[Path]) -> None:
    classifier = make_run(tmp_path / "c", "imagenet_pvt_v1", "pvt_tiny", score=TOP)
    with pytest.raises(UsageError, match=r"is detection, .* is classification"):
        compare_runs([*detectors, classifier])
    with pytest.raises(UsageError, match="named twice"):
        compare_runs([classifier, classifier / ".." / "c"])


def test_labels_are_as_long_as_they_must_be() -> None:
    assert labels_of([Path("/a/b/c")]) == ["c"]
    assert labels_of([Path("/a/x/seed0"), Path("/a/y/seed0")]) == ["x/seed0", "y/seed0"]


def test_models_are_counted_as_flops_counts_them() -> None:
    found = compare_models(["pvt_v2_b0", "resnet18"], size=(64, 96), convention="paper")
    cost = count("resnet18", (64, 96), convention="paper")
    assert row_of(found, "params").values[1] == cost.params / 1e6
    assert row_of(found, "macs").values[1] == cost.macs / 1e9
    assert row_of(found, "params").best == {0}
    assert row_of(found, "size").cells() == ["64x96", "64x96"]
    assert any("convention paper" in note for note in found.notes)
    with pytest.raises(UsageError, match="named twice"):
        compare_models(["resnet18", "resnet18"])


def fake_latency(case: Case, p50: float) -> Latency:
    return Latency(case, 7, p50, 2 * p50, p50, p50, p50, 1.0, 2**20, 0.5)


def test_times_are_measured_in_turns_and_one_failure_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def measure(cases: list[Case], **options: Any) -> tuple[list[Latency], dict[str, Any]]:
        asked.append([case.backbone for case in cases])
        if any(case.backbone == "resnet18" for case in cases):
            raise PvtctlError("out of memory: resnet18")
        return [fake_latency(case, 5.0) for case in cases], {"cpu": "some", "threads": 1, "torch": "2"}

    monkeypatch.setattr(cases, "measure_latency", measure)
    found = compare_models(["pvt_v2_b0", "resnet18"], size=(64, 64), timing=LatencySettings())
    assert asked == [["pvt_v2_b0", "resnet18"], ["pvt_v2_b0"], ["resnet18"]]
    assert row_of(found, "latency_p90").cells() == ["10.00", "-"]
    assert "resnet18: not timed: out of memory: resnet18" in found.notes
    assert any("other processes used 50%" in note for note in found.notes)


def test_runs_are_timed_as_they_were_trained(detectors: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(cases: list[Case], **options: Any) -> tuple[list[Latency], dict[str, Any]]:
        assert [case.num_classes for case in cases] == [12, 12]
        assert json.loads(cases[1].options)["backbone"]["frozen_stages"] == 1
        return [fake_latency(case, 4.0 + at) for at, case in enumerate(cases)], {"cpu": "a", "threads": 1, "torch": "2"}

    monkeypatch.setattr(cases, "measure_latency", measure)
    found = compare_runs(detectors, timing=LatencySettings())
    assert row_of(found, "latency_p50").best == {0}
    assert found.subjects[0].case == case_of(read_run(detectors[0]))


def test_files(detectors: list[Path], tmp_path: Path) -> None:
    found = compare_runs(detectors)
    files = write_comparison(tmp_path / "out", found)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in files.values())
    assert {"compare.html", "compare.md", "compare.csv", "compare.json", "scatter.png", "scatter.svg"} == {
        path.name for path in files.values()
    }
    page = files["html"].read_text()
    assert "<b>30.00</b>" in page
    assert "data:image/svg+xml;base64," in page
    assert "| box AP, % | **30.00** | 20.00 |" in to_markdown(found)
    table = list(csv.reader(io.StringIO(to_csv(found))))
    assert table[0] == ["figure", "label", "pvt/seed0", "resnet/seed0"]
    assert table[1] == ["box_ap", "box AP, %", "30.0", "20.0"]
    document = json.loads(to_json(found))
    assert document["columns"][0]["score"] == BOX
    assert document["rows"][0] == {"figure": "box_ap", "label": "box AP, %", "values": [30.0, 20.0], "best": [0]}
    with pytest.raises(UsageError, match="no cost 'size'"):
        write_comparison(tmp_path / "other", found, against="size")
