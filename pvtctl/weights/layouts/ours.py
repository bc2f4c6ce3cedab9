"""Recognise pvtctl's own state dicts by names that no other project uses."""

from __future__ import annotations

from pvtctl.models.registry import HeadSpec, head_specs


def is_ours(keys: set[str]) -> bool:
    """Whether this is a pvtctl PVT or ViT, names without `backbone.`. (pvtctl's ResNets have torchvision's names.)"""
    pvt = "stages.0.patch_embed.proj.weight" in keys
    vit = {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "class_token"} <= keys
    return pvt or vit


def head_in(keys: set[str]) -> HeadSpec | None:
    """The head of a pvtctl detector or dense model: its names start with `head.`, unlike other projects', and the backbone
    has no `body`.
    """
    marks = ((spec, mark) for spec in head_specs() for mark in spec.marks)
    return next((spec for spec, mark in marks if mark.names | mark.beside <= keys), None)
