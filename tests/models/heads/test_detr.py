"""DETR: equal to the original, the same answer for an image whatever else is in its batch, and it learns."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from same_detections import assert_same_detections
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pvtctl.errors import UsageError
from pvtctl.models.backbones import Backbone
from pvtctl.models.detector import Detector, build_detector
from pvtctl.models.heads.detr import Detr, padding_mask, sine_positions, valid_cells
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.structures import DetectOptions, Objects


class TinyBackbone(Backbone):
    """One convolution a stage: quick, and it sees padding (its bias fills it)."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__((4, 8, 8, 16))
        widths = (3, 4, 8, 8, 16)
        self.stages = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 2 * stride + 1, stride, padding=stride)
            for i, stride in enumerate((4, 2, 2, 2))
        )
        self.norm = nn.BatchNorm2d(16) if norm else nn.Identity()

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            images = stage(images).relu()
            maps.append(images)
        return [*maps[:3], self.norm(maps[3])]


def tiny(num_classes: int = 3, norm: bool = False) -> Detector:
    torch.manual_seed(0)
    return Detector(TinyBackbone(norm), None, Detr(16, num_classes, num_queries=7), num_classes)


def pad(images: list[Tensor], height: int, width: int) -> Tensor:
    batch = torch.zeros(len(images), 3, height, width)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return batch


@pytest.mark.parametrize("golden", ["detr_resnet50", "detr_pvt_small"])
def test_outputs_equal_the_original(golden: str, kit: ModuleType, shared: Path) -> None:
    entries = json.loads((shared / "parity" / "manifests" / f"{golden}.json").read_text())["entries"]
    cases = json.loads((shared / "parity" / "goldens" / f"{golden}.json").read_text())["cases"]
    shapes = {key: shape for key, shape, dtype, _ in entries if dtype == "float32"}
    classes = shapes["class_embed.weight"][0] - 1
    with without_values():  # no starting values: the kit's replace them all
        model = build_detector(golden.removeprefix("detr_"), "detr", num_classes=classes)
    model.to_empty(device="cpu")
    model.eval()
    for case in cases.values():
        state = kit.fill_state_dict(shapes, case["variant"])
        load_original(model, state)
        images = [
            torch.from_numpy(kit.make_input(shape, name, case["variant"]))[0] for name, shape in case["inputs"].items()
        ]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = max(s[0] for s in sizes), max(s[1] for s in sizes)
        with torch.inference_mode():
            # the original gives the backbone the padded batch
            features = model.backbone(pad(images, height, width))
            out = model.head.raw(features, sizes, (height, width))  # type: ignore[operator]
        outputs = {
            "pos": out.positions,
            "memory": out.memory,
            "decoder_all_layers": out.decoded,
            "pred_logits": out.logits[-1],
            "pred_boxes": out.boxes[-1],
        }
        assert outputs.keys() == case["outputs"].keys()
        for key, record in case["outputs"].items():
            agrees, message = kit.compare(record, outputs[key].numpy())
            assert agrees, message


def load_original(model: Detector, state: dict[str, Tensor]) -> None:
    """Head names are the original's behind `head.`; the backbones' are those that pvtctl.weights reads."""
    from pvtctl.weights.load import load_checkpoint

    prefix = "backbone.0.body."
    load_checkpoint(model.backbone, {key.removeprefix(prefix): value for key, value in state.items() if prefix in key})
    model.head.load_state_dict({key: value for key, value in state.items() if prefix not in key})


def test_parameter_count_is_the_papers() -> None:
    with without_values():
        model = build_detector("resnet50", "detr", num_classes=91)
    # DETR Table 1: 41 M; the original leaves the batch norms of the backbone out
    norms = sum(m.weight.numel() * 2 for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert sum(p.numel() for p in model.parameters()) - norms == 41_524_768


def test_multiplications_are_the_originals() -> None:
    with without_values():
        model = build_detector("pvt_small", "detr", num_classes=80).eval().requires_grad_(False)
        image = torch.zeros(1, 3, 800, 1280)
    with FlopCounterMode(display=False) as counter:
        out = model.head.raw(model.features(image), [(800, 1280)], (800, 1280))  # type: ignore[operator]
    assert out.logits.shape == (6, 1, 100, 81)
    # what torch counts in the original
    assert counter.get_total_flops() / 2e9 == pytest.approx(147.293, abs=5e-4)
    assert len(model(image)[0]) == 100


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18@0.25", "pvt_tiny@0.25", "pvt_v2_b0@0.25", "tiny"])
def test_answer_does_not_depend_on_the_batch(backbone: str) -> None:
    torch.manual_seed(1)
    model = tiny() if backbone == "tiny" else build_detector(backbone, "detr", num_classes=3, num_queries=7)
    model.eval()
    images = [torch.randn(3, 64, 90), torch.randn(3, 100, 41), torch.randn(3, 64, 90)]
    sizes = [(64, 90), (100, 41), (64, 90)]
    with torch.inference_mode():
        together = model(pad(images, 128, 96), sizes)
        swapped = model(pad(images[::-1], 160, 96), sizes[::-1])[::-1]
        single = [model(pad([image], 128, 96), [size])[0] for image, size in zip(images, sizes, strict=True)]
        bare = [model(image[None])[0] for image in images]
    for other in (swapped, single, bare):
        for one, two in zip(together, other, strict=True):
            assert_same_detections(one, two, scores={"rtol": 1e-5, "atol": 1e-6}, boxes={"rtol": 1e-5, "atol": 1e-4})
    assert not torch.allclose(together[0].boxes, together[2].boxes)


def test_gradients_of_a_batch_are_those_of_its_images() -> None:
    model = tiny().eval()
    images, sizes = [torch.randn(3, 64, 90), torch.randn(3, 100, 41)], [(64, 90), (100, 41)]
    targets = [objects([10.0, 10, 40, 50], 0), objects([5.0, 20, 30, 90], 2)]
    model(pad(images, 128, 96), sizes, targets)["loss_box"].backward()
    whole = model.backbone.stages[0].weight.grad.clone()  # type: ignore[index, union-attr]
    model.zero_grad()
    for image, size, target in zip(images, sizes, targets, strict=True):
        # box losses are sums over objects by their number, here one an image
        (model(image[None], [size], [target])["loss_box"] / 2).backward()
    torch.testing.assert_close(model.backbone.stages[0].weight.grad, whole, rtol=1e-4, atol=1e-5)  # type: ignore[index, union-attr]


def test_live_batch_norm_sees_the_whole_batch() -> None:
    model = tiny(norm=True).train()
    calls = []
    model.backbone.register_forward_hook(lambda _, args, __: calls.append(args[0].shape))
    model(torch.randn(2, 3, 128, 96), [(64, 90), (100, 41)], [objects([1.0, 1, 9, 9], 0), objects([1.0, 1, 9, 9], 1)])
    assert calls == [(2, 3, 128, 96)]
    model.eval()
    model(torch.randn(2, 3, 128, 96), [(64, 90), (100, 41)])
    assert calls[1:] == [(1, 3, 64, 96), (1, 3, 128, 64)]


def test_mask_and_positions() -> None:
    # pixels nearest to the cells of a 3x4 map over 96x120: rows 0, 32, 64, columns 0, 30, 60, 90
    assert valid_cells([(96, 120), (64, 61), (65, 60)], (96, 120), (3, 4)) == [(3, 4), (2, 3), (3, 2)]
    features = torch.zeros(2, 1, 3, 4)
    mask = padding_mask([(3, 4), (2, 1)], features)
    assert mask.tolist() == [[[False] * 4] * 3, [[False, True, True, True]] * 2 + [[True] * 4]]
    positions = sine_positions(mask)
    assert positions.shape == (2, 256, 3, 4)
    y = torch.tensor([1.0, 2, 3]) / 3 * 2 * torch.pi
    torch.testing.assert_close(positions[0, 0, :, 2], y.sin(), atol=1e-5, rtol=0)
    torch.testing.assert_close(positions[0, 3, :, 2], (y / 10000 ** (2 / 128)).cos(), atol=1e-5, rtol=0)
    x = torch.tensor([1.0, 2, 3, 4]) / 4 * 2 * torch.pi
    torch.testing.assert_close(positions[0, 128, 1], x.sin(), atol=1e-5, rtol=0)
    assert torch.allclose(positions[1, 128, 0, 0], torch.zeros(()), atol=1e-5)  # the only column: 2 pi


def objects(box: list[float], label: int) -> Objects:
    return Objects(torch.tensor([box]), torch.tensor([label]))


def test_detections_are_sorted_cut_and_chosen() -> None:
    model = tiny().eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        out = model.head.raw(model.features(image), [(60, 90)], (64, 96))  # type: ignore[operator]
        (found,) = model(image, [(60, 90)])
        (best,) = model(image, [(60, 90)], options=DetectOptions(max_detections=3))
        middle = float(found.scores[3])
        (high,) = model(image, [(60, 90)], options=DetectOptions(score_threshold=middle))
        (doubled,) = model(image, [(60, 90)], output_sizes=[(120, 180)])
    assert len(found) == 7
    assert found.scores.equal(found.scores.sort(descending=True).values)
    assert found.scores.equal(out.logits[-1, 0].softmax(-1)[:, :3].amax(1).sort(descending=True).values)
    assert bool((found.boxes >= 0).all())
    assert bool((found.boxes <= torch.tensor([90.0, 60, 90, 60])).all())
    assert best.scores.equal(found.scores[:3])
    assert high.scores.equal(found.scores[:4])
    torch.testing.assert_close(doubled.boxes, found.boxes * 2)


def test_bf16_answers_alike() -> None:
    model = tiny().eval()
    images, sizes = pad([torch.randn(3, 64, 90), torch.randn(3, 100, 41)], 128, 96), [(64, 90), (100, 41)]
    with torch.inference_mode():
        exact = model(images, sizes)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(images, sizes)
    for one, two in zip(exact, rounded, strict=True):
        assert two.boxes.dtype == two.scores.dtype == torch.float32
        torch.testing.assert_close(one.scores, two.scores, atol=0.02, rtol=0.02)


def test_no_nms() -> None:
    with pytest.raises(UsageError, match="no non-maximum suppression"):
        tiny()(torch.zeros(1, 3, 32, 32), options=DetectOptions(nms_iou=0.5))


@pytest.mark.slow
def test_it_learns_two_images() -> None:
    model = tiny().train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4)
    images = torch.randn(2, 3, 64, 64)
    targets = [objects([4.0, 8, 30, 40], 1), Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))]
    losses = []
    for _ in range(10):
        out = model(images, [(64, 64), (50, 64)], targets)
        assert set(out) == {"loss", "loss_cls", "loss_box", "loss_giou", "recall"}
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        losses.append(float(out["loss"].detach()))
    assert all(p.grad is not None for p in model.parameters())
    assert losses[-1] < 0.5 * losses[0]
