"""`pvtctl models`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from pvtctl.cli.models import app, describe
from pvtctl.errors import UsageError
from pvtctl.models.variants import VARIANTS

runner = CliRunner()


def test_ls_names_every_backbone() -> None:
    result = runner.invoke(app, ["ls"])
    assert result.exit_code == 0
    assert all(name in result.stdout for name in VARIANTS)
    assert "24.49" in result.stdout


def test_ls_json() -> None:
    models = json.loads(runner.invoke(app, ["ls", "--json"]).stdout)["models"]
    assert len(models) == len(VARIANTS) == 39
    small = next(model for model in models if model["name"] == "pvt_small")
    assert small["params"] == 24_485_864
    assert small["channels"] == [64, 128, 320, 512]
    assert small["strides"] == [4, 8, 16, 32]
    assert small["published"] is True


def test_ls_and_wrong_names_load_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from pvtctl.cli.models import app;"
        "CliRunner().invoke(app, ['ls']); CliRunner().invoke(app, ['show', 'pvt_smal']); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_show_gives_options_and_how_keys_are_rounded() -> None:
    shown = describe("pvt_v2_b0+sr_ratios=3,4,2,1", 100, 64)
    assert [stage["keys"] for stage in shown["stages"]] == [[8, 5], [3, 2], [3, 2], [4, 2]]
    assert shown["changed"] == {"sr_ratios": [3, 4, 2, 1]}
    result = runner.invoke(app, ["show", "pvt_v2_b0+sr_ratios=3,4,2,1", "--size", "100x64"])
    for text in ("sr_ratios=3,4,2,1 (changed)", "depths=2,2,2,2", "keys at 100x64", "8x5"):
        assert text in result.stdout
    assert "keys" not in describe("resnet18+base_width=32", 64, 64)["stages"][0]


def test_show_gives_stages_and_maps_at_a_size() -> None:
    result = runner.invoke(app, ["show", "pvt_small", "--size", "800x1216"])
    assert result.exit_code == 0
    for text in ("200x304", "25x38", "24,485,864", "10,088,640", "class token and final norm"):
        assert text in result.stdout


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li", "deit_tiny_patch16", "resnet18"])
def test_show_json_accounts_for_every_parameter(name: str) -> None:
    shown = json.loads(runner.invoke(app, ["show", name, "--size", "225x300", "--json"]).stdout)
    assert shown["params"] == VARIANTS[name].params
    parts = sum(stage["params"] for stage in shown["stages"]) + shown["other_params"] + shown["head_params"]
    assert parts == shown["params"]
    up = name.startswith(("pvt_v2", "resnet"))
    assert shown["stages"][0]["map"] == ([57, 75] if up else [56, 75])
    assert shown["stages"][3]["map"] == ([8, 10] if up else [7, 9])
    assert shown["published"]["backbone"] == name


def test_show_describes_a_timm_model() -> None:
    pytest.importorskip("timm", reason="needs the timm extra")
    shown = describe("timm:resnet18", 64, 64)
    assert shown["family"] == "timm"
    assert [stage["map"] for stage in shown["stages"]] == [[16, 16], [8, 8], [4, 4], [2, 2]]


def test_wrong_name_and_size_are_usage_errors() -> None:
    unknown = runner.invoke(app, ["show", "resnet5O"])
    assert isinstance(unknown.exception, UsageError)
    assert unknown.exception.message == "no backbone is called 'resnet5O'"
    assert "resnet50" in (unknown.exception.hint or "")
    size = runner.invoke(app, ["show", "pvt_tiny", "--size", "800x"])
    assert isinstance(size.exception, UsageError)
    assert "'800x' is not a size" in size.exception.message
