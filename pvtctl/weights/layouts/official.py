"""Parameter names of the official PVT code (v1 and v2, classification and dense).

Source: classification/pvt.py and pvt_v2.py of the official repository.
"""

from __future__ import annotations

from pvtctl.weights.layouts.base import CheckpointLayout, Rules

RULES = Rules(
    ("head.weight", "head.weight"),
    ("head.bias", "head.bias"),
    ("cls_token", "backbone.class_token"),
    *(
        (theirs.format(stage + 1), f"backbone.stages.{stage}.{ours}")
        for stage in range(4)
        for theirs, ours in (
            ("block{}.#.mlp.dwconv.dwconv.", "blocks.#.mlp.dwconv."),
            ("block{}.", "blocks."),
            ("patch_embed{}.", "patch_embed."),
            ("pos_embed{}", "pos_embed"),
            ("norm{}.", "norm."),
        )
    ),
    ("", "backbone."),
)
PVT = CheckpointLayout("official PVT", ({"patch_embed1.proj.weight", "block1.0.attn.q.weight"},), RULES.to_ours)
