"""Parameter names of the original Trans2Seg code, and pvtctl's.

Source: the parameters of the original model, by name and shape. Layers whose results are never used (see
`pvtctl.models.heads.trans2seg`) do not exist in pvtctl and are left out here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from pvtctl.weights.layouts.mmdet import renamed

_VIT = r"transformer_head\.transformer\.vit\."
_RULES = (
    (r"encoder\.", "backbone."),
    (_VIT + r"hybrid_embed\.proj\.", "head.embed."),
    (_VIT + r"blocks_encoder\.", "head.encoder."),
    (_VIT + r"blocks_decoder\.", "head.decoder."),
    (_VIT, "head."),
    (r"transformer_head\.(lay\d)\.block\.", r"head.\1."),
    (r"transformer_head\.", "head."),
)
_MARK = "transformer_head.transformer.vit.hybrid_embed.proj.weight"
_OF_ANSWERS = ("norm1.", "norm1_clsembed.", "norm4.", "mlp3.")


def is_trans2seg(keys: set[str]) -> bool:
    """Whether this is the original Trans2Seg, backbone included."""
    return _MARK in keys


def from_trans2seg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename to `backbone.*` (the ResNet's names unchanged) and pvtctl's `head.*`; unused parameters, among them the
    backbone's own classifier, are left out.
    """
    last = max(int(found[1]) for key in state if (found := re.match(_VIT + r"blocks_decoder\.(\d+)\.", key)))
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        name = renamed(key, _RULES)
        found = re.match(r"head\.decoder\.(\d+)\.(.+)", name)
        if found is None:
            if not name.startswith("backbone.fc."):
                converted[name] = value
        elif int(found[1]) == last:
            converted |= _answers(found[2], value)
        elif not found[2].startswith(("norm4.", "mlp3.")):
            converted[name] = value
    return converted


def _answers(name: str, value: Tensor) -> dict[str, Tensor]:
    """The last decoder layer's attention scores. Keys are the first half of the joint projection."""
    match name:
        case "attn.fc_q.weight":
            return {"head.answers.fc_q.weight": value}
        case "attn.fc_kv.weight":
            return {"head.answers.fc_k.weight": value[: len(value) // 2]}
        case _ if name.startswith(_OF_ANSWERS):
            return {f"head.answers.{name}": value}
        case _:
            return {}
