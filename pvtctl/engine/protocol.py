"""The interface between the engine and tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from pvtctl.io.checkpoint_meta import CheckpointMeta


class Metric(Protocol):
    """Accumulates over batches; the merged states of several ranks equal that of one rank over all images."""

    def update(self, outputs: Any, batch: Any) -> None: ...

    def state(self) -> dict[str, Any]:
        """Picklable state for `merge`. Grows with the classes, or with at most 8 bytes per image."""

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Replace this state by the sum of `states`, which include it."""

    def compute(self) -> dict[str, float]:
        """Values by name, as fractions."""


class Task(Protocol):
    """A model with its data, loss and metric."""

    name: str
    model: nn.Module
    best_metric: str
    higher_is_better: bool
    headline: tuple[str, ...]
    """Names of the metric's values that are logged after each epoch."""

    def train_loader(self, *, epoch: int, first_batch: int, rank: int, world_size: int) -> Iterable[Any]:
        """Batches of this rank in `epoch` from number `first_batch` on, bit-identical after any restart."""

    def batches_per_epoch(self, world_size: int) -> int:
        """Batches per rank, equal on all ranks."""

    def losses(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Scalar losses by name; `loss` is minimised. `model` is `self.model`, maybe wrapped (DDP, compile)."""

    def batch_size(self, batch: Any) -> int: ...

    def sample_ids(self, batch: Any) -> list[str]:
        """Names of the batch's samples, for reporting a non-finite loss."""

    def to_device(self, batch: Any, device: Any) -> Any: ...

    def val_loader(self, *, rank: int, world_size: int) -> Iterable[Any]:
        """Batches of this rank's share; over all ranks every sample occurs exactly once."""

    def predict(self, model: nn.Module, batch: Any) -> Any:
        """Outputs in the format of `metric().update`."""

    def metric(self) -> Metric: ...

    def meta(self) -> CheckpointMeta:
        """Stored in every checkpoint: class names, normalisation, image size ..."""
