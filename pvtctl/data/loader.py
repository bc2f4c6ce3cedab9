"""Batches from loader processes: bit-identical for any number of them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from pvtctl.data.samplers import EvalSampler, GroupedTrainSampler, TrainSampler
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.machine import cpus_usable
from pvtctl.io.names import plural


class BatchedDataset(Protocol):
    """A data set that is indexed by lists of draws and collates the samples into batches."""

    @property
    def training(self) -> bool: ...

    def __getitems__(self, draws: list[Any]) -> list[Any]: ...

    def collate(self, items: list[Any]) -> Any:
        """A batch: its length is the number of samples; `skipped` and `failed` describe the others."""


class _Guarded:
    """A data set in a loader process: PvtctlErrors are passed on as they are, not as the text of a traceback."""

    def __init__(self, dataset: BatchedDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, draws: list[Any]) -> list[Any]:
        try:
            return self.dataset.__getitems__(draws)
        except PvtctlError as error:
            return [error]

    def collate(self, items: list[Any]) -> Any:
        return items[0] if isinstance(items[0], PvtctlError) else self.dataset.collate(items)


def from_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader; a killed process of it raises PvtctlError, here and nowhere else.

    torch's handler of SIGCHLD raises wherever the main thread is, also while a checkpoint is written or an error recorded.
    Without it the loader still looks after its processes whenever it has waited for five seconds.
    """
    try:
        before = signal.getsignal(signal.SIGCHLD)
        batches = iter(loader)
        if signal.getsignal(signal.SIGCHLD) != before and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)
        yield from batches
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise PvtctlError(
            "a process that loads data was killed, most likely for lack of memory", "use --set data.workers=1"
        ) from error


class Loader:
    """A data loader that records skipped images. Iterating yields the sampler's batches, collated by the data set.

    `workers`: its processes; unset, `default_workers`. Results do not depend on their number. Batches without a single
    readable image are skipped. Raises UsageError when a training draw found no readable image, or an evaluation none at
    all, and what the data set raises for users.
    """

    def __init__(
        self,
        dataset: BatchedDataset,
        sampler: TrainSampler | GroupedTrainSampler | EvalSampler,
        *,
        workers: int | None = None,
        pin_memory: bool = False,
        ranks_here: int = 1,
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.skipped: dict[str, str] = {}
        """id -> reason of every image that could not be read so far, over all epochs of this loader."""
        self._workers = default_workers(torch.cuda.is_available(), ranks_here) if workers is None else workers
        self._pin_memory = pin_memory
        self._batches = self._start()

    def _start(self) -> DataLoader[Any]:
        guarded = _Guarded(self.dataset)
        return DataLoader(
            guarded,  # type: ignore[arg-type]
            batch_sampler=self.sampler,
            num_workers=self._workers,
            collate_fn=guarded.collate,
            pin_memory=self._pin_memory,
            worker_init_fn=_prepare_worker,
            persistent_workers=self._workers > 0,
            # its own: torch would draw a base seed from the global one at each start and so move it
            generator=torch.Generator(),
        )

    def close(self) -> None:
        """End the loader processes now. The next iteration starts new ones."""
        self._batches = self._start()

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        empty, failed = True, ""
        for batch in from_workers(self._batches):
            if isinstance(batch, PvtctlError):
                self.close()
                raise batch
            self.skipped.update((skip.id, skip.reason) for skip in batch.skipped)
            if batch.failed and self.dataset.training:
                failed = f"{len({skip.id for skip in batch.skipped})} images in a row"
                break
            if len(batch):
                empty = False
                yield batch
        if empty and self.skipped and not failed:
            failed = f"all {plural(len(self.skipped), 'image')}"
        if failed:
            self.close()  # left to the garbage collector, processes are only ended after a timeout
            name, reason = next(iter(self.skipped.items()))
            raise UsageError(
                f"{failed} could not be read; the first is {name}: {reason}",
                "`pvtctl data check FOLDER` lists every fault",
            )


def default_workers(accelerator: bool, ranks_here: int = 1) -> int:
    """Loader processes for each of `ranks_here` ranks on this machine.

    With an accelerator every core may load, up to 16 per rank. If the network runs on the CPU, loading an image is
    a hundredth of its work: one process per eight cores, and none below eight, as a process would only compete with
    the network.
    """
    share = cpus_usable() // max(1, ranks_here)
    return min(16, share) if accelerator else share // 8


def _prepare_worker(worker: int) -> None:
    """Ignore stop signals: the main process handles them, and saves while loader processes still run."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
