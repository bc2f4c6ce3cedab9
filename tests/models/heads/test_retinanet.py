"""RetinaNet: raw outputs of the original, torchvision's detections, losses by hand, and learning."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from same_detections import assert_same_detections
from torch import Tensor
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from pvtctl.models.detector import build_detector
from pvtctl.models.heads.retinanet import RetinaNet, best_scores, per_anchor
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.registry import Conventions
from pvtctl.models.structures import Detections, DetectOptions, Objects
from pvtctl.weights.load import load_checkpoint

NONE = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize(
    ("golden", "backbone"), [("retinanet_pvt_small_fpn", "pvt_small"), ("retinanet_r50_fpn", "resnet50")]
)
def test_raw_outputs_equal_the_original(golden: str, backbone: str, kit: ModuleType, shared: Path) -> None:
    """In float32 with the fast convolution, in float64 sharply."""
    manifest = json.loads((shared / "parity" / "manifests" / f"{golden}.json").read_text())
    cases = json.loads((shared / "parity" / "goldens" / f"{golden}.json").read_text())["cases"]
    shapes = {k: s for k, s, dtype, _ in manifest["entries"] if dtype == "float32" or k.endswith("num_batches_tracked")}
    for case in cases.values():
        with without_values():  # no starting values: the kit's replace them all
            model = build_detector(backbone, "retinanet", num_classes=80)
        model = model.to_empty(device="cpu").eval()
        assert sum(p.numel() for p in model.parameters()) == manifest["total_params"]
        state = {k: torch.as_tensor(v) for k, v in kit.fill_state_dict(shapes, case["variant"]).items()}
        report = load_checkpoint(model, state)
        assert (report.model, report.above_share) == (f"RetinaNet of {backbone}", 1.0)
        assert (report.head_kept, report.head_new) == (80, 0)
        image = torch.from_numpy(kit.make_input(case["inputs"]["image"], "image", case["variant"]))
        for dtype, tolerance in ((torch.float32, {}), (torch.float64, {"factor": 0, "floor": 1e-7})):
            with torch.inference_mode():
                features = model.to(dtype).features(image.to(dtype))
                classes, boxes = model.head.raw(features)
            for name, maps in (("fpn", features), ("cls", classes), ("reg", boxes)):
                for level, x in enumerate(maps):
                    fits, message = kit.compare(case["outputs"][f"{name}{level}"], x.numpy(), **tolerance)
                    assert fits, message


@pytest.mark.parametrize(
    ("backbone", "options", "millions"),
    [
        ("pvt_tiny", {}, 22.965),
        ("pvt_small", {}, 34.221),
        ("pvt_medium", {}, 53.944),
        ("pvt_large", {}, 71.105),
        ("resnet50", {"frozen_stages": 1, "freeze_norm": True}, 37.743),
    ],
)
def test_trainable_parameters_of_the_papers(backbone: str, options: dict[str, int], millions: float) -> None:
    """PVT Table 3; the CNN rows count what is trained, all of ResNet-50 are 37.969 M."""
    with without_values():
        model = build_detector(backbone, "retinanet", num_classes=80, backbone_options=options)
    assert round(sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6, 3) == millions


@pytest.mark.slow
def test_equal_to_torchvision_under_its_conventions() -> None:
    torch.manual_seed(0)
    theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=7).eval()
    with without_values():  # no starting values: theirs replace them all
        ours = build_detector("resnet50", "retinanet", num_classes=7, conventions="torchvision")
    ours.to_empty(device="cpu").eval()
    with torch.no_grad():  # spread scores and boxes
        theirs.head.classification_head.cls_logits.weight.mul_(4)
        theirs.head.classification_head.cls_logits.bias.fill_(-3)
        theirs.head.regression_head.bbox_reg.weight.mul_(3)
    state = theirs.state_dict()
    ours.load_state_dict(
        {k.replace("backbone.fpn.", "neck.").replace("backbone.body.", "backbone."): v for k, v in state.items()}
    )
    sizes, padded = [(192, 256), (170, 200)], (192, 256)
    images = torch.randn(2, 3, *padded)
    with torch.inference_mode():
        features = list(theirs.backbone(images).values())
        outputs = theirs.head(features)
        counts = [9 * x.shape[2] * x.shape[3] for x in features]
        anchors = theirs.anchor_generator(ImageList(images, sizes), features)
        levels = {name: list(x.split(counts, 1)) for name, x in outputs.items()}
        expected = theirs.postprocess_detections(levels, [list(a.split(counts)) for a in anchors], sizes)
        maps = ours.features(images)
        classes, boxes = ours.head.raw(maps)
        torch.testing.assert_close(
            torch.cat([per_anchor(x, 7) for x in classes], 1), outputs["cls_logits"], atol=1e-3, rtol=1e-4
        )
        torch.testing.assert_close(
            torch.cat([per_anchor(x, 4) for x in boxes], 1), outputs["bbox_regression"], atol=1e-3, rtol=1e-4
        )
        # from the same maps, so that noise cannot change which of two equals is kept
        found = ours.head.detect(features, sizes, padded, DetectOptions(max_detections=300))
    for detections, other in zip(found, expected, strict=True):
        assert len(detections) == len(other["boxes"]) > 50
        theirs_found = Detections(other["boxes"], other["scores"], other["labels"])
        assert_same_detections(
            detections, theirs_found, scores={"atol": 1e-4, "rtol": 0}, boxes={"atol": 0.01, "rtol": 0}
        )


@pytest.mark.parametrize("conventions", ["papers", "torchvision"])
def test_boxes_shrink_as_in_the_code_of_the_conventions(conventions: Conventions) -> None:
    """Changes of size lie within 1000 / 16 on both sides in mmdetection, and from above in torchvision."""
    generator = np.random.default_rng(0)
    corner, side = generator.uniform(0, 800, (500, 2)), generator.uniform(1, 400, (500, 2))
    deltas = generator.normal(0, 4, (500, 4))
    most = math.log(1000 / 16)
    growth = np.exp(np.clip(deltas[:, 2:], -most if conventions == "papers" else None, most))
    centre = corner + side / 2 + deltas[:, :2] * side
    expected = np.concatenate((centre - growth * side / 2, centre + growth * side / 2), 1)
    assert (deltas[:, 2:] < -most).any()
    anchors = torch.tensor(np.concatenate((corner, corner + side), 1), dtype=torch.float32)
    found = RetinaNet(3, conventions=conventions, in_channels=8).box_coder.decode(torch.tensor(deltas), anchors)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=2e-2)


def small_head(classes: int = 3, width: int = 8) -> tuple[RetinaNet, list[Tensor]]:
    torch.manual_seed(0)
    return RetinaNet(classes, in_channels=width), [
        torch.randn(2, width, -(-64 // s), -(-96 // s)) for s in (8, 16, 32, 64, 128)
    ]


def test_losses_by_their_definitions() -> None:
    """Anchor by anchor for one box, with sigmoid and focal weights written out (RetinaNet section 3)."""
    head, features = small_head()
    box = torch.tensor([[20.0, 10, 60, 40]])
    losses = head.losses(features, [(64, 96)] * 2, (64, 96), [Objects(box, torch.tensor([2])), NONE])
    classes, boxes = head.raw(features)
    p = torch.cat([per_anchor(x, 3) for x in classes], 1).sigmoid().double()
    deltas = torch.cat([per_anchor(x, 4) for x in boxes], 1)[0]
    anchors = torch.cat(head.anchors.grids(features, (64, 96)))
    iou = box_iou(box, anchors)[0]
    positive, ignored = (iou >= 0.5) | (iou == iou.max()), (iou >= 0.4) & (iou < 0.5) & (iou < iou.max())
    background = -(0.75 * p**2 * (1 - p).log())
    background[0, positive, 2] = -(0.25 * (1 - p[0, positive, 2]) ** 2 * p[0, positive, 2].log())
    background[0, ignored] = 0
    torch.testing.assert_close(losses["loss_cls"].double(), background.sum() / positive.sum(), rtol=1e-5, atol=0)
    a = anchors[positive]
    size, goal_size = a[:, 2:] - a[:, :2], box[:, 2:] - box[:, :2]
    shift = ((box[:, 2:] + box[:, :2]) - (a[:, 2:] + a[:, :2])) / 2 / size
    goal = torch.cat((shift, (goal_size / size).log()), 1)
    expected = (deltas[positive] - goal).abs().sum() / positive.sum()
    torch.testing.assert_close(losses["loss_box"], expected, rtol=1e-5, atol=0)
    assert losses["recall"] == 0


def test_padding_is_not_background() -> None:
    """What the head says outside the image's own size changes no loss."""
    head, features = small_head()
    objects = [Objects(torch.tensor([[5.0, 5, 30, 25]]), torch.tensor([0])), NONE]
    sizes = [(32, 32), (64, 96)]
    with torch.no_grad():
        head.classification_head.conv = head.regression_head.conv = torch.nn.Identity()
        before = head.losses(features, sizes, (64, 96), objects)
        for x, stride in zip(features, (8, 16, 32, 64, 128), strict=True):
            x[0, :, :, -(-32 // stride) + 1 :] += 10
        after = head.losses(features, sizes, (64, 96), objects)
    assert torch.equal(before["loss_cls"], after["loss_cls"])
    assert torch.equal(before["loss_box"], after["loss_box"])


def test_no_boxes_at_all_still_trains() -> None:
    head, features = small_head()
    losses = head.losses(features, [(64, 96)] * 2, (64, 96), [NONE, NONE])
    assert losses["loss_box"] == 0
    assert losses["recall"] == 1
    (losses["loss_cls"] + losses["loss_box"]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert head.detect(features, [(64, 96)] * 2, (64, 96), DetectOptions())[0].boxes.shape == (0, 4)


def test_losses_are_float32_under_autocast() -> None:
    head, features = small_head()
    objects = [Objects(torch.tensor([[20.0, 10, 60, 40]]), torch.tensor([2])), NONE]
    expected = head.losses(features, [(64, 96)] * 2, (64, 96), objects)
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.losses(features, [(64, 96)] * 2, (64, 96), objects)
    for name in ("loss_cls", "loss_box"):
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], expected[name], rtol=0.02, atol=0)


@pytest.mark.slow
def test_learns_two_boxes_and_finds_them() -> None:
    head, features = small_head(width=16)
    objects = [
        Objects(torch.tensor([[20.0, 10, 60, 40], [0.0, 30, 30, 64]]), torch.tensor([2, 0])),
        Objects(torch.tensor([[50.0, 20, 96, 60]]), torch.tensor([1])),
    ]
    sizes = [(64, 96)] * 2
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    for _ in range(100):
        losses = head.losses(features, sizes, (64, 96), objects)
        optimizer.zero_grad()
        (losses["loss_cls"] + losses["loss_box"]).backward()
        optimizer.step()
    assert losses["recall"] == 1
    with torch.inference_mode():
        found = head.detect(features, sizes, (64, 96), DetectOptions(score_threshold=0.3))
    for detections, truth in zip(found, objects, strict=True):
        right = truth.labels[:, None] == detections.labels
        assert ((box_iou(truth.boxes, detections.boxes) * right).amax(1) > 0.7).all()
        assert torch.equal(detections.scores, detections.scores.sort(descending=True).values)


def test_options_are_kept() -> None:
    head, features = small_head()
    with torch.no_grad():
        head.classification_head.cls_logits.bias.fill_(0)
    find = lambda **options: head.detect(features, [(64, 96), (40, 50)], (64, 96), DetectOptions(**options))  # noqa: E731
    with torch.inference_mode():
        usual = find()
        assert [len(d) for d in usual] == [100, 100]
        assert usual[1].boxes[:, 2].max() <= 50
        assert usual[1].boxes[:, 3].max() <= 40
        assert len(find(max_detections=7)[0]) == 7
        assert len(find(score_threshold=0.999)[0]) == 0
        assert len(find(score_threshold=0.0)[0]) == 100
        many = find(nms_iou=1.0, max_detections=10_000)[0]
        few = find(nms_iou=0.1, max_detections=10_000)[0]
    assert len(many) > 5 * len(few)


def test_best_scores_are_those_of_all_sigmoids() -> None:
    logits = torch.randn(5000) * 3 - 2
    logits[7] = torch.logit(torch.tensor(0.05))
    scores, index = best_scores(logits, 0.05)
    every = logits.sigmoid()
    assert len(scores) == min(1000, int((every > 0.05).sum()))
    assert torch.equal(scores, every[index])
    assert torch.equal(scores, every.sort(descending=True).values[: len(scores)])
    assert len(best_scores(logits, 1.0)[0]) == 0
    assert F.relu(-best_scores(logits, 0.9)[0] + 0.9).max() == 0
