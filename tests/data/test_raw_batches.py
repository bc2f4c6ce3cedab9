"""For a GPU batches hold uint8 images, which it normalises: the same numbers as when the loader does."""

from __future__ import annotations

import pickle
from dataclasses import fields

import pytest
import torch
from pretend_gpu import GPU, PretendGpu
from torch import Tensor

from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import Noise, RawImage, normalize, pad_images
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.recipe.load import load_recipe
from pvtctl.tasks.dense.data import DenseBatch
from pvtctl.tasks.from_recipe import build_task

BGR = Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "bgr")
RECIPES = {
    "small_photos": ["data.augment.erasing=0.9"],
    "small_objects": ["model.head.width=32"],
    "small_maps": ["model.head.width=32"],
    "small_depth": ["model.head.width=32"],
}


def first_batch(recipe: str, device: str, split: str) -> object:
    settings = ["data.workers=0", "data.train_samples=6", "data.val_samples=4", "train.total_batch=4"]
    settings += ["model.backbone={name: pvt_v2_b0, width: 0.25}", *RECIPES[recipe]]
    task = build_task(load_recipe(recipe, None, "smoke", settings), device=device, say=lambda text: None)
    assert task.loading.pin_memory == (device == "cuda")
    if split == "val":
        data, draws = task.val, [(0, 0, 0), (0, 1, 0)]
    else:
        data, draws = task.train, [(1, at, 0) for at in range(4)]
    return data.collate(data.__getitems__([Draw(*draw) for draw in draws]))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_the_device_normalises_as_the_loader_does(recipe: str, split: str) -> None:
    whole, raw = (first_batch(recipe, device, split) for device in ("cpu", "cuda"))
    assert raw.images.dtype == torch.uint8
    assert raw.noises or (recipe, split) != ("small_photos", "train")
    assert len(pickle.dumps(raw)) < 0.6 * len(pickle.dumps(whole))
    moved = raw.to("cpu")
    for field in fields(whole):
        one, other = getattr(whole, field.name), getattr(moved, field.name)
        assert torch.equal(one, other) if isinstance(one, Tensor) else repr(one) == repr(other)
    again = moved.to("cpu")  # only once
    assert torch.equal(again.images, moved.images)


def uneven(how: Normalization) -> tuple[DenseBatch, Tensor]:
    """A batch of images of three sizes with noise in one, and what it must become."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(9, 14), (12, 5), (12, 14)]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]
    noise = Noise(torch.randn(3, 4, 5, generator=generator), 2, 3)
    batch = DenseBatch(
        images=pad_images(images, 4),
        sizes=sizes,
        targets=[torch.zeros(size) for size in sizes],
        original_sizes=sizes,
        ids=["a", "b", "c"],
        indices=torch.arange(3),
        key=0,
        skipped=[],
        normalization=how,
        noises=[(0, noise)],
    )
    return batch, pad_images(
        [RawImage(images[0], noise).normalized(how), *(normalize(each, how) for each in images[1:])], 4
    )


@pytest.mark.parametrize("how", [IMAGENET, BGR])
def test_padding_stays_zero_and_noise_stays_noise(how: Normalization) -> None:
    batch, expected = uneven(how)
    assert batch.images.dtype == torch.uint8
    assert torch.equal(batch.to("cpu").images, expected)
    doubled = batch.changed(lambda part: part * 2)
    assert torch.equal(doubled.noises[0][1].values, batch.noises[0][1].values * 2)  # noise is pinned and moved too


def test_no_copy_is_waited_for() -> None:
    batch, expected = uneven(BGR)
    with PretendGpu() as gpu:
        moved = batch.to(GPU)
    assert not gpu.waits
    assert torch.equal(moved.images.values, expected)
    assert {moved.images.device, moved.indices.device, moved.targets[0].device} == {GPU}
