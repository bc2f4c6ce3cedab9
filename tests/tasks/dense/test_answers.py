"""Inference of dense models: labels without blowing up all logits, views, windows, relabelling, metres."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.models.dense import DenseModel
from pvtctl.models.heads.base import DenseHead
from pvtctl.models.structures import IGNORE_LABEL
from pvtctl.tasks.dense.inference import (
    CLASSES_AT_ONCE,
    FARTHEST,
    DenseTesting,
    DepthInference,
    LabelInference,
    Window,
    classes_that_can_win,
    rows_of_resized,
    to_metres,
)


class Pixels(nn.Module):
    """A backbone that hands the images on."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


class Mixer(DenseHead):
    """Each class a fixed mix of the colours around a pixel, at half the size; depth is the mean colour, made positive."""

    multiple = 4

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, num_classes, 3, stride=2, padding=1)
        nn.init.normal_(self.mix.weight, generator=torch.Generator().manual_seed(1))

    def forward(self, features: Any, auxiliary: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.mix(features[0]), ()


def model_of(num_classes: int = 1, **options: Any) -> DenseModel:
    task = "segmentation" if num_classes > 1 else "depth"
    return DenseModel(Pixels(), None, Mixer(num_classes), task=task, num_classes=num_classes, **options).eval()  # type: ignore[arg-type]


def images_of(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("num_classes", [2, CLASSES_AT_ONCE, CLASSES_AT_ONCE + 1, 40])
@torch.no_grad()
def test_labels_are_the_argmax_of_upsampled_logits(num_classes: int) -> None:
    model, images = model_of(num_classes), images_of(2, 3, 10, 15)
    found = LabelInference(model).predict_batch(model, images, [(23, 31), (10, 15)])
    for at, original in enumerate([(23, 31), (10, 15)]):
        expected = model.at_size(model(images[at : at + 1]), (10, 15), original).argmax(1)[0]
        assert found[at].dtype == torch.uint8
        assert found[at].equal(expected.to(torch.uint8))
    assert len(found[0].unique()) > 1


@pytest.mark.parametrize("values", [1, 23 * 31, 3 * 23 * 31, 10**9])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_large_images_have_the_same_labels(
    monkeypatch: pytest.MonkeyPatch, values: int, layout: torch.memory_format
) -> None:
    """Fewer classes at a time: equal to the bit."""
    model, images = model_of(37), images_of(1, 3, 10, 15)
    whole = LabelInference(model).predict_batch(model, images, [(23, 31)])[0]
    monkeypatch.setattr("pvtctl.tasks.dense.inference.VALUES_AT_ONCE", values)
    found = LabelInference(model).predict_batch(
        lambda part: model(part).contiguous(memory_format=layout), images, [(23, 31)]
    )[0]
    assert found.equal(whole)


@pytest.mark.parametrize("window", [None, Window((8, 8), (4, 4))])
@torch.no_grad()
def test_views_of_large_images_are_averaged_in_bands(monkeypatch: pytest.MonkeyPatch, window: Window | None) -> None:
    model, image, original = model_of(5), images_of(3, 16, 20), (61, 47)
    views = [(image, False), (image.flip(-1), True), (image[:, :12], False)]
    whole = LabelInference(model, window).predict_tta(model, views, original)
    monkeypatch.setattr("pvtctl.tasks.dense.inference.VALUES_AT_ONCE", 47 * 5 * 7)
    assert LabelInference(model, window).predict_tta(model, views, original).equal(whole)
    assert len(whole.unique()) == 5


@pytest.mark.parametrize(
    ("inside", "size"), [((5, 7), (23, 40)), ((9, 6), (9, 6)), ((40, 30), (13, 50)), ((1, 1), (4, 3))]
)
def test_rows_of_a_resized_map(inside: tuple[int, int], size: tuple[int, int]) -> None:
    maps = images_of(2, 3, *inside)
    whole = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    edges = [0, 1, size[0] // 2, size[0]]
    parts = [rows_of_resized(maps, size, top, bottom) for top, bottom in pairwise(edges) if top < bottom]
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("original", [(47, 61), (29, 83), (24, 20)])
@torch.no_grad()
def test_only_classes_that_can_win_are_resized(
    monkeypatch: pytest.MonkeyPatch, original: tuple[int, int], align_corners: bool
) -> None:
    """By way of a padded image, and with corners aligned: the labels of all classes; a few of the classes do it."""
    model, images = model_of(150), images_of(1, 3, 22, 18)
    monkeypatch.setattr(type(model.head), "align_corners", align_corners)
    strong = torch.randperm(150, generator=torch.Generator().manual_seed(3))[:9]
    model.head.mix.weight.mul_(0.2)
    model.head.mix.bias[strong] += 6
    resized: list[int] = []
    at_size = model.at_size
    monkeypatch.setattr(model, "at_size", lambda out, *sizes: resized.append(out.shape[1]) or at_size(out, *sizes))
    found = LabelInference(model).predict_batch(model, images, [original])[0]
    assert found.equal(at_size(model(images), (22, 18), original).argmax(1)[0].to(torch.uint8))
    assert len(found.unique()) > 3
    assert sum(resized) < 75


@torch.no_grad()
def test_a_class_wins_only_between_the_values_of_the_map() -> None:
    """Second everywhere, it is the highest in the middle between two others; one below all others can go."""
    maps = torch.tensor([[4.0, -4.0], [-4.0, 4.0], [1.0, 1.0], [-5.0, -5.0]])[None, :, None]
    assert classes_that_can_win(maps).tolist() == [0, 1, 2]
    assert classes_that_can_win(torch.full((1, 3, 2, 2), torch.nan)).tolist() == [0, 1, 2]


@torch.no_grad()
def test_a_head_with_a_neck_reads_the_backbone_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(3)
    model.neck = nn.Identity()
    monkeypatch.setattr(model.head, "read", lambda backbone, images: [2 * images])
    images = images_of(1, 3, 8, 8)
    assert model(images).equal(model.head([2 * images])[0])


@torch.no_grad()
def test_ties_go_to_the_first_class_across_the_parts() -> None:
    model = model_of(2 * CLASSES_AT_ONCE + 3)
    nn.init.zeros_(model.head.mix.weight)
    nn.init.zeros_(model.head.mix.bias)
    assert LabelInference(model).predict_batch(model, images_of(1, 3, 8, 8), [(8, 8)])[0].unique().tolist() == [0]


@torch.no_grad()
def test_labels_of_another_list_of_classes() -> None:
    model, images = model_of(3), images_of(1, 3, 12, 12)
    relabel = torch.full((256,), IGNORE_LABEL, dtype=torch.uint8)
    relabel[torch.tensor([0, 2])] = torch.tensor([7, 1], dtype=torch.uint8)
    plain = LabelInference(model).predict_batch(model, images, [(12, 12)])[0]
    found = LabelInference(model, relabel=relabel).predict_batch(model, images, [(12, 12)])[0]
    assert set(plain.unique().tolist()) == {0, 1, 2}
    assert found.equal(relabel[plain.long()])
    views = LabelInference(model, relabel=relabel).predict_tta(model, [(images[0], False)], (12, 12))
    assert views.equal(found)


@torch.no_grad()
def test_views_are_averaged_as_probabilities() -> None:
    """Flip and three ratios against the sum written out, in the size of the file."""
    model, image, original = model_of(5), images_of(3, 16, 20), (21, 27)
    views, total = [], torch.zeros(5, *original)
    for ratio, mirrored in DenseTesting((0.5, 1.0, 1.5), flip=True).views:
        view = F.interpolate(image[None], scale_factor=ratio, mode="bilinear")[0]
        view = view.flip(-1) if mirrored else view
        views.append((view, mirrored))
        logits = model.at_size(model(view[None]), (view.shape[1], view.shape[2]), original)[0]
        total += (logits.flip(-1) if mirrored else logits).softmax(0)
    assert len(views) == 6
    found = LabelInference(model).predict_tta(model, views, original)
    assert found.equal(total.argmax(0).to(torch.uint8))


def test_one_view_where_nothing_is_asked() -> None:
    assert DenseTesting().views == [(1.0, False)]
    assert DenseTesting((), flip=True).views == [(1.0, False), (1.0, True)]
    assert DenseTesting((0.5, 2.0)).views == [(0.5, False), (2.0, False)]


@torch.no_grad()
def test_a_mirrored_view_lies_on_the_image() -> None:
    """A model that sees a pixel alone says of a mirrored image what it says of the image."""
    model, image = model_of(), images_of(3, 8, 12)
    answers = DepthInference(model)
    model.head.mix = nn.Conv2d(3, 1, 1)
    straight = answers.predict_tta(model, [(image, False)], (8, 12))
    torch.testing.assert_close(answers.predict_tta(model, [(image.flip(-1), True)], (8, 12)), straight)
    torch.testing.assert_close(answers.predict_tta(model, [(image, False), (image.flip(-1), True)], (8, 12)), straight)


@torch.no_grad()
def test_a_window_over_the_whole_image_changes_nothing() -> None:
    model, images = model_of(20), images_of(1, 3, 16, 16)
    whole = LabelInference(model).predict_batch(model, images, [(16, 16)])
    windowed = LabelInference(model, Window((16, 16), (8, 8))).predict_batch(model, images, [(16, 16)])
    assert whole[0].equal(windowed[0])
    larger = LabelInference(model, Window((64, 64), (8, 8))).predict_batch(model, images, [(16, 16)])
    assert whole[0].equal(larger[0])


@torch.no_grad()
def test_windows_are_merged_before_the_size_of_the_file() -> None:
    model, images = model_of(4), images_of(1, 3, 16, 24)
    parts = [images[..., left : left + 16] for left in (0, 8)]
    maps = [model.at_size(model(part), (16, 16)) for part in parts]
    merged = torch.cat((maps[0][..., :8], (maps[0][..., 8:] + maps[1][..., :8]) / 2, maps[1][..., 8:]), -1)
    expected = F.interpolate(merged, size=(20, 30), mode="bilinear", align_corners=False).argmax(1)[0]
    found = LabelInference(model, Window((16, 16), (8, 8))).predict_batch(model, images, [(20, 30)])[0]
    assert found.equal(expected.to(torch.uint8))


@torch.no_grad()
def test_depth_without_a_scale_is_the_networks_own() -> None:
    model, images = model_of(), images_of(1, 3, 8, 8)
    found = DepthInference(model).predict_batch(model, images, [(11, 9)])[0]
    assert found.shape == (11, 9)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, model.at_size(model(images), (8, 8), (11, 9))[0, 0].clamp(min=0))


@torch.no_grad()
def test_metres_are_made_after_resizing_and_averaging() -> None:
    model, images = model_of(scale_shift=(0.5, 20.0)), images_of(1, 3, 8, 8)
    answers = DepthInference(model)
    raw = model.at_size(model(images), (8, 8), (11, 9))[0, 0]
    torch.testing.assert_close(answers.predict_batch(model, images, [(11, 9)])[0], 1 / (0.5 * raw + 20))
    other = images[0] + 1
    second = model.at_size(model(other[None]), (8, 8), (11, 9))[0, 0]
    found = answers.predict_tta(model, [(images[0], False), (other, False)], (11, 9))
    torch.testing.assert_close(found, 1 / (0.5 * (raw + second) / 2 + 20))


def test_metres_of_the_farthest() -> None:
    inverse = torch.tensor([0.0, 2.0, -5.0])
    assert to_metres(inverse, (1.0, 0.5)).tolist() == pytest.approx([2.0, 0.4, 1 / FARTHEST])
