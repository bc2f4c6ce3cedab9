"""Parameter names of the original Trans2Seg code.

Source: the parameters of the original model, by name and shape. Layers whose results are never used (see
`pvtctl.models.heads.trans2seg`) do not exist in pvtctl and are left out here, as is the backbone's own classifier.
"""

from __future__ import annotations

import re

from torch import Tensor

from pvtctl.weights.layouts.base import CheckpointLayout, Rules, State

_VIT = "transformer_head.transformer.vit."
_RULES = Rules(
    ("encoder.", "backbone."),
    (f"{_VIT}hybrid_embed.proj.", "head.embed."),
    (f"{_VIT}blocks_encoder.", "head.encoder."),
    (f"{_VIT}blocks_decoder.", "head.decoder."),
    (_VIT, "head."),
    ("transformer_head.lay#.block.", "head.lay#."),
    ("transformer_head.", "head."),
)


def _to_ours(state: State) -> dict[str, Tensor]:
    renamed = _RULES.to_ours(state)
    inside = re.compile(r"head\.decoder\.(\d+)\.(.+)")
    last = max(int(found[1]) for key in renamed if (found := inside.match(key)))
    converted: dict[str, Tensor] = {}
    for name, value in renamed.items():
        found = inside.match(name)
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
    if name == "attn.fc_q.weight":
        return {"head.answers.fc_q.weight": value}
    if name == "attn.fc_kv.weight":
        return {"head.answers.fc_k.weight": value[: len(value) // 2]}
    if name.startswith(("norm1.", "norm1_clsembed.", "norm4.", "mlp3.")):
        return {f"head.answers.{name}": value}
    return {}


TRANS2SEG = CheckpointLayout("Trans2Seg", ({f"{_VIT}hybrid_embed.proj.weight"},), _to_ours)
