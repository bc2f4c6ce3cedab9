"""How our own state dicts are told from others: by names that nobody else uses."""

from __future__ import annotations


def is_ours(keys: set[str]) -> bool:
    """A PVT or ViT of ours, `backbone.` taken off. (Our ResNets have torchvision's names.)"""
    pvt = "stages.0.patch_embed.proj.weight" in keys
    vit = {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "class_token"} <= keys
    return pvt or vit
