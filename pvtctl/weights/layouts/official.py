"""Parameter names of the official PVT code (v1 and v2, classification and dense) and pvtctl's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_STAGE_PART = re.compile(r"(patch_embed|block|pos_embed|norm)([1-4])(?:\.(.+))?$")


def is_official(keys: set[str]) -> bool:
    """Whether these are the names of an official PVT v1 or v2 state dict."""
    return "patch_embed1.proj.weight" in keys and "block1.0.attn.q.weight" in keys


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an official state dict to pvtctl's names; unknown names are kept, for the report.

    Source: classification/pvt.py and pvt_v2.py of the official repository.
    """
    return {_to_ours(key): value for key, value in state.items()}


def _to_ours(key: str) -> str:
    if key in ("head.weight", "head.bias"):
        return key
    if key == "cls_token":
        return "backbone.class_token"
    found = _STAGE_PART.match(key)
    if found is None:
        return f"backbone.{key}"
    part, number, rest = found.groups()
    stage = f"backbone.stages.{int(number) - 1}"
    match part, rest:
        case "block", str():
            return f"{stage}.blocks.{rest}".replace(".dwconv.dwconv.", ".dwconv.")
        case _, None:
            return f"{stage}.{part}"
        case _:
            return f"{stage}.{part}.{rest}"


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_official`, for `backbone.*` / `head.*` names of a PVT."""
    return {_from_ours(key): value for key, value in state.items()}


def _from_ours(key: str) -> str:
    key = key.removeprefix("backbone.")
    if key == "class_token":
        return "cls_token"
    found = re.match(r"stages\.([0-3])\.(patch_embed|blocks|pos_embed|norm)(?:\.(.+))?$", key)
    if found is None:
        return key
    number, part, rest = found.groups()
    name = f"{part.removesuffix('s') if part == 'blocks' else part}{int(number) + 1}"
    return f"{name}.{rest}".replace(".dwconv.", ".dwconv.dwconv.") if rest else name
