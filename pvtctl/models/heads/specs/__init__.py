"""Specs of the built-in heads: options, builder, checkpoints, costs. No torch.

One file per head; the network is in the file of the same name in the parent directory.
"""

from pvtctl.models.heads.specs.deeplabv3plus import DEEPLABV3PLUS
from pvtctl.models.heads.specs.detr import DETR
from pvtctl.models.heads.specs.dpt import DPT
from pvtctl.models.heads.specs.mask_rcnn import MASK_RCNN
from pvtctl.models.heads.specs.midas import MIDAS
from pvtctl.models.heads.specs.retinanet import RETINANET
from pvtctl.models.heads.specs.semantic_fpn import SEMANTIC_FPN
from pvtctl.models.heads.specs.trans2seg import TRANS2SEG

HEADS = (RETINANET, MASK_RCNN, DETR, SEMANTIC_FPN, TRANS2SEG, DEEPLABV3PLUS, DPT, MIDAS)
"""The first head of a task is its default. MiDaS's mark is part of DPT's, hence it comes last."""

__all__ = ["HEADS"]
