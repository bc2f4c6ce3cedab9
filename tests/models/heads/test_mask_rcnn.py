"""Mask R-CNN: equal to mmdetection and torchvision, its losses and targets by hand, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from same_detections import assert_same_detections
from torch import Tensor, nn
from torchvision.ops import box_iou

from pvtctl.errors import UsageError
from pvtctl.models.backbones import Backbone
from pvtctl.models.detector import Detector, build_detector
from pvtctl.models.heads.boxes import BoxMatcher, ShiftCoder
from pvtctl.models.heads.mask_rcnn import CELLS_BOX, CELLS_MASK, MaskRcnn
from pvtctl.models.heads.proposals import RoiPooler, RoiSampler, level_of, mask_targets
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.necks.fpn import Fpn
from pvtctl.models.structures import Detections, DetectOptions, Objects
from pvtctl.weights.load import load_checkpoint

# pycocotools' decoder speaks to numpy in the old way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class TinyBackbone(Backbone):
    """One convolution a stage."""

    def __init__(self) -> None:
        super().__init__((4, 8, 8, 16))
        widths = (3, 4, 8, 8, 16)
        self.stages = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 2 * stride + 1, stride, padding=stride)
            for i, stride in enumerate((4, 2, 2, 2))
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            images = stage(images).relu()
            maps.append(images)
        return maps


def tiny(num_classes: int = 3, rois_per_image: int = 64) -> Detector:
    torch.manual_seed(0)
    neck = Fpn((4, 8, 8, 16), extra="pool", levels=(2, 6), out_channels=64)
    return Detector(
        TinyBackbone(), neck, MaskRcnn(num_classes, in_channels=64, rois_per_image=rois_per_image), num_classes
    )


def rectangles(boxes: Sequence[Sequence[int]], labels: Sequence[int], size: tuple[int, int]) -> Objects:
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return Objects(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels).long(), masks)


# the published implementations


@pytest.mark.parametrize(
    ("golden", "backbone"),
    [
        ("mask_rcnn_r50_fpn", "resnet50"),
        ("mask_rcnn_r50_gc_r4_fpn", "resnet50_gc_r4"),
        pytest.param("mask_rcnn_pvt_small_fpn", "pvt_small", marks=pytest.mark.slow),
    ],
)
def test_raw_outputs_equal_mmdetection(golden: str, backbone: str, kit: ModuleType, shared: Path) -> None:
    entries = json.loads((shared / "parity" / "manifests" / f"{golden}.json").read_text())["entries"]
    cases = json.loads((shared / "parity" / "goldens" / f"{golden}.json").read_text())["cases"]
    shapes = {
        key: shape for key, shape, dtype, _ in entries if dtype == "float32" or key.endswith("num_batches_tracked")
    }
    with without_values():  # no starting values: the kit's replace them all
        model = build_detector(backbone, "mask_rcnn", num_classes=80)
    model.to_empty(device="cpu").eval()
    head: Any = model.head
    for case in cases.values():
        load_checkpoint(model, kit.fill_state_dict(shapes, case["variant"]))
        images = torch.from_numpy(kit.make_input(case["inputs"]["image"], "image", case["variant"]))
        boxes = [torch.tensor(case["roi_boxes"])[:, 1:]]
        with torch.inference_mode():
            maps = model.features(images)
            scores, shifts = head.rpn.raw(maps)
            pooled, wide = (head.pooler(maps, boxes, cells) for cells in (CELLS_BOX, CELLS_MASK))
            classes, moves = head.boxes(pooled)
            outputs = {"roi_feat7": pooled, "roi_cls": classes, "roi_reg": moves, "roi_feat14": wide}
            outputs["roi_mask"] = head.masks(wide)
        for name, levels in (("fpn", maps), ("rpn_cls", scores), ("rpn_reg", shifts)):
            outputs |= {f"{name}{level}": x for level, x in enumerate(levels)}
        assert {key for key in case["outputs"] if key != "roi_boxes"} == set(outputs)
        for key, out in outputs.items():
            agrees, message = kit.compare(case["outputs"][key], out.numpy())
            assert agrees, message


@pytest.mark.slow
def test_detections_equal_torchvision() -> None:
    from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    torch.manual_seed(0)
    most = 12  # the masks of these take the time
    options = {"weights": None, "weights_backbone": None, "num_classes": 6, "box_detections_per_img": most}
    theirs: MaskRCNN = maskrcnn_resnet50_fpn(**options).eval()
    with torch.no_grad():  # scores that differ, boxes that move, and no more than that
        for parameter in theirs.backbone.fpn.parameters():
            parameter.mul_(0.05)
        theirs.roi_heads.box_predictor.cls_score.weight.mul_(100)
        theirs.roi_heads.box_predictor.bbox_pred.weight.mul_(4)
        theirs.rpn.head.bbox_pred.weight.mul_(10)
    with without_values():  # no starting values: theirs replace them all
        ours = build_detector("resnet50", "mask_rcnn", num_classes=5, conventions="torchvision")
    load_checkpoint(ours.to_empty(device="cpu").eval(), theirs.state_dict())
    images, sizes = torch.randn(2, 3, 128, 192), [(128, 170), (100, 192)]
    with torch.inference_mode():
        maps = theirs.backbone(images)
        proposals, _ = theirs.rpn(ImageList(images, sizes), maps)
        expected, _ = theirs.roi_heads(maps, proposals, sizes)
        found = ours(images, sizes, options=DetectOptions(max_detections=most))
    for own, other, size in zip(found, expected, sizes, strict=True):
        assert len(own) == len(own.masks) == most
        masks = np.stack([coco_mask.decode(rle).astype(bool) for rle in own.masks])
        pasted = paste_masks_in_image(other["masks"], other["boxes"], size)[:, 0].numpy() > 0.5
        assert_same_detections(
            own,
            Detections(other["boxes"], other["scores"], other["labels"] - 1),
            scores={"atol": 1e-5, "rtol": 0},
            boxes={"atol": 5e-3, "rtol": 0},
            same_mask=lambda i, j, masks=masks, pasted=pasted: (masks[i] != pasted[j]).mean() < 1e-3,
        )


@pytest.mark.parametrize(
    ("backbone", "millions", "trained"),
    [
        ("pvt_tiny", 32.882, 32.882),
        ("pvt_small", 44.139, 44.139),
        ("pvt_medium", 63.861, 63.861),
        ("pvt_large", 81.022, 81.022),
        ("resnet50", 44.396, 44.171),
        ("resnet50_gc_r4", 54.397, 54.172),
        ("resnet50_gc_r16", 46.918, 46.693),
    ],
)
def test_parameters_are_the_printed_ones(backbone: str, millions: float, trained: float) -> None:
    # PVT v1 Tables 4 and 10 (trainable parameters for the ResNets), GCNet
    frozen = {"frozen_stages": 1, "freeze_norm": True} if backbone.startswith("resnet") else {}
    with without_values():
        model = build_detector(backbone, "mask_rcnn", num_classes=80, backbone_options=frozen)
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    assert round(sum(n for n, _ in counts) / 1e6, 3) == millions
    assert round(sum(n for n, grad in counts if grad) / 1e6, 3) == trained


# parts


def test_levels_follow_the_size() -> None:
    sides = torch.tensor([1.0, 55.9, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 4000.0])
    boxes = torch.stack((sides * 0, sides * 0, sides, sides), 1)
    assert level_of(boxes).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_pooler_keeps_the_order_of_boxes_and_images() -> None:
    maps = [torch.full((2, 1, 256 // s, 256 // s), float(s)) for s in (4, 8, 16, 32)]
    maps = [x * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1) for x in maps]
    boxes = [torch.tensor([[0.0, 0, 150, 150], [10, 10, 30, 30]]), torch.tensor([[0.0, 0, 250, 250]])]
    pooled = RoiPooler(conventions="papers")(maps, boxes, 7)
    assert pooled.mean((1, 2, 3)).tolist() == pytest.approx([8, 4, -16], rel=0.01)
    none = RoiPooler(conventions="papers")(maps, [boxes[0][:0], boxes[0][:0]], 7)
    assert none.shape == (0, 1, 7, 7)


def test_mask_targets_are_the_mask_within_the_box() -> None:
    size = (60, 80)
    objects = rectangles([[10, 10, 38, 38], [40, 20, 60, 50]], [0, 1], size)
    assert objects.masks is not None
    boxes = torch.tensor([[10.0, 10, 38, 38], [24, 10, 52, 38], [40, 20, 60, 50]])
    targets = mask_targets(objects.masks, boxes, torch.tensor([0, 0, 1]))
    assert targets[0].mean() == 1
    assert targets[2].mean() == 1
    assert targets[1, :, :14].mean() == 1
    assert targets[1, :, 14:].mean() == 0


def test_many_masks_go_in_chunks() -> None:
    boxes = [[i, i, i + 20, i + 20] for i in range(40)]
    objects = rectangles(boxes, [0] * 40, (64, 64))
    assert objects.masks is not None
    which = torch.randperm(40)
    assert mask_targets(objects.masks, objects.boxes[which], which).mean() == 1


def test_coder_goes_there_and_back_and_holds_to_bounds() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 20], [5, 5, 105, 55]])
    boxes = torch.tensor([[3.0, -2, 40, 9], [0, 0, 30, 300]])
    coder = ShiftCoder((10, 10, 5, 5), conventions="papers")
    torch.testing.assert_close(coder.decode(coder.encode(boxes, anchors), anchors), boxes, atol=1e-3, rtol=0)
    shrunk = torch.tensor([[0.0, 0, -100, 0]] * 2)
    assert (coder.decode(shrunk, anchors)[:, 2] - coder.decode(shrunk, anchors)[:, 0]).tolist() == pytest.approx(
        [0.16, 1.6], rel=1e-3
    )
    free = ShiftCoder((10, 10, 5, 5), conventions="torchvision").decode(shrunk, anchors)
    assert (free[:, 2] - free[:, 0]).max() < 1e-4


def test_sampler_takes_true_boxes_and_a_quarter_of_positives() -> None:
    objects = rectangles([[10, 10, 40, 40], [60, 10, 90, 60]], [2, 0], (128, 128))
    jitter = torch.rand(600, 4) * 4
    near, far = objects.boxes[0] + jitter, torch.tensor([100.0, 100, 120, 120]) + jitter
    torch.manual_seed(1)
    sample = RoiSampler()(torch.cat((near, far)), objects)
    assert sample.boxes.shape == (512, 4)
    assert len(sample.truth) == 128
    assert (sample.boxes[:128, 0] < 95).all()
    assert (sample.boxes[128:, 0] > 95).all()
    torch.manual_seed(1)
    again = RoiSampler()(torch.cat((near, far)), objects)
    assert torch.equal(sample.boxes, again.boxes)
    alone = RoiSampler()(far, objects)
    assert alone.truth.tolist() == [0, 1]
    assert not alone.proposed.any()
    empty = RoiSampler()(far, rectangles([], [], (128, 128)))
    assert len(empty.truth) == 0
    assert len(empty.boxes) == 512


# the whole


def test_rpn_losses_by_hand() -> None:
    rpn: Any = tiny().head.rpn
    features = [torch.zeros(1, 16, 64 // s, 64 // s) for s in (4, 8, 16, 32, 64)]
    anchors = rpn.anchors.grids(features, (64, 64))
    raw = [torch.zeros(1, 3, *f.shape[-2:]) for f in features], [torch.zeros(1, 12, *f.shape[-2:]) for f in features]
    raw[1][0].fill_(0.25)  # the finest level's boxes are wrong by a quarter in all four numbers
    at = (8 * 16 + 8) * 3 + 1  # the square anchor of a cell in the middle
    target = Objects(anchors[0][at : at + 1].clone(), torch.zeros(1).long())
    rpn.matcher = BoxMatcher(0.99, 0.3, best_from=None)  # that anchor alone is positive
    losses = rpn.losses(raw, anchors, [None], [target])
    assert losses["loss_rpn_cls"].item() == pytest.approx(np.log(2))
    assert losses["loss_rpn_box"].item() == pytest.approx(4 * 0.25 / 256)


def test_second_stage_losses_by_hand() -> None:
    model = tiny(num_classes=4, rois_per_image=16)
    head: Any = model.head
    nn.init.zeros_(head.box_predictor.cls_score.weight)
    nn.init.zeros_(head.box_predictor.bbox_pred.weight)
    nn.init.zeros_(head.mask_predictor.mask_fcn_logits.weight)
    nn.init.zeros_(head.mask_predictor.mask_fcn_logits.bias)
    target = rectangles([[10, 20, 50, 60], [40, 70, 120, 110]], [3, 1], (128, 128))
    near = target.boxes[:1] + torch.tensor([[4.0, 0.0, 4.0, 0.0]])  # a tenth of the width to the right
    proposals = torch.cat((near, torch.tensor([[100.0, 0, 120, 20]]).expand(13, 4)))
    head.rpn.propose = lambda *arguments, **options: [proposals]
    losses = model(torch.randn(1, 3, 128, 128), None, [target])
    assert losses["loss_cls"].item() == pytest.approx(np.log(5))
    assert losses["loss_box"].item() == pytest.approx(0.1 * 10 / 16, rel=1e-4)  # weight 10, of 16 boxes
    assert losses["loss_mask"].item() == pytest.approx(np.log(2))
    assert losses["proposal_recall"] == 0.5
    nn.init.constant_(head.box_predictor.cls_score.bias[3:4], 5.0)
    losses = model(torch.randn(1, 3, 128, 128), None, [target])
    assert losses["recall"] == 0.5  # the other true box, put among the proposals, does not count
    assert losses["loss_cls"].item() > np.log(5)


@pytest.mark.slow
def test_half_precision_trains_and_detects() -> None:
    model, target = tiny(), rectangles([[10, 10, 80, 90], [50, 40, 120, 100]], [1, 2], (128, 128))
    images = torch.randn(1, 3, 128, 128)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, None, [target])
        assert all(value.dtype == torch.float32 for value in losses.values())
        losses["loss"].backward()
        with torch.inference_mode():
            found = model.eval()(images, options=DetectOptions(score_threshold=0.0))[0]
    assert found.boxes.dtype == found.scores.dtype == torch.float32


def test_losses_reach_every_parameter_even_without_objects() -> None:
    model = tiny()
    full = rectangles([[10, 10, 80, 90], [50, 40, 120, 100]], [1, 2], (128, 160))
    empty = rectangles([], [], (100, 192))
    for targets, sizes in (([full, empty], [(128, 160), (100, 192)]), ([empty], [(100, 192)])):
        model.zero_grad(set_to_none=True)
        losses = model(torch.randn(len(targets), 3, 128, 192), sizes, targets)
        names = {
            "loss",
            "loss_rpn_cls",
            "loss_rpn_box",
            "loss_cls",
            "loss_box",
            "loss_mask",
            "recall",
            "proposal_recall",
        }
        assert set(losses) == names
        assert all(value.isfinite() for value in losses.values())
        losses["loss"].backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not missing
    assert losses["loss_mask"] == 0
    assert losses["recall"] == 1


def test_same_seed_draws_the_same_samples() -> None:
    model = tiny()
    target = rectangles([[10, 10, 80, 90], [50, 40, 120, 100]], [1, 2], (128, 128))
    images = torch.randn(1, 3, 128, 128)
    values = []
    for _ in range(2):
        torch.manual_seed(7)
        values.append(model(images, None, [target])["loss"].item())
    assert values[0] == values[1]


@pytest.mark.slow
def test_overfits_an_image() -> None:
    model = tiny()
    boxes = [[8, 8, 56, 56], [70, 60, 120, 110]]
    target = rectangles(boxes, [0, 2], (128, 128))
    images = torch.zeros(1, 3, 128, 128)
    images[0, 0, 8:56, 8:56] = 2
    images[0, 2, 60:110, 70:120] = 2
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(50):
        losses = model(images, None, [target])
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert losses["recall"] == 1
    with torch.inference_mode():
        found = model.eval()(images, options=DetectOptions(score_threshold=0.5), output_sizes=[(256, 128)])[0]
    assert found.grids is None
    for label, truth in zip((0, 2), target.boxes * torch.tensor([1, 2, 1, 2]), strict=True):
        best = found.labels.tolist().index(label)
        assert box_iou(found.boxes[best : best + 1], truth[None]) > 0.6
        rle, (left, top, right, bottom) = found.masks[best], truth.int().tolist()
        assert rle["size"] == [256, 128]
        mask = coco_mask.decode(rle)
        assert mask[top:bottom, left:right].mean() > 0.7
        assert mask.sum() < 1.4 * (right - left) * (bottom - top)


def test_options_hold() -> None:
    model, images = tiny().eval(), torch.randn(2, 3, 128, 128)
    with torch.inference_mode():
        every = model(images, options=DetectOptions(score_threshold=0.0, nms_iou=1.0, max_detections=7))
        none = model(images, options=DetectOptions(score_threshold=1.0))
    assert [len(found) for found in every] == [7, 7]
    assert all(len(found.masks) == 7 for found in every)
    assert all((found.scores.diff() <= 0).all() for found in every)
    assert [len(found) for found in none] == [0, 0]
    assert none[0].masks == []


def test_nothing_proposed_is_nothing_found() -> None:
    model = tiny().eval()
    head: Any = model.head
    head.rpn.propose = lambda *arguments, **options: [torch.zeros(0, 4)]
    with torch.inference_mode():
        found = model(torch.randn(1, 3, 64, 64))[0]
    assert len(found) == 0
    assert found.masks == []
    losses = model.train()(torch.randn(1, 3, 64, 64), None, [rectangles([], [], (64, 64))])
    assert losses["loss"].isfinite()


def test_boxes_stay_within_their_image() -> None:
    with torch.inference_mode():
        found = tiny().eval()(torch.randn(1, 3, 128, 128), [(90, 100)], options=DetectOptions(score_threshold=0.0))[0]
    assert len(found) == 100
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([100, 90, 100, 90])).all()
    assert found.masks[0]["size"] == [90, 100]


def test_annotations_without_masks_are_refused() -> None:
    target = Objects(torch.tensor([[1.0, 1, 30, 30]]), torch.tensor([0]))
    with pytest.raises(UsageError, match="the annotations have no masks") as fault:
        tiny()(torch.randn(1, 3, 64, 64), None, [target])
    assert "--head retinanet" in (fault.value.hint or "")
