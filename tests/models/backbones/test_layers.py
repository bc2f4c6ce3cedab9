"""The parts that the transformers share."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from pvtctl.models.layers import attention as attention_module
from pvtctl.models.layers import mlp as mlp_module
from pvtctl.models.layers.attention import SpatialReductionAttention, attention, choose_attention
from pvtctl.models.layers.block import Block
from pvtctl.models.layers.drop_path import DropPath, drop_path_rates
from pvtctl.models.layers.linear import apply_linear
from pvtctl.models.layers.mlp import Mlp
from pvtctl.models.layers.patches import PatchEmbed, channels_last_conv, conv_by_linear, to_map, to_tokens
from pvtctl.models.layers.position import resize_position_table


class TestMaps:
    def test_map_and_tokens_share_memory(self) -> None:
        tokens = torch.randn(2, 6 * 5, 4)
        x = to_map(tokens, (6, 5))
        assert x.shape == (2, 4, 6, 5)
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert x.data_ptr() == tokens.data_ptr() == to_tokens(x).data_ptr()
        assert torch.equal(to_tokens(x), tokens)

    @pytest.mark.parametrize("batch", [1, 2])
    def test_convolutions_of_maps_stay_channels_last(self, batch: int) -> None:
        """Also at batch 1, where a wrong batch stride once made every depthwise convolution six times slower."""
        x = to_map(torch.randn(batch, 8 * 9, 4), (8, 9))
        assert x.stride() == (8 * 9 * 4, 1, 9 * 4, 4)
        depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        assert depthwise(x).stride() == x.stride()

    @pytest.mark.parametrize("size", [(16, 16), (17, 22), (9, 8)])
    @pytest.mark.parametrize("stride", [1, 2, 4, 8])
    def test_linear_equals_the_convolution(self, size: tuple[int, int], stride: int) -> None:
        conv = channels_last_conv(nn.Conv2d(6, 10, stride, stride)).double()
        x = torch.randn(2, 6, *size, dtype=torch.float64)
        expected = conv(x)
        for layout in (torch.contiguous_format, torch.channels_last):
            tokens, out_size = conv_by_linear(x.contiguous(memory_format=layout), conv)
            assert out_size == tuple(expected.shape[2:])
            torch.testing.assert_close(to_map(tokens, out_size), expected)

    def test_overlapping_patches_round_up_and_plain_ones_down(self) -> None:
        x = torch.randn(1, 3, 35, 37)
        assert PatchEmbed(3, 8, 4)(x)[1] == (8, 9)
        assert PatchEmbed(3, 8, 4, overlapping=True)(x)[1] == (9, 10)


class TestPosition:
    def test_same_area_of_another_shape_is_resized(self) -> None:
        table = torch.arange(4.0).repeat(4).view(1, 16, 1)  # the column's number
        wide = resize_position_table(table, (4, 4), (2, 8)).view(2, 8)
        assert torch.equal(wide[0], wide[1])
        assert (wide[0].diff() >= 0).all()

    def test_equal_sides_are_left_alone(self) -> None:
        table = torch.randn(1, 12, 3)
        assert resize_position_table(table, (3, 4), (3, 4)) is table

    def test_is_bilinear_without_aligned_corners(self) -> None:
        table = torch.randn(1, 12, 5)
        expected = F.interpolate(table.view(1, 3, 4, 5).permute(0, 3, 1, 2), (7, 6), mode="bilinear")
        got = resize_position_table(table, (3, 4), (7, 6))
        torch.testing.assert_close(got, expected.flatten(2).transpose(1, 2))


class TestAttention:
    @pytest.mark.parametrize("shape", [(2, 1, 64, 4, 16), (1, 5, 9, 9, 12), (2, 2, 50, 7, 89)])
    def test_kernels_agree(self, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        batch, heads, queries, keys, width = shape
        q = torch.randn(batch, heads, queries, width, requires_grad=True)
        k, v = torch.randn(2, batch, heads, keys, width, requires_grad=True).unbind(0)
        results = []
        for kernel in ("fused", "plain"):
            monkeypatch.setattr(attention_module, "choose_attention", lambda *args, kernel=kernel, **kw: kernel)
            out = attention(q, k, v)
            grads = torch.autograd.grad(out.square().sum(), (q, k, v))
            results.append([out, *grads])
            assert out.shape == (batch, queries, heads * width)
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    def test_choice(self) -> None:
        # PVT at 224: 3136 queries and 49 keys in stage 1; at 800x1216: 60800 and 950
        def choose(queries: int, keys: int, needs_grad: bool, dtype: str = "float32", device: str = "cpu") -> str:
            return choose_attention(
                queries, keys, dtype=getattr(torch, dtype), device_type=device, needs_grad=needs_grad
            )

        assert choose(3136, 49, True) == "plain"
        assert choose(3136, 49, False) == "fused"
        assert choose(197, 197, True) == "fused"  # a DeiT
        assert choose(197, 197, True, "bfloat16") == "plain"
        assert choose(60800, 950, True) == "fused"
        assert choose(60800, 950, False, "bfloat16") == "fused"
        assert choose(3136, 49, True, "bfloat16", "cuda") == "fused"

    def test_reduction_shrinks_keys_and_linear_pools_to_49(self) -> None:
        tokens = torch.randn(2, 20 * 17, 16)
        assert SpatialReductionAttention(16, 2, 4).reduced(tokens, (20, 17)).shape == (2, 5 * 4, 16)
        assert SpatialReductionAttention(16, 2, 4, linear=True).reduced(tokens, (20, 17)).shape == (2, 49, 16)
        assert SpatialReductionAttention(16, 2, 1).reduced(tokens, (20, 17)) is tokens


class TestDropPath:
    def test_drops_whole_samples_and_keeps_the_mean(self) -> None:
        torch.manual_seed(0)
        out = DropPath(0.25).train()(torch.ones(4000, 3, 2))
        per_sample = out.flatten(1)
        assert (per_sample == per_sample[:, :1]).all()
        assert per_sample[:, 0].unique().tolist() == pytest.approx([0.0, 1 / 0.75])
        assert out.mean().item() == pytest.approx(1.0, abs=0.03)

    def test_does_nothing_in_evaluation_or_at_rate_0(self) -> None:
        x = torch.randn(4, 3, 2)
        assert DropPath(0.5).eval()(x) is x
        assert DropPath(0.0).train()(x) is x

    def test_rates_rise_linearly_over_all_blocks(self) -> None:
        assert drop_path_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
        assert drop_path_rates(0.3, 1) == [0.0]


class Doubled(nn.Module):
    """An adapter around a layer, with the layer's own weight in sight."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.layer(x)


class TestLinear:
    """Layers are read past only while nobody could tell; every case is compared with torch's own operations."""

    @pytest.mark.parametrize("gelu", [False, True])
    def test_equals_torch_on_odd_inputs(self, gelu: bool) -> None:
        layer = nn.Linear(24, 16)
        wide = torch.randn(4, 10, 48)
        inputs = [wide[..., ::2], wide[..., :24].transpose(0, 1), wide[:0, :, :24], wide[0, 0, :24]]
        inputs.append(torch.randn(24, 10, 4).permute(2, 1, 0))
        inputs.append(torch.randn(1, 1, 24).expand(4, 10, 24))
        with torch.no_grad():
            for x in inputs:
                expected = layer(x)
                torch.testing.assert_close(apply_linear(layer, x, gelu=gelu), F.gelu(expected) if gelu else expected)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_mixed_types_are_refused_as_torch_refuses_them(self, dtype: torch.dtype) -> None:
        with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
            apply_linear(nn.Linear(24, 16).to(dtype), torch.randn(2, 24))

    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own
    def test_counters_and_forward_gradients_see_the_product(self) -> None:
        layer, x = nn.Linear(24, 16), torch.randn(3, 24)
        with torch.no_grad():
            with FlopCounterMode(display=False) as counter:
                apply_linear(layer, x)
            assert counter.get_total_flops() == 2 * 3 * 24 * 16
            with forward_ad.dual_level():
                tangent = forward_ad.unpack_dual(apply_linear(layer, forward_ad.make_dual(x, x))).tangent
            torch.testing.assert_close(tangent, F.linear(x, layer.weight))

    def test_pruned_layers_train_on_their_pruned_weight(self) -> None:
        """Pruning computes `weight` before each call; the one that lies there is of the step before."""
        mlp = Mlp(8, 16)
        prune.l1_unstructured(mlp.fc1, "weight", 0.5)
        for _ in range(2):
            mlp(torch.randn(2, 6, 8), (2, 3)).square().sum().backward()
        with torch.no_grad():
            mlp.fc1.weight_orig.zero_()
            expected = mlp.fc2(F.gelu(mlp.fc1.bias)).expand(2, 6, 8)
            torch.testing.assert_close(mlp(torch.randn(2, 6, 8), (2, 3)), expected)

    @pytest.mark.parametrize("name", ["mlp.fc1", "mlp.fc2", "attn.q", "attn.kv", "attn.proj", "attn.sr"])
    @pytest.mark.parametrize("how", ["adapter", "hook", "patched forward"])
    def test_whatever_is_put_on_a_layer_acts(self, name: str, how: str) -> None:
        block = Block(16, SpatialReductionAttention(16, 2, 2), Mlp(16, 32), drop_path=0.0, norm_eps=1e-6).eval()
        tokens = torch.randn(2, 24, 16)
        layer = block.get_submodule(name)
        doubled = copy.deepcopy(block)
        for parameter in doubled.get_submodule(name).parameters():
            parameter.data *= 2
        if how == "adapter":
            parent, _, child = name.partition(".")
            setattr(block.get_submodule(parent), child, Doubled(layer))
        elif how == "hook":
            layer.register_forward_hook(lambda module, args, out: 2 * out)
        else:
            layer.forward = lambda x, forward=layer.forward: 2 * forward(x)
        with torch.inference_mode():
            torch.testing.assert_close(block(tokens, (6, 4)), doubled(tokens, (6, 4)))

    def test_chunks_equal_the_whole_and_a_hook_sees_all_tokens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mlp_module, "CHUNK_BYTES", 4 * 32 * 7)
        mlp, tokens, seen = Mlp(8, 32), torch.randn(8, 6, 5).transpose(0, 2), []
        expected = mlp.fc2(F.gelu(mlp.fc1(tokens)))
        with torch.inference_mode():
            torch.testing.assert_close(mlp(tokens, (2, 3)), expected)
            mlp.fc2.register_forward_hook(lambda module, args, out: seen.append(out.shape))
            torch.testing.assert_close(mlp(tokens, (2, 3)), expected)
        assert seen == [(5, 6, 8)]
