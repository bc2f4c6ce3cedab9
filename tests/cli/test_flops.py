"""`pvtctl flops` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from pvtctl.cli.main import main


def test_size_800_alone_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "--size", "800"]) == 0
    out, err = capsys.readouterr()
    assert "pvt_small" in out
    assert "69.934" in out  # GMACs; Figure 6 of PVT v1 at scale 800
    assert "1 MAC = one multiplication and one addition = 2 FLOPs" in err
    assert "layer_norm x50" in err


def test_json_is_the_documented_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "--backbone", "pvt_v2_b0,resnet18", "--size", "64,64x96", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["backbone"], row["size"]) for row in rows] == [
        ("pvt_v2_b0", [64, 64]),
        ("pvt_v2_b0", [64, 96]),
        ("resnet18", [64, 64]),
        ("resnet18", [64, 96]),
    ]
    row = rows[0]
    assert set(row) == {
        *(
            "backbone",
            "head",
            "size",
            "num_classes",
            "params",
            "trainable_params",
            "macs",
            "flops",
            "convention",
            "stages",
            "uncounted",
        )
    }
    assert row["params"] == 3666760
    assert row["flops"] == 2 * row["macs"]
    assert row["stages"][0] == {"name": "stage1.patch_embed", "params": 4800, "macs": row["stages"][0]["macs"]}


def test_csv_and_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "--backbone", "resnet18", "--format", "csv"]) == 0
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert (row["size"], row["params"], row["macs"]) == ("224x224", "11689512", "1814073344")
    assert main(["flops", "--backbone", "resnet18", "--format", "markdown", "--count", "paper"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| backbone | head |")
    assert lines[2] == "| resnet18 | classifier | 224x224 | paper | 11.690 | 11.690 | 1.822 | 3.644 |"


def test_stages_and_head_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "--backbone", "resnet18", "--head", "none", "--stages", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["part"] for row in rows] == ["stem", "stage1", "stage2", "stage3", "stage4", "total"]
    assert sum(int(row["MACs"]) for row in rows[:-1]) == int(rows[-1]["MACs"])


def test_verify_prints_both_counters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "--backbone", "pvt_v2_b0", "--size", "64", "--verify", "--json"]) == 0
    out, err = capsys.readouterr()
    row = json.loads(out)["rows"][0]
    assert row["verify"]["torch_macs"] == row["macs"]
    assert abs(row["verify"]["difference"]) < 0.01
    assert row["verify"]["fvcore_uncounted"]["gelu"] == 8
    assert "difference +0.000%" in err


def test_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "fig6.png"
    assert main(["flops", "--backbone", "resnet18,pvt_v2_b0", "--size", "64,128", "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"drew {picture}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--size", "0"], "size '0' is out of range", "between 32 and 8192"),
        (["--size", "-5"], "size '-5'", "224"),
        (["--size=-5"], "size '-5'", "224"),
        (["--size", "800x"], "size '800x'", "HEIGHTxWIDTH"),
        (["--size", "224,"], "size ''", "224"),
        (["--size", "22²"], "size '22²'", "224"),
        (["--backbone", "pvt_smal"], "pvt_smal", "pvt_small"),
        (["--backbone", "pvt_small,,resnet50"], "''", "pvt_small"),
        (["--count", "flops"], "flops", "--help"),
        (["--head", "retina"], "retina", "retinanet"),
        (["--head", "none", "--num-classes", "3"], "no classes", "name a head"),
        (["--plot", "fig6.docx"], "fig6.docx", ".png"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["flops", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    error, advice = err.strip().splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert advice.startswith("hint: ")
    assert hint in advice


def test_a_detector_by_backbone_neck_and_head(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["flops", "--backbone", "resnet18", "--head", "retinanet", "--size", "64x96", "--num-classes", "3"]
    assert main([*arguments, "--stages", "--format", "csv"]) == 0
    rows = {row["part"]: int(row["MACs"]) for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    groups = ["backbone, all", "neck, all", "head, all"]
    assert list(rows)[-4:] == [*groups, "total"]
    assert sum(rows[group] for group in groups) == rows["total"]
    assert rows["head, all"] == rows["head.classification"] + rows["head.regression"]
    assert main([*arguments, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert (row["head"], row["num_classes"], row["macs"]) == ("retinanet", 3, rows["total"])


def test_both_counters_see_a_detector(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "--backbone", "resnet18", "--head", "detr", "--size", "64", "--verify", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["verify"]["torch_macs"] == row["macs"]
    assert abs(row["verify"]["difference"]) < 0.01


def test_segmentation_at_the_papers_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "--head", "semantic_fpn", "--count", "paper", "--format", "csv"]) == 0
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert (row["backbone"], row["head"], row["size"]) == ("pvt_small", "semantic_fpn", "512x512")
    assert row["params"] == "28237974"  # Table 5: 28.2 M, 44.5 G
    assert f"{int(row['macs']) / 1e9:.1f}" == "44.5"


@pytest.mark.parametrize(
    ("arguments", "size", "classes"),
    [
        (["--head", "dpt"], [384, 384], None),
        (["--head", "dpt", "--num-classes", "150"], [480, 480], 150),
        (["--head", "midas"], [384, 384], None),
        (["--head", "trans2seg", "--num-classes", "12"], [512, 512], 12),
        (["--head", "deeplabv3plus", "--size", "64x96"], [64, 96], 150),
    ],
)
def test_dense_models(
    arguments: list[str], size: list[int], classes: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["flops", "--backbone", "pvt_v2_b0", *arguments, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert (row["size"], row["num_classes"]) == (size, classes)
    assert row["macs"] > 0
    assert {stage["name"].partition(".")[0] for stage in row["stages"]} == {"backbone", "head"}


def test_output_stride(capsys: pytest.CaptureFixture[str]) -> None:
    macs = {}
    for stride in ("8", "16", "32"):
        arguments = ["--backbone", "resnet50", "--head", "none", "--size", "64", "--output-stride", stride]
        assert main(["flops", *arguments, "--format", "csv"]) == 0
        macs[stride] = int(next(csv.DictReader(io.StringIO(capsys.readouterr().out)))["macs"])
    assert macs["8"] > 2 * macs["16"] > 2 * macs["32"]
    for wrong, words in (
        (["--backbone", "resnet50", "--output-stride", "12"], "an output stride of 12"),
        (["--backbone", "pvt_tiny", "--output-stride", "16"], "pvt_tiny has no output_stride"),
        (["--backbone", "resnet50", "--head", "midas", "--num-classes", "5"], "midas predicts depth"),
        (["--backbone", "resnet50", "--head", "semantic_fpn", "--num-classes", "1"], "of 1 class"),
    ):
        assert main(["flops", *wrong, "--size", "64"]) == 2
        assert words in capsys.readouterr().err


def test_both_counters_see_a_dense_model(capsys: pytest.CaptureFixture[str]) -> None:
    for head in ("semantic_fpn", "dpt", "trans2seg"):
        arguments = ["flops", "--backbone", "pvt_v2_b0+depths=1,1,1,1", "--head", head, "--size", "64"]
        assert main([*arguments, "--verify", "--json"]) == 0
        row = json.loads(capsys.readouterr().out)["rows"][0]
        assert row["verify"]["torch_macs"] == row["macs"]
        assert abs(row["verify"]["difference"]) < 0.01
