"""DPT equals the original's numbers, from state dicts in its layout."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from pvtctl.models.dense import DenseModel, build_depth_model, build_segmenter
from pvtctl.models.heads.dpt import Dpt
from pvtctl.models.layers.shapes import without_values
from pvtctl.weights.layouts.dpt import DPT, UNUSED

BACKBONES = {"dpt_large": "vit_large_patch16", "dpt_hybrid": "vit_hybrid"}


def build(golden: str) -> DenseModel:
    name, task = golden.rsplit("_", 1)
    options: dict[str, Any] = {"backbone_options": {"image_size": 384}}
    with without_values():  # no starting values: the kit's replace them all
        if task == "depth":
            model = build_depth_model(BACKBONES[name], "dpt", **options)
        else:
            model = build_segmenter(BACKBONES[name], "dpt", num_classes=150, **options)
    return model.eval()


def load(model: DenseModel, state: dict[str, Tensor]) -> None:
    """Everything that the original uses has its place, and nothing here is left without a value."""
    assert DPT.fits(set(state))
    named = {key: value for key, value in DPT.to_ours(state).items() if not key.startswith(UNUSED)}
    model.load_state_dict(named, assign=True)  # not copied: a gigabyte


def outputs(model: DenseModel, images: Tensor) -> dict[str, Tensor]:
    head = model.head
    assert isinstance(head, Dpt)
    found: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda *call, name=name: found.update({name: call[2]}))
        for at in range(4)
        for name, module in (
            (f"layer{at + 1}_rn", head.decoder.narrow[at]),
            (f"path_{at + 1}", head.decoder.fusions[at]),
        )
    ]
    out = model.at_size(model(images), (images.shape[2], images.shape[3]))
    for hook in hooks:
        hook.remove()
    return found | {"out": out[:, 0] if model.task == "depth" else out}


def check(golden: str, cases: list[str], kit: ModuleType, shared: Path, *, double: bool = False) -> None:
    folder = shared / "parity"
    entries = json.loads((folder / "manifests" / f"{golden}.json").read_text())["entries"]
    goldens = json.loads((folder / "goldens" / f"{golden}.json").read_text())["cases"]
    shapes = {
        key: shape for key, shape, dtype, _ in entries if dtype == "float32" or key.endswith("num_batches_tracked")
    }
    for name in cases:
        model, case = build(golden), goldens[name]
        load(model, kit.fill_state_dict(shapes, case["variant"]))
        image = torch.from_numpy(kit.make_input(case["inputs"]["image"], "image", case["variant"]))
        if double:
            model, image = model.double(), image.double()
        with torch.inference_mode():
            found = outputs(model, image)
        assert set(found) == set(case["outputs"])
        for key, record in case["outputs"].items():
            limits = {"factor": 0, "floor": 1e-7} if double else {}
            agrees, message = kit.compare(record, found[key].numpy(), **limits)
            assert agrees, message


@pytest.mark.slow
@pytest.mark.parametrize("golden", ["dpt_hybrid_depth", "dpt_hybrid_seg"])
def test_hybrid_equals_the_original_in_double_precision(golden: str, kit: ModuleType, shared: Path) -> None:
    check(golden, ["out_1x192x256", "out_1x160x224_faint"], kit, shared, double=True)


@pytest.mark.slow
@pytest.mark.parametrize("golden", ["dpt_hybrid_depth", "dpt_hybrid_seg", "dpt_large_depth", "dpt_large_seg"])
def test_equals_the_original(golden: str, kit: ModuleType, shared: Path) -> None:
    goldens = json.loads((shared / "parity" / "goldens" / f"{golden}.json").read_text())["cases"]
    check(golden, list(goldens), kit, shared)
