"""`pvtctl recipes` as its users call it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pvtctl.cli.main import main
from pvtctl.recipe.json_schema import file_schema
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.source import recipe_names, recipe_path
from pvtctl.recipe.yaml_loader import read_yaml

BAD = "model.backbone.name: pvt_tiny\ntrain: {epochs: many, optimizer: {lrr: 1}}\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["recipes", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_ls(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ls")
    assert code == 0
    assert all(name in out for name in recipe_names())
    assert "PVT v1, Table 2" in out
    code, out, _ = run(capsys, "ls", "--json")
    found = {one["name"]: one for one in json.loads(out)["recipes"]}
    assert list(found) == recipe_names()
    assert found["imagenet_pvt_v1"]["rows"][:3] == ["resnet18", "deit_tiny_patch16", "pvt_tiny"]
    assert found["imagenet_pvt_v1"]["profiles"] == ["paper", "mini", "smoke"]


def test_show_prints_a_recipe_that_loads(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "imagenet_pvt_v1", "--row", "pvt_small", "--set", "train.seed=7")
    assert code == 0
    Path("flat.yaml").write_text(out, encoding="utf-8")
    assert load_recipe("flat.yaml") == load_recipe("imagenet_pvt_v1", "pvt_small", overrides=["train.seed=7"])


def test_show_without_a_row_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "show", "imagenet_pvt_v1")
    assert code == 0
    assert out == recipe_path("imagenet_pvt_v1").read_text(encoding="utf-8")
    assert "--row" in err


def test_show_says_where_values_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("show", "imagenet_pvt_v1", "--row", "pvt_large", "--profile", "mini", "--set", "train.seed=7", "--origin")
    code, out, _ = run(capsys, *words)
    assert code == 0
    lines = {line.split(":")[0]: line for line in out.splitlines()}
    assert re.search(r"# row pvt_large, .*imagenet_pvt_v1\.yaml:\d+$", lines["model.backbone.name"])
    assert "# profile mini, " in lines["train.epochs"]
    assert lines["train.seed"].endswith("# --set")
    assert "#" not in lines["train.compile"]  # a default
    assert "  # not in the paper; code: 0.3" not in out  # the profile set another drop path
    _, out, _ = run(capsys, "show", "imagenet_pvt_v1", "--row", "pvt_large", "--origin")
    assert "  # not in the paper; code: 0.3" in out


def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "small_photos", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["flat"]["data.image_size"] == document["recipe"]["data"]["image_size"]
    assert document["origins"]["data.image_size"].startswith("recipe, ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "imagenet_pvt"), "there is no recipe 'imagenet_pvt'"),
        (("show", "imagenet_pvt_v1", "--row", "pvt_smal"), "has no row 'pvt_smal'"),
        (("show", "small_photos", "--profile", "minni"), "has no profile 'minni'"),
        (("show", "small_photos", "--set", "train.epoch=3"), "did you mean epochs?"),
        (("show", "small_photos", "--set", "train.optimizer.lr=abc"), 'should be a valid number, not "abc"'),
        (("diff", "small_photos", "@mini"), "'@mini' does not name a run"),
        (("cp", "small_photos", "x.txt"), "x.txt is not a recipe file's name"),
        (("check", "missing.yaml"), "there is no recipe file missing.yaml"),
    ],
)
def test_wrong_words(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert out == ""


def test_cp_copies_and_never_overwrites(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "cp", "imagenet_pvt_v2", "mine.yaml")[0] == 0
    Path("folder").mkdir()
    assert run(capsys, "cp", "small_photos", "folder")[0] == 0
    assert Path("folder/small_photos.yaml").read_bytes() == recipe_path("small_photos").read_bytes()
    assert load_recipe("mine.yaml", "pvt_v2_b2").model.backbone.name == "pvt_v2_b2"  # its base is still found
    Path("mine.yaml").write_text("mine\n")
    code, _, err = run(capsys, "cp", "imagenet_pvt_v1", "mine.yaml")
    assert (code, Path("mine.yaml").read_text()) == (2, "mine\n")
    assert "mine.yaml exists" in err


def test_check_tells_every_fault_of_every_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text(BAD)
    Path("odd.yaml").write_text("model.backbone.name: pvt_tinny\n")
    code, out, err = run(capsys, "check", "small_photos", "bad.yaml", "odd.yaml")
    assert code == 2
    assert out == "small_photos: fine (3 runs: rows x profiles)\n"
    assert 'train.epochs: should be a valid integer, not "many" (bad.yaml:2)' in err
    assert "train.optimizer.lrr: unknown key (bad.yaml:2), did you mean lr?" in err
    assert (
        "odd.yaml: model.backbone.name: no backbone is called 'pvt_tinny' (profile paper), did you mean pvt_tiny" in err
    )
    code, out, _ = run(capsys, "check", "bad.yaml", "--json")
    assert code == 2
    assert len(json.loads(out)["files"][0]["faults"]) == 2


def test_all_recipes_check(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "check", *recipe_names())
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == len(recipe_names())


def test_diff(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "diff", "imagenet_pvt_v1:pvt_small", "imagenet_pvt_v1:pvt_medium", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["a"] == "imagenet_pvt_v1:pvt_small@paper"
    assert document["differences"]["model.backbone.drop_path_rate"] == [0.1, 0.3]
    assert document["differences"]["train.clip_grad"] == [None, 1.0]
    assert not any(key.startswith(("provenance.", "data.")) for key in document["differences"])
    code, out, _ = run(capsys, "diff", "small_photos", "small_photos@mini")
    assert code == 0
    assert "data.name" in out
    code, out, err = run(capsys, "diff", "small_photos", "small_photos")
    assert (code, out) == (0, "")
    assert "are the same run" in err


def test_schema_takes_every_recipe_and_refuses_a_bad_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "schema")
    assert code == 0
    schema = json.loads(out)
    assert schema == file_schema()
    augment, head = schema["$defs"]["Augment"]["properties"], schema["$defs"]["DptOptions"]["properties"]
    assert augment["repeats"]["description"].startswith("Repeated augmentation: copies of an image")
    assert all("description" in head[name] for name in ("readout", "taps", "scale_shift"))
    for name in recipe_names():
        assert complaints(read_yaml(recipe_path(name)).data, schema, schema) == []
    bad = {"train": {"epochs": "many", "optimzer": {}}, "rows": {"a": {"dat": {}}, "b": {"expect": {"top1": "x"}}}}
    assert complaints(bad, schema, schema) == ["train.epochs", "train.optimzer", "rows.a.dat", "rows.b.expect.top1"]


def complaints(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "") -> list[str]:
    """Where `value` breaks `schema`: the few words of JSON Schema that ours uses, as an editor understands them."""
    if "$ref" in schema:
        return complaints(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    if "anyOf" in schema:
        options = [complaints(value, option, root, at) for option in schema["anyOf"]]
        return [] if [] in options else [at]
    names = schema.get("type", [])
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kinds |= {"integer": int, "number": (int, float)}
    for name in [names] if isinstance(names, str) else names:
        if isinstance(value, kinds[name]) and not (isinstance(value, bool) and name in ("integer", "number")):
            break
    else:
        if names:
            return [at]
    if "enum" in schema and value not in schema["enum"]:
        return [at]
    if not isinstance(value, dict):
        return []
    found = []
    for key, inner in value.items():
        here = f"{at}.{key}" if at else key
        patterns = [rule for pattern, rule in schema.get("patternProperties", {}).items() if re.search(pattern, key)]
        rule = schema.get("properties", {}).get(key) or next(iter(patterns), schema.get("additionalProperties", {}))
        if rule is False:
            found.append(here)
        elif isinstance(rule, dict):
            found += complaints(inner, rule, root, here)
    return found
