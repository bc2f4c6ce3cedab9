from __future__ import annotations

import os
import signal

import pytest
import torch

from pvtctl.data.base import Sample, Unusable
from pvtctl.data.loader import Loader, default_workers
from pvtctl.data.samplers import EvalSampler, TrainSampler
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.tasks.classification.data import open_classification_split
from pvtctl.tasks.classification.settings import Augment

AUGMENT = Augment()


def train_loader(root, workers=0, batch_size=4, seed=0, repeats=3):
    dataset = open_classification_split("imagenet", root, "train", image_size=32, augment=AUGMENT, seed=seed)
    sampler = TrainSampler(len(dataset), batch_size=batch_size, seed=seed, repeats=repeats)
    return Loader(dataset, sampler, workers=workers)


def val_loader(root, workers=0, batch_size=3):
    dataset = open_classification_split("imagenet", root, "val", image_size=32, resize=36)
    return Loader(dataset, EvalSampler(len(dataset), batch_size=batch_size), workers=workers)


def break_file(root, split, wnid="n01440764", number=0):
    file = root / split / wnid / f"{wnid}_{number:03d}.JPEG"
    file.write_bytes(file.read_bytes()[:200])
    return f"{wnid}/{file.name}"


def test_same_bits_for_any_number_of_workers_and_after_a_restart(make_set):
    root = make_set(train=8)
    alone, workers = train_loader(root), train_loader(root, workers=2)
    before = torch.get_rng_state()
    for epoch in (0, 1):
        alone.sampler.set_epoch(epoch)
        whole = list(alone)
        for first in (0, 2):
            workers.sampler.set_epoch(epoch, first)
            for batch, expected in zip(workers, whole[first:], strict=True):
                assert torch.equal(batch.images, expected.images)
                assert torch.equal(batch.labels, expected.labels)
                assert (batch.key, batch.ids) == (expected.key, expected.ids)
    assert torch.equal(torch.get_rng_state(), before)  # a resumed run draws the same dropout
    assert len({batch.key for batch in whole}) == len(whole) == len(alone) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_an_abandoned_epoch_leaves_nothing_behind(make_set, workers):
    loader = train_loader(make_set(train=8), workers, repeats=1)
    loader.sampler.set_epoch(1)
    expected = [batch.ids for batch in loader]
    loader.sampler.set_epoch(0)
    next(iter(loader))
    loader.sampler.set_epoch(1, 1)
    assert [batch.ids for batch in loader] == expected[1:]


def test_a_sample_depends_on_the_draw_and_the_seed(make_set):
    root = make_set()
    one, two = train_loader(root, seed=1), train_loader(root, seed=2)
    assert torch.equal(one.dataset[3].image, train_loader(root, seed=1).dataset[3].image)
    assert not torch.equal(one.dataset[3].image, two.dataset[3].image)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_in_training_gives_way_to_the_next(make_set, workers):
    root = make_set(train=8)
    bad = break_file(root, "train", number=2)
    loader = train_loader(root, workers, repeats=1)
    skipped = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert len(batch) == 4
            assert bad not in batch.ids
            skipped += batch.skipped
    assert {skip.id for skip in skipped} == {bad}
    assert list(loader.skipped) == [bad]
    assert "truncated" in loader.skipped[bad].lower()
    substitute = loader.dataset[2]
    assert isinstance(substitute, Sample)
    assert substitute.id.endswith("_003.JPEG")
    assert substitute.target == 0


def test_odd_sizes_in_a_run(make_set, image_bytes, giant_png):
    root = make_set(train=2)
    folder = root / "train" / "n01440764"
    (folder / "giant.png").write_bytes(giant_png)
    (folder / "one.jpg").write_bytes(image_bytes(size=(1, 1)))
    loader = train_loader(root, batch_size=3, repeats=1)
    seen = [name for batch in loader for name in batch.ids]
    assert len(seen) == 6
    assert "n01440764/one.jpg" in seen
    assert list(loader.skipped) == ["n01440764/giant.png"]
    assert "too large" in loader.skipped["n01440764/giant.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_in_evaluation_is_left_out(make_set, workers):
    root = make_set(val=4)
    bad = [break_file(root, "val", number=number) for number in (0, 1, 2)]  # a whole batch
    loader = val_loader(root, workers)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [3, 2]
    assert set(loader.skipped) == set(bad)
    assert isinstance(loader.dataset[0], Unusable)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_where_everything_is_corrupt(make_set, workers):
    root = make_set(train=2)
    for split in ("train", "val"):
        for wnid in ("n01440764", "n01443537"):
            for number in (0, 1):
                break_file(root, split, wnid, number)
    with pytest.raises(UsageError, match="images in a row could not be read; the first is n0144"):
        list(train_loader(root, workers))
    with pytest.raises(UsageError, match="all 4 images could not be read") as error:
        list(val_loader(root, workers))
    assert "pvtctl data check" in error.value.hint


def test_evaluation_covers_the_split(make_set):
    loader = val_loader(make_set(val=4))
    batches = list(loader)
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(8))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0] * 4 + [1] * 4
    assert batches[0].images.shape == (3, 3, 32, 32)


def test_scenes_are_read_the_same_way():
    dataset = open_classification_split("scenes", "", "train", image_size=32, augment=AUGMENT, samples=12)
    loader = Loader(dataset, TrainSampler(12, batch_size=4), workers=0)
    batch = next(iter(loader))
    assert batch.images.shape == (4, 3, 32, 32)
    assert len(dataset.class_names) == 12


def test_default_workers(monkeypatch):
    monkeypatch.setattr("pvtctl.data.loader.cpus_usable", lambda: 2)
    assert (default_workers(False), default_workers(True)) == (0, 2)
    monkeypatch.setattr("pvtctl.data.loader.cpus_usable", lambda: 64)
    assert (default_workers(False), default_workers(True, 8), default_workers(True, 2)) == (8, 8, 16)


def test_a_killed_process_is_told_where_batches_are_taken_and_nowhere_else(make_set, monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    loader = train_loader(make_set(train=40), workers=1)
    batches = iter(loader)
    next(batches)
    (worker,) = loader._batches._iterator._workers
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    for _ in range(1000):
        pass  # torch's own handler would raise here
    with pytest.raises(PvtctlError, match="a process that loads data was killed") as error:
        list(batches)
    assert "data.workers" in error.value.hint
    assert not isinstance(error.value, UsageError)
