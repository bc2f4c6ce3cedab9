"""`timm:NAME`: any family gives the pyramid at any size, and timm's own classifier's logits."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.models.backbones import (
    TimmBackbone,
    build_backbone,
    build_classifier,
    layer_depths,
    set_activation_checkpointing,
)
from pvtctl.models.backbones.timm_sizes import resample_table
from pvtctl.models.dense import build_depth_model, build_segmenter
from pvtctl.weights.build import model_from_checkpoint
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.identify import identify_head
from pvtctl.weights.load import load_checkpoint

timm = pytest.importorskip("timm", reason="needs the timm extra")


@pytest.fixture(scope="module", autouse=True)
def small_models() -> Iterator[None]:
    """Small models of families that have none in timm, registered there for this file."""
    from timm.models._registry import _model_entrypoints, register_model
    from timm.models.hiera import _create_hiera
    from timm.models.levit import create_levit
    from timm.models.nest import _create_nest
    from timm.models.vision_transformer import _create_vision_transformer

    def small_vit_patch14_dinov2(pretrained: bool = False, **options: Any) -> nn.Module:
        sizes = {"patch_size": 14, "embed_dim": 32, "depth": 4, "num_heads": 2, "init_values": 1e-1}
        return _create_vision_transformer("vit_small_patch14_dinov2", pretrained, **{**sizes, **options})

    small_vit_patch14_dinov2.__name__ = "vit_tried_patch14_dinov2"

    def tried_levit(pretrained: bool = False, **options: Any) -> nn.Module:
        sizes = {"embed_dim": (16, 24, 32), "key_dim": 8, "num_heads": (1, 2, 2), "depth": (1, 1, 1)}
        return create_levit("levit_128s", pretrained=pretrained, **{**sizes, "distilled": False, **options})

    def tried_distilled(pretrained: bool = False, **options: Any) -> nn.Module:
        return tried_levit(pretrained, distilled=True, **options)

    def tried_nest(pretrained: bool = False, **options: Any) -> nn.Module:
        sizes = {"embed_dims": (16, 24, 32), "num_heads": (1, 2, 2), "depths": (1, 1, 1)}
        return _create_nest("nest_tiny", pretrained=pretrained, **{**sizes, **options})

    def tried_hiera(pretrained: bool = False, **options: Any) -> nn.Module:
        sizes = {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)}
        return _create_hiera("hiera_tiny_224", pretrained=pretrained, **{**sizes, **options})

    made = [small_vit_patch14_dinov2, tried_levit, tried_distilled, tried_nest, tried_hiera]
    for each in made:
        each.__module__ = "timm.models.vision_transformer"
        register_model(each)
    yield
    for each in made:
        _model_entrypoints.pop(each.__name__)


FREE = ["test_vit", "test_convnext", "test_efficientnet", "test_mambaout"]
REBUILT = ["vit_tried_patch14_dinov2", "tried_levit", "tried_nest", "tried_hiera"]


def images(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def shaken(module: nn.Module) -> Any:
    """The module in eval mode with random values also where training starts from 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return module.eval()


@pytest.mark.parametrize("size", [(64, 96), (75, 101), (32, 32)], ids=str)
@pytest.mark.parametrize("name", FREE + REBUILT)
def test_any_family_gives_the_pyramid_at_any_size(name: str, size: tuple[int, int]) -> None:
    model = build_backbone(f"timm:{name}").eval()
    with torch.inference_mode():
        maps = model(images(*size))
    assert [x.shape[1] for x in maps] == list(model.feature_channels)
    for x, stride in zip(maps, (4, 8, 16, 32), strict=True):
        up, down = tuple(-(-side // stride) for side in size), tuple(side // stride for side in size)
        assert tuple(x.shape[2:]) in ({up, down} if "conv" in name else {up})  # ConvNeXt rounds down
    assert all(x.isfinite().all() for x in maps)


def test_windows_with_channels_last_give_the_pyramid() -> None:
    model = build_backbone("timm:swin_s3_tiny_224").eval()
    with torch.inference_mode():
        assert [tuple(x.shape[1:]) for x in model(images(70, 96))][1] == (192, 9, 12)


def test_padding_moves_no_map() -> None:
    """A point of the image is at the same place of the maps of the padded image as of those of the whole one.

    At stride 32 the whole one, of 2.5 cells, is stretched to 3.
    """
    model = build_backbone("timm:test_vit").eval()
    whole = images(80, 112)
    whole[:, :, 75:], whole[:, :, :, 101:] = 0, 0
    with torch.inference_mode():
        for x, y in list(zip(model(whole[:, :, :75, :101]), model(whole), strict=True))[:3]:
            torch.testing.assert_close(x, y[:, :, : x.shape[2], : x.shape[3]])


@pytest.mark.parametrize("name", ["tried_levit", "tried_hiera", "tried_nest"])
def test_a_model_built_again_equals_timms_own_of_that_size(name: str) -> None:
    ours = shaken(build_backbone(f"timm:{name}"))
    theirs = timm.create_model(name, features_only=True, img_size=(96, 96), out_indices=list(ours.model.levels)).eval()
    tables = {
        key: resample_table(value, key.rpartition(".")[2], ours.model.native, (96, 96))
        for key, value in ours.net.state_dict().items()
        if key.endswith(("pos_embed", "attention_biases"))
    }
    assert tables
    theirs.load_state_dict(ours.net.state_dict() | tables)
    with torch.inference_mode():
        found = ours._run(images(96, 96), ours._maps)[0]
        for x, y in zip(found, theirs(images(96, 96)), strict=True):
            torch.testing.assert_close(x, y)


def test_a_model_built_again_shares_its_parameters_and_buffers() -> None:
    ours = shaken(build_backbone("timm:tried_levit"))
    names = list(ours.state_dict())
    native, other = ours(images(224, 224)), ours(images(96, 160))
    assert list(ours.state_dict()) == names
    ours.train()(images(96, 160))[-1].sum().backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())
    assert next(value for key, value in ours.state_dict().items() if key.endswith("num_batches_tracked")) == 1
    twin = copy.deepcopy(ours)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(1.5)
    for model, same in ((twin, True), (ours, False)):
        model.eval().load_state_dict(model.state_dict())
        assert torch.allclose(model(images(96, 160))[0], twin(images(96, 160))[0]) is same
    assert native[0].shape[2:] == (56, 56)
    assert other[0].shape[2:] == (24, 40)


def test_few_models_of_other_sizes_are_kept() -> None:
    ours = build_backbone("timm:tried_levit").eval()
    with torch.inference_mode():
        for side in range(64, 320, 32):
            ours(images(side, side))
    assert len(ours._sizes) <= 4


@pytest.mark.parametrize(
    ("name", "shape", "sized"),
    [
        ("pos_embed", (1, 17, 3), (1, 3 * 5 + 1, 3)),
        ("pos_embed", (1, 4, 4, 3), (1, 3, 5, 3)),
        ("relative_position_bias_table", (49, 3), (5 * 9, 3)),
        ("relative_position_bias_table", (52, 3), (5 * 9 + 3, 3)),
        ("relative_position_bias_table", (3, 7, 7), (3, 5, 9)),
        ("attention_biases", (3, 16), (3, 15)),
    ],
)
def test_tables_are_interpolated(name: str, shape: tuple[int, ...], sized: tuple[int, ...]) -> None:
    table = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resample_table(table, name, (64, 64), (64, 64)), table)
    found = resample_table(table, name, (64, 64), (48, 80))
    assert found.shape == sized
    flat = resample_table(torch.full(shape, 0.5), name, (64, 64), (48, 80))
    torch.testing.assert_close(flat, torch.full(sized, 0.5))


def test_blocks_of_nest_are_interpolated_as_one_grid() -> None:
    plane = torch.arange(8.0).expand(8, 8)  # columns
    blocks = plane.reshape(2, 4, 2, 4).permute(0, 2, 1, 3).reshape(1, 4, 16, 1)
    found = (
        resample_table(blocks, "pos_embed", (32, 32), (64, 64)).reshape(2, 2, 8, 8).permute(0, 2, 1, 3).reshape(16, 16)
    )
    assert torch.equal(found, found[:1].expand(16, 16))
    assert (found[0].diff() > 0).all()


def test_a_table_of_no_grid_is_refused() -> None:
    with pytest.raises(UsageError, match="a position table of 17 rows"):
        resample_table(torch.zeros(3, 17), "attention_biases", (64, 64), (96, 96))


def test_what_is_done_to_maps_and_images_is_told() -> None:
    model = build_backbone("timm:tried_levit")
    told = model.prepare((75, 101))
    assert told[0] == "maps of stride 4, 8 are resized copies: its own have 16, 32, 64"
    assert told[1] == "its map of stride 64 is left out, with the layers that make it"
    assert told[2:] == [
        "built again for images of 96x128: position tables are interpolated",
        "images of 75x101 are padded to 96x128",
    ]
    assert build_backbone("timm:test_convnext").prepare((75, 101)) == []


@pytest.mark.parametrize("name", [*FREE, *REBUILT, "tried_distilled"])
def test_logits_are_timms_own(name: str) -> None:
    theirs = shaken(timm.create_model(name, num_classes=5))
    ours = build_classifier(f"timm:{name}", num_classes=5).eval()
    assert load_checkpoint(ours, theirs.state_dict()).head_kept == 5
    batch = images(*ours.backbone.model.native)
    with torch.inference_mode():
        torch.testing.assert_close(ours(batch), theirs(batch), rtol=1e-5, atol=1e-5)
    detector = build_backbone(f"timm:{name}")
    assert load_checkpoint(detector, ours.state_dict()).backbone_share == 1.0
    torch.testing.assert_close(
        detector.eval()(batch)[0], ours.backbone(batch)[0] if not ours.backbone.model.final_norm else detector(batch)[0]
    )


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet", "tried_hiera"])
def test_layers_are_numbered_as_timm_does(name: str) -> None:
    depths, head = layer_depths(build_classifier(f"timm:{name}", num_classes=5))
    assert set(depths.values()) == set(range(head + 1))
    first = next(iter(depths))
    assert depths[first] == 0
    assert depths["head.weight"] == head
    alone, _ = layer_depths(build_backbone(f"timm:{name}"))
    assert set(alone.values()) == set(range(max(alone.values()) + 1))


@pytest.mark.parametrize("name", ["test_convnext", "tried_levit", "test_vit"])
def test_activation_checkpointing_changes_no_gradient(name: str) -> None:
    model = build_backbone(f"timm:{name}").train()
    grads = []
    for on in (False, True):
        set_activation_checkpointing(model, on)
        model.zero_grad()
        torch.stack([x.square().mean() for x in model(images(96, 96))]).sum().backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert grads[0]
    for x, y in zip(*grads, strict=True):
        torch.testing.assert_close(x, y)


def test_errors_from_inside_timm_are_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_backbone("timm:test_convnext")

    def fail(_: Tensor) -> None:
        raise RuntimeError("shape '[1, 8, -1, 49]' is invalid\nmore lines")

    monkeypatch.setattr(model.net, "forward", fail)
    with pytest.raises(UsageError, match=r"^timm's test_convnext at 64x96: shape '\[1, 8, -1, 49\]' is invalid$"):
        model(images(64, 96))

    def no_memory(_: Tensor) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr(model.net, "forward", no_memory)
    with pytest.raises(RuntimeError, match="not enough memory"):
        model(images(64, 96))


def test_a_count_builds_a_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.models.convnext import ConvNeXt

    from pvtctl.cost.counting import count

    built = []
    plain = ConvNeXt.__init__

    def counted(self: Any, **options: Any) -> None:
        if {"dynamic_img_size", "img_size"}.isdisjoint(
            options
        ):  # a constructor that refuses its arguments builds nothing
            built.append(self)
        plain(self, **options)

    monkeypatch.setattr(ConvNeXt, "__init__", counted)
    assert count("timm:test_convnext", (64, 96), head="none").macs > 0
    assert len(built) == 1


def test_drop_path_reaches_timm() -> None:
    model = build_backbone("timm:test_vit", drop_path_rate=0.2)
    assert "DropPath" in {type(module).__name__ for module in model.modules()}


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="timm has no model called 'resnet5O'") as fault:
        build_backbone("timm:resnet5O")
    assert "resnet50" in (fault.value.hint or "")


def test_missing_timm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(PvtctlError, match="needs timm") as fault:
        build_backbone("timm:resnet18")
    assert fault.value.hint == "pip install 'pvtctl[timm]'"


def test_special_tokens_are_class_tokens_only() -> None:
    model = TimmBackbone("vit_tried_patch14_dinov2").eval()
    with torch.inference_mode():
        taps = model.read_taps(images(56, 84), [1, 4])
    assert [tuple(tap.map.shape) for tap in taps] == [(1, 32, 4, 6)] * 2
    assert [tuple(tap.special.shape) for tap in taps if tap.special is not None] == [(1, 1, 32)] * 2


def test_heads_and_classifiers_of_before_are_built_as_they_were(tmp_path: Path) -> None:
    """Classifiers on the last map, and DPT on the four maps of a ViT."""
    classifier = shaken(build_classifier(build_backbone("timm:test_convnext"), num_classes=3))
    depth = shaken(build_depth_model("timm:test_vit", "dpt", head_options={"reads": "maps", "width": 16}))
    for name, model in (("timm:test_convnext", classifier), ("timm:test_vit", depth)):
        torch.save(model.state_dict(), tmp_path / "old.pth")
        again = model_from_checkpoint(inspect_checkpoint(tmp_path / "old.pth", name)).eval()
        with torch.inference_mode():
            torch.testing.assert_close(again(images(64, 64)), model(images(64, 64)))


def test_dpt_reads_blocks_of_any_plain_vit() -> None:
    for name in ("test_vit", "vit_tried_patch14_dinov2"):
        model = build_depth_model(f"timm:{name}", "dpt", head_options={"width": 16}).eval()
        assert model.head.taps
        assert identify_head(model.state_dict()).options == {"width": 16, "readout": "project"}
        side = 3 * model.backbone.patch_size
        with torch.inference_mode():
            whole = model.padded((side, 3 * side))
            assert model(images(side, 3 * side)).shape == (1, 1, *whole)
        segmenter = build_segmenter(f"timm:{name}", "dpt", num_classes=3, head_options={"width": 16}).eval()
        with torch.inference_mode():
            out = segmenter(images(side, side))
            assert segmenter.at_size(out, (side, side)).shape == (1, 3, side, side)
