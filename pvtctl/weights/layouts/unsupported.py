"""Name dense prediction models of other projects that pvtctl does not build, by their parameter names."""

from __future__ import annotations

from collections.abc import Iterable

# (part of a parameter's name, model); the first match counts
_MODELS = (
    ("decode_head.psp_modules.", "mmsegmentation's UPerNet or PSPNet"),
    ("decode_head.fusion_conv.", "mmsegmentation's SegFormer"),
    ("decode_head.linear_fuse.", "SegFormer"),
    ("decode_head.", "another segmentation model of mmsegmentation"),
    ("segmentation_head.", "a segmentation model of segmentation_models_pytorch"),
    ("scratch.refinenet4.", "another model of MiDaS' or DPT's authors"),
    ("depth_head.scratch.", "another model of Depth Anything's authors"),
    ("neck.reassemble_stage.", "transformers' DPT over another backbone"),
    ("rpn_head.init_proposal_bboxes.", "mmdetection's Sparse R-CNN"),
    ("roi_head.bbox_head.0.", "mmdetection's Cascade R-CNN"),
    ("roi_head.bbox_head.fc_cls.", "mmdetection's Faster R-CNN, or a Mask R-CNN with another head"),
    ("bbox_head.atss_cls.", "mmdetection's ATSS"),
    ("bbox_head.gfl_cls.", "mmdetection's GFL"),
    ("bbox_head.conv_centerness.", "mmdetection's FCOS"),
    ("bbox_attention.", "DETR with a head for masks"),
    ("transformer.level_embed", "Deformable DETR"),
    ("level_embeds", "Deformable DETR"),
    ("class_labels_classifier.", "a relative of DETR in transformers"),
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


def unsupported_model(names: Iterable[str]) -> str | None:
    """Description of the model in a state dict (original names) if pvtctl does not build it, else None."""
    keys = list(names)
    return next((title for part, title in _MODELS if any(part in key for key in keys)), None)
