"""How our own state dicts are told from others: by names that nobody else uses."""

from __future__ import annotations

from pvtctl.models.registry import HeadSpec, head_specs


def is_ours(keys: set[str]) -> bool:
    """A PVT or ViT of ours, `backbone.` taken off. (Our ResNets have torchvision's names.)"""
    pvt = "stages.0.patch_embed.proj.weight" in keys
    vit = {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "class_token"} <= keys
    return pvt or vit


def head_in(keys: set[str]) -> HeadSpec | None:
    """The head of a detector or dense model of ours: `head.` before what the heads of others have without it, and no `body`
    in the backbone."""
    marks = ((spec, mark) for spec in head_specs() for mark in spec.marks)
    return next((spec for spec, mark in marks if mark.names | mark.beside <= keys), None)
