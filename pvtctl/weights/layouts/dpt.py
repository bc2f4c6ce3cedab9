"""Parameter names of the original DPT (isl-org/DPT), depth and segmentation, with a ViT or the hybrid.

Source: the parameters of the original models, by name and shape.
"""

from __future__ import annotations

from torch import Tensor

from pvtctl.weights.layouts.base import CheckpointLayout, Rules, State
from pvtctl.weights.layouts.timm import VIT_BODY

UNUSED = (
    "pretrained.model.norm.",
    "pretrained.model.head.",
    "pretrained.model.head_dist.",
    "scratch.refinenet4.resConfUnit1.",
)
"""What the original's outputs never depend on."""
CLASS_OUTPUT = (("0.", "first.conv."), ("1.", "first.bn."), ("4.", "last."))
DEPTH_OUTPUT = (("0.", "first."), ("2.", "second."), ("4.", "last."))
NORMED_UNIT = (("conv1.", "first.conv."), ("bn1.", "first.bn."), ("conv2.", "second.conv."), ("bn2.", "second.bn."))
"""A residual unit of segmentation models."""
PLAIN_UNIT = (("conv1.", "first.0."), ("conv2.", "second."))
"""Of depth models: no batch norms, so a ReLU follows the first convolution."""


def _to_ours(state: State) -> dict[str, Tensor]:
    """Unused parameters keep their names."""
    norm = "scratch.refinenet1.resConfUnit1.bn1.weight" in state
    levels = (
        ("pretrained.act_postprocess{}.0.project.0.", "head.reassemble.{}.read."),
        ("pretrained.act_postprocess{}.3.", "head.reassemble.{}.project."),
        ("pretrained.act_postprocess{}.4.", "head.reassemble.{}.resample."),
        ("scratch.layer{}_rn.", "head.decoder.narrow.{}."),
        ("scratch.refinenet{}.out_conv.", "head.decoder.fusions.{}.mix."),
        *(
            (f"scratch.refinenet{{}}.{unit}.{theirs}", f"head.decoder.fusions.{{}}.{name}.{ours}")
            for unit, name in (("resConfUnit1", "skip"), ("resConfUnit2", "unit"))
            for theirs, ours in (NORMED_UNIT if norm else PLAIN_UNIT)
        ),
    )
    outputs = CLASS_OUTPUT if norm else DEPTH_OUTPUT
    return Rules(
        *((part, part) for part in UNUSED),
        *((f"pretrained.model.{theirs}", ours) for theirs, ours in VIT_BODY),
        *((theirs.format(level + 1), ours.format(level)) for level in range(4) for theirs, ours in levels),
        *((f"scratch.output_conv.{theirs}", f"head.output.{ours}") for theirs, ours in outputs),
        *((f"auxlayer.{theirs}", f"head.auxiliary.{ours}") for theirs, ours in CLASS_OUTPUT),
    ).to_ours(state)


_MARKS = {"scratch.refinenet1.out_conv.weight", "pretrained.act_postprocess4.3.weight", "pretrained.model.pos_embed"}
DPT = CheckpointLayout("isl-org DPT", (_MARKS,), _to_ours)
