"""How our own state dicts are told from others: by names that nobody else uses."""

from __future__ import annotations

from typing import Literal

from pvtctl.models.dense import DepthHeadName, SegmentationHeadName

DenseHeadName = SegmentationHeadName | DepthHeadName
DenseTask = Literal["segmentation", "depth"]
_MIX = "head.decoder.fusions.0.mix.weight"
DENSE_MARKS: tuple[tuple[DenseHeadName, DenseTask, frozenset[str], str], ...] = (
    ("semantic_fpn", "segmentation", frozenset({"head.scale_heads.0.0.conv.weight"}), "head.classifier.weight"),
    ("trans2seg", "segmentation", frozenset({"head.answers.fc_q.weight"}), "head.cls_embed"),
    ("deeplabv3plus", "segmentation", frozenset({"head.low_level.conv.weight"}), "head.classifier.weight"),
    ("dpt", "segmentation", frozenset({_MIX, "head.output.first.conv.weight"}), "head.output.last.weight"),
    ("dpt", "depth", frozenset({_MIX, "head.output.second.weight"}), "head.output.last.weight"),
    ("midas", "depth", frozenset({"head.decoder.narrow.0.weight"}), "head.output.last.weight"),
)
"""(head, task, parameters that tell it from those further down, the one that has rows for the classes)"""


def is_ours(keys: set[str]) -> bool:
    """A PVT or ViT of ours, `backbone.` taken off. (Our ResNets have torchvision's names.)"""
    pvt = "stages.0.patch_embed.proj.weight" in keys
    vit = {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "class_token"} <= keys
    return pvt or vit


def is_detector(keys: set[str]) -> bool:
    """A detector of ours: `head.` before what the heads of others have without it, and no `body` in the backbone."""
    heads = (
        {"head.classification_head.cls_logits.weight", "neck.inner_blocks.0.0.weight"},
        {"head.mask_predictor.mask_fcn_logits.weight", "neck.inner_blocks.0.0.weight"},
        {"head.class_embed.weight", "head.query_embed.weight"},
    )
    return any(head <= keys for head in heads)


def is_dense(keys: set[str]) -> bool:
    """A segmentation or depth model of ours."""
    return any(marks | {rows} <= keys for _, _, marks, rows in DENSE_MARKS)
