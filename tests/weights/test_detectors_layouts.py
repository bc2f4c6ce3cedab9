"""Detectors of others: every layout is recognised by its names and gives the outputs of the implementation it is from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from same_detections import assert_same_detections
from torch import Tensor, nn

from pvtctl.data.class_names import COCO_NAMES
from pvtctl.io.files import sha256_of
from pvtctl.models.backbones import build_backbone
from pvtctl.models.detector import Detector, build_detector
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.structures import Detections, DetectOptions
from pvtctl.weights.identify import coco_ids, identify_head
from pvtctl.weights.layouts import torchvision as names_torchvision
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.recognise import convert_state, to_publisher

OriginalState = Callable[[str], dict[str, Tensor]]


@pytest.mark.parametrize(
    ("golden", "format", "backbone", "head", "classes"),
    [
        ("retinanet_pvt_small_fpn", "mmdetection RetinaNet", "pvt_small", "retinanet", 80),
        ("retinanet_r50_fpn", "mmdetection RetinaNet", "resnet50", "retinanet", 80),
        ("mask_rcnn_pvt_small_fpn", "mmdetection Mask R-CNN", "pvt_small", "mask_rcnn", 80),
        ("mask_rcnn_r50_gc_r4_fpn", "mmdetection Mask R-CNN", "resnet50_gc_r4", "mask_rcnn", 80),
        ("detr_pvt_small", "facebookresearch DETR", "pvt_small", "detr", 80),
        ("detr_resnet50", "facebookresearch DETR", "resnet50", "detr", 91),
    ],
)
def test_originals_there_and_back(
    golden: str, format: str, backbone: str, head: str, classes: int, original_state: OriginalState
) -> None:
    original = original_state(golden)
    converted = convert_state({f"module.{key}": value for key, value in original.items()})
    assert converted.format == format
    found = identify_head(converted.state, converted.format)
    assert found is not None
    assert (found.backbones, found.head, found.num_classes, found.conventions) == ([backbone], head, classes, "papers")
    back = to_publisher(converted.state)
    assert back.keys() == original.keys()
    assert all(back[key] is original[key] for key in original)
    with without_values():
        names = set(build_detector(backbone, head, num_classes=classes).state_dict())
    # DETR's frozen batch norms count no batches; the papers' detection code has no class token
    lost = {key for key in names - set(converted.state) if not key.endswith("num_batches_tracked")}
    assert lost <= {"backbone.class_token", "backbone.norm.weight", "backbone.norm.bias"}
    assert set(converted.state) <= names


def _mmdet_detr(ours: dict[str, Tensor], *, version: int) -> dict[str, Tensor]:
    """Our DETR under mmdetection's names, written down from its modules."""
    top = "bbox_head." if version == 2 else ""
    transformer = "bbox_head.transformer." if version == 2 else ""
    parts = {
        2: {
            "self_attn": "attentions.0.attn",
            "multihead_attn": "attentions.1.attn",
            "linear1": "ffns.0.layers.0.0",
            "linear2": "ffns.0.layers.1",
        },
        3: {
            "self_attn": "self_attn.attn",
            "multihead_attn": "cross_attn.attn",
            "linear1": "ffn.layers.0.0",
            "linear2": "ffn.layers.1",
        },
    }[version] | {"norm1": "norms.0", "norm2": "norms.1", "norm3": "norms.2"}
    fixed = {
        "head.transformer.decoder.norm": f"{transformer}decoder.post_norm",
        "head.class_embed": "bbox_head.fc_cls",
        "head.bbox_embed.layers.0": "bbox_head.reg_ffn.layers.0.0",
        "head.bbox_embed.layers.1": "bbox_head.reg_ffn.layers.1",
        "head.bbox_embed.layers.2": "bbox_head.fc_reg",
        "head.query_embed": f"{top}query_embedding",
        "head.input_proj": "bbox_head.input_proj" if version == 2 else "neck.convs.0.conv",
    }
    theirs = {}
    for key, value in ours.items():
        if found := re.match(r"head\.transformer\.(encoder|decoder)\.layers\.(\d+)\.(\w+)\.?(.*)", key):
            name = f"{transformer}{found[1]}.layers.{found[2]}.{parts[found[3]]}.{found[4]}"
        else:
            start = next((each for each in fixed if key.startswith(f"{each}.")), None)
            name = key if start is None else fixed[start] + key[len(start) :]
        theirs[name] = value
    return theirs


@pytest.mark.parametrize("version", [2, 3])
def test_mmdetection_detr(version: int) -> None:
    ours = build_detector("resnet18", "detr", num_classes=4).state_dict()
    theirs = _mmdet_detr(ours, version=version)
    if version == 3:
        theirs |= {"data_preprocessor.mean": torch.zeros(3, 1, 1), "data_preprocessor.std": torch.ones(3, 1, 1)}
    converted = convert_state(theirs)
    assert converted.format == "mmdetection DETR"
    assert converted.state.keys() == ours.keys()
    assert all(converted.state[key] is ours[key] for key in ours)


def _mmdet_pvt(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """A PVT's state dict as mmdetection's own implementation has it (its `pvt_convert` says how)."""
    v1 = "backbone.stages.0.pos_embed" in ours
    theirs: dict[str, Tensor] = {}
    for key, value in ours.items():
        found = re.fullmatch(r"backbone\.stages\.(\d)\.(\w+)\.?(.*)", key)
        if found is None:
            continue
        stage, part, rest = found.groups()
        match part:
            case "pos_embed":
                theirs[f"layers.{stage}.1.0.pos_embed"] = value[:, 1:] if stage == "3" else value
            case "patch_embed":
                theirs[f"layers.{stage}.0.{rest.replace('proj.', 'projection.')}"] = value
            case "norm":
                theirs[f"layers.{stage}.2.{rest}"] = value
            case _:
                number, inner = rest.split(".", 1)
                block = f"layers.{stage}.1.{int(number) + v1}"
                if inner.startswith("attn.kv."):
                    continue
                if inner.startswith("attn.q."):
                    kind = inner.rsplit(".", 1)[1]
                    both = [value, ours[key.replace("attn.q.", "attn.kv.")]]
                    theirs[f"{block}.attn.attn.in_proj_{kind}"] = torch.cat(both)
                    continue
                for mine, other in (
                    ("attn.proj.", "attn.attn.out_proj."),
                    ("mlp.fc1.", "ffn.layers.0."),
                    ("mlp.dwconv.", "ffn.layers.1."),
                    ("mlp.fc2.", "ffn.layers.3." if v1 else "ffn.layers.4."),
                ):
                    inner = inner.replace(mine, other)
                theirs[f"{block}.{inner}"] = value[..., None, None] if "ffn" in inner and value.ndim == 2 else value
    return {f"backbone.{key}": value for key, value in theirs.items()}


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0"])
def test_mmdetections_own_pvt(name: str) -> None:
    source = build_backbone(name).eval()
    source.load_state_dict({k: v + 0.01 * torch.randn_like(v) for k, v in source.state_dict().items()})
    ours = build_backbone(name).eval()
    report = load_checkpoint(ours, _mmdet_pvt({f"backbone.{key}": value for key, value in source.state_dict().items()}))
    assert (report.format, report.model) == ("mmdetection PVT", name)
    assert report.backbone_share > 0.999  # all but v1's class token and last norm
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for found, expected in zip(ours(image), source(image), strict=True):
            assert torch.equal(found, expected)


def _torchvision(kind: str, classes: int) -> nn.Module:
    from torchvision.models import detection

    torch.manual_seed(3)
    model: nn.Module = getattr(detection, f"{kind}_resnet50_fpn")(
        weights=None,
        weights_backbone=None,
        num_classes=classes,
        min_size=96,
        max_size=128,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    )
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("cls_logits.bias", "cls_score.bias")) and "rpn" not in name:
                value.uniform_(-1, 1)  # so that something is found
    return model.eval()


@pytest.mark.parametrize(("kind", "head"), [("retinanet", "retinanet"), ("maskrcnn", "mask_rcnn")])
def test_detections_of_a_loaded_file_equal_torchvisions(kind: str, head: str, tmp_path: Path) -> None:
    theirs = _torchvision(kind, 5)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    classes = 5 if kind == "retinanet" else 4
    ours = build_detector("resnet50", head, num_classes=classes, conventions="torchvision").eval()
    report = load_checkpoint(ours, tmp_path / "theirs.pth")
    assert (report.backbone_share, report.above_share, report.head_kept) == (1.0, 1.0, classes)
    assert not report.missing
    assert not report.unexpected
    if kind == "maskrcnn":
        return  # what it detects then: tests/models/heads/test_mask_rcnn.py
    image = torch.randn(3, 96, 128)
    with torch.inference_mode():
        expected = theirs([image])[0]
        found = ours(image[None], options=DetectOptions(max_detections=300))[0]
    assert len(found) == len(expected["boxes"]) > 10
    assert_same_detections(
        found,
        Detections(expected["boxes"], expected["scores"], expected["labels"]),
        scores={"rtol": 1e-4, "atol": 1e-5},
        boxes={"rtol": 1e-4, "atol": 1e-2},
    )


@pytest.mark.parametrize("kind", ["retinanet", "maskrcnn"])
def test_torchvisions_older_names(kind: str) -> None:
    """The published files have them; torchvision's own modules understand the test's renaming too."""
    with without_values():
        theirs = _torchvision(kind, 3)
    new = {key: torch.empty_like(value, device="cpu") for key, value in theirs.state_dict().items()}
    old = {}
    for key, value in new.items():
        key = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1.", key)
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        key = re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", key)
        key = re.sub(r"(head\.\w+_head\.conv)\.(\d)\.0\.", lambda f: f"{f[1]}.{2 * int(f[2])}.", key)
        old[key] = value
    assert old.keys() != new.keys()
    theirs.load_state_dict(dict(old), assign=True)
    converted = convert_state(old)
    assert converted.state.keys() == convert_state(new).state.keys()
    assert converted.format.startswith("torchvision")


def test_published_torchvision_file_has_batch_norms_without_eps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with without_values():
        names = _torchvision("retinanet", 91).state_dict()
    frozen = {k: torch.ones(v.shape) for k, v in names.items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "retinanet.pth"
    torch.save(frozen, path)
    assert read_checkpoint(path).state["backbone.bn1.running_var"][0] == 1
    monkeypatch.setattr(names_torchvision, "PUBLISHED_SHA256", (sha256_of(path)[:8],))
    assert read_checkpoint(path).state["backbone.bn1.running_var"][0] + 1e-5 == 1
    assert read_checkpoint(path).state["backbone.bn1.running_mean"][0] == 1


def test_names_of_files_without_names() -> None:
    def names(state: dict[str, Tensor]) -> list[str] | None:
        converted = convert_state(state)
        found = identify_head(converted.state, converted.format)
        assert found is not None
        return found.class_names

    with without_values():
        by_id = names(_torchvision("retinanet", 91).state_dict())
        behind_background = names(_torchvision("maskrcnn", 91).state_dict())
        few = names(_torchvision("retinanet", 7).state_dict())
        ours = names(build_detector("resnet18", "retinanet", num_classes=80).state_dict())
        detr = names(to_publisher(build_detector("resnet18", "detr", num_classes=80).state_dict()))
    assert by_id is not None
    assert (len(by_id), by_id[1], by_id[90], by_id[12]) == (91, "person", "toothbrush", "N/A 12")
    assert behind_background == by_id[1:]
    assert coco_ids(by_id) == list(range(91))
    assert detr == list(COCO_NAMES)
    assert few is None
    assert ours is None
    assert coco_ids(["cat", "dog"]) is None
    assert coco_ids([*COCO_NAMES, "unicorn"]) is None


def test_a_detector_of_our_own_is_told_from_torchvisions() -> None:
    """Ours have torchvision's names within the head; the necks tell them apart."""
    with without_values():
        model: Detector = build_detector("resnet50", "retinanet", num_classes=3, conventions="torchvision")
    converted = convert_state(model.state_dict())
    assert converted.format == "pvtctl"
    assert converted.state.keys() == model.state_dict().keys()
    found = identify_head(converted.state)
    assert found is not None
    assert found.conventions == "torchvision"  # P6 stands on the pyramid
