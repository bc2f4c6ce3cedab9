"""Attention maps: those of official checkpoints equal the paper's formula, keys lie where they belong, rollout is a share."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.explain.attention import AttentionMaps, attending_blocks, attention_maps, find_block, rollout_maps
from pvtctl.models.backbones import Backbone, build_backbone, build_classifier
from pvtctl.models.detector import build_detector
from pvtctl.models.layers.attention import MultiHeadAttention
from pvtctl.weights.load import load_checkpoint

Array = NDArray[np.float64]


def official(name: str, kit: ModuleType, shared: Path) -> tuple[torch.nn.Module, dict[str, Array]]:
    """A classifier with a checkpoint in the original layout, and that checkpoint."""
    entries = json.loads((shared / "parity" / "manifests" / f"{name}.json").read_text())["entries"]
    state = kit.fill_state_dict({key: shape for key, shape, dtype, _ in entries if dtype == "float32"}, "")
    model = build_classifier(name).eval()
    load_checkpoint(model, state)
    return model, {key: np.asarray(value, dtype=np.float64) for key, value in state.items()}


def layer_norm(x: Array, state: dict[str, Array], name: str, eps: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def plain_attention(x: Array, size: tuple[int, int], state: dict[str, Array], block: str, heads: int) -> Array:
    """softmax(Q K^T / sqrt(d)) (heads, N, M) of PVT's equations 1 to 5, keys of R x R places each, one token after the
    other and one head after the other."""
    x = layer_norm(x, state, f"{block}.norm1", 1e-6)
    keys = x
    if f"{block}.attn.sr.weight" in state:
        kernel = state[f"{block}.attn.sr.weight"]  # out, in, R, R
        ratio = kernel.shape[-1]
        grid = x.reshape(*size, -1)
        keys = np.stack(
            [
                np.einsum("ijc,ocij->o", grid[i : i + ratio, j : j + ratio], kernel) + state[f"{block}.attn.sr.bias"]
                for i in range(0, size[0] - ratio + 1, ratio)
                for j in range(0, size[1] - ratio + 1, ratio)
            ]
        )
        keys = layer_norm(keys, state, f"{block}.attn.norm", 1e-5)
    q = x @ state[f"{block}.attn.q.weight"].T + state[f"{block}.attn.q.bias"]
    dim = q.shape[-1]
    k = keys @ state[f"{block}.attn.kv.weight"][:dim].T + state[f"{block}.attn.kv.bias"][:dim]
    maps = []
    for head in range(heads):
        own = slice(head * dim // heads, (head + 1) * dim // heads)
        scores = q[:, own] @ k[:, own].T / math.sqrt(dim // heads)
        exps = np.exp(scores - scores.max(-1, keepdims=True))
        maps.append(exps / exps.sum(-1, keepdims=True))
    return np.stack(maps)


def entering(model: torch.nn.Module, images: Tensor, path: str) -> Array:
    """The tokens that enter a block."""
    seen: list[Tensor] = []
    hook = model.get_submodule(path).register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.inference_mode():
        model(images)
    hook.remove()
    return seen[0][0].double().numpy()


@pytest.mark.parametrize("image_size", [(64, 64), (75, 110)])
@pytest.mark.parametrize("block", ["stage1.block2", "stage2.block1", "stage3.block2", "stage4.block2"])
def test_maps_of_an_official_checkpoint_equal_the_papers_formula(
    kit: ModuleType, shared: Path, block: str, image_size: tuple[int, int]
) -> None:
    model, state = official("pvt_tiny", kit, shared)
    images = torch.from_numpy(kit.make_input([1, 3, *image_size], "image", ""))
    (maps,) = attention_maps(model, images, [find_block(model, block)])
    stage, number = int(block[5]) - 1, int(block[-1]) - 1
    tokens = entering(model, images, f"backbone.stages.{stage}.blocks.{number}")
    expected = plain_attention(tokens, maps.size, state, f"block{stage + 1}.{number}", (1, 2, 5, 8)[stage])
    assert maps.size == (image_size[0] // 4 // 2**stage, image_size[1] // 4 // 2**stage)
    assert maps.weights.shape == (1, *expected.shape)
    assert np.abs(maps.weights[0].numpy() - expected).max() < 1e-5
    assert np.allclose(maps.weights.sum(-1), 1, atol=1e-5)
    assert len(maps.special) == (stage == 3)


@pytest.mark.parametrize("name", ["pvt_tiny@0.25", "pvt_v2_b0@0.25", "pvt_v2_b2_li@0.25", "deit_tiny_patch16"])
def test_the_weights_give_the_blocks_own_output(name: str) -> None:
    torch.manual_seed(0)
    model = build_backbone(name).eval()
    images = torch.randn(1, 3, 64, 96)
    block = find_block(model, "last")
    module = block.module
    assert isinstance(module, MultiHeadAttention)
    called: list[tuple[Tensor, tuple[int, int], Tensor]] = []
    hook = module.register_forward_hook(lambda _, given, out: called.append((*given, out)))
    (maps,) = attention_maps(model, images, [block])
    hook.remove()
    tokens, size, out = called[0]
    with torch.inference_mode():
        v = module.queries_keys_values(tokens, size)[2]
        again = module.proj((maps.weights @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(again, out, atol=1e-5)


def test_single_queries_are_rows_of_all() -> None:
    torch.manual_seed(0)
    model = build_backbone("pvt_tiny@0.25", class_token=True).eval()
    images = torch.randn(2, 3, 64, 96)
    block = find_block(model, "stage4")
    (every,) = attention_maps(model, images, [block])
    (some,) = attention_maps(model, images, [block], [(95, 40), "class"])
    assert some.queries == ((1, 2), "class")
    assert every.queries[:2] == ("class", (0, 0))
    assert torch.allclose(some.weights, every.weights[:, :, [1 + 1 * 3 + 2, 0]], atol=1e-6)


def places(name: str, size: tuple[int, int], block: str = "stage1") -> AttentionMaps:
    torch.manual_seed(0)
    model = build_backbone(name).eval()
    return attention_maps(model, torch.randn(1, 3, *size), [find_block(model, block)], [(0, 0)])[0]


def test_keys_of_a_reduction_lie_on_the_places_they_are_made_of() -> None:
    maps = places("pvt_tiny@0.25", (75, 110))  # 18 x 27 places, of which 2 and 3 are left out
    on = maps.on_places()[0, 0, 0]
    assert maps.key_rows == [(0, 8), (8, 16)]
    assert maps.key_columns == [(0, 8), (8, 16), (16, 24)]
    assert torch.allclose(on[:8, 8:16], maps.weights[0, 0, 0, 1])
    assert on[:16, :24].isfinite().all()
    assert on[16:].isnan().all()
    assert on[:, 24:].isnan().all()


def test_overlapping_keys_are_averaged() -> None:
    maps = places("pvt_v2_b2_li@0.25", (64, 96))  # 16 x 24 places, 7 x 7 keys
    assert maps.key_rows[:2] == [(0, 3), (2, 5)]
    on, keys = maps.on_places()[0, 0, 0], maps.weights[0, 0, 0].view(7, 7)
    assert torch.allclose(on[0, 0], keys[0, 0])
    assert torch.allclose(on[2, 0], (keys[0, 0] + keys[1, 0]) / 2)
    assert on.isfinite().all()
    small = places("pvt_v2_b2_li@0.25", (32, 32), "last")  # one place, and all 49 keys are made of it
    assert torch.allclose(small.on_places()[0, :, 0, 0, 0], torch.tensor(1 / 49), atol=1e-4)


@pytest.mark.parametrize("name", ["pvt_tiny@0.25", "pvt_v2_b2_li@0.25", "deit_tiny_patch16"])
@pytest.mark.parametrize("size", [(64, 64), (75, 110)])
def test_rollout_is_a_share(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build_backbone(name).eval()
    images = torch.randn(1, 3, *size)
    block = attending_blocks(model)[1]
    rolled = rollout_maps(model, images, block)
    assert torch.allclose(rolled.weights.sum(-1), torch.ones(1), atol=1e-5)
    assert bool((rolled.weights >= 0).all())
    assert rolled.on_places().isfinite().all()
    few = rollout_maps(model, images, block, [(20, 40)])
    assert torch.allclose(few.weights[0, 0, 0], rolled.weights[0, 0, rolled.queries.index(few.queries[0])], atol=1e-6)


def test_rollout_of_a_plain_transformer_is_the_product_of_its_matrices() -> None:
    torch.manual_seed(0)
    model = build_backbone("deit_tiny_patch16").eval()
    images = torch.randn(1, 3, 64, 64)
    blocks = attending_blocks(model)
    product = torch.eye(17)
    for maps in attention_maps(model, images, blocks):
        product = (maps.weights[0].mean(0) + torch.eye(17)) / 2 @ product
    rolled = rollout_maps(model, images, blocks[-1])
    assert torch.allclose(rolled.weights[0, 0], product, atol=1e-5)


def test_inside_detectors_too() -> None:
    torch.manual_seed(0)
    model = build_detector("pvt_v2_b0@0.25", "retinanet", num_classes=2, width=32).eval()
    (maps,) = attention_maps(model, torch.randn(1, 3, 64, 64), [find_block(model, "stage2.block1")], [(5, 5)])
    assert maps.weights.shape == (1, 2, 1, 4)


def test_a_context_block_has_one_row_for_all_places() -> None:
    torch.manual_seed(0)
    model = build_backbone("resnet50_gc_r4@0.25").eval()
    block = find_block(model, "stage2")
    (maps,) = attention_maps(model, torch.randn(1, 3, 64, 96), [block], [(3, 3)])
    assert maps.weights.shape == (1, 1, 1, 8 * 12)
    assert torch.allclose(maps.weights.sum(-1), torch.ones(1))
    with pytest.raises(UsageError, match="nothing to roll out"):
        rollout_maps(model, torch.randn(1, 3, 64, 64), block)


def test_wrong_questions() -> None:
    model: Backbone = build_backbone("pvt_tiny@0.25").eval()
    images = torch.zeros(1, 3, 64, 96)
    with pytest.raises(UsageError, match=r"no block 'stage5.block1'; this backbone has stage1.block1, .*stage4.block2"):
        find_block(model, "stage5.block1")
    with pytest.raises(UsageError, match=r"96,3 is outside of the image, which is 96 wide and 64 high"):
        attention_maps(model, images, [find_block(model, "last")], [(96, 3)])
    with pytest.raises(UsageError, match=r"stage1.block2 has no class token"):
        attention_maps(model, images, [find_block(model, "stage1")], ["class"])
    with pytest.raises(UsageError, match="a ResNet has no attention"):
        attending_blocks(build_backbone("resnet18"))
    with pytest.raises(UsageError, match="no backbone"):
        attending_blocks(torch.nn.Linear(2, 2))
