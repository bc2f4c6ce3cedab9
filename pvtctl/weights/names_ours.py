"""How our own state dicts are told from others: by names that nobody else uses."""

from __future__ import annotations


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
