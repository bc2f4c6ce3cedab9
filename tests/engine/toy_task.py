"""A task small enough to train in a second, and a script that trains it, so that tests can kill it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pvtctl.engine import Distributed, FitSettings, RunFolder, fit, launch, start_distributed, stop_distributed
from pvtctl.errors import PvtctlError
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.recipe.schema import Train

FEATURES, CLASSES, VAL = 6, 3, 13


class Points(Dataset[tuple[Tensor, int, str]]):
    """Point `index` of a data set that is drawn from its index alone; class = the largest of three sums."""

    def __init__(self, indices: list[int]) -> None:
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, at: int) -> tuple[Tensor, int, str]:
        index = self.indices[at]
        x = torch.randn(FEATURES, generator=torch.Generator().manual_seed(index))
        return x, int(x.view(CLASSES, -1).sum(1).argmax()), f"point-{index}"


class Accuracy:
    """Counts, which add up exactly over ranks."""

    def __init__(self) -> None:
        self.right = self.seen = 0

    def update(self, outputs: Tensor, batch: Any) -> None:
        self.right += int((outputs.argmax(1) == batch[1]).sum())
        self.seen += len(batch[1])

    def state(self) -> dict[str, Any]:
        return {"right": self.right, "seen": self.seen}

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        states = list(states)
        self.right, self.seen = sum(s["right"] for s in states), sum(s["seen"] for s in states)

    def compute(self) -> dict[str, float]:
        return {"accuracy": self.right / self.seen, "seen": float(self.seen)}


class ToyTask:
    """Classifies points with a small MLP."""

    name = "toy"
    best_metric = "accuracy"
    higher_is_better = True
    headline = ("accuracy", "loss", "images")

    def __init__(
        self, *, samples: int = 48, batch: int = 4, workers: int = 0, dropout: float = 0.2, delay: float = 0.0
    ) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(
            nn.Linear(FEATURES, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, CLASSES)
        )
        self.samples, self.batch, self.workers, self.delay = samples, batch, workers, delay
        self.bad_batches: set[str] = set()
        self.seen: list[list[str]] = []

    def train_loader(self, *, epoch: int, first_batch: int, rank: int, world_size: int) -> Iterable[Any]:
        order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(epoch)).tolist()
        step = self.batch * world_size
        own = [
            index
            for start in range(first_batch * step, self.batches_per_epoch(world_size) * step, step)
            for index in order[start : start + step][rank * self.batch : (rank + 1) * self.batch]
        ]
        return DataLoader(Points(own), self.batch, num_workers=self.workers)

    def batches_per_epoch(self, world_size: int) -> int:
        return self.samples // (self.batch * world_size)

    def losses(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        time.sleep(self.delay)
        self.seen.append(list(batch[2]))
        loss = nn.functional.cross_entropy(model(batch[0]).float(), batch[1])
        if self.bad_batches & set(batch[2]):
            loss = loss * float("nan")
        return {"loss": loss}

    def batch_size(self, batch: Any) -> int:
        return len(batch[1])

    def sample_ids(self, batch: Any) -> list[str]:
        return list(batch[2])

    def to_device(self, batch: Any, device: Any) -> Any:
        return [batch[0].to(device), batch[1].to(device), batch[2]]

    def val_loader(self, *, rank: int, world_size: int) -> Iterable[Any]:
        return DataLoader(Points(list(range(1000 + rank, 1000 + VAL, world_size))), 4)

    def predict(self, model: nn.Module, batch: Any) -> Any:
        return model(batch[0])

    def metric(self) -> Accuracy:
        return Accuracy()

    def meta(self) -> CheckpointMeta:
        return CheckpointMeta(num_classes=CLASSES)


def settings(**changes: Any) -> FitSettings:
    """Three epochs of 12 steps in fp32, a log line every second step."""
    own = {"batch_size": 4, "log_every": 2, "tensorboard": False}
    own |= {name: changes.pop(name) for name in own if name in changes}
    base: dict[str, Any] = {
        "epochs": 3,
        "total_batch": 4,
        "optimizer": {"lr": 1e-2},
        "schedule": {"warmup_epochs": 0.5},
        "precision": "fp32",
    }
    return FitSettings(Train(**base | changes), **own)


def save_weights(path: Path, module: nn.Module, meta: CheckpointMeta) -> None:
    save_file(module.state_dict(), path, {"score": json.dumps(meta.score)})


def command(out: Path | str, *arguments: object, launchers: int = 0) -> list[str]:
    """Trains into `out`. With launchers on two ranks: the innermost starts them, each other one the next launcher."""
    more = ["--launchers", str(launchers)] if launchers else []
    return [sys.executable, "-m", "toy_task", str(out), *map(str, arguments), *more]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--save-minutes", type=float, default=1e-9)
    parser.add_argument("--kill-at", type=int, default=-1, help="SIGKILL itself in that forward pass")
    parser.add_argument("--launchers", type=int, default=0)
    args, words = parser.parse_args(), sys.argv[1:]
    if args.launchers:
        inner = words[: words.index("--launchers")]
        return launch(command(*inner, launchers=args.launchers - 1), 2 if args.launchers == 1 else 1)
    dist: Distributed = start_distributed("cpu")
    args.out.with_suffix(f".rank{dist.rank}").write_text(str(os.getpid()))
    task = ToyTask(workers=args.workers, batch=args.batch, dropout=args.dropout, delay=args.delay)
    inner = task.losses

    def losses(model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        if len(task.seen) == args.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(model, batch)

    task.losses = losses  # type: ignore[method-assign]
    chosen = settings(
        epochs=args.epochs,
        total_batch=args.batch * dist.world_size,
        batch_size=args.batch,
        save_minutes=args.save_minutes,
        ema={"enabled": True, "decay": 0.9},
    )
    try:
        with RunFolder.open(args.out, {"name": "toy"}, resume=args.resume, dist=dist) as run:
            fit(task, chosen, run, dist, save_weights=save_weights)
        if dist.is_main:
            torch.save(task.model.state_dict(), args.out / "last.pt")
    except PvtctlError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return int(error.exit_code)
    finally:
        stop_distributed()
    return 0


if __name__ == "__main__":
    sys.exit(main())
