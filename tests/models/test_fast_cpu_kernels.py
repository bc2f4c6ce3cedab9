"""Each CPU kernel gives what the plain layer gives, and steps aside where anything observes or changes the layer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize, prune
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from pvtctl.models.fast_cpu import attention, linears, optimize_for_cpu
from pvtctl.models.fast_cpu.attention import choose_attention, query_parts
from pvtctl.models.fast_cpu.choices import Choices, before_measurement, use, using
from pvtctl.models.fast_cpu.convolutions import FastConv, PatchConv
from pvtctl.models.fast_cpu.linears import linear
from pvtctl.models.fast_cpu.packed import pack
from pvtctl.models.layers.attention import SelfAttention, SpatialReductionAttention
from pvtctl.models.layers.block import Mlp, TransformerBlock
from pvtctl.models.layers.patches import PatchEmbed

ALL = replace(before_measurement("AVX512"), packed=True, onednn_products=True)


@pytest.fixture(autouse=True)
def all_kernels() -> Iterator[None]:
    with using(ALL):
        yield


@pytest.fixture(params=["all", "some"])
def choices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Choices]:
    """All kernels, for small layers too, and a machine on which two of them lose."""
    monkeypatch.setattr(linears, "SMALL_PRODUCT", 1)
    monkeypatch.setattr(linears, "SMALL_TRAINED", 1)
    chosen = ALL if request.param == "all" else replace(ALL, packed=False, winograd_from=256)
    with using(chosen):
        yield chosen


class TestPatches:
    @pytest.mark.parametrize("size", [(16, 16), (17, 22), (9, 8)])
    @pytest.mark.parametrize("stride", [1, 2, 4, 8])
    def test_linear_equals_the_convolution(self, size: tuple[int, int], stride: int) -> None:
        embed = PatchEmbed(6, 10, stride).double()
        conv = copy.deepcopy(embed.proj)
        optimize_for_cpu(embed)
        assert type(embed.proj) is PatchConv
        x = torch.randn(2, 6, *size, dtype=torch.float64)
        expected = conv(x)
        for layout in (torch.contiguous_format, torch.channels_last):
            out = embed.proj(x.contiguous(memory_format=layout))
            assert out.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(out, expected)

    def test_images_and_overlapping_patches_stay_convolutions(self) -> None:
        for embed in (PatchEmbed(3, 8, 4), PatchEmbed(6, 8, 4, overlapping=True)):
            assert type(optimize_for_cpu(embed).proj) is FastConv


class TestAttention:
    @pytest.mark.parametrize("shape", [(2, 1, 64, 4, 16), (1, 5, 9, 9, 12), (2, 2, 50, 7, 89)])
    def test_kernels_agree(self, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        batch, heads, queries, keys, width = shape
        q = torch.randn(batch, heads, queries, width, requires_grad=True)
        k, v = torch.randn(2, batch, heads, keys, width, requires_grad=True).unbind(0)
        module, results = optimize_for_cpu(SelfAttention(heads * width, heads, qkv_bias=True)), []
        for kernel in ("fused", "plain"):
            monkeypatch.setattr(attention, "choose_attention", lambda *args, kernel=kernel, **kw: kernel)
            out = module.attend(q, k, v)
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

    @pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
    @pytest.mark.parametrize(
        "shape", [(1, 1, 60800, 950), (2, 5, 3800, 950), (1, 1, 7919, 50), (3, 12, 577, 577), (1, 1, 1, 1)]
    )
    def test_parts_keep_threads_busy(
        self, threads: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        batch, heads, queries, keys = shape
        parts = query_parts(batch, heads, queries, keys)
        rounds, rounds_whole = -(-batch * heads * parts // threads), -(-batch * heads // threads)
        assert queries % parts == 0
        assert parts == 1 or (parts * keys <= queries and queries // parts >= 512)
        assert rounds / parts <= rounds_whole  # the most queries of a thread
        if shape[1:] == (1, 60800, 950) and threads <= 8:
            assert batch * heads * parts % threads == 0 or threads == 3

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_split_queries_give_the_same(self, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
        monkeypatch.setattr(attention, "LEAST_QUERIES", 4)
        heads, results, seen = 2, [], []
        fused = F.scaled_dot_product_attention
        monkeypatch.setattr(
            F, "scaled_dot_product_attention", lambda q, *given, **more: seen.append(len(q)) or fused(q, *given, **more)
        )
        torch.manual_seed(0)
        layer = SpatialReductionAttention(heads * 8, heads, 2)
        tokens = torch.randn(1, 32, heads * 8)
        for split in (False, True):
            with using(replace(Choices(), split_queries=split)), torch.autocast("cpu", dtype, dtype != torch.float32):
                fast = optimize_for_cpu(copy.deepcopy(layer))
                x = tokens.clone().requires_grad_()
                out = fast(x, (4, 8))
                with torch.no_grad():
                    fast(x, (4, 8))
            out.float().square().sum().backward()
            results.append([out, x.grad, *[parameter.grad for parameter in fast.parameters()]])
        assert seen == [1, 1, 2, 1]  # of two heads each; not without gradients
        near = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0, "atol": 5e-2}
        for whole, parts in zip(*results, strict=True):
            torch.testing.assert_close(parts, whole, **near)


class Doubled(nn.Module):
    """An adapter around a layer, with the layer's own weight in sight."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.layer(x)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Something for each result or gradient by oneDNN."""
    calls: list[str] = []
    product = linears.multiply_packed
    monkeypatch.setattr(
        linears, "multiply_packed", lambda *given, **options: calls.append("") or product(*given, **options)
    )
    return calls


class Twice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class TestLinear:
    """Layers are read past only while nobody could tell; every case is compared with torch's own operations."""

    @pytest.mark.parametrize("gelu", [False, True])
    @pytest.mark.usefixtures("choices")
    def test_equals_torch_on_odd_inputs(self, gelu: bool) -> None:
        layer = nn.Linear(24, 16)
        pack(layer)
        wide = torch.randn(4, 10, 48)
        inputs = [wide[..., ::2], wide[..., :24].transpose(0, 1), wide[:0, :, :24], wide[0, 0, :24]]
        inputs.append(torch.randn(24, 10, 4).permute(2, 1, 0))
        inputs.append(torch.randn(1, 1, 24).expand(4, 10, 24))
        with torch.no_grad():
            for x in inputs:
                expected = layer(x)
                ours = linear(layer, x, gelu=gelu)
                torch.testing.assert_close(ours, F.gelu(expected) if gelu else expected)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    @pytest.mark.usefixtures("choices")
    def test_mixed_types_are_refused_as_torch_refuses_them(self, dtype: torch.dtype) -> None:
        layer = nn.Linear(24, 16).to(dtype)
        pack(layer)
        with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
            linear(layer, torch.randn(2, 24))

    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own
    @pytest.mark.usefixtures("choices")
    def test_counters_and_forward_gradients_see_the_product(self) -> None:
        mlp, x = optimize_for_cpu(Mlp(24, 16)), torch.randn(3, 24)
        pack(mlp)
        layer = mlp.fc1
        with torch.no_grad():
            with FlopCounterMode(display=False) as counter:
                layer(x)
            assert counter.get_total_flops() == 2 * 3 * 24 * 16
            with forward_ad.dual_level():
                tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, x))).tangent
            torch.testing.assert_close(tangent, F.linear(x, layer.weight))

    @pytest.mark.usefixtures("choices")
    def test_pruned_layers_train_on_their_pruned_weight(self) -> None:
        """Pruning computes `weight` before each call; the one that lies there is of the step before."""
        mlp = optimize_for_cpu(Mlp(8, 16))
        pack(mlp)
        prune.l1_unstructured(mlp.fc1, "weight", 0.5)
        for _ in range(2):
            mlp(torch.randn(2, 6, 8), (2, 3)).square().sum().backward()
        with torch.no_grad():
            mlp.fc1.weight_orig.zero_()
            expected = mlp.fc2(F.gelu(mlp.fc1.bias)).expand(2, 6, 8)
            torch.testing.assert_close(mlp(torch.randn(2, 6, 8), (2, 3)), expected)

    @pytest.mark.parametrize("name", ["mlp.fc1", "mlp.fc2", "attn.q", "attn.kv", "attn.proj", "attn.sr"])
    @pytest.mark.parametrize("how", ["adapter", "hook", "parametrisation", "patched forward"])
    @pytest.mark.parametrize("first", ["optimized", "changed"])
    @pytest.mark.usefixtures("choices")
    def test_whatever_is_put_on_a_layer_acts(self, name: str, how: str, first: str) -> None:
        block = TransformerBlock(
            16, SpatialReductionAttention(16, 2, 2), Mlp(16, 32), drop_path=0.0, norm_eps=1e-6
        ).eval()
        tokens = torch.randn(2, 24, 16)
        layer = block.get_submodule(name)
        doubled = copy.deepcopy(block)
        for parameter in doubled.get_submodule(name).parameters():
            parameter.data *= 2
        if first == "optimized":
            optimize_for_cpu(block)
        if how == "adapter":
            parent, _, child = name.partition(".")
            setattr(block.get_submodule(parent), child, Doubled(layer))
        elif how == "hook":
            layer.register_forward_hook(lambda module, args, out: 2 * out)
        elif how == "parametrisation":
            for parameter in ("weight", "bias"):
                parametrize.register_parametrization(layer, parameter, Twice())
        else:
            layer.forward = lambda x, forward=layer.forward: 2 * forward(x)
        if first == "changed":
            optimize_for_cpu(block)
        pack(block)
        with torch.inference_mode():
            torch.testing.assert_close(block(tokens, (6, 4)), doubled(tokens, (6, 4)))

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("shape", [(24,), (1, 24), (7, 24), (2, 5, 24), (2, 3, 4, 24)])
    @pytest.mark.usefixtures("choices")
    def test_gradients_are_those_of_torch(self, shape: tuple[int, ...], bias: bool, trained: list[str]) -> None:
        torch.manual_seed(0)
        layer = nn.Linear(24, 16, bias=bias)
        fast = optimize_for_cpu(nn.Sequential(copy.deepcopy(layer)))[0]
        x = torch.randn(*shape, 2)[..., 0]
        for frozen in ((), ("x",), ("weight",), ("x", "weight")):
            ours, theirs = (self.gradients(each, x, frozen) for each in (fast, layer))
            assert ours.keys() == theirs.keys()
            for name, expected in theirs.items():  # of sums of large terms, some of which nearly cancel
                torch.testing.assert_close(ours[name], expected, rtol=0, atol=2e-6 * float(expected.abs().max()))
        assert trained

    @staticmethod
    def gradients(layer: nn.Linear, x: Tensor, frozen: tuple[str, ...]) -> dict[str, Tensor]:
        """Of the sum, whose gradient is one number in many places, and of a loss with a second derivative."""
        leaves = {"x": x.clone(), **dict(layer.named_parameters())}
        for name, leaf in leaves.items():
            leaf.requires_grad_(name not in frozen)
        found = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
        if not found:
            return {}
        first = torch.autograd.grad(layer(leaves["x"]).sum(), list(found.values()))
        second = torch.autograd.grad(layer(leaves["x"]).pow(3).sum(), list(found.values()), create_graph=True)
        third = torch.autograd.grad(sum(each.square().sum() for each in second), list(found.values()))
        return {
            f"{name} {at}": g.detach()
            for at, gs in enumerate((first, second, third))
            for name, g in zip(found, gs, strict=True)
        }

    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own
    @pytest.mark.usefixtures("choices")
    def test_training_under_transforms_counters_and_checkpoints(self, trained: list[str]) -> None:
        layer, x = nn.Linear(24, 16), torch.randn(5, 24, requires_grad=True)
        fast = optimize_for_cpu(nn.Sequential(copy.deepcopy(layer)))[0]
        for run, by_onednn in (
            (lambda each: torch.func.vmap(each)(x), False),
            (lambda each: torch.func.grad(lambda given: each(given).square().sum())(x), False),
            (lambda each: torch.func.jvp(each, (x,), (x,))[1], False),
            (lambda each: torch.autograd.grad(checkpoint(each, x, use_reentrant=False).sum(), x)[0], True),
        ):
            trained.clear()
            torch.testing.assert_close(run(fast), run(layer), rtol=1e-4, atol=1e-5)
            assert bool(trained) is by_onednn
        trained.clear()
        with FlopCounterMode(display=False) as counter:
            fast(x).sum().backward()
        assert counter.get_total_flops() == 3 * 2 * 5 * 24 * 16
        with torch.autocast("cpu", torch.bfloat16):
            assert fast(x).dtype == torch.bfloat16
        with using(Choices(packed=True)):
            fast(x)
        assert not trained

    def test_chunks_equal_the_whole_and_a_hook_sees_all_tokens(self, choices: Choices) -> None:
        use(replace(choices, mlp_bytes=4 * 32 * 7))
        mlp, tokens, seen = optimize_for_cpu(Mlp(2, 32)), torch.randn(2, 6, 5).transpose(0, 2), []
        expected = mlp.fc2(F.gelu(mlp.fc1(tokens)))
        with torch.inference_mode():
            torch.testing.assert_close(mlp(tokens, (2, 3)), expected)
            mlp.fc2.register_forward_hook(lambda module, args, out: seen.append(out.shape))
            torch.testing.assert_close(mlp(tokens, (2, 3)), expected)
        assert seen == [(5, 6, 2)]

    def test_a_gelu_in_place_has_the_same_bits_and_changes_nothing_else(self) -> None:
        use(Choices(mlp_bytes=1))
        mlp, tokens = optimize_for_cpu(Mlp(4, 32)), torch.randn(2, 6, 4)
        before = tokens.clone()
        with torch.inference_mode():
            assert torch.equal(mlp(tokens, (2, 3)), mlp.fc2(F.gelu(mlp.fc1(tokens))))
        assert torch.equal(tokens, before)

    @pytest.mark.parametrize(("dim", "products"), [(2, 10), (3, 10), (4, 2)])
    def test_no_chunk_is_smaller_than_the_weights_that_it_reads(
        self, dim: int, products: int, choices: Choices, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use(replace(choices, mlp_bytes=4 * 32 * 7))
        mlp, done = optimize_for_cpu(Mlp(dim, 32)), []
        monkeypatch.setattr(linears, "linear", lambda *given, **how: done.append(1) or linear(*given, **how))
        with torch.inference_mode():
            mlp(torch.randn(1, 30, dim), (5, 6))
        assert len(done) == products
