"""Packed weights give what plain ones give, are those that the layer has now, and leave nothing behind."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pvtctl
from pvtctl.models.fast_cpu import convolutions, linears, optimize_for_cpu, packed
from pvtctl.models.fast_cpu.choices import Choices, using
from pvtctl.models.fast_cpu.levers import lay_out
from pvtctl.models.fast_cpu.packed import pack, packed_weights, packing_works, unpack
from pvtctl.models.layers.attention import SpatialReductionAttention
from pvtctl.models.layers.block import Mlp
from pvtctl.models.layers.conv_norm import ConvNorm
from pvtctl.models.layers.patches import PatchEmbed

CPU = torch.device("cpu")
TOKENS, MAP = (2, 36, 24), (2, 24, 6, 6)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[Any, ...]]] = {
    "mlp": (lambda: Mlp(24, 48), TOKENS, (None,)),
    "attention": (lambda: SpatialReductionAttention(24, 2, 2), TOKENS, ((6, 6),)),
    "patches": (lambda: PatchEmbed(24, 16, 2), MAP, ()),
    "overlapping patches": (lambda: PatchEmbed(24, 16, 2, overlapping=True), MAP, ()),
    "norm": (lambda: ConvNorm(24, 8, 3), MAP, ()),
    "dilated": (lambda: nn.Sequential(nn.Conv2d(24, 8, 3, stride=2, padding=(2, 1), dilation=2, bias=False)), MAP, ()),
    "1x1": (lambda: nn.Sequential(nn.Conv2d(24, 40, 1)), MAP, ()),
}


@pytest.fixture(autouse=True)
def packing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Taken for layers of any size; what was computed with packed weights."""
    if not packing_works():
        pytest.skip("this torch has no packed weights")
    calls: list[str] = []

    def seen(name: str, operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *given, **options: calls.append(name) or operation(*given, **options)

    monkeypatch.setattr(linears, "SMALL_PRODUCT", 1)
    monkeypatch.setattr(linears, "multiply_packed", seen("product", packed.multiply_packed))
    monkeypatch.setattr(convolutions, "convolve_packed", seen("convolution", packed.convolve_packed))
    with using(Choices(packed=True, folded_norms=True)):
        yield calls


def layer_and_input(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    build, shape, rest = LAYERS[name]
    layer = build().eval()
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    x = torch.randn(shape)
    return layer, (x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x, *rest)


def run(layer: nn.Module, given: tuple[Any, ...]) -> Tensor:
    with torch.inference_mode():
        out = layer(*given)
    return (out[0] if isinstance(out, tuple) else out).clone()


@pytest.mark.parametrize("name", LAYERS)
def test_equal_to_plain_layers_of_any_size(name: str, packing: list[str]) -> None:
    layer, given = layer_and_input(name)
    fast = lay_out(optimize_for_cpu(copy.deepcopy(layer)), CPU)
    for batch in (1, 2, 1):  # weights are packed for a shape
        part = (given[0][:batch], *given[1:])
        packing.clear()
        ours, theirs = run(fast, part), run(layer, part)
        assert packing
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert ours.stride() == theirs.stride()


@pytest.mark.parametrize("joined", [True, False])
def test_a_joined_gelu_is_gelu(joined: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def multiplied(*given: Any, gelu: bool) -> Tensor:
        asked.append(gelu)
        return packed.multiply_packed(*given, gelu=gelu)

    monkeypatch.setattr(linears, "multiply_packed", multiplied)
    layer, given = layer_and_input("mlp")
    with using(Choices(packed=True, joined_gelu=joined)):
        fast = lay_out(optimize_for_cpu(copy.deepcopy(layer)), CPU)
        torch.testing.assert_close(run(fast, given), run(layer, given), rtol=1e-4, atol=1e-5)
    assert asked == [joined, False]


def test_only_where_it_was_asked_for(packing: list[str]) -> None:
    layer, given = layer_and_input("attention")
    optimize_for_cpu(layer)
    run(layer, given)
    assert not packing
    lay_out(layer, torch.device("meta"))
    run(layer, given)
    assert not packing
    pack(layer)
    layer(*given)[0].sum().backward()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer(*given)
    with using(Choices()):
        run(layer, given)
    assert not packing
    run(layer, given)
    assert set(packing) == {"product", "convolution"}


def test_small_products_and_maps_in_rows_stay_with_torch(packing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation of oneDNN costs more than a small product; and the layout of a result is what it was."""
    monkeypatch.setattr(linears, "SMALL_PRODUCT", 2 * 36 * 24 * 48 + 1)
    mlp, given = layer_and_input("mlp")
    run(lay_out(optimize_for_cpu(mlp), CPU), given)
    conv, (x,) = layer_and_input("1x1")
    assert run(lay_out(optimize_for_cpu(conv), CPU), (x.contiguous(),)).is_contiguous()
    groups = nn.Sequential(nn.Conv2d(24, 24, 3, groups=24), nn.Conv2d(24, 8, 3, padding="same", padding_mode="reflect"))
    run(lay_out(optimize_for_cpu(groups), CPU), (x,))
    assert not packing


def doubled(layer: nn.Module, given: object) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter *= 2


def loaded(layer: nn.Module, assign: bool) -> None:
    layer.load_state_dict({name: value * 2 for name, value in layer.state_dict().items()}, assign=assign)


def trained(layer: nn.Module, given: tuple[Any, ...]) -> None:
    """By an optimiser that changes weights without a trace."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, fused=True)
    out = layer.train()(*given)
    (out[0] if isinstance(out, tuple) else out).sum().backward()
    layer.eval()
    versions = [parameter._version for parameter in layer.parameters()]
    optimizer.step()
    assert versions == [parameter._version for parameter in layer.parameters()]


def replaced(layer: nn.Module, given: object) -> None:
    for module in layer.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach() * 2))


def swapped_data(layer: nn.Module, given: object) -> None:
    for parameter in layer.parameters():
        parameter.data = parameter.data * 2


@pytest.mark.parametrize("name", ["mlp", "attention", "patches", "norm"])
@pytest.mark.parametrize(
    "change",
    [
        doubled,
        lambda layer, _: loaded(layer, False),
        lambda layer, _: loaded(layer, True),
        trained,
        replaced,
        swapped_data,
    ],
    ids=["in place", "loaded", "assigned", "trained", "replaced", "other data"],
)
def test_changed_weights_are_packed_again(
    name: str, change: Callable[[nn.Module, Any], None], packing: list[str]
) -> None:
    layer, given = layer_and_input(name)
    fast = lay_out(optimize_for_cpu(copy.deepcopy(layer)), CPU)
    before = run(fast, given)
    change(layer, given)
    change(fast, given)
    packing.clear()
    assert not torch.allclose(run(fast, given), before)
    torch.testing.assert_close(run(fast, given), run(layer, given), rtol=1e-4, atol=1e-4)
    assert packing


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_norms_statistics_are_part_of_its_weights(layout: torch.memory_format) -> None:
    """Whatever the layout of the maps that changed them: only one of the two is convolved with packed weights."""
    layer, given = layer_and_input("norm")
    fast = lay_out(optimize_for_cpu(copy.deepcopy(layer)), CPU)
    before = run(fast, given)
    for each in (layer, fast):
        each.train()
        with torch.no_grad():
            each(given[0].contiguous(memory_format=layout))
        each.eval()
    assert not torch.allclose(run(fast, given), before)
    torch.testing.assert_close(run(fast, given), run(layer, given), rtol=1e-4, atol=1e-5)


def test_a_change_that_torch_does_not_record_needs_unpack() -> None:
    layer, given = layer_and_input("mlp")
    lay_out(optimize_for_cpu(layer), CPU)
    before = run(layer, given)
    layer.fc2.weight.data.zero_()
    assert torch.equal(run(layer, given), before)
    unpack(layer)
    torch.testing.assert_close(run(layer, given), layer.fc2.bias.detach().expand(TOKENS))


def test_weights_of_inference_mode_are_not_packed(packing: list[str]) -> None:
    """Their changes cannot be seen."""
    with torch.inference_mode():
        layer = lay_out(optimize_for_cpu(Mlp(24, 48)), CPU)
        layer(torch.randn(TOKENS), None)
    assert not packing


def test_copies_and_files_have_plain_weights_only(packing: list[str]) -> None:
    layer, given = layer_and_input("attention")
    lay_out(optimize_for_cpu(layer), CPU)
    expected = run(layer, given)
    saved = io.BytesIO()
    torch.save(layer.state_dict(), saved)
    assert set(layer.state_dict()) == set(layer_and_input("attention")[0].state_dict())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        packing.clear()
        torch.testing.assert_close(run(other, given), expected, rtol=1e-4, atol=1e-5)
        assert not packing


def test_nothing_is_kept_of_a_model_that_is_gone() -> None:
    before = len(packed._layers)
    layer, given = layer_and_input("attention")
    run(lay_out(optimize_for_cpu(layer), CPU), given)
    assert len(packed._layers) > before
    del layer
    assert len(packed._layers) == before


def test_the_context_leaves_a_model_as_it_was() -> None:
    layer, given = layer_and_input("mlp")
    model = nn.Sequential(optimize_for_cpu(layer))
    with packed_weights(model):
        run(layer, given)
        assert packed._layers[layer.fc1]
    assert not any(module in packed._layers for module in model.modules())
    pack(layer)
    with packed_weights(model):
        assert model in packed._layers
    assert layer.fc1 in packed._layers
    assert model not in packed._layers


@pytest.mark.parametrize("backbone", ["pvt_tiny@0.25", "pvt_v2_b0@0.25", "resnet18@0.25", "deit_tiny_patch16"])
def test_backbones(backbone: str, packing: list[str]) -> None:
    torch.manual_seed(0)
    plain = pvtctl.create_backbone(backbone).eval()
    images = torch.randn(2, 3, 64, 96)
    fast = lay_out(optimize_for_cpu(copy.deepcopy(plain)), CPU)
    with torch.inference_mode():
        for ours, theirs in zip(fast(images), plain(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert packing


def test_winograds_factors_are_kept_and_follow_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    spread: list[int] = []

    def counted(weight: Tensor) -> Tensor:
        spread.append(1)
        return plain_spread(weight)

    plain_spread = convolutions.winograd_factors
    monkeypatch.setattr(convolutions, "winograd_factors", counted)
    monkeypatch.setattr("pvtctl.models.fast_cpu.winograd.TILES", 2)
    monkeypatch.setattr("pvtctl.models.fast_cpu.winograd.TRANSFORMS", 0)
    torch.manual_seed(0)
    layer, x = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1)), torch.randn(1, 8, 9, 7)
    with using(Choices(packed=True, winograd_from=4)):
        fast = lay_out(optimize_for_cpu(copy.deepcopy(layer)), CPU)
        for _ in range(2):
            torch.testing.assert_close(run(fast, (x,)), run(layer, (x,)), rtol=1e-4, atol=1e-5)
        assert len(spread) == 1
        for each in (layer, fast):
            doubled(each, ())
        torch.testing.assert_close(run(fast, (x,)), run(layer, (x,)), rtol=1e-4, atol=1e-5)
        assert len(spread) == 2
