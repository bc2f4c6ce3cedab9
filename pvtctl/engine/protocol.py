"""What the engine asks of a task, and nothing more: it trains and evaluates without knowing any task by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn


class Metric(Protocol):
    """Accumulates over batches; states of several ranks merge to what one rank over all images would have."""

    def update(self, outputs: Any, batch: Any) -> None: ...

    def state(self) -> dict[str, Any]:
        """Picklable; what `merge` takes. Grows with classes, or with 8 bytes an image at most."""

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Replace the own state by the sum of `states` (the own one among them)."""

    def compute(self) -> dict[str, float]:
        """Numbers by name; fractions, not percent."""


class Task(Protocol):
    """A model with its data, loss and metric."""

    name: str
    model: nn.Module
    best_metric: str
    higher_is_better: bool
    headline: tuple[str, ...]
    """Names of the metric's numbers that are said after each epoch."""

    def train_loader(self, *, epoch: int, first_batch: int, rank: int, world_size: int) -> Iterable[Any]:
        """Batches of this rank in `epoch` from number `first_batch` on; the same bits however often it is restarted."""

    def batches_per_epoch(self, world_size: int) -> int:
        """Per rank, equal on every rank."""

    def losses(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Scalars by name; `loss` is the one that is minimised. `model` is `self.model`, maybe wrapped (DDP, compile)."""

    def batch_size(self, batch: Any) -> int: ...

    def sample_ids(self, batch: Any) -> list[str]:
        """Names of the batch's samples, for the report of a non-finite loss."""

    def to_device(self, batch: Any, device: Any) -> Any: ...

    def val_loader(self, *, rank: int, world_size: int) -> Iterable[Any]:
        """This rank's share: over all ranks every sample exactly once."""

    def predict(self, model: nn.Module, batch: Any) -> Any:
        """Outputs as `metric().update` takes them."""

    def metric(self) -> Metric: ...

    def meta(self) -> dict[str, Any]:
        """Plain JSON values that go into every checkpoint: class names, normalisation, image size ..."""
