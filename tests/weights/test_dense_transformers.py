"""transformers' DPT, small and with random weights: its state dict and folder fill ours, and the outputs are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.io.normalization import HALF
from pvtctl.models.backbones.vit import Vit, VitHybrid
from pvtctl.models.dense import DenseModel
from pvtctl.models.heads.dpt import Dpt
from pvtctl.weights.identify import identify_head
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.read import read_checkpoint

SIZE, WIDTH = 64, 64
CLASSES = ["wall", "sky", "cat"]


def _config(*, hybrid: bool = False, **more: Any) -> Any:
    from transformers import BitConfig, DPTConfig

    settings: Any = {"out_features": ["stage1", "stage2", "stage3"], "embedding_dynamic_padding": True}
    bit = BitConfig(
        depths=[1, 2, 1],
        hidden_sizes=[128, 256, 512],
        embedding_size=32,
        global_padding="same",
        layer_type="bottleneck",
        **settings,
    )
    own: Any = {"is_hybrid": True, "backbone_config": bit, "backbone_featmap_shape": [1, 512, 4, 4]} if hybrid else {}
    own = {"neck_hidden_sizes": [128, 256, WIDTH, WIDTH] if hybrid else [8, 16, 32, WIDTH]} | own | more
    return DPTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        layer_norm_eps=1e-6,
        image_size=SIZE,
        backbone_out_indices=[0, 1, 2, 3],
        **own,
    )


def _original(task: str, **more: Any) -> Any:
    from transformers import DPTForDepthEstimation, DPTForSemanticSegmentation

    torch.manual_seed(0)
    if task == "depth":
        model: Any = DPTForDepthEstimation(_config(**more))
    else:
        labels = dict(enumerate(CLASSES))
        normed = {"use_batch_norm_in_fusion_residual": True, "use_bias_in_fusion_residual": False}
        model = DPTForSemanticSegmentation(_config(id2label=labels, **normed, **more))
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.05 * torch.rand_like(value))
    return model.eval()


def _ours(task: Any, *, hybrid: bool = False, **options: Any) -> DenseModel:
    body: Vit
    if hybrid:
        body = VitHybrid(
            embed_dim=WIDTH, depth=4, num_heads=4, stem_blocks=(1, 2, 1), stem_widths=(128, 256, 512), image_size=SIZE
        )
    else:
        body = Vit(
            patch_size=16,
            embed_dim=WIDTH,
            depth=4,
            num_heads=4,
            mlp_ratio=4,
            qkv_bias=True,
            norm_eps=1e-6,
            image_size=SIZE,
        )
    classes = 1 if task == "depth" else len(CLASSES)
    head = Dpt(body, task=task, num_classes=classes, **options)
    return DenseModel(body, None, head, task=task, num_classes=classes).eval()


def _outputs(original: Any, model: DenseModel) -> tuple[Tensor, Tensor]:
    image = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = original(image)
        ours = model.at_size(model(image), (SIZE, SIZE))
        return (theirs.predicted_depth[:, None] if hasattr(theirs, "predicted_depth") else theirs.logits), ours


@pytest.mark.parametrize("task", ["depth", "segmentation"])
@pytest.mark.parametrize("hybrid", [False, True])
def test_outputs_are_theirs(task: str, hybrid: bool) -> None:
    original = _original(task, hybrid=hybrid)
    taps = ("R0", "R1", 3, 4) if hybrid else None
    model = _ours(task, hybrid=hybrid, taps=taps)
    report = load_checkpoint(model, original.state_dict())
    assert report.format == "transformers DPT"
    assert (report.backbone_share, report.above_share) == (1.0, 1.0)
    assert not report.missing
    assert not report.unexpected
    assert {name for name, _ in report.dropped} == {"backbone.norm.weight", "backbone.norm.bias"}
    theirs, ours = _outputs(original, model)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_widths_of_the_maps_are_read_from_shapes(tmp_path: Path) -> None:
    """As transformers' `neck_hidden_sizes` has them, and kept in our own file."""
    original = _original("depth", neck_hidden_sizes=[24, 40, 16, 56], fusion_hidden_size=48)
    original.save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    found = identify_head(checkpoint.state, checkpoint.format, checkpoint.meta)
    assert found is not None
    assert (found.options["channels"], found.options["width"]) == ([24, 40, 16, 56], 48)
    model = _ours("depth", channels=(24, 40, 16, 56), width=48)
    report = load_checkpoint(model, tmp_path)
    assert (report.backbone_share, report.above_share) == (1.0, 1.0)
    theirs, ours = _outputs(original, model)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_folder_says_classes_taps_and_readout(tmp_path: Path) -> None:
    original = _original("segmentation", readout_type="add")
    original.save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    found = identify_head(checkpoint.state, checkpoint.format, checkpoint.meta)
    assert found is not None
    assert (found.head, found.task, found.class_names) == ("dpt", "segmentation", CLASSES)
    assert checkpoint.pixels.normalization == HALF
    assert found.options == {"readout": "add", "taps": [1, 2, 3, 4]}
    model = _ours("segmentation", readout="add")
    report = load_checkpoint(model, tmp_path, class_names=["cat", "dog", "wall"])
    assert (report.head_kept, report.head_new) == (2, 1)
    theirs, ours = _outputs(original, model)
    torch.testing.assert_close(ours[:, [2, 0]], theirs[:, [0, 2]], rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    with pytest.raises(UsageError, match="with the readout add, and this one has ignore") as error:
        load_checkpoint(_ours("segmentation", readout="ignore"), tmp_path)
    assert error.value.hint == "build it with readout=add, or pass --partial (partial=True) to take its backbone alone"
