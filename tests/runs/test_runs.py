"""Run folders as they are found: finished, half-written, damaged, of another version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pvtctl import __version__
from pvtctl.errors import UsageError
from pvtctl.recipe.load import dump, load_recipe
from pvtctl.runs.read_run import read_run

LINES = [
    {"event": "train", "epoch": 1, "step": 3, "loss": 2.0},
    {"event": "eval", "epoch": 1, "step": 3, "metrics": {"top1": 0.5, "loss": 1.5}, "seconds": 0.1},
    {"event": "train", "epoch": 2, "step": 6, "loss": 1.0},
    {"event": "eval", "epoch": 2, "step": 6, "metrics": {"top1": 0.25, "loss": 1.0}, "seconds": 0.1},
]


def make_run(path: Path, **info: Any) -> Path:
    path.mkdir(parents=True)
    recipe = load_recipe("imagenet_pvt_v2", "pvt_v2_b0", "mini")
    (path / "recipe.yaml").write_text(dump(recipe), "utf-8")
    said = {"status": "finished", "task": "classification", "version": __version__, "score": {"top1": 0.5, "loss": 1.5}}
    (path / "run.json").write_text(json.dumps(said | info), "utf-8")
    (path / "environment.json").write_text(json.dumps([{"cpu": "some", "device": "cpu"}]), "utf-8")
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES), "utf-8")
    return path


def test_a_finished_run(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    assert run.recipe.model.backbone.name == "pvt_v2_b0"
    assert run.recipe.profile == "mini"
    assert run.recipe.name == "imagenet_pvt_v2"
    assert run.score == {"top1": 0.5, "loss": 1.5}
    assert run.main_score == 0.5
    assert [line["step"] for line in run.evaluations] == [3, 6]
    assert [line["loss"] for line in run.training] == [2.0, 1.0]
    assert run.environment == [{"cpu": "some", "device": "cpu"}]


@pytest.mark.parametrize("status", ["running", "stopped", "failed"])
def test_an_unfinished_run_is_read_only_when_asked(tmp_path: Path, status: str) -> None:
    path = make_run(tmp_path / "run", status=status, score=None, reason="stopped by SIGTERM at epoch 2/40")
    with pytest.raises(UsageError, match=f"not finished, but {status}: stopped by SIGTERM") as caught:
        read_run(path)
    assert caught.value.hint
    run = read_run(path, finished=False)
    assert run.status == status
    assert run.main_score == 0.5  # of the better of two evaluations
    averaged = [line | {"ema_metrics": {"top1": 0.3 * line["epoch"]}} for line in LINES if line["event"] == "eval"]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in averaged), "utf-8")
    assert read_run(path, finished=False).main_score == 0.6  # best.safetensors holds the averaged weights
    (path / "metrics.jsonl").unlink()
    assert read_run(path, finished=False).main_score is None


def test_a_line_that_was_being_written_when_the_run_was_killed(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "epo')
    assert len(read_run(path).training) == 2
    text = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text("not json\n" + text)
    with pytest.raises(UsageError, match="damaged in line 1"):
        read_run(path)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="there is no run in"):
        read_run(tmp_path)
    run = make_run(tmp_path / "runs" / "one")
    with pytest.raises(UsageError, match="there is no run in") as caught:
        read_run(tmp_path / "runs")
    assert str(run) in str(caught.value.hint)
    with pytest.raises(UsageError, match="is a file") as caught:
        read_run(run / "run.json")
    assert str(run) in str(caught.value.hint)
    (tmp_path / "notes").touch()
    with pytest.raises(UsageError, match="is a file, not the folder of a run") as caught:
        read_run(tmp_path / "notes")
    assert "did you mean" not in str(caught.value.hint)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("run.json", None, "half written"),
        ("run.json", '{"status": "fin', "run.json is damaged"),
        ("run.json", "[1]", "run.json is damaged"),
        ("run.json", '{"mine": 1}', "no status"),
        ("run.json", '{"status": "finished", "score": 3}', "run.json is damaged"),
        ("recipe.yaml", None, "no recipe.yaml"),
        ("recipe.yaml", "a: [", "recipe.yaml is damaged"),
        ("recipe.yaml", "\0", "recipe.yaml is damaged"),
        ("recipe.yaml", "model: {backbone: {name: pvt_tiny, twist: 3}}", "cannot be read: .*twist"),
        ("run.json", '{"status": "finished", "score": {"top1": "good"}}', "run.json is damaged"),
        ("run.json", '{"status": ["finished"]}', "run.json is damaged"),
        ("run.json", "[" * 5000, "run.json is damaged"),
        ("metrics.jsonl", '{"event": "train", "step": "one"}\n{}\n', "metrics.jsonl is damaged in line 1"),
        ("metrics.jsonl", "\0\n{}\n", "metrics.jsonl is damaged in line 1"),
        ("metrics.jsonl", '{"event": "eval", "step": 1, "metrics": {"top1": 1e999}}\n{}\n', "metrics.jsonl is damaged"),
    ],
)
def test_damaged_files(tmp_path: Path, file: str, text: str | None, message: str) -> None:
    path = make_run(tmp_path / "run")
    (path / file).unlink()
    if text is not None:
        (path / file).write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_run(path)
    assert caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", [None, "{}", "[", "[" * 5000, "\0", '[3, {"processes": "two"}]'])
def test_a_damaged_environment_blocks_nothing(tmp_path: Path, text: str | None) -> None:
    """It only describes."""
    path = make_run(tmp_path / "run")
    (path / "environment.json").unlink()
    if text is not None:
        (path / "environment.json").write_text(text)
    run = read_run(path)
    assert run.environment == []
    assert run.images_a_step > 0


def test_a_recipe_of_another_version(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", version="0.0.1")
    (path / "recipe.yaml").write_text("model: {backbone: {name: pvt_tiny, twist: 3}}")
    with pytest.raises(UsageError, match=r"written by pvtctl 0\.0\.1, this is .*twist"):
        read_run(path)


def test_a_recipe_of_a_later_version_says_which(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", version="7.0")
    with (path / "recipe.yaml").open("a") as file:
        file.write("telescope: {lens: 3}\n")
    with pytest.raises(UsageError, match=r"written by pvtctl 7\.0, this is .*telescope") as caught:
        read_run(path)
    assert "pvtctl 7.0" in str(caught.value.hint)
