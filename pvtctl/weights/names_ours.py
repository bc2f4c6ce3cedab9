"""How our own state dicts are told from others: by names that nobody else uses."""

from __future__ import annotations

DENSE_MARKS: dict[str, tuple[str, str]] = {
    "semantic_fpn": ("head.scale_heads.0.0.conv.weight", "head.classifier.weight"),
    "trans2seg": ("head.answers.fc_q.weight", "head.cls_embed"),
    "deeplabv3plus": ("head.low_level.conv.weight", "head.classifier.weight"),
    "dpt": ("head.project.0.weight", "head.output.weight"),
    "midas": ("head.midas.weight", "head.midas.weight"),
}
"""For each dense head of ours a parameter that no other has, and one that has rows for the classes."""


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
    return any(set(marks) <= keys for marks in DENSE_MARKS.values())
