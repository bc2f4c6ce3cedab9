from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from pvtctl.data.samplers import Draw, GroupedTrainSampler
from pvtctl.errors import UsageError


def epoch_of(sampler: GroupedTrainSampler, epoch: int, first_batch: int = 0) -> list[list[Draw]]:
    sampler.set_epoch(epoch, first_batch)
    return list(sampler)


def shapes(wide: int, tall: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.arange(wide + tall) < wide)


@pytest.mark.parametrize(
    ("wide", "tall", "size"), [(37, 14, 4), (40, 1, 8), (3, 3, 4), (2, 2, 2), (9, 0, 2), (1, 1, 2)]
)
def test_each_image_once_and_at_most_one_mixed_batch(wide, tall, size):
    shape = shapes(wide, tall)
    for epoch in range(3):
        batches = epoch_of(GroupedTrainSampler(shape, batch_size=size), epoch)
        assert len(batches) == (wide + tall) // size
        counts = Counter(draw.index for batch in batches for draw in batch)
        assert set(counts.values()) == {1}
        assert sum(len({bool(shape[draw.index]) for draw in batch}) == 2 for batch in batches) <= 1
        assert {len(batch) for batch in batches} == {size}


def test_every_image_is_seen_over_epochs():
    sampler = GroupedTrainSampler(shapes(7, 4), batch_size=4)
    seen = Counter(draw.index for epoch in range(60) for batch in epoch_of(sampler, epoch) for draw in batch)
    assert len(seen) == 11
    assert min(seen.values()) > 25  # 44 on average


def test_groups_come_mixed_over_the_epoch():
    shape = shapes(40, 40)
    batches = epoch_of(GroupedTrainSampler(shape, batch_size=2), 0)
    kinds = [bool(shape[batch[0].index]) for batch in batches]
    assert sum(a != b for a, b in pairwise(kinds)) > 8


def test_depends_on_seed_and_epoch_and_starts_anywhere():
    shape = shapes(30, 12)
    sampler = GroupedTrainSampler(shape, batch_size=4, seed=3)
    whole = epoch_of(sampler, 1)
    assert epoch_of(sampler, 1, first_batch=4) == whole[4:]
    assert epoch_of(GroupedTrainSampler(shape, batch_size=4, seed=3), 1) == whole
    assert epoch_of(sampler, 2) != whole
    assert epoch_of(GroupedTrainSampler(shape, batch_size=4, seed=4), 1) != whole
    assert epoch_of(sampler, 1, first_batch=len(sampler)) == []


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_what_one_rank_sees(world_size):
    shape = shapes(33, 18)
    alone = epoch_of(GroupedTrainSampler(shape, batch_size=8), 5)
    ranks = [
        epoch_of(GroupedTrainSampler(shape, batch_size=8 // world_size, rank=rank, world_size=world_size), 5)
        for rank in range(world_size)
    ]
    assert {len(batches) for batches in ranks} == {len(alone)}
    for number, batch in enumerate(alone):
        assert sorted(batch) == sorted(draw for batches in ranks for draw in batches[number])


def test_a_set_smaller_than_a_batch_is_refused():
    with pytest.raises(UsageError, match="5 training images do not fill one batch of 4 on each of 2 rank"):
        GroupedTrainSampler([True] * 5, batch_size=4, world_size=2)
