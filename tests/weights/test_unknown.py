"""A file that holds no known model says what it holds instead, where that can be told, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.models.backbones import build_classifier
from pvtctl.weights.convert import convert_file
from pvtctl.weights.inspect import inspect_file
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.resolve import resolve_weights
from pvtctl.weights.unknown import explain_unknown


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return build_classifier("pvt_v2_b0", num_classes=2).state_dict()


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize("prefix", ["net.", "model.", "student.encoder.", "a.b.c."])
def test_a_prefix_is_named(prefix: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    """With something else in the file, as a training framework's loss; each command says so, and the hint works."""
    file = tmp_path / "a.ckpt"
    wrapped = under(prefix, state) | {"criterion.weight": torch.ones(5)}
    torch.save({"state_dict": wrapped}, file)
    why = f"holds pvt_v2_b0 under the prefix `{prefix}`, which pvtctl does not take off"
    with pytest.raises(UsageError, match=why) as caught:
        convert_file(file, tmp_path / "out.safetensors")
    assert f"startswith({prefix!r})" in str(caught.value.hint)
    with pytest.raises(UsageError, match=why):
        load_checkpoint(build_classifier("pvt_v2_b0", num_classes=2), file)
    assert why in str(inspect_file(file).unknown)
    kept = {key.removeprefix(prefix): value for key, value in wrapped.items() if key.startswith(prefix)}
    torch.save(kept, file)
    assert inspect_file(file).unknown is None


def test_several_prefixes(state: dict[str, Tensor]) -> None:
    what, _ = explain_unknown(under("teacher.net.", state) | under("student.net.", state), "unknown")
    assert "under the prefixes `teacher.net.` and `student.net.`" in what


def test_a_vit_with_layer_scale() -> None:
    state = {"blocks.0.ls1.gamma": torch.ones(8), "patch_embed.proj.weight": torch.ones(8, 3, 14, 14)}
    assert "layer scale and patches of 14 pixels (DINOv2" in explain_unknown(state, "timm ViT / DeiT")[0]


def test_nothing_known() -> None:
    what, hint = explain_unknown({"features.0.weight": torch.ones(3)}, "unknown")
    assert what == "holds no model that pvtctl knows (unknown layout)"
    assert "models ls" in hint


def test_parts_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UsageError, match="split over several files") as caught:
        resolve_weights(str(tmp_path))
    assert "save_file" in str(caught.value.hint)
