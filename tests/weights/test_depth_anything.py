"""Depth Anything: parity with transformers, the original layout, metric models, and what the files do not say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pvtctl.cli.main import main as cli_main
from pvtctl.errors import UsageError
from pvtctl.export import export_layout
from pvtctl.io.console import say_once
from pvtctl.models.dense import DenseModel, build_depth_model
from pvtctl.models.layers.shapes import without_values
from pvtctl.tasks.dense.inference import to_metres
from pvtctl.weights.build import model_from_checkpoint
from pvtctl.weights.convert import convert_file
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.inspect import inspect_file
from pvtctl.weights.layouts import depth_anything
from pvtctl.weights.load import load_checkpoint

pytest.importorskip("timm", reason="needs the timm extra")
transformers = pytest.importorskip("transformers", reason="needs the hub extra")

WIDTH, DEPTH, SIDE = 32, 4, 56
NAME = "vit_tried_patch14_dinov2"
OPTIONS = ("--head-option", "taps=1,2,3,4", "--head-option", "max_depth=20")


@pytest.fixture(scope="module", autouse=True)
def small_dinov2() -> Iterator[None]:
    from timm.models._registry import _model_entrypoints, register_model
    from timm.models.vision_transformer import _create_vision_transformer

    def small(pretrained: bool = False, **options: Any) -> nn.Module:
        sizes = {"patch_size": 14, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2, "init_values": 0.1}
        return _create_vision_transformer(
            "vit_small_patch14_dinov2", pretrained, **{**sizes, "img_size": SIDE, **options}
        )

    small.__name__, small.__module__ = NAME, "timm.models.vision_transformer"
    register_model(small)
    yield
    _model_entrypoints.pop(NAME)


def theirs(**config: Any) -> Any:
    """A small random model of transformers, values that training starts from 0 or 1 shaken."""
    backbone = transformers.Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    torch.manual_seed(0)
    model = transformers.DepthAnythingForDepthEstimation(
        transformers.DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=WIDTH,
            neck_hidden_sizes=[4, 8, 16, 32],
            fusion_hidden_size=16,
            **config,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        model.head.conv3.weight.mul_(10)
        model.head.conv3.bias.add_(1)
    return model


@pytest.fixture(scope="module")
def relative() -> Any:
    return theirs()


def ours_from(model: Any, folder: Path) -> DenseModel:
    """The model read from what transformers saves, with all that the folder says."""
    model.save_pretrained(folder)
    found = model_from_checkpoint(inspect_checkpoint(folder, f"timm:{NAME}"))
    assert isinstance(found, DenseModel)
    return found.eval()


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("size", [(56, 56), (42, 70), (84, 112)], ids=str)
def test_inverse_depth_equals_transformers(relative: Any, tmp_path: Path, size: tuple[int, int]) -> None:
    ours = ours_from(relative, tmp_path)
    assert ours.scale_shift is None
    batch = images(*size)
    with torch.inference_mode():
        expected = relative(batch).predicted_depth
        found = ours(batch)
    assert found.shape == (2, 1, *size)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_metres_equal_transformers(tmp_path: Path) -> None:
    metric = theirs(depth_estimation_type="metric", max_depth=20)
    ours = ours_from(metric, tmp_path)
    assert ours.scale_shift == (1.0, 0.0)
    with torch.inference_mode():
        expected = metric(images(56, 84)).predicted_depth
        found = to_metres(ours(images(56, 84))[:, 0], ours.scale_shift)
    assert 0.1 < expected.min() < expected.max() < 20
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", [False, True])
def test_a_folder_is_written_that_transformers_reads(tmp_path: Path, metric: bool) -> None:
    source = theirs(**({"depth_estimation_type": "metric", "max_depth": 20} if metric else {}))
    ours = ours_from(source, tmp_path / "theirs")
    report = export_layout(ours, tmp_path / "out", "transformers")
    assert (report.model, report.compared_with) == ("DepthAnythingForDepthEstimation", "transformers")
    again = transformers.DepthAnythingForDepthEstimation.from_pretrained(tmp_path / "out").eval()
    with torch.inference_mode():
        torch.testing.assert_close(again(images(56, 84))[0], source(images(56, 84))[0], rtol=1e-6, atol=1e-6)
    read = model_from_checkpoint(inspect_checkpoint(tmp_path / "out", f"timm:{NAME}"))
    assert isinstance(read, DenseModel)
    assert read.scale_shift == ours.scale_shift
    assert all(torch.equal(value, read.state_dict()[key]) for key, value in ours.state_dict().items())


def test_what_their_configuration_cannot_say_is_refused(tmp_path: Path) -> None:
    for options, message in (
        ({"max_depth": 12.5}, "in whole metres, and this model's is 12.5"),
        ({"readout": "project"}, "ignores the class token"),
        ({}, "no scale and shift"),
    ):
        model = build(**options)
        model.scale_shift = (0.1, 0.2) if not options else None
        with pytest.raises(UsageError, match=message):
            export_layout(model, tmp_path / "out", "transformers")


def test_sides_that_patches_do_not_divide_are_padded(relative: Any, tmp_path: Path) -> None:
    ours = ours_from(relative, tmp_path)
    assert ours.padded((50, 60)) == (56, 70)
    with torch.inference_mode():
        found = ours.at_size(ours(images(50, 60)), (50, 60))
        whole = ours(nn.functional.pad(images(50, 60), (0, 10, 0, 6)))
    torch.testing.assert_close(found, whole[:, :, :50, :60])


def original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """pvtctl's names of a model as those of the original files, with the parameters that they hold besides."""
    found = {"pretrained.mask_token": torch.zeros(1, WIDTH)}
    units = {"skip": "resConfUnit1", "unit": "resConfUnit2"}
    convolutions = {"first.0": "conv1", "second": "conv2"}
    outputs = {"first": "output_conv1", "second": "output_conv2.0", "last": "output_conv2.2"}
    for name, value in state.items():
        parts, leaf = name.split("."), name.rpartition(".")[2]
        if name.startswith("backbone.net.model."):
            key = f"pretrained.{name.removeprefix('backbone.net.model.')}"
        elif parts[1] == "reassemble":
            kind = {"project": "projects", "resample": "resize_layers"}[parts[3]]
            key = f"depth_head.{kind}.{parts[2]}.{leaf}"
        elif parts[2] == "narrow":
            key = f"depth_head.scratch.layer{int(parts[3]) + 1}_rn.{leaf}"
        elif parts[1] == "output":
            key = f"depth_head.scratch.{outputs[parts[2]]}.{leaf}"
        elif parts[4] == "mix":
            key = f"depth_head.scratch.refinenet{int(parts[3]) + 1}.out_conv.{leaf}"
        else:
            inner = convolutions[".".join(parts[5:-1])]
            key = f"depth_head.scratch.refinenet{int(parts[3]) + 1}.{units[parts[4]]}.{inner}.{leaf}"
        found[key] = value
    unused = {key: value for key, value in found.items() if "refinenet4.resConfUnit2" in key}
    return found | {key.replace("Unit2", "Unit1"): value for key, value in unused.items()}


def build(**options: Any) -> DenseModel:
    head = {"readout": "ignore", "width": 16, **options}
    torch.manual_seed(1)
    return build_depth_model(f"timm:{NAME}", "dpt", head_options=head)


def test_the_original_layout_is_read_into_the_same_model() -> None:
    first, second = build().eval(), build().eval()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    report = load_checkpoint(second, original(first.state_dict()))
    assert report.format == "Depth Anything"
    assert (report.backbone_share, report.above_share) == (1.0, 1.0)
    assert not report.missing
    assert not report.unexpected
    with torch.inference_mode():
        assert torch.equal(first(images(56, 56)), second(images(56, 56)))
    assert "read with blocks 1, 2, 3, 4 and inverse depth" in report.assumed
    assert "V1 (the last four blocks)" in report.assumed
    assert "--head-option taps=1,2,3,4" in report.summary()


def test_a_choice_that_the_file_does_not_say_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """V1, V2 and metric models have files of the same names and shapes."""
    monkeypatch.setitem(depth_anything._BACKBONES, WIDTH, "tried")
    source, out = tmp_path / "a.pth", tmp_path / "a.safetensors"
    torch.save(original(build().state_dict()), source)
    say_once.cache_clear()
    plain: Any = model_from_checkpoint(inspect_checkpoint(source))
    assert "a.pth: read with blocks 1, 2, 3, 4 and inverse depth: V1" in capsys.readouterr().err
    found = inspect_file(source)
    assert "--head-option taps=1,2,3,4" in str(found.unstated)
    assert "taps" not in found.head_options
    for wrong, message in (
        ({"taps": [1, 2, 3, 5]}, "taps: there is no block 5"),
        ({"width": 8}, r"a\.pth has width 16, not 8"),
        ({"tap": [1]}, "dpt has no tap"),
    ):
        with pytest.raises(UsageError, match=message):
            convert_file(source, out, head_options=wrong)
        assert not out.exists()
    with pytest.raises(UsageError, match="no place for options in its official layout"):
        convert_file(source, tmp_path / "b.pth", to="official", head_options={"max_depth": 20})
    assert cli_main(["weights", "convert", str(source), str(out), *OPTIONS]) == 0
    capsys.readouterr()
    model = model_from_checkpoint(inspect_checkpoint(out))
    assert capsys.readouterr().err == ""
    assert inspect_file(out).unstated is None
    metric = build(max_depth=20.0)
    load_checkpoint(metric, source)
    assert isinstance(model, DenseModel)
    assert model.scale_shift == (1.0, 0.0)
    assert all(torch.equal(value, metric.state_dict()[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images(56, 56)), metric.eval()(images(56, 56)))
        assert not torch.equal(model(images(56, 56)), plain.eval()(images(56, 56)))


@pytest.mark.parametrize(("blocks", "last"), [(12, "9,10,11,12"), (24, "21,22,23,24")])
def test_the_blocks_of_v1_are_named(blocks: int, last: str) -> None:
    state = {f"backbone.net.model.blocks.{at}.norm1.weight": torch.zeros(1) for at in range(blocks)}
    for each in depth_anything.FORMATS:
        assert f"taps={last}`" in depth_anything.unstated(each, None, state)
        assert depth_anything.unstated(each, {"taps": [1, 2, 3, 4]}, state) == ""
    assert depth_anything.unstated("isl-org DPT", None, state) == ""


def test_a_missing_part_is_refused() -> None:
    state = original(build().state_dict())
    for name in [name for name in state if "refinenet2" in name or "refinenet1.resConf" in name]:
        del state[name]
    with pytest.raises(UsageError, match="of another make"):
        load_checkpoint(build(), state)


def test_the_names_of_earlier_transformers_are_known(relative: Any) -> None:
    ours, again = build(), build()
    state = relative.state_dict()
    earlier = {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "o_proj": "output.dense",
    }
    renamed = {}
    for key, value in state.items():
        part = next((part for part in earlier if f"attention.{part}." in key), None)
        renamed[key if part is None else key.replace(part, earlier[part])] = value
    assert renamed.keys() != state.keys() or "attention.attention.query" in " ".join(state)
    load_checkpoint(ours, state)
    load_checkpoint(again, renamed)
    assert all(torch.equal(x, y) for x, y in zip(ours.state_dict().values(), again.state_dict().values(), strict=True))


def test_published_sizes_are_identified_by_their_width() -> None:
    from pvtctl.weights.recognise import convert_state, identify

    with without_values():
        model = build_depth_model(
            "timm:vit_small_patch14_dinov2", "dpt", head_options={"readout": "ignore", "width": 64}
        )
    found = convert_state(original(model.state_dict()))
    assert found.format == "Depth Anything"
    assert identify(found.state) == ["timm:vit_small_patch14_dinov2"]


def test_a_metric_head_learns_from_the_start_in_both_spaces() -> None:
    for options in ({"max_depth": 10.0}, {}):
        model = build(**options).train()
        model(images(56, 56)).square().mean().backward()
        assert all(parameter.grad is not None for name, parameter in model.head.named_parameters())


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="gives metres already"):
        build(max_depth=10.0, scale_shift=(0.5, 0.1))
    with pytest.raises(UsageError, match="taps: there is no block 5"):
        build(taps=(1, 2, 3, 5))
    with pytest.raises(UsageError, match="have no blocks to read"):
        build_depth_model("pvt_v2_b0", "dpt", head_options={"reads": "tokens"})
    with pytest.raises(UsageError, match="needs a class token"), without_values():
        build_depth_model("timm:vit_base_patch16_siglip_gap_224", "dpt", head_options={"readout": "project"})


def test_metadata_of_a_damaged_folder_is_told(relative: Any, tmp_path: Path) -> None:
    relative.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["depth_estimation_type"], config["max_depth"] = "metric", -1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="max_depth"):
        model_from_checkpoint(inspect_checkpoint(tmp_path, f"timm:{NAME}"))
