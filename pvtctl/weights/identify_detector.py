"""Which detector a state dict in our names is, whose classes it has, and which detectors of others are none of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from pvtctl.data.class_names import COCO_CATEGORIES, COCO_NAMES, names_by_id
from pvtctl.models.detector import HEADS, Conventions, HeadName
from pvtctl.weights.recognise import Format, identify
from pvtctl.weights.remap_classes import Layout, class_tables

_MARKS: dict[HeadName, str] = {
    "retinanet": "head.classification_head.cls_logits.weight",
    "mask_rcnn": "head.mask_predictor.mask_fcn_logits.weight",
    "detr": "head.class_embed.weight",
}
_FORMATS: tuple[Format, ...] = (
    "pvtctl",
    "mmdetection RetinaNet",
    "mmdetection Mask R-CNN",
    "mmdetection DETR",
    "facebookresearch DETR",
    "torchvision RetinaNet",
    "torchvision Mask R-CNN",
)
TITLES: dict[HeadName, str] = {"retinanet": "RetinaNet", "mask_rcnn": "Mask R-CNN", "detr": "DETR"}


@dataclass(frozen=True)
class Identified:
    """What the names and shapes of a detector's state dict tell."""

    backbones: list[str]
    """Ours with exactly these shapes: none for others', two where two share them."""
    head: HeadName
    num_classes: int
    conventions: Conventions
    num_queries: int | None = None
    """DETR's."""
    width: int | None = None
    """Channels of FPN and head; None: the papers' 256, or no FPN."""
    kind = "detector"

    @property
    def name(self) -> str:
        """`RetinaNet`."""
        return TITLES[self.head]

    @property
    def tables(self) -> dict[str, Layout]:
        """The parameters that have rows for classes."""
        return class_tables(self.head)

    @property
    def title(self) -> str:
        """`RetinaNet of pvt_small`."""
        return f"{self.name} of {' or '.join(self.backbones) or 'a backbone that is none of ours'}"


def identify_detector(state: Mapping[str, Tensor], format: Format = "pvtctl") -> Identified | None:
    """The detector that `state`, in our names, holds; None when there is none of ours in it.

    `format` is the layout that it came in, which tells the conventions.
    """
    head = head_of(state) if format in _FORMATS else None  # heads of other makes have some of the same names
    if head is None or (num_classes := class_count(state, head)) < 1:
        return None
    queries = int(state["head.query_embed.weight"].shape[0]) if "head.query_embed.weight" in state else None
    return Identified(identify(state), head, num_classes, conventions_of(state, format), queries, fpn_width(state))


def fpn_width(state: Mapping[str, Tensor]) -> int | None:
    """Channels of the feature pyramid in `state` (our names); None where there is none, and for the papers' 256."""
    lateral = state.get("neck.inner_blocks.0.0.weight")
    return None if lateral is None or lateral.shape[0] == 256 else int(lateral.shape[0])


def head_of(state: Mapping[str, Tensor]) -> HeadName | None:
    """The head whose class outputs `state` (our names) holds."""
    return next((head for head in HEADS if _MARKS[head] in state), None)


def class_count(state: Mapping[str, Tensor], head: HeadName) -> int:
    """K, from the rows of the class outputs; 0 where the shapes make no sense."""
    match head:
        case "retinanet":
            boxes = state.get("head.regression_head.bbox_reg.weight")
            anchors = boxes.shape[0] // 4 if boxes is not None else 9
            return state[_MARKS[head]].shape[0] // anchors if anchors else 0
        case "mask_rcnn":
            scores = state.get("head.box_predictor.cls_score.weight")
            return scores.shape[0] - 1 if scores is not None else 0
        case "detr":
            return state[_MARKS[head]].shape[0] - 1


def conventions_of(state: Mapping[str, Tensor], format: Format) -> Conventions:
    """Whose anchors a detector was trained with: the layout tells, and RetinaNet's P6, which torchvision builds on the
    pyramid and the papers on the backbone's last map."""
    if format in ("torchvision RetinaNet", "torchvision Mask R-CNN"):
        return "torchvision"
    p6, laterals = state.get("neck.extra_blocks.p6.weight"), state.get("neck.inner_blocks.2.0.weight")
    if format == "pvtctl" and p6 is not None and laterals is not None and p6.shape[1] != laterals.shape[1]:
        return "torchvision"
    return "papers"


def names_without_meta(found: Identified, format: Format) -> list[str] | None:
    """Class names of a file of others that does not say any: COCO's where the number of classes is COCO's.

    80 classes, or a row for every category id: 0 to 90 (facebookresearch's DETR, torchvision's RetinaNet), or 1 to 90
    (torchvision's Mask R-CNN, its background apart).
    """
    if format == "pvtctl":
        return None
    match found.num_classes:
        case 80:
            return list(COCO_NAMES)
        case 90:
            return names_by_id(1, 90)
        case 91:
            return names_by_id(0, 90)
        case _:
            return None


def coco_ids(class_names: Sequence[str] | None) -> list[int] | None:
    """COCO's category ids of these classes; None unless they are COCO's 80, in any order, with or without unused ones."""
    if class_names is None or not set(COCO_NAMES) <= set(class_names):
        return None
    where = {name: category for category, name in COCO_CATEGORIES.items()}
    ids = [where.get(name, _unused_id(name)) for name in class_names]
    return [each for each in ids if each is not None] if None not in ids else None


def _unused_id(name: str) -> int | None:
    number = name.removeprefix("N/A ")
    return int(number) if number != name and number.isdigit() else None


# (a part of a parameter's name, what has it); the first that is found counts
_OTHERS = (
    ("rpn_head.init_proposal_bboxes.", "mmdetection's Sparse R-CNN"),
    ("roi_head.bbox_head.0.", "mmdetection's Cascade R-CNN"),
    ("roi_head.bbox_head.fc_cls.", "mmdetection's Faster R-CNN, or a Mask R-CNN with another head"),
    ("bbox_head.atss_cls.", "mmdetection's ATSS"),
    ("bbox_head.gfl_cls.", "mmdetection's GFL"),
    ("bbox_head.conv_centerness.", "mmdetection's FCOS"),
    ("bbox_attention.", "DETR with a head for masks"),
    ("transformer.level_embed", "Deformable DETR"),
    ("level_embeds", "Deformable DETR"),
    ("class_labels_classifier.", "transformers' DETR"),
    ("proposal_generator.", "a detectron2 model"),
    ("backbone.bottom_up.", "a detectron2 model"),
    ("roi_heads.keypoint_predictor.", "torchvision's Keypoint R-CNN"),
    ("regression_head.bbox_ctrness.", "torchvision's FCOS"),
    ("classification_head.module_list.", "torchvision's SSD"),
    ("classification_head.conv.0.1.weight", "torchvision's RetinaNet v2"),
    ("roi_heads.mask_predictor.", "torchvision's Mask R-CNN v2"),
    ("roi_heads.box_predictor.", "torchvision's Faster R-CNN"),
    ("bbox_head.", "another detector of mmdetection"),
)


def other_detector(names: Mapping[str, Tensor]) -> str | None:
    """What a state dict under its own names is, where that is a detector which pvtctl does not build; else None."""
    return next((title for part, title in _OTHERS if any(part in name for name in names)), None)
