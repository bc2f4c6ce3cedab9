"""What is known of each built-in head besides its network: options, builder, checkpoints, costs. No torch.

One file a head; its network lies beside this folder under the same name.
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
"""The first of a task is taken where none is named. MiDaS's mark is part of DPT's, hence it comes last."""

__all__ = ["HEADS"]
