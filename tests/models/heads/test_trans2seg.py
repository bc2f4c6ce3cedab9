"""Trans2Seg against the original's numbers, and at the sizes and class counts that the original cannot run at."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from pvtctl.errors import UsageError
from pvtctl.models.backbones import build_backbone
from pvtctl.models.dense import build_segmenter
from pvtctl.models.heads.trans2seg import Trans2Seg
from pvtctl.models.layers.shapes import without_values
from pvtctl.weights.layouts.trans2seg import TRANS2SEG

GOLDEN = "trans2seg_r50c_medium"
CHANNELS = (8, 8, 8, 16)


def maps(height: int, width: int, stride: int = 16, batch: int = 1) -> list[torch.Tensor]:
    """What a backbone hands on, of which the first and the last are read."""
    first = torch.randn(batch, 8, -(-height // 4), -(-width // 4))
    return [first, first, first, torch.randn(batch, 16, -(-height // stride), -(-width // stride))]


def small(num_classes: int = 5, grid: int = 4, **options: object) -> Trans2Seg:
    torch.manual_seed(0)
    return Trans2Seg(CHANNELS, num_classes, embed_dim=32, depth=2, num_heads=4, grid=grid, **options).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("case", ["logits_1x512x512", "logits_1x512x512_faint"])
def test_equal_to_the_original(case: str, kit: ModuleType, shared: Path) -> None:
    entries = json.loads((shared / "parity" / "manifests" / f"{GOLDEN}.json").read_text())["entries"]
    golden = json.loads((shared / "parity" / "goldens" / f"{GOLDEN}.json").read_text())["cases"][case]
    shapes = {key: shape for key, shape, dtype, _ in entries if dtype == "float32"}
    state = kit.fill_state_dict(shapes, golden["variant"])
    assert TRANS2SEG.fits(set(state))
    ours = TRANS2SEG.to_ours(state)
    with without_values():  # no starting values: the kit's replace them all
        model = build_segmenter("resnet50s", "trans2seg", num_classes=12, backbone_options={"output_stride": 16})
    model.to_empty(device="cpu").eval()
    missing, unexpected = model.load_state_dict(ours, strict=False)
    assert all(name.endswith("num_batches_tracked") for name in missing)
    assert unexpected == []
    image = torch.from_numpy(kit.make_input(golden["inputs"]["image"], "image", golden["variant"]))
    with torch.inference_mode():
        found = model.backbone(image)
        head, _ = model.head(found)
        outputs = {"c1": found[0], "c4": found[3], "head": head, "logits": model.at_size(head, (512, 512))}
    for name, record in golden["outputs"].items():
        same, message = kit.compare(record, outputs[name].numpy())
        assert same, message


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (77, 131), (32, 32), (48, 16)])
@pytest.mark.parametrize("num_classes", [2, 19])
def test_any_size_and_class_count(size: tuple[int, int], num_classes: int) -> None:
    features = maps(*size)
    with torch.inference_mode():
        out, others = small(num_classes)(features)
    assert out.shape == (1, num_classes, *features[0].shape[2:])
    assert others == ()
    assert bool(out.isfinite().all())


def test_any_image_size_over_a_pyramid() -> None:
    model = build_segmenter(
        "pvt_tiny@0.25", "trans2seg", num_classes=3, head_options={"depth": 1, "dropout": None}
    ).eval()
    assert isinstance(model.head, Trans2Seg)
    assert model.head.grid == 16  # 512 / 32
    with torch.inference_mode():
        images = torch.randn(2, 3, 75, 130)
        assert model.at_size(model(images), (75, 130)).shape == (2, 3, 75, 130)


def test_classes_in_turns_are_the_classes_at_once() -> None:
    head, features = small(40), maps(64, 80, batch=2)
    with torch.inference_mode():
        in_turns, _ = head(features)
    at_once, _ = head(features)  # with gradients
    torch.testing.assert_close(in_turns, at_once.detach())


def test_a_map_of_another_shape_is_not_misplaced() -> None:
    """Positions and answers are resized by height and width: a map turned on its side gives the result turned, when the
    table and the MLP over the answers are the same on both sides."""
    head = small(3)
    with torch.no_grad():
        head.pos_embed.zero_()
        for weight in (head.answers.mlp3.fc1.weight, head.answers.mlp3.fc2.weight):
            weight.zero_()
        for layer in (head.lay1, head.lay2, head.lay3):
            layer.depthwise.weight.copy_(layer.depthwise.weight + layer.depthwise.weight.transpose(2, 3))
        features = maps(64, 128)
        turned = [x.transpose(2, 3).contiguous() for x in features]
        one, _ = head(features)
        other, _ = head(turned)
    torch.testing.assert_close(one, other.transpose(2, 3), atol=1e-5, rtol=1e-4)


def test_answers_come_back_to_the_maps_own_cells() -> None:
    head = small(3)
    cells, queries = torch.randn(1, 6 * 10, 32), torch.randn(1, 3, 32)
    with torch.no_grad():
        head.answers.mlp3.fc2.weight.zero_()
        head.answers.mlp3.fc2.bias.fill_(0.5)
        with_half = head.answers(queries, cells, (6, 10))
        head.answers.mlp3.fc2.bias.zero_()
        alone = head.answers(queries, cells, (6, 10))
    assert alone.shape == (1, 3, 4, 6, 10)
    torch.testing.assert_close(with_half - alone, torch.full_like(alone, 0.5))


def test_every_parameter_learns() -> None:
    head = small(4, dropout=0.1).train()
    out, _ = head(maps(64, 96, batch=2), auxiliary=True)
    F.cross_entropy(out, torch.randint(0, 4, (2, *out.shape[2:]))).backward()  # type: ignore[no-untyped-call]
    without = [name for name, parameter in head.named_parameters() if parameter.grad is None]
    assert without == []
    assert float(head.pos_embed.grad.abs().max()) > 0  # type: ignore[union-attr]


def test_half_precision() -> None:
    head, features = small(5), maps(64, 80)
    with torch.inference_mode():
        full, _ = head(features)
        with torch.autocast("cpu", torch.bfloat16):
            half, _ = head(features)
    assert float((half.float() - full).abs().max()) < 0.1 * float(full.std()) + 0.05


def test_options_out_of_range() -> None:
    with pytest.raises(UsageError, match="a dropout of 1 is out of range"):
        Trans2Seg(CHANNELS, 5, dropout=1)
    with pytest.raises(UsageError, match="not divisible by its 7 heads"):
        Trans2Seg(CHANNELS, 5, num_heads=7)


def test_it_reads_what_backbones_give() -> None:
    backbone = build_backbone("pvt_v2_b0")
    head = Trans2Seg(backbone.feature_channels, 3, depth=1).eval()
    with torch.inference_mode():
        out, _ = head(backbone.eval()(torch.randn(1, 3, 65, 97)))
    assert out.shape == (1, 3, 17, 25)
