"""Backbones with other sizes than their papers', `NAME+option=value`: names, models, what does not fit, and checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models import registry
from pvtctl.models.backbone_names import join_name, split_list, split_name
from pvtctl.models.backbones import Backbone, build_backbone, build_classifier
from pvtctl.models.detector import build_detector
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.registry import BackboneOptions, BackboneSpec, backbone_spec, backbone_specs, register
from pvtctl.weights.convert import model_of
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.save import save_safetensors

TINY = "pvt_v2_b0@0.25+depths=1,1,1,1"


@pytest.mark.parametrize(
    "text",
    ["pvt_small", "pvt_small@0.25", "a+b=1,2,3", "a@2+b=true+c=0.5", "timm:a@b", "a+b=word", "a+b=[[1],[2,3]]+c=[7]"],
)
def test_names_are_split_and_joined(text: str) -> None:
    assert join_name(*split_name(text)) == text


@pytest.mark.parametrize(
    "value", [1, 1e-9, 1e9, True, None, "x", "8,4", "a+b=c", "", [1], [1, 2], ["a", "b"], [[1]], {"a": 1}]
)
def test_any_plain_value_can_be_in_a_name(value: object) -> None:
    assert split_name(join_name("a", 0.5, {"b": value, "c": 2})).options == {"b": value, "c": 2}


def test_commas_separate_names_and_numbers() -> None:
    assert split_list("a+b=8,4,2,1,c, d+e=[x,y],_f+g=true,timm:h") == [
        "a+b=8,4,2,1",
        "c",
        "d+e=[x,y]",
        "_f+g=true",
        "timm:h",
    ]


@pytest.mark.parametrize(
    ("varied", "named"),
    [
        ("pvt_tiny+depths=3,4,6,3", "pvt_small"),
        ("pvt_tiny+depths=3,4,6,3+embed_dims=89,178,445,712", "pvt_small_wide"),
        ("pvt_v2_b1+depths=3,4,6,3+linear_sra=true", "pvt_v2_b2_li"),
        ("pvt_v2_b2+conv_ffn=false", "pvt_v2_b2_plain_ffn"),
        ("deit_tiny_patch16+embed_dim=384+num_heads=6", "deit_small_patch16"),
        ("vit_small_patch4+patch_size=32", "vit_small_patch32"),
        ("resnet50+depths=3,4,23,3", "resnet101"),
        ("resnet50+groups=32+width_per_group=4", "resnext50_32x4d"),
    ],
)
def test_options_make_one_named_model_of_another(varied: str, named: str) -> None:
    with without_values():
        ours, theirs = (build_classifier(name).state_dict() for name in (varied, named))
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


def test_options_that_change_nothing_are_left_out_of_the_name() -> None:
    assert backbone_spec("pvt_small+sr_ratios=8,4,2,1") is backbone_spec("pvt_small")
    narrow = backbone_spec("pvt_small@0.5+num_heads=1,2,5,8+mlp_ratios=4,4,4,4+depths=3,4,6,3")
    assert (narrow.name, narrow.channels) == ("pvt_small@0.5+mlp_ratios=4,4,4,4", (32, 64, 160, 256))
    assert narrow.with_options({"mlp_ratios": [8, 8, 4, 4]}).name == "pvt_small@0.5"
    assert narrow.stated_options["mlp_ratios"] == [4, 4, 4, 4]


def test_widths_above_one_multiply_what_options_say() -> None:
    wide = backbone_spec("pvt_tiny@1.5+embed_dims=32,64,160,256")
    assert wide.channels == (48, 96, 240, 384)
    with without_values():
        assert build_backbone(wide.name).feature_channels == wide.channels
        assert build_backbone("resnet50@2+base_width=32").feature_channels == backbone_spec("resnet50").channels


@pytest.mark.parametrize(
    ("name", "strides", "size"),
    [
        ("pvt_tiny@0.25+patch_sizes=4,2,2,1+sr_ratios=4,3,1,1", (4, 8, 16, 16), (75, 101)),
        ("pvt_v2_b0@0.25+patch_sizes=4,2,1,1+overlap=false", (4, 8, 8, 8), (64, 96)),
        ("pvt_v2_b0@0.25+sr_ratios=1,1,1,1", (4, 8, 16, 32), (33, 47)),
        ("deit_tiny_patch16@0.3+patch_size=14+depth=5", (4, 8, 16, 32), (70, 84)),
        ("vit_hybrid@0.1+depth=4+mlp_ratio=2+num_heads=6", (4, 8, 16, 32), (64, 64)),
        ("resnet18c+base_width=16+depths=1,1,2,1", (4, 8, 16, 32), (75, 101)),
    ],
)
def test_varied_models_keep_the_contract(name: str, strides: tuple[int, ...], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build_classifier(name, num_classes=3, image_size=64).eval()
    with torch.inference_mode():
        maps = model.backbone(torch.randn(1, 3, *size))
        assert model(torch.randn(2, 3, 64, 64)).shape == (2, 3)
    assert model.backbone.feature_strides == strides
    assert tuple(x.shape[1] for x in maps) == model.backbone.feature_channels == backbone_spec(name).channels
    for x, stride in zip(maps, strides, strict=True):
        assert all(abs(side - whole / stride) < 1 for side, whole in zip(x.shape[2:], size, strict=True))
        assert x.isfinite().all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pvt_small+sr_ratios=8,4,2", "sr_ratios should be four numbers, one per stage"),
        ("pvt_small+sr_ratios=x", "sr_ratios should be four numbers, one per stage"),
        ("pvt_small+depths=0,1,1,1", "depths.0 should be greater than or equal to 1"),
        ("pvt_small+depths=1,1,1,1.5", "depths.3 .* integer"),
        ("pvt_small+num_heads=1,2,3,5", "320 of stage 3 .* num_heads 3; .*512 of stage 4 .* num_heads 5"),
        ("pvt_small+patch_sizes=8,2,2,2", "strides 8, 16, 32, 64"),
        ("pvt_small+patch_sizes=4,2,4,1", "strides 4, 8, 32, 32"),
        ("pvt_v2_b2_li+sr_ratios=4,2,1,1", "sr_ratios change nothing under linear_sra"),
        ("pvt_small+sr_ratios=8,4,2,2", "stage 4 of PVT v1 is 1"),
        ("pvt_small+linear_sra=true", "pvt_small has no option linear_sra"),
        ("pvt_v2_b0+linear_sra=yes", "valid boolean"),
        ("deit_small_patch16+num_heads=5", "embed_dim 384 is not a multiple of num_heads 5"),
        ("deit_small_patch16+depth=3", "depth should be greater than or equal to 4"),
        ("vit_hybrid+patch_size=8", "vit_hybrid has no option patch_size"),
        ("resnet18+groups=2", "bottleneck blocks"),
        ("resnet50+base_width=32+width_per_group=1", "less than one"),
        ("resnet50+drop_path_rate=0.1", "resnet50 has no option drop_path_rate"),
        ("timm:resnet18+depth=3", "timm:resnet18 has no option depth"),
        ("pvt_small+depths=1,1,1,1+depths=1,1,1,1", "depths is said twice"),
        ("pvt_small@8.5", "'8.5' is not a width factor"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_backbone(name)


def test_a_reduction_needs_a_whole_cell() -> None:
    model = build_backbone(f"{TINY}+sr_ratios=16,4,2,1").eval()
    with pytest.raises(UsageError, match="too small") as fault:
        model(torch.zeros(1, 3, 63, 64))
    assert fault.value.hint == "both sides must be at least 64 pixels"
    assert len(model(torch.zeros(1, 3, 64, 64))) == 4


def test_detectors_need_the_usual_strides() -> None:
    for head, options in (("retinanet", {}), ("detr", {"num_queries": 3})):
        with pytest.raises(
            UsageError, match="needs maps of strides 4, 8, 16, 32, and this backbone's are 4, 8, 16, 16"
        ):
            build_detector(f"{TINY}+patch_sizes=4,2,2,1", head, num_classes=2, **options)


def test_arguments_are_options_too() -> None:
    made = build_backbone("pvt_v2_b0@0.25", depths=(1, 1, 1, 1), sr_ratios=(4, 2, 1, 1), drop_path_rate=0.1)
    assert made.built_as == f"{TINY}+sr_ratios=4,2,1,1"
    with pytest.raises(UsageError, match="four numbers"):
        build_backbone("pvt_v2_b0", depths=(1, 1))


def test_every_built_in_backbone_states_its_options() -> None:
    for spec in backbone_specs():
        if spec.vary is not None:
            assert list(spec.stated_options) == [*spec.option_names]
            assert all(value is not None for value in spec.stated_options.values())
            assert spec.with_options(spec.stated_options) is spec or spec.stated_options.get("linear_sra")


def saved(folder: Path, name: str) -> Path:
    file = folder / "some.safetensors"
    torch.manual_seed(1)
    save_safetensors(file, build_classifier(name, num_classes=3, image_size=64), {"backbone": name})
    return file


@pytest.mark.parametrize("option", ["num_heads=2,2,5,8", "sr_ratios=4,4,2,1"])  # in no shape; in shapes that many have
def test_a_checkpoints_options_are_believed(option: str, tmp_path: Path) -> None:
    name = f"{TINY}+{option}" if option < "o" else f"pvt_v2_b0@0.25+depths=1,1,1,1+{option}"
    file = saved(tmp_path, backbone_spec(name).name)
    found = inspect_checkpoint(file)
    assert found.backbone == model_of(read_checkpoint(file)) == backbone_spec(name).name
    model = build_classifier(found.backbone, num_classes=3, image_size=64)
    assert load_checkpoint(model, file).backbone_share == 1
    with pytest.raises(UsageError, match=r"holds pvt_v2_b0@0\.25\+.*, and this is pvt_v2_b0@0\.25"):
        load_checkpoint(build_classifier(TINY, num_classes=3, image_size=64), file)
    with pytest.raises(UsageError, match="not pvt_v2_b0"):
        inspect_checkpoint(file, "pvt_v2_b0")


def test_plain_weights_go_into_a_varied_model_only_in_part(tmp_path: Path) -> None:
    file = saved(tmp_path, "pvt_v2_b0@0.25")
    state = dict(build_classifier("pvt_v2_b0@0.25").state_dict())
    for source in (file, state):
        model = build_classifier("pvt_v2_b0@0.25+num_heads=2,2,5,8", num_classes=3)
        with pytest.raises(
            UsageError, match=r"holds pvt_v2_b0@0\.25.*, and this is pvt_v2_b0@0\.25\+num_heads=2,2,5,8"
        ):
            load_checkpoint(model, source)
        assert load_checkpoint(model, source, partial=True).backbone_share == 1
    other = build_classifier("pvt_v2_b0@0.25+sr_ratios=4,4,2,1", num_classes=3)
    report = load_checkpoint(other, file, partial=True)
    assert [name for name, _ in report.mismatched] == [f"backbone.stages.0.blocks.{at}.attn.sr.weight" for at in (0, 1)]


class CellOptions(BackboneOptions):
    kernel: int = 1
    kind: str = "mean"


class Cells(Backbone):
    def __init__(self, kernel: int, kind: str) -> None:
        super().__init__((4, 4, 4, 4))
        self.stem = nn.Conv2d(3, 4, kernel, padding=kernel // 2)
        self.kind = kind

    def forward(self, images: Tensor) -> list[Tensor]:
        pool = nn.functional.max_pool2d if self.kind == "max" else nn.functional.avg_pool2d
        return [pool(self.stem(images), stride, ceil_mode=True) for stride in (4, 8, 16, 32)]


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone_specs()
    monkeypatch.setattr(registry, "_backbones", dict(registry._backbones))
    build = lambda options: Cells(options.kernel, options.kind)  # noqa: E731
    register(
        BackboneSpec(name="cells", family="cells", Options=CellOptions, build=build, params=1, channels=(4, 4, 4, 4))
    )


def test_a_registered_backbones_options_are_as_the_built_in_ones(cells: None, tmp_path: Path) -> None:
    spec = backbone_spec("cells+kernel=3+kind=max")
    assert (spec.stated_options, spec.params, spec.channels) == ({"kernel": 3, "kind": "max"}, None, None)
    made = build_backbone(spec.name)
    assert (made.stem.kernel_size, made.kind, made.built_as) == ((3, 3), "max", "cells+kernel=3+kind=max")
    assert build_backbone("cells", kernel=5).stem.kernel_size == (5, 5)
    with pytest.raises(UsageError, match="kernel should be a valid integer"):
        backbone_spec("cells+kernel=x")
    file = saved(tmp_path, "cells+kind=max")
    assert inspect_checkpoint(file).backbone == "cells+kind=max"
    with pytest.raises(UsageError, match=r"holds cells\+kind=max, and this is cells"):
        load_checkpoint(build_classifier("cells", num_classes=3), file)
