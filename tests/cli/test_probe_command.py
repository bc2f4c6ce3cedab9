"""`pvtctl probe`: a table from one command, and bad input told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import Cli

from pvtctl.probe.plan import ProbePlan

TINY = [
    *("--backbone", "pvt_v2_b0@0.25", "--weights", "none", "--seeds", "1", "--views", "1", "--no-latency"),
    *("--set", "data.train_samples=4", "--set", "data.val_samples=2", "--set", "train.epochs=1"),
    *(
        "--set",
        "data.image_size=64",
        "--set",
        "data.detection.short_sides=[64]",
        "--set",
        "data.detection.test_short_side=64",
    ),
    *("--set", "model.head.width=16", "--cache", "cache"),
]


def test_a_probe_and_the_same_again(cli: Cli) -> None:
    first = cli("probe", "scenes", "--head", "retinanet", *TINY, "--json")
    assert first.code == 0, first.err
    row = first.json["rows"][0]
    assert (row["backbone"], row["weights"], row["seeds"]) == ("pvt_v2_b0@0.25", "random", 1)
    again = cli("probe", "scenes", "--head", "retinanet", *TINY)
    assert again.code == 0
    assert "probe: 1 backbone, 1 seed each; 1 of 1 done" in again.err
    assert "runs/probe-retinanet-scenes/probe.md" in again.out


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["scenes", "--head", "retinet"], "no head 'retinet' to probe", "retinanet"),
        (["scenes", "--head", "linear", "--task", "depth"], "linear is a classifier", "dpt"),
        (["scenes", "--backbone", "pvt_tini"], "no backbone is called 'pvt_tini'", "pvt_tiny"),
        (
            ["scenes", "--backbone", "pvt_tiny,timm:convnext_ato", "--weights", "none"],
            "timm has no model",
            "convnext_atto",
        ),
        (["scenes", "--weights", "scenes"], "no weights for pvt_tiny", "pretrain scenes --backbone pvt_tiny"),
        (
            ["scenes", "--weights", "scenes", "--backbone", "timm:convnext_atto"],
            "no weights for timm:convnext_atto",
            "pretrain scenes --backbone timm:convnext_atto\n",
        ),
        (["scenes", "--backbone", "pvt_tiny+sr_ratios"], "an option is written +OPTION=VALUE", "models show pvt_tiny"),
        (["scenes", "--weights", "file.pth"], "write it as BACKBONE=FILE", "for all none, scenes or timm"),
        (["scenes", "--weights", "pvt_tin=file.pth"], "pvt_tin is not probed", "pvt_tiny"),
        (["scenes", "--weights", "pvt_tiny=nowhere.pth", "--weights", "none"], "nowhere.pth", ""),
        (["scenes", "--cache-size", "much"], "'much' is no amount of bytes", "500MB"),
        (
            ["scenes", "--weights", "none", "--set", "data.augment.mixup_alpha=0.5"],
            "mixup_alpha is not for a probe",
            "",
        ),
        (["nowhere", "--weights", "none"], "no data set or folder", ""),
    ],
)
def test_bad_input(cli: Cli, words: list[str], message: str, hint: str) -> None:
    result = cli("probe", *words)
    assert result.code == 2, result.err
    assert message in result.err
    assert hint in result.err
    assert result.out == ""


def test_a_backbone_named_twice_is_probed_once(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[ProbePlan] = []
    monkeypatch.setattr("pvtctl.probe.run.run_probe", lambda plan, *rest: plans.append(plan))
    words = ["--weights", "none", "--backbone", "resnet18,pvt_tiny+sr_ratios=8,4,2,1,resnet18,pvt_tiny"]
    found = [cli("probe", "scenes", *words) for _ in range(2)]
    assert [each.name for each in plans[0].backbones] == ["resnet18", "pvt_tiny"]
    assert [each.err.count("recipe: ") for each in found] == [1, 1]


def test_boxes_have_no_classes_to_probe(cli: Cli, coco_folder: object) -> None:
    result = cli("probe", str(coco_folder), "--head", "linear", "--weights", "none")
    assert result.code == 2
    assert "needs" in result.err


def test_weights_for_all_backbones_that_are_not_named(
    cli: Cli, smoke_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[ProbePlan] = []
    monkeypatch.setattr("pvtctl.probe.run.run_probe", lambda plan, *rest: plans.append(plan))
    monkeypatch.setenv("PVTCTL_RUNS", str(smoke_run.parent))
    named = ["--weights", "resnet18=none", "--weights", "scenes"]
    cli("probe", "scenes", "--head", "linear", "--backbone", "resnet18,pvt_v2_b0", *named)
    starts = [each.recipe.model.start for each in plans[0].backbones]
    assert starts[0] is None
    assert str(starts[1]).endswith(smoke_run.name)
