"""Backbones and heads of users, in files named with --module, through every command; and whose code runs when."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import pvtctl
from pvtctl import extensions
from pvtctl.cli.main import main
from pvtctl.models import registry

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
FILES = dict(re.findall(r"<!-- module (\S+) -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
SMOKE = ["--profile", "smoke", "--set", "train.max_steps=2", "--set", "data.val_samples=2"]
STATIC = ["--static", "--size", "64", "--repeats", "1"]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A state folder of the test's own, and a registry that forgets what the test registers."""
    monkeypatch.setenv("PVTCTL_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (70, 50), (200, 30, 30)).save(tmp_path / "red.png")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    before = registry.registered()
    yield
    forget(before)


def forget(before: frozenset[tuple[str, str]]) -> None:
    registry.unregister(registry.registered() - before)
    extensions._loaded.clear()


def run(*words: str) -> int:
    """A command as another process would run it: nothing is registered before."""
    forget(BUILT_IN)
    return main(list(words))


BUILT_IN = registry.registered()


def test_the_page_has_both_files() -> None:
    assert set(FILES) == {"steps.py", "one_conv.py"}


def test_backbone_through_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = ["--module", "steps.py"]
    settings = [*SMOKE, "--set", "model.backbone.options.channels=8"]
    assert run("pretrain", "scenes", "--backbone", "steps", "--out", "run", *settings, *module) == 0
    assert (tmp_path / "run" / "modules" / "steps.py").read_text() == FILES["steps.py"]
    assert run("pretrain", "scenes", "--backbone", "steps", "--out", "run", "--resume", *SMOKE) == 2
    assert "model.backbone.options.channels" in capsys.readouterr().err
    assert run("pretrain", "scenes", "--backbone", "steps", "--out", "run", "--resume", *settings) == 0
    assert pvtctl.load_run("run").model.backbone.feature_channels == (8, 16, 32, 64)
    assert run("eval", "--weights", "run", "scenes") == 0
    assert run("predict", "red.png", "--weights", "run") == 0
    assert run("export", "run", "--out", "steps.pt2", *STATIC) == 0
    capsys.readouterr()
    assert run("flops", "--backbone", "steps", "--head", "retinanet", "--json", *module) == 0
    assert json.loads(capsys.readouterr().out)
    assert run("latency", "--backbone", "steps", "--size", "64", "--repeats", "1", "--json", *module) == 0
    capsys.readouterr()
    assert run("flops", "--backbone", "steps+channels=8,steps+channels=16", "--size", "64", "--json", *module) == 0
    names = [row["backbone"] for row in json.loads(capsys.readouterr().out)["rows"]]
    assert names == ["steps+channels=8", "steps"]
    assert run("flops", "--backbone", "steps") == 2
    assert "no backbone is called 'steps'" in capsys.readouterr().err


def test_head_with_a_loss_through_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["finetune", "scenes", "--task", "segmentation", "--backbone", "resnet18@0.25", "--head", "one_conv"]
    words += ["--weights", "none", "--out", "run", "--profile", "smoke", "--set", "train.iterations=2"]
    words += ["--set", "model.head.smoothing=0.05", "--set", "data.val_samples=2"]
    assert run(*words, "--module", "one_conv.py") == 0
    assert run(*words, "--resume") == 0
    assert run("eval", "scenes", "--weights", "run") == 0
    assert run("predict", "red.png", "--weights", "run") == 0
    assert run("export", "run", "--out", "head.pt2", *STATIC) == 0
    flops = ["flops", "--backbone", "resnet18@0.25", "--head", "one_conv", "--size", "64", "--num-classes", "5"]
    assert run(*flops, "--module", "one_conv.py") == 0
    forget(BUILT_IN)
    loaded = pvtctl.load_run("run")
    assert loaded.model.head.smoothing == 0.05
    capsys.readouterr()
    assert run("finetune", *words[1:], "--set", "model.head.width=64", "--module", "one_conv.py") == 2
    assert "width" in capsys.readouterr().err


def test_nobody_elses_code_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    assert run("pretrain", "scenes", "--backbone", "steps", "--out", "run", *SMOKE, "--module", "steps.py") == 0
    monkeypatch.setenv("PVTCTL_STATE", str(tmp_path / "another user"))
    for words in (
        ["eval", "scenes", "--weights", "run"],
        ["export", "run", "--out", "x.pt2"],
        ["visualize", "curves", "run"],
    ):
        capsys.readouterr()
        assert run(*words) == 2
        assert "--module run/modules/steps.py" in capsys.readouterr().err.replace(str(tmp_path) + "/", "")
    assert run("eval", "scenes", "--weights", "run", "--module", "run/modules/steps.py") == 0


def test_changed_and_missing_files_are_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "scenes", "--backbone", "steps", "--out", "run", *SMOKE]
    assert run(*words, "--module", "steps.py") == 0
    copy = tmp_path / "run" / "modules" / "steps.py"
    copy.write_text(FILES["steps.py"] + "# changed\n")
    capsys.readouterr()
    assert run("eval", "scenes", "--weights", "run") == 2
    assert "was changed since the run" in capsys.readouterr().err
    assert run(*words, "--resume", "--module", str(copy)) == 0
    assert "is not the file that this was trained with" in capsys.readouterr().err
    copy.unlink()
    assert run("eval", "scenes", "--weights", "run") == 2
    assert "steps.py" in capsys.readouterr().err


def test_a_recipe_states_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: small_maps\nmodule: one_conv.py\nmodel: {head: {name: one_conv, smoothing: 0.2}}\n")
    assert run("recipes", "check", "mine.yaml") == 2
    captured = capsys.readouterr()
    assert "recipe mine needs --module one_conv.py" in captured.out + captured.err
    assert run("recipes", "check", "mine.yaml", "--module", "one_conv.py") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name' (line 1)"),
        ("x = (", "SyntaxError"),
        ("\nraise ValueError('bad')", "ValueError: bad (line 2)"),
        (FILES["steps.py"].replace('"steps"', '"pvt_small"'), "there is a backbone called 'pvt_small' already"),
    ],
)
def test_files_that_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    assert run("models", "ls", "--module", "bad.py") == 2
    assert message in capsys.readouterr().err
    assert registry.registered() == BUILT_IN
    assert run("models", "ls", "--module", "missing.py") == 2
    assert "cannot be read" in capsys.readouterr().err


def test_damaged_statements_are_passed_over(tmp_path: Path) -> None:
    for stated in (None, 3, "steps.py", [3], {"file": "x"}):
        extensions.require(stated, tmp_path)


def test_an_installed_plugin_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "plugged"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FILES["steps.py"])
    info = tmp_path / "site" / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pvtctl.plugins]\nmine = plugged\nbroken = plugged:nothing\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(registry, "_plugin_faults", None)  # none was looked for so far
    try:
        assert pvtctl.create_backbone("steps").feature_channels == (16, 32, 64, 128)
        with pytest.raises(pvtctl.UsageError) as error:
            pvtctl.create_backbone("nowhere")
    finally:
        sys.modules.pop("plugged", None)
    assert "broken" in str(error.value.hint)
