"""The configurations of transformers' backbones that are equal to pvtctl's."""

from __future__ import annotations

from typing import Any

from torch import nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones import Pvt, PvtV2, ResNet
from pvtctl.models.backbones.vit import ResNetEmbed, Vit
from pvtctl.models.variants import STRIDES


def pvt_config(body: Pvt | PvtV2) -> dict[str, Any]:
    """Of `PvtConfig` or `PvtV2Config`. Raises UsageError for a body that they have no words for."""
    first: list[Any] = [stage.blocks[0] for stage in body.stages]  # type: ignore[index]
    linear = any(block.attn.linear for block in first)
    if isinstance(body, PvtV2) and first[0].mlp.dwconv is None:
        raise UsageError(
            "transformers' PvtV2 always has a depthwise convolution in its feed-forward part, and this model has none",
            "--format official writes it",
        )
    overlaps = isinstance(body, PvtV2) and body.stages[0].patch_embed.proj.kernel_size[0] == 7  # type: ignore[union-attr,index]
    if body.feature_strides != STRIDES or isinstance(body, PvtV2) != overlaps:
        raise UsageError(
            "transformers' PVTs have patches of 4, 2, 2 and 2, overlapping in PvtV2 only, and this model has others",
            "--format official writes it",
        )
    ratios = [block.attn.sr.kernel_size[0] if block.attn.reduces else 1 for block in first]
    config: dict[str, Any] = {
        "hidden_sizes": list(body.feature_channels),
        "depths": list(body.depths),
        "num_attention_heads": [block.attn.num_heads for block in first],
        "mlp_ratios": [block.mlp.fc1.out_features // block.mlp.fc1.in_features for block in first],
        "num_encoder_blocks": 4,
        "strides": [4, 2, 2, 2],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
    }
    if isinstance(body, Pvt):
        stage: Any = body.stages[0]
        own: dict[str, Any] = {"model_type": "pvt", "patch_sizes": [4, 2, 2, 2], "sequence_reduction_ratios": ratios}
        return own | {"image_size": 4 * int(stage.grid[0])} | config
    ratios = [8, 4, 2, 1] if linear else ratios
    own = {"model_type": "pvt_v2", "patch_sizes": [7, 3, 3, 3], "sr_ratios": ratios, "linear_attention": linear}
    return own | {"image_size": 224} | config


def vit_config(body: Vit) -> dict[str, Any]:
    """Of `ViTConfig`, `DeiTConfig` and `DPTConfig`."""
    block: Any = body.blocks[0]
    return {
        "hidden_size": body.embed_dim,
        "num_hidden_layers": body.depth,
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "hidden_act": "gelu",
        "qkv_bias": block.attn.qkv.bias is not None,
        "layer_norm_eps": block.norm1.eps,
        "image_size": body.patch_size * body.grid[0],
        "patch_size": body.patch_size,
    }


def hybrid_config(embed: ResNetEmbed, grid: int) -> dict[str, Any]:
    """Of `DPTConfig` with a hybrid's ResNet, of whose map the position table has `grid` x `grid` cells."""
    stages: list[Any] = list(embed.stages)
    widths = [stage[0].conv3.out_channels for stage in stages]
    return {
        "backbone_config": {
            "model_type": "bit",
            "depths": [len(stage) for stage in stages],
            "hidden_sizes": widths,
            "embedding_size": embed.stem.out_channels,
            "num_groups": embed.stem_norm.num_groups,
            "layer_type": "bottleneck",
            "global_padding": "same",
            "embedding_dynamic_padding": True,
            "out_features": ["stage1", "stage2", "stage3"],
        },
        "backbone_featmap_shape": [1, widths[-1], grid, grid],
        "neck_ignore_stages": [0, 1],
    }


def resnet_config(body: ResNet) -> dict[str, Any]:
    """Of `ResNetConfig`. Raises UsageError for a body that it has no words for."""
    first: Any = body.layer1[0]
    problem = None
    if body.feature_strides != STRIDES:
        problem = "dilation"
    elif not isinstance(body.conv1, nn.Conv2d):
        problem = "deep stem"
    elif any(".context_block." in name for name, _ in body.named_parameters()):
        problem = "context blocks"
    elif hasattr(first, "conv3") and first.conv2.weight.shape[:2] != (first.conv1.out_channels,) * 2:
        problem = "groups"
    elif hasattr(first, "conv3") and first.conv3.out_channels != 4 * first.conv2.out_channels:
        problem = "wider bottlenecks"
    if problem is not None:
        raise UsageError(f"transformers' ResNet has no {problem}, and this model has", "--format official writes it")
    return {
        "model_type": "resnet",
        "embedding_size": body.conv1.out_channels,
        "hidden_sizes": list(body.feature_channels),
        "depths": list(body.depths),
        "layer_type": "bottleneck" if hasattr(first, "conv3") else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }
