"""Samplers: samples, order and rank as a function of (seed, epoch) that can start at any batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pvtctl.data.randomness import generator_for
from pvtctl.errors import UsageError
from pvtctl.io.names import plural


class Draw(NamedTuple):
    """One use of one sample: the index of a dataset, and with the seed the key of its random numbers."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a draw
    copy: int = 0


class ShardWindows:
    """Which shards of a set are read at a time: `mix` of them, in an order of each epoch's own where it is `shuffled`.

    `shard_of` (int64 (N,)) is the shard of each sample. What is read depends on these and the seed alone, not on what is
    at hand, so that a run can be resumed anywhere.
    """

    def __init__(self, shard_of: NDArray[np.int64], mix: int, *, seed: int, shuffled: bool) -> None:
        self.shards, self._shard_of = np.unique(shard_of, return_inverse=True)
        self.mix, self.seed, self.shuffled = mix, seed, shuffled
        self._known: tuple[int, NDArray[np.int64]] | None = None

    def of(self, epoch: int) -> NDArray[np.int64]:
        """The window, from 0, in which an epoch reads each of `shards`."""
        if self._known is None or self._known[0] != epoch:
            count, windows = len(self.shards), np.empty(len(self.shards), np.int64)
            order: NDArray[np.int64] = np.arange(count)
            if self.shuffled:
                order = torch.randperm(count, generator=generator_for(self.seed, epoch, "shards")).numpy()
            windows[order] = np.arange(count) // self.mix
            self._known = epoch, windows
        return self._known[1]

    def sorted(self, epoch: int, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Samples in this order within each window, the windows one after the other."""
        windows = self.of(epoch)[self._shard_of[order]]
        return order[np.argsort(windows, kind="stable")]

    def needed(self, draws: Sequence[Draw]) -> list[int]:
        """The shards of the windows in which these draws of an epoch are, then those of the window after them."""
        epoch, windows = draws[0].epoch, self.of(draws[0].epoch)
        own = sorted({int(windows[self._shard_of[draw.index]]) for draw in draws})
        needed = [self.shards[windows == window] for window in own]
        if (windows > own[-1]).any():
            needed.append(self.shards[windows == own[-1] + 1])
        elif self.shuffled:
            needed.append(self.shards[self.of(epoch + 1) == 0])
        return list(dict.fromkeys(np.concatenate(needed).tolist()))


class _TrainingSampler:
    """Batches of draws of which the ranks take every `world_size`-th. Raises UsageError if `used` ones fill no batch."""

    def __init__(self, num_samples: int, used: int, *, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.first_batch = 0
        self._num_batches = used // (batch_size * world_size)
        if self._num_batches == 0:
            raise UsageError(
                f"{num_samples} training images do not fill one batch of {batch_size} on each of {plural(world_size, 'rank')}",
                "use a smaller batch: --set train.total_batch=N",
            )

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank (equal on every rank)."""
        return self._num_batches

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Set the next iteration to the batches of `epoch` from number `first_batch` on."""
        self.epoch = epoch
        self.first_batch = first_batch

    def _order(self) -> tuple[NDArray[np.int64], torch.Generator]:
        """A random order of the samples in this epoch, and the generator that drew it."""
        generator = generator_for(self.seed, self.epoch, "order")
        return torch.randperm(self.num_samples, generator=generator).numpy(), generator


class TrainSampler(_TrainingSampler):
    """Batches of draws for training, with DeiT's repeated augmentation.

    An epoch is a random order of the samples, each `repeats` times in a row, of which only as many draws are used as
    there are samples: at `repeats=3` an epoch shows a third of the images, 3 times. Ranks take every `world_size`-th
    draw, so that copies fall on different ranks and the ranks' k-th batches together are the same draws for every
    number of ranks at the same total batch. The last incomplete batch is dropped.

    With repeats the official code uses `num_samples // 256 * 256` draws; so does this sampler from 25 600 samples on,
    where that costs at most 1 %. Smaller sets, and `repeats=1`, use all.

    With `windows`, the random order is that within each window, and a set of one window has the same order as without.

    Raises UsageError when a rank's share does not fill one batch.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        seed: int = 0,
        repeats: int = 1,
        windows: ShardWindows | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        used = num_samples // 256 * 256 if repeats > 1 and num_samples >= 25_600 else num_samples
        super().__init__(num_samples, used, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self.repeats = repeats
        self.windows = windows

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch = self.epoch
        order, _ = self._order()
        if self.windows is not None:
            order = self.windows.sorted(epoch, order)
        for batch in range(self.first_batch, self._num_batches):
            first = batch * self.batch_size * self.world_size + self.rank
            places = range(first, first + self.batch_size * self.world_size, self.world_size)
            yield [Draw(epoch, int(order[place // self.repeats]), place % self.repeats) for place in places]


class GroupedTrainSampler(_TrainingSampler):
    """Batches of draws for training that separate wide and tall images, to reduce padding.

    `wide` (bool (N,)) names the group of each image. An epoch is a random order; of each group it is cut into total
    batches (all ranks together), what remains of both is joined and cut likewise, and the batches are shuffled. So at
    most one batch mixes the groups, an epoch leaves out less than one total batch, and sets with few images of a group
    need no special treatment. Ranks take every `world_size`-th draw of a total batch:
    together they see the same draws for every number of ranks at the same total batch.

    Raises UsageError when the images do not fill one total batch.
    """

    def __init__(
        self,
        wide: Sequence[bool] | NDArray[np.bool_],
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(wide), len(wide), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self.wide = np.asarray(wide, np.bool_)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, total = self.epoch, self.batch_size * self.world_size
        order, generator = self._order()
        groups = [order[self.wide[order]], order[~self.wide[order]]]
        whole = [group[: len(group) // total * total] for group in groups]
        rest = np.concatenate([group[len(part) :] for group, part in zip(groups, whole, strict=True)])
        batches = np.concatenate([*whole, rest[: len(rest) // total * total]]).reshape(-1, total)
        places = torch.randperm(len(batches), generator=generator).tolist()
        for place in places[self.first_batch :]:
            yield [Draw(epoch, int(index)) for index in batches[place, self.rank :: self.world_size]]


class EvalSampler:
    """Batches of draws for evaluation: over all ranks every sample exactly once, in order, without padding.

    A rank beyond the number of samples has no batches.
    """

    def __init__(self, num_samples: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, num_samples, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        for first in range(0, len(self.indices), self.batch_size):
            yield [Draw(0, index) for index in self.indices[first : first + self.batch_size]]
