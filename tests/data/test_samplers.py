from __future__ import annotations

from collections import Counter

import pytest

from pvtctl.data.samplers import Draw, EvalSampler, TrainSampler
from pvtctl.errors import UsageError


def epoch_of(sampler: TrainSampler, epoch: int, first_batch: int = 0) -> list[list[Draw]]:
    sampler.set_epoch(epoch, first_batch)
    return list(sampler)


def test_an_epoch_is_a_permutation():
    batches = epoch_of(TrainSampler(23, batch_size=5), 2)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5]
    draws = [draw for batch in batches for draw in batch]
    assert len({draw.index for draw in draws}) == 20
    assert {(draw.epoch, draw.copy) for draw in draws} == {(2, 0)}


def test_depends_on_seed_and_epoch_and_starts_anywhere():
    sampler = TrainSampler(40, batch_size=4, seed=3, repeats=3)
    whole = epoch_of(sampler, 1)
    assert epoch_of(sampler, 1, first_batch=4) == whole[4:]
    assert epoch_of(TrainSampler(40, batch_size=4, seed=3, repeats=3), 1) == whole
    assert epoch_of(sampler, 2) != whole
    assert epoch_of(TrainSampler(40, batch_size=4, seed=4, repeats=3), 1) != whole
    assert epoch_of(sampler, 1, first_batch=len(sampler)) == []


def test_copies_of_an_image_fall_on_different_ranks():
    ranks = [epoch_of(TrainSampler(48, batch_size=4, repeats=3, rank=rank, world_size=3), 0) for rank in range(3)]
    for rank, batches in enumerate(ranks):
        assert {draw.copy for batch in batches for draw in batch} == {rank}
    counts = Counter(draw.index for batches in ranks for batch in batches for draw in batch)
    assert set(counts.values()) == {3}
    assert len(counts) == 16  # a third of the images, thrice


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_what_one_rank_sees(world_size):
    alone = epoch_of(TrainSampler(50, batch_size=8, repeats=3), 5)
    ranks = [
        epoch_of(TrainSampler(50, batch_size=8 // world_size, repeats=3, rank=rank, world_size=world_size), 5)
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    for number, batch in enumerate(alone):
        assert sorted(batch) == sorted(draw for batches in ranks for draw in batches[number])


def test_imagenet_gives_the_official_number_of_steps():
    # ImageNet: 1251 steps at a total batch of 1024 on 8 ranks, 160128 draws a rank
    assert len(TrainSampler(1_281_167, batch_size=128, repeats=3, world_size=8)) == 1251
    assert len(TrainSampler(1_281_167, batch_size=1, repeats=3, world_size=8)) == 160_128


def test_a_set_smaller_than_a_batch_is_refused():
    with pytest.raises(UsageError, match="20 training images do not fill one batch of 16 on each of 2 rank"):
        TrainSampler(20, batch_size=16, world_size=2)


@pytest.mark.parametrize(("total", "world_size", "batch_size"), [(10, 1, 4), (11, 2, 3), (3, 4, 2), (1, 1, 8)])
def test_evaluation_takes_each_sample_once(total, world_size, batch_size):
    seen = []
    for rank in range(world_size):
        sampler = EvalSampler(total, batch_size=batch_size, rank=rank, world_size=world_size)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        seen += [draw.index for batch in batches for draw in batch]
    assert sorted(seen) == list(range(total))
