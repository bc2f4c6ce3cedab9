"""Splits with a map for each pixel: what is skipped, what is drawn, how images lie side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segmentation_sets import mask_set, photo, stripes, write
from torch import Tensor

from pvtctl.data.base import Sample, Unusable
from pvtctl.data.images import BadImage
from pvtctl.data.samplers import Draw
from pvtctl.io.normalization import HALF
from pvtctl.tasks.dense.data import DenseBatch, DenseDataset
from pvtctl.tasks.segmentation.data import open_segmentation_split
from pvtctl.tasks.segmentation.settings import SegmentationData

SIZES = [(6, 8), (4, 9), (6, 8), (7, 5), (6, 8)]


class Maps:
    """Image `i` is filled with i, its label map too; those in `broken` cannot be read, `unlike` have maps of another size."""

    palette: list[tuple[int, int, int]] | None = None

    def __init__(self, broken: set[int] = frozenset(), unlike: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.class_names = ["a", "b"]
        self.broken, self.unlike = broken, unlike

    def __len__(self) -> int:
        return len(SIZES)

    def name(self, index: int) -> str:
        return f"{index}.png"

    def pixels(self, index: int) -> Tensor:
        if index in self.broken:
            raise BadImage("truncated") if index % 2 else FileNotFoundError(2, "No such file or directory")
        return torch.full((3, *SIZES[index]), index, dtype=torch.uint8)

    def target(self, index: int) -> Tensor:
        height, width = SIZES[index]
        return torch.full((height, width + (index in self.unlike)), index, dtype=torch.uint8)

    def digest(self, indices: NDArray[np.int64]) -> str:
        return str(indices.tolist())


class Cut:
    """A random column of the image, four pixels wide, in training."""

    def train(self, pixels: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = torch.randint(0, 255, (3, 4, 4), generator=generator, dtype=torch.uint8)
        return noise, target[:4, :4]

    def evaluate(self, pixels: Tensor, ratio: float = 1.0) -> Tensor:
        return pixels if ratio == 1.0 else pixels.repeat(1, int(ratio), int(ratio))


def dataset(training: bool, **kinds: Any) -> DenseDataset:
    seed, samples = kinds.pop("seed", 0), kinds.pop("samples", None)
    return DenseDataset(Maps(**kinds), Cut(), training=training, seed=seed, samples=samples)


def test_training_goes_on_with_the_next_image_and_says_so() -> None:
    drawn = dataset(True, broken={1, 2})[Draw(0, 1)]
    assert isinstance(drawn, Sample)
    assert (drawn.id, drawn.index) == ("3.png", 3)
    assert [(skip.id, skip.reason) for skip in drawn.skipped] == [
        ("1.png", "truncated"),
        ("2.png", "No such file or directory"),
    ]
    assert bool((drawn.target == 3).all())


def test_the_last_image_gives_way_to_the_first() -> None:
    drawn = dataset(True, broken={4})[Draw(0, 4)]
    assert isinstance(drawn, Sample)
    assert drawn.index == 0


def test_evaluation_leaves_out_what_it_cannot_read() -> None:
    val = dataset(False, broken={1})
    drawn = val[1]
    assert isinstance(drawn, Unusable)
    batch = val.collate(val.__getitems__([Draw(0, 0), Draw(0, 1)]))
    assert (batch.ids, batch.failed, [skip.id for skip in batch.skipped]) == (["0.png"], 1, ["1.png"])
    none = val.collate(val.__getitems__([Draw(0, 1)]))
    assert (len(none), none.failed, none.images.shape) == (0, 1, (0, 3, 0, 0))


@pytest.mark.parametrize("training", [True, False])
def test_a_map_of_another_size_is_skipped_with_both_sizes(training: bool) -> None:
    data = dataset(training, unlike={1})
    with pytest.raises(BadImage, match="9x4 pixels, but its map is 10x4"):
        data.read(1)
    drawn = data[1]
    assert isinstance(drawn, Sample) == training
    assert drawn.skipped[0].reason == "9x4 pixels, but its map is 10x4"


def test_nothing_readable_ends_with_no_sample() -> None:
    drawn = dataset(True, broken=set(range(5)))[0]
    assert isinstance(drawn, Unusable)
    assert len(drawn.skipped) == 5


def test_what_is_drawn_depends_on_seed_epoch_index_and_copy_alone() -> None:
    def image(seed: int, *draw: int) -> Tensor:
        drawn = dataset(True, seed=seed)[Draw(*draw)]
        assert isinstance(drawn, Sample)
        return drawn.image

    assert torch.equal(image(0, 2, 3, 0), image(0, 2, 3, 0))
    for other in ((1, 2, 3, 0), (0, 1, 3, 0), (0, 2, 4, 0), (0, 2, 3, 1)):
        assert not torch.equal(image(0, 2, 3, 0), image(*other))


def test_a_batchs_key_depends_on_the_draws() -> None:
    data = dataset(True)
    keys = {data.collate(data.__getitems__(draws)).key for draws in ([Draw(0, 0)], [Draw(1, 0)], [Draw(0, 1)])}
    assert len(keys) == 3
    assert data.__getitems__([Draw(0, 0)])[-1] == data.__getitems__([Draw(0, 0)])[-1]


def batch_of(data: DenseDataset, *places: int) -> DenseBatch:
    return data.collate(data.__getitems__([Draw(0, place) for place in places]))


def test_images_are_padded_right_and_bottom_and_maps_stay_as_they_lie() -> None:
    data = dataset(False)
    batch = batch_of(data, 0, 1, 3)
    assert batch.images.shape == (3, 3, 7, 9)
    assert batch.sizes == batch.original_sizes == [(6, 8), (4, 9), (7, 5)]
    assert [tuple(target.shape) for target in batch.targets] == batch.sizes
    for row, (height, width) in zip(batch.images, batch.sizes, strict=True):
        assert torch.count_nonzero(row[:, height:]) == torch.count_nonzero(row[:, :, width:]) == 0
    assert batch.indices.tolist() == [0, 1, 3]
    assert torch.equal(batch.images[0, :, :6, :8], data.image_at(0))


def test_normalisation_is_the_one_asked_for() -> None:
    half = DenseDataset(Maps(), Cut(), training=False, normalization=HALF)
    assert bool((half.image_at(0) == -1).all())
    assert dataset(False).image_at(0)[0, 0, 0].item() == pytest.approx(-0.485 / 0.229)


def test_a_view_is_resized_and_mirrored() -> None:
    class Steps(Maps):
        def pixels(self, index: int) -> Tensor:
            return torch.arange(8, dtype=torch.uint8).expand(3, 6, 8)

    data = DenseDataset(Steps(), Cut(), training=False)
    assert data.image_at(0, ratio=2.0).shape == (3, 12, 16)
    assert torch.equal(data.image_at(0, flip=True), data.image_at(0).flip(-1))
    assert data.read(0)[0].shape == (3, 6, 8)


def test_moving_a_batch_moves_what_is_computed_with() -> None:
    batch = batch_of(dataset(False), 0, 1).to("meta")
    assert batch.images.is_meta
    assert batch.indices.is_meta
    assert all(target.is_meta for target in batch.targets)
    assert batch.ids == ["0.png", "1.png"]
    assert isinstance(batch, DenseBatch)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_pinned_batch_is_pinned_in_all_its_parts() -> None:
    batch = batch_of(dataset(False), 0, 1).pin_memory()
    assert all(part.is_pinned() for part in (batch.images, batch.indices, *batch.targets))


def test_fewer_samples_are_spread_over_the_split() -> None:
    data = dataset(False, samples=2)
    assert (len(data), data.ids) == (2, ["0.png", "2.png"])
    assert data.fingerprint() == "[0, 2]"
    assert len(dataset(False, samples=99)) == 5
    drawn = data[1]
    assert isinstance(drawn, Sample)
    assert (drawn.index, drawn.id) == (1, "2.png"), "positions are those in the split, names those of the source"


def test_the_fingerprint_follows_files_classes_and_settings(tmp_path: Path) -> None:
    root = mask_set(tmp_path / "set", {"train": [stripes([0, 1])] * 3, "val": [stripes([0, 2])]})

    def print_of(samples: int | None = None, **settings: Any) -> str:
        named = SegmentationData(**settings)
        data = open_segmentation_split("masks", root, "train", settings=named, training=True, samples=samples)
        return data.fingerprint()

    first = print_of()
    assert first == print_of()
    assert first == print_of(hflip=0.1), "what is drawn is no part of the data"
    assert len({first, print_of(samples=2), print_of(ignore=(2,))}) == 3
    write(root / "annotations" / "train" / "001.png", stripes([0, 1, 2, 0, 1, 2, 1]))
    changed = print_of()
    assert changed != first
    write(root / "images" / "train" / "009.jpg", photo(9))
    write(root / "annotations" / "train" / "009.png", stripes([1, 2]))
    assert print_of() not in (first, changed)
    (root / "classes.txt").write_text("sky\nroad\ntram\nvoid\n")
    assert print_of() not in (first, changed)


def test_a_broken_file_is_left_out_of_evaluation_by_its_name(tmp_path: Path) -> None:
    root = mask_set(tmp_path / "set", {"train": [stripes([0, 1])], "val": [stripes([0, 1])] * 3})
    (root / "images" / "val" / "001.jpg").write_bytes(b"\xff\xd8 nothing")
    write(root / "annotations" / "val" / "002.png", stripes([0, 1], (20, 20)))
    named = SegmentationData()
    val = open_segmentation_split("masks", root, "val", settings=named, training=False)
    batch = batch_of(val, 0, 1, 2)
    assert batch.ids == ["000.jpg"]
    assert [skip.id for skip in batch.skipped] == ["001.jpg", "002.jpg"]
    assert batch.skipped[1].reason == "56x40 pixels, but its map is 20x20"
