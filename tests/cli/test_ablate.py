"""`pvtctl ablate`: a study from its recipe to its report, on the built-in data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import Cli

STUDY = """
about: Two heads of paper on a tiny backbone
paper: {key: pvt_v1, table: 3}
task: detection
data: {name: scenes, image_size: 64, train_samples: 2, val_samples: 2, workers: 0}
data.detection: {short_sides: [64], long_side: 96, test_short_side: 64, test_long_side: 96}
model: {head: {name: retinanet, width: 32}}
train: {epochs: 1, total_batch: 2, precision: fp32, optimizer: {lr: 1e-4}, schedule: {warmup_steps: 1}}
rows:
  small:
    title: Small
    model.backbone: {name: pvt_v2_b0, width: 0.25}
    expect: {box_ap: 37.2}
  fresh:
    title: Fresh
    model.backbone: {name: pvt_v2_b0, width: 0.25}
    model.init: scratch
    expect: {box_ap: 30.0}
  broken:
    title: Broken
    model.backbone: {name: pvt_v2_b0, width: 0.25}
    model.weights: nowhere.pth
    expect: {box_ap: 30.0}
profiles:
  mini: {}
study:
  claim: Pretraining helps
  score: box_ap
  figures: [params]
  pretraining: imagenet_pvt_v2
  claims:
    - {text: Pretrained is better, figure: box_ap, better: small, worse: fresh}
  scale: Nothing can be seen in a step.
"""
PRETRAINING = ["data.image_size=32", "data.resize=32", "data.train_samples=8", "data.val_samples=2"]
PRETRAINING += ["train.epochs=1", "train.total_batch=8", "train.precision=fp32", "data.workers=0"]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "tiny.yaml").write_text(STUDY)
    settings = [word for value in PRETRAINING for word in ("--set-pretraining", value)]
    return ["ablate", "tiny.yaml", "--profile", "mini", "--no-latency", "--jobs", "2", *settings]


@pytest.mark.slow
def test_a_study_from_recipe_to_report(cli: Cli, words: list[str], tmp_path: Path) -> None:
    first = cli(*words)
    assert first.code == 1  # a row failed, the others were run and reported
    folder = tmp_path / "runs" / "studies" / "tiny-mini"
    assert {"report.html", "table.md", "table.csv", "study.json", "figures"} <= {path.name for path in folder.iterdir()}
    document = json.loads((folder / "study.json").read_text())
    text = (folder / "table.md").read_text()
    assert "37.2" in text
    assert "nowhere.pth" in text
    assert "not decided" in text  # one seed
    # the row that needs the pretraining began from it, the fresh one from nothing
    row = (folder / "rows" / "small" / "seed0" / "recipe.yaml").read_text()
    assert "studies/pretraining/imagenet_pvt_v2-pvt_v2_b0_0.25-mini" in row
    assert "weights: null" in (folder / "rows" / "fresh" / "seed0" / "recipe.yaml").read_text()
    before = (folder / "rows" / "small" / "seed0" / "run.json").stat().st_mtime_ns
    # again: what is finished stays; without the broken row all is well
    again = cli(*words, "--rows", "small,fresh", "--json")
    assert again.code == 0, again.err
    assert (folder / "rows" / "small" / "seed0" / "run.json").stat().st_mtime_ns == before
    assert set(again.json) == set(document)
    # and the report alone
    assert cli(*words, "--report").code == 0


def test_dry_run_writes_nothing(cli: Cli, words: list[str], tmp_path: Path) -> None:
    shown = cli(*words, "--dry-run", "--json")
    assert shown.code == 0
    assert [run["run"] for run in shown.json["runs"]] == [
        "pretraining/imagenet_pvt_v2-pvt_v2_b0_0.25",
        "small/seed0",
        "fresh/seed0",
        "broken/seed0",
    ]
    assert {run["state"] for run in shown.json["runs"]} == {"missing"}
    assert "starts from" in cli(*words, "--dry-run").out
    assert not (tmp_path / "runs").exists()


def test_ls_tells_every_study(cli: Cli) -> None:
    shown = cli("ablate", "ls")
    assert shown.code == 0
    for name in ("vit-vs-pvt", "deeper-vs-wider", "pretrained-vs-scratch", "gcnet", "input-scale", "pvt-v2-steps"):
        assert name in shown.out
    lines = cli("ablate", "ls", "--json").json["studies"]
    assert len(lines) == 13
    assert all(line["claim"] for line in lines)


def test_slurm_writes_jobs_and_runs_nothing(cli: Cli, words: list[str], tmp_path: Path) -> None:
    written = cli(*words, "--slurm", "jobs", "--sbatch=--gres=gpu:2", "--gpus", "2")
    assert written.code == 0
    assert written.out.strip() == f"bash {Path('jobs') / 'submit.sh'}"
    job = (tmp_path / "jobs" / "small-seed0.sbatch").read_text()
    assert "--only small/seed0" in job
    assert "#SBATCH --gres=gpu:2" in job
    assert "--gpus 2" in job
    assert not (tmp_path / "runs").exists()
    assert cli(*words, "--slurm", "jobs").code == 2


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--report"], "finished"),
        (["--rows", "big"], "has no row 'big'"),
        (["--weights", "small"], "write it as ROW=FILE"),
        (["--profile", "huge"], "has no profile 'huge'"),
        (["--sbatch", "--gres=gpu:1"], "is for --slurm"),
        (["--set", "train.epoch=1"], "train.epoch"),
        (["--only", "small/seed7"], "has no run"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, words: list[str], tmp_path: Path, more: list[str], told: str) -> None:
    result = cli(*words, *more)
    assert result.code == 2
    assert told in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "runs").exists()


def test_an_unknown_study_is_told_the_nearest(cli: Cli) -> None:
    result = cli("ablate", "vit-vs-pvtt")
    assert result.code == 2
    assert "vit-vs-pvt" in result.err


def test_a_run_that_cannot_start_leaves_its_reason(cli: Cli, words: list[str], tmp_path: Path) -> None:
    assert cli(*words, "--only", "small/seed0").code == 2  # its pretraining is not there
    failure = tmp_path / "runs" / "studies" / "tiny-mini" / "rows" / "small" / "seed0.failure.json"
    assert "not finished" in json.loads(failure.read_text())["reason"]


def test_a_file_of_ones_own_runs_as_it_stands(cli: Cli, coco_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        f"base: small_objects\ndata: {{name: coco, path: {coco_folder}}}\nrows: {{a: {{train.seed: 1}}, b: {{}}}}\n"
    )
    shown = cli("ablate", "own.yaml", "--dry-run", "--json").json
    assert (shown["profile"], shown["profile_changes"]) == ("paper", {})
    for profile in ("mini", "smoke"):
        shown = cli("ablate", "own.yaml", "--dry-run", "--json", "--profile", profile).json
        data = [run["recipe"]["data"] for run in shown["runs"]]
        assert {(each["name"], each["path"]) for each in data} == {("coco", str(coco_folder))}
        assert shown["profile_changes"]["data.train_samples"] == [None, data[0]["train_samples"]]
    told = cli("ablate", "own.yaml", "--dry-run", "--profile", "mini").out
    assert "data.train_samples from all to 300" in " ".join(told.split())
    given = cli("ablate", "gcnet", "--dry-run", "--json", "--data", str(coco_folder)).json
    rows = [run["recipe"]["data"] for run in given["runs"] if run["run"].startswith("pvt_small/")]
    assert {(each["name"], each["path"]) for each in rows} == {("coco", str(coco_folder))}
