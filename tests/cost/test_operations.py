"""Operations of attention by stage: their formulas, and `pvtctl flops --stages ops`."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

import pytest

from pvtctl.cli.main import main
from pvtctl.cost.counting import count
from pvtctl.cost.operations import OPERATIONS, operations
from pvtctl.errors import UsageError
from pvtctl.models.registry import backbone_spec

TINY = "pvt_v2_b0+depths=1,2,1,1"


@pytest.mark.parametrize(
    ("name", "size"),
    [("pvt_tiny@0.25", (64, 96)), (f"{TINY}+sr_ratios=3,4,1,2", (64, 96)), (f"{TINY}+linear_sra=true", (224, 192))],
)
def test_operations_are_those_of_the_papers_formulas(name: str, size: tuple[int, int]) -> None:
    options = backbone_spec(name).stated_options
    found = operations(name, size)
    macs = {(row.stage, row.name): row.macs for row in found.rows}
    classes = 1 if "tiny" in name else 0
    for at, stride in enumerate((4, 8, 16, 32)):
        stage, channels = f"stage{at + 1}", backbone_spec(name).channels[at]
        blocks, ratio, expansion = (options[key][at] for key in ("depths", "sr_ratios", "mlp_ratios"))
        height, width = size[0] // stride, size[1] // stride
        tokens = height * width + (classes if at == 3 else 0)
        reduced = (height // ratio) * (width // ratio)
        keys, reduction = (tokens, 0) if ratio == 1 else (reduced, reduced * ratio**2 * channels**2)
        if options.get("linear_sra"):
            keys, reduction = 49, 49 * channels**2
        depthwise = 0 if classes else tokens * 9 * expansion * channels
        wanted = {
            "Q": tokens * channels**2,
            "K": keys * channels**2,
            "V": keys * channels**2,
            "SR": reduction,
            "QK^T": tokens * keys * channels,
            "AV": tokens * keys * channels,
            "projection": tokens * channels**2,
            "FFN": 2 * tokens * expansion * channels**2 + depthwise,
        }
        assert {key: macs.get((stage, key), 0) for key in wanted} == {key: blocks * n for key, n in wanted.items()}
        attention = found.attention[at]
        assert (attention.blocks, attention.queries, attention.keys) == (blocks, tokens, keys)
        assert attention.heads == options["num_heads"][at]


@pytest.mark.parametrize(
    ("name", "head"), [(TINY, "classifier"), ("deit_tiny_patch16@0.3+depth=4", "none"), (TINY, "retinanet")]
)
def test_they_add_up_to_the_count(name: str, head: str) -> None:
    found, cost = operations(name, (64, 64), head=head), count(name, (64, 64), head=head)
    assert sum(row.macs for row in found.rows) == cost.macs == found.cost.macs
    by_stage: Counter[str] = Counter()
    for row in found.rows:
        by_stage[row.stage] += row.macs
    if head == "classifier":
        parts = {part.name: part.macs for part in cost.stages}
        assert by_stage["stage2"] == parts["stage2.patch_embed"] + parts["stage2.blocks"]


def test_without_reduction_there_is_nothing_to_set_beside() -> None:
    plain = f"{TINY}+sr_ratios=1,1,1,1"
    assert operations(plain, (64, 64)).unreduced is None
    for name in (TINY, f"{TINY}+linear_sra=true"):
        beside = operations(name, (64, 64)).unreduced
        assert beside is not None
        assert beside.cost.backbone == plain
        assert (beside.cost.macs, beside.cost.params) == (count(plain, (64, 64)).macs, count(plain, (64, 64)).params)


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet18"])
def test_what_has_no_such_operations_is_said(name: str) -> None:
    with pytest.raises(UsageError, match="has no transformer blocks of pvtctl's"):
        operations(name, (64, 64))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["flops", "--backbone", TINY, "--size", "64", "--stages", "ops"]
    assert main([*words, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    total = rows.pop()
    for column in ("MACs", "with R = 1"):
        assert sum(int(row[column]) for row in rows if row["operation"] != "SR" or column == "MACs") == int(
            total[column]
        )
    assert {row["operation"] for row in rows} == {*OPERATIONS, "other"}
    assert main([*words, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["macs"] == int(total["MACs"])
    assert row["macs_r1"] == int(total["with R = 1"])
    assert row["attention"][0] == {
        "stage": "stage1", "blocks": 1, "heads": 1, "queries": 256, "keys": 4, "entries": 1024, "entries_r1": 65536
    }  # fmt: skip
    assert main(words) == 0
    assert "matrix of a block" in capsys.readouterr().out
    for wrong in (["flops", "ops"], [*words, "--count", "paper"], [*words, "--verify"], [*words[:-1], "opps"]):
        assert main(wrong) == 2


@pytest.mark.draws
def test_the_picture(tmp_path: Path) -> None:
    words = ["flops", "--backbone", f"{TINY},deit_tiny_patch16@0.3+depth=4", "--size", "64", "--stages", "ops"]
    assert main([*words, "--plot", str(tmp_path / "sra.svg")]) == 0
    text = (tmp_path / "sra.svg").read_text()
    assert all(word in text for word in ("QK^T", "SR", "256 x 4", "with R = 1"))
