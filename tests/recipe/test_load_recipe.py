"""From file, base, row, profile and --set to one recipe; every fault with its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from pvtctl.errors import ExitCode, UsageError
from pvtctl.models.registry import HeadOptions, head_spec, head_specs
from pvtctl.recipe import load
from pvtctl.recipe.layers import known_keys, needs_list
from pvtctl.recipe.load import dump, find_profile, find_row, flat, load_recipe, resolve, rows_of
from pvtctl.recipe.source import RecipeFaults, read_recipe, recipe_names, recipe_path, recipes_folder

PROFILES = ("paper", "mini", "smoke")
SMALL = "model.backbone.name: pvt_tiny\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faults_of(text: str, row: str | None = None, profile: str = "paper", sets: tuple[str, ...] = ()) -> list[str]:
    Path("x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeFaults) as caught:
        load_recipe("x.yaml", row, profile, sets)
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.hint
    return caught.value.faults


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("train.optimzer.lr: 1", "train.optimzer: unknown key (x.yaml:2), did you mean optimizer?"),
        ("train: {optimizer: {lrr: 1}}", "train.optimizer.lrr: unknown key (x.yaml:2), did you mean lr?"),
        (
            "train.layer_decay: 0.5",
            "train.layer_decay: unknown key (x.yaml:2), did you mean train.optimizer.layer_decay?",
        ),
        ("row: {a: {}}", "row: takes a value, not keys (x.yaml:2)"),
        ("profiles.mini.train.epochs: 1", "profiles: takes a block of its own, not keys with dots (x.yaml:2)"),
        ("profile_s: {}", "profile_s: unknown key (x.yaml:2), did you mean profiles or profile?"),
        ("train.optimizer.lr: abc", 'train.optimizer.lr: should be a valid number, not "abc" (x.yaml:2)'),
        ("train.optimizer.lr: true", "train.optimizer.lr: should be a valid number, not true (x.yaml:2)"),
        ("train.optimizer.lr: 0", "train.optimizer.lr: should be greater than 0, not 0 (x.yaml:2)"),
        ("train.epochs: 1.5", "train.epochs: should be a valid integer, not 1.5 (x.yaml:2)"),
        ('train.epochs: "3"', 'train.epochs: should be a valid integer, not "3" (x.yaml:2)'),
        ("train.epochs: 0", "train.epochs: should be greater than or equal to 1, not 0 (x.yaml:2)"),
        ("train.compile: yes", 'train.compile: should be a valid boolean, not "yes" (x.yaml:2)'),
        (
            "train.optimizer.name: adan",
            "train.optimizer.name: should be 'adamw', 'adam' or 'sgd', not \"adan\" (x.yaml:2), did you mean adam or adamw?",
        ),
        (
            "data.augment.crop_scale: [0.5, x]",
            'data.augment.crop_scale: item 1 should be a valid number, not "x" (x.yaml:2)',
        ),
        ("train.epochs: {a: 1}", "train.epochs: takes a value, not keys (x.yaml:2)"),
        (
            "train.optimizer.betas: [1.0, 0.9]",
            "train.optimizer.betas: item 0 should be less than 1, not 1.0 (x.yaml:2)",
        ),
        (
            "train: 3",
            "train: takes keys (epochs, iterations, loss, total_batch, ",
        ),
        ("train.epochs: 3\ntrain: {epochs: 4}", "train.epochs: said twice (x.yaml:3), also in x.yaml:2"),
        ("train.epochs: 3\ntrain.epochs: 4", "train.epochs: repeated key (x.yaml:3), first said in line 2"),
        ("train..epochs: 3", "'train..epochs' is not a key (x.yaml:2)"),
        (
            "provenance: {train.epoch: paper}",
            "provenance.train.epoch: is about a key that recipes do not have (x.yaml:2)",
        ),
        ("rows: [a]", "rows: names with settings are expected (x.yaml:2)"),
        ("rows: {a: 3}", "rows.a: settings are expected, not 3 (x.yaml:2)"),
        ("rows: {a b: {}}", "rows.a b: a row's name is letters, digits, _ and - (x.yaml:2)"),
        ("printed: {a: {title: A}}", "printed.a.expect: missing (x.yaml:2)"),
        ("base: 3", "base: the name or path of a recipe, not 3 (x.yaml:2)"),
        ("base: imagenet_pvt_v3", "base: there is no recipe 'imagenet_pvt_v3' (x.yaml:2)"),
        ("base: x.yaml", "base: goes round in a circle: x -> x (x.yaml:2)"),
    ],
)
def test_one_fault(here: Path, line: str, fault: str) -> None:
    assert faults_of(f"{SMALL}{line}\n")[0].startswith(fault)


def test_all_faults_at_once_with_their_lines(here: Path) -> None:
    text = """\
model.backbone.name: pvt_tiny
train:
  epochs: many
  epochs: 3
  optimizer: {lr: abc}
rows:
  one:
    data.image_sise: 64
  two: {expect: {top1: high}}
profiles:
  mini: {train.total_batch: -1}
"""
    faults = faults_of(text, row="one", sets=("train.seed=x", "train.sed=1", "nothing"))
    assert faults == [
        "--set nothing: write it as key.path=value",
        "train.sed: unknown key (--set train.sed=1), did you mean seed?",
        'train.seed: should be a valid integer, not "x" (--set train.seed=x)',
        'train.epochs: should be a valid integer, not "many" (x.yaml:3)',
        "train.epochs: repeated key (x.yaml:4), first said in line 3",
        'train.optimizer.lr: should be a valid number, not "abc" (x.yaml:5)',
        "data.image_sise: unknown key (x.yaml:8), did you mean image_size or val_images?",
        'expect.top1: takes keys (paper, code, note), not "high" (x.yaml:9)',
        "train.total_batch: should be greater than or equal to 1, not -1 (x.yaml:11)",
    ]
    (fault,) = faults_of("model.backbone.name: pvt_tiny\n", sets=("data.shards.train={0..9}.tar",))
    assert fault.endswith("""; text that is no YAML needs quotes: --set 'data.shards.train="TEXT"'""")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.freeze=backbone", ["backbone"]),
        ("train.freeze=stem, stage1", ["stem", "stage1"]),
        ("train.freeze=[stem]", ["stem"]),
        ("train.schedule.steps=8,11.5", [8, 11.5]),
        ("train.schedule.steps=8", [8]),
        ("data.detection.short_sides=640", [640]),
        ("data.augment.crop_scale=0.1,1", [0.1, 1]),
        ("model.backbone.options.sr_ratios=4,2,1,1", [4, 2, 1, 1]),
        ("model.head.taps=R0,R1,9,12", ["R0", "R1", 9, 12]),
        ("module=a.py", "a.py"),
        ("train.freeze=null", None),
    ],
)
def test_a_list_in_a_setting_needs_no_brackets(setting: str, value: object) -> None:
    layer, faults = load._override_layer([setting])
    assert not faults
    assert list(layer.values.values()) == [value]


def test_every_list_of_words_takes_one_word(here: Path) -> None:
    keys = [".".join(path) for path in known_keys() if needs_list(path, "word")]
    assert {"train.freeze", "eval.ratios", "data.depth.size", "model.backbone.options.depths"} <= set(keys)
    for key in keys:
        assert load.read_value(key, "word") == ["word"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("train.freeze: backbone", 'train.freeze: should be a list, not "backbone" (x.yaml:2), write ["backbone"]'),
        ("train.schedule.steps: 8", "train.schedule.steps: should be a list, not 8 (x.yaml:2), write [8]"),
        ("train.freeze: 3", "train.freeze: should be a list, not 3 (x.yaml:2)"),
        ("train.freeze: [3]", "train.freeze: item 0 should be a valid string, not 3 (x.yaml:2)"),
        ("data.augment.crop_scale: [0.5]", "data.augment.crop_scale: should have more values than [0.5] (x.yaml:2)"),
        ("data.augment.crop_scale: 0.5", "data.augment.crop_scale: should be a list, not 0.5 (x.yaml:2)"),
    ],
)
def test_a_list_in_a_file_is_a_list(here: Path, line: str, fault: str) -> None:
    assert faults_of(f"{SMALL}{line}\n") == [fault]


def test_a_missing_backbone_is_told(here: Path) -> None:
    assert faults_of("train.epochs: 3\n") == ["model: missing (x.yaml)"]
    assert faults_of("model.backbone.drop_path_rate: 0.1\n") == ["model.backbone.name: missing (x.yaml:1)"]


def test_precedence(here: Path) -> None:
    Path("base.yaml").write_text(f"{SMALL}train: {{epochs: 2, total_batch: 2, seed: 2, keep_checkpoints: 2}}\n")
    Path("x.yaml").write_text(
        "base: base\ntrain: {total_batch: 3, seed: 3, keep_checkpoints: 3, save_minutes: 3}\n"
        "rows: {a: {train: {seed: 4, keep_checkpoints: 4, save_minutes: 4}}, b: {}}\n"
        "profiles: {mini: {train: {keep_checkpoints: 5, save_minutes: 5}}}\n"
    )
    train = load_recipe("x.yaml", "a", "mini", ["train.save_minutes=6"]).train
    assert (train.accumulate, train.epochs, train.total_batch) == (1, 2, 3)  # default, base, recipe
    assert (train.seed, train.keep_checkpoints, train.save_minutes) == (4, 5, 6)  # row, profile, --set
    assert load_recipe("x.yaml", "b").train.seed == 3
    origins = {
        ".".join(path): str(origin) for path, origin in resolve("x.yaml", "a", "mini", ["train.seed=9"]).origins.items()
    }
    assert origins["train.epochs"] == "base base, base.yaml:2"
    assert origins["train.total_batch"] == "recipe, x.yaml:2"
    assert origins["train.save_minutes"] == "profile mini, x.yaml:4"
    assert origins["train.seed"] == "--set"


def test_a_profile_of_the_base_lies_below_the_file(here: Path) -> None:
    Path("base.yaml").write_text(
        f"{SMALL}about: base\nprofiles: {{mini: {{train: {{epochs: 1, seed: 1, accumulate: 2}}}}}}\nrows: {{z: {{}}}}\n"
    )
    Path("x.yaml").write_text("base: base.yaml\nrows: {a: {train.epochs: 9}}\nprofiles: {mini: {train.seed: 2}}\n")
    recipe = load_recipe("x.yaml", profile="mini")
    assert (recipe.row, recipe.train.epochs, recipe.train.seed, recipe.train.accumulate) == ("a", 9, 2, 2)
    assert recipe.about is None  # what a base is called is not inherited
    assert rows_of("x.yaml") == ["a"]
    assert list(read_recipe("x.yaml").profiles) == ["paper", "mini"]


def test_a_profile_may_say_more_of_a_row(here: Path) -> None:
    Path("x.yaml").write_text(
        f"{SMALL}rows: {{a: {{train.epochs: 9}}, b: {{}}}}\n"
        "profiles: {mini: {train.epochs: 2, rows: {a: {train: {epochs: 3, seed: 4}}}}, smoke: {train.epochs: 1}}\n"
    )
    epochs = {(row, profile): load_recipe("x.yaml", row, profile).train.epochs for row in "ab" for profile in PROFILES}
    assert [epochs["a", profile] for profile in PROFILES] == [9, 3, 1]
    assert [epochs["b", profile] for profile in PROFILES] == [300, 2, 1]
    resolved = resolve("x.yaml", "a", "mini", ["train.seed=5"])
    assert resolved.recipe.train.seed == 5
    assert str(resolved.origins["train", "epochs"]) == "profile mini, row a, x.yaml:3"
    Path("y.yaml").write_text("base: x.yaml\nrows: {a: {}}\n")  # rows are the file's own, at any scale
    assert load_recipe("y.yaml", "a", "mini").train.epochs == 2


def test_faults_in_what_a_profile_says_of_rows(here: Path) -> None:
    text = f"{SMALL}rows: {{a: {{}}}}\nprofiles:\n  mini:\n    rows:\n      ab: {{}}\n      a: {{train.epochz: 1}}\n  smoke: {{rows: 1}}\n"
    assert faults_of(text, row="a") == [
        "profiles.mini.rows.ab: there is no such row (x.yaml:6), did you mean a?",
        "train.epochz: unknown key (x.yaml:7), did you mean epochs?",
        "profiles.smoke.rows: names with settings are expected (x.yaml:8)",
    ]


def test_merging(here: Path) -> None:
    Path("x.yaml").write_text(
        "model.backbone: {name: pvt_small, drop_path_rate: 0.3}\n"
        "paper: {key: pvt_v1, table: 2}\n"
        "data: {name: imagenet, image_size: 96, augment.crop_scale: [0.1, 1]}\n"
        "train.optimizer: {lr: 1e-2, betas: [0.8, 0.9]}\n"
        "rows:\n"
        "  merged: {train.optimizer.betas: [0.7, 0.99], model.backbone.freeze_norm: false}\n"
        "  renamed: {model.backbone.name: resnet50, train.optimizer: {name: sgd, momentum: 0.8}}\n"
        "  same: {model.backbone.name: pvt_small, train.optimizer.name: adamw}\n"
        "  other_data: {data.name: scenes}\n"
        "  no_paper: {paper: null}\n"
    )
    merged = load_recipe("x.yaml", "merged")
    assert merged.train.optimizer.betas == (0.7, 0.99)  # lists replace
    assert merged.train.optimizer.lr == 1e-2  # mappings merge
    assert merged.model.backbone.drop_path_rate == 0.3
    renamed = load_recipe("x.yaml", "renamed")
    assert renamed.model.backbone.drop_path_rate == 0.0  # another name: the old block is gone
    assert (renamed.train.optimizer.lr, renamed.train.optimizer.momentum) == (1e-3, 0.8)
    same = load_recipe("x.yaml", "same")
    assert (same.model.backbone.drop_path_rate, same.train.optimizer.lr) == (0.3, 1e-2)
    assert load_recipe("x.yaml", "other_data").data.image_size == 96  # data keeps the rest
    assert load_recipe("x.yaml", "no_paper").paper is None
    sets = ["model.backbone.drop_path_rate=0.2", "model.backbone.name=pvt_v2_b0"]  # in any order
    assert load_recipe("x.yaml", "merged", overrides=sets).model.backbone.drop_path_rate == 0.2
    assert load_recipe("x.yaml", "no_paper", overrides=["paper.key=dpt"]).paper is not None


def test_overrides_are_yaml_or_plain_values(here: Path) -> None:
    Path("x.yaml").write_text(SMALL)
    sets = [
        "train.optimizer.lr=3e-4",
        "train.seed=1",
        "train.seed=2",
        "train.optimizer.betas=[0.8, 0.95]",
        "train.ema={enabled: true, decay: 0.9}",
        "train.clip_grad=",
        ("data.path", "/a b/#c: d"),
        ("train.channels_last", "on"),
    ]
    recipe = load_recipe("x.yaml", overrides=sets)
    assert (recipe.train.optimizer.lr, recipe.train.seed, recipe.train.optimizer.betas) == (3e-4, 2, (0.8, 0.95))
    assert (recipe.train.ema.decay, recipe.train.clip_grad) == (0.9, None)
    assert (recipe.data.path, recipe.train.channels_last) == ("/a b/#c: d", "on")
    assert faults_of(SMALL, sets=("train.seed=[1",))[0].startswith("--set train.seed=[1: ")


def test_unknown_rows_and_profiles(here: Path) -> None:
    Path("x.yaml").write_text(f"{SMALL}rows: {{small: {{}}, tiny: {{}}}}\nprofiles: {{mini: {{}}}}\n")
    for row, profile, message, hint in [
        (None, "paper", "recipe x has 2 rows: say which", "--row small | tiny"),
        ("smal", "paper", "recipe x has no row 'smal'", "did you mean small?"),
        ("tiny", "minni", "recipe x has no profile 'minni'", "did you mean mini?"),
    ]:
        with pytest.raises(UsageError) as caught:
            load_recipe("x.yaml", row, profile)
        assert (caught.value.message, (caught.value.hint or "").lower()) == (message, hint)
    with pytest.raises(UsageError, match="printed only: starred row"):
        load_recipe("imagenet_pvt_v1", "resnet18_own")


def test_unknown_recipes() -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("imagenet_pvt_v3")
    assert caught.value.hint == "did you mean imagenet_pvt_v2 or imagenet_pvt_v1?"
    with pytest.raises(UsageError, match=r"there is no recipe file nowhere/x\.yaml"):
        load_recipe("nowhere/x.yaml")


def test_a_dumped_recipe_reads_back_equal(here: Path) -> None:
    recipe = load_recipe("imagenet_pvt_v1", "pvt_medium", "mini", ["train.seed=5", "data.path=/some/where"])
    Path("recipe.yaml").write_text(dump(recipe), encoding="utf-8")
    assert load_recipe("recipe.yaml") == recipe
    assert load_recipe("recipe.yaml", overrides=["train.seed=6"]).train.seed == 6


def test_flat_names_every_value() -> None:
    values = flat(load_recipe("imagenet_pvt_v1", "pvt_small"))
    assert values["train.optimizer.lr"] == 1e-3
    assert values["data.augment.crop_scale"] == [0.08, 1.0]
    assert values["expect.top1_err.paper"] == 20.2
    assert values["train.seed"] == 0  # a default


def test_find_row() -> None:
    assert find_row("imagenet", "pvt_small") == ("imagenet_pvt_v1", "pvt_small")
    assert find_row("imagenet", "resnet50") == ("imagenet_pvt_v1", "resnet50")
    assert find_row("imagenet", "pvt_v2_b2_li") == ("imagenet_pvt_v2", "pvt_v2_b2_li")
    assert find_row("imagenet", "timm:swin_tiny_patch4_window7_224") == ("imagenet_pvt_v2", "swin_t")
    assert find_row("scenes", "pvt_tiny") == ("imagenet_pvt_v1", "pvt_tiny")
    assert find_profile("imagenet_pvt_v1", "imagenet") == "paper"
    assert find_profile("imagenet_pvt_v2", "scenes") == "mini"
    with pytest.raises(UsageError, match="no recipe trains 'pvt_smal' on imagenet") as caught:
        find_row("imagenet", "pvt_smal")
    assert "pvt_small" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="no recipe of a paper trains on 'imagnet'") as caught:
        find_row("imagnet", "pvt_small")
    assert "imagenet" in (caught.value.hint or "")


def test_recipes_are_found_in_a_checkout_and_in_an_installed_package(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "pvtctl"
    (package / "_recipes").mkdir(parents=True)
    assert recipes_folder(package) == package / "_recipes"
    checkout = tmp_path / "checkout"
    (checkout / "recipes").mkdir(parents=True)
    assert recipes_folder(checkout / "pvtctl") == checkout / "recipes"
    for name in recipe_names():
        assert recipe_path(name).is_file()


def test_a_file_is_read_again_when_it_its_base_or_the_heads_have_changed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("low.yaml").write_text("train.epochs: 1\nprofiles: {p: {train.total_batch: 4}}\n")
    Path("x.yaml").write_text(SMALL + "base: low\nprofiles: {p: {train.optimizer.lr: 0.5}, q: {}}\n")
    for _ in range(2):  # the second time from what is remembered
        source = read_recipe("x.yaml")
        assert [len(source.shared), len(source.profiles["p"]), list(source.profiles)] == [2, 2, ["paper", "p", "q"]]
        assert list(read_recipe("low.yaml").profiles) == ["paper", "p"]
    assert load_recipe("x.yaml", profile="p").train.epochs == 1
    Path("low.yaml").write_text("train.epochs: 2\nprofiles: {p: {train.total_batch: 4}}\n")
    assert load_recipe("x.yaml", profile="p").train.epochs == 2
    Path("x.yaml").write_text(SMALL + "model.head: {name: fpn_of_mine}\n")
    assert len(read_recipe("x.yaml").faults) == 1

    class Options(HeadOptions):
        name: Literal["fpn_of_mine"] = "fpn_of_mine"

    spec = replace(head_spec("semantic_fpn"), name="fpn_of_mine", Options=Options)
    monkeypatch.setattr("pvtctl.recipe.layers.head_specs", lambda: [*head_specs(), spec])
    assert read_recipe("x.yaml").faults == []
