"""The training loop of all tasks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from pvtctl.engine.checkpoint import Progressed, load_state
from pvtctl.engine.distributed import Distributed
from pvtctl.engine.evaluate import EvaluationStopped, evaluate
from pvtctl.engine.log import Progress, Say, clock, silent
from pvtctl.engine.precision import Precision
from pvtctl.engine.protocol import Task
from pvtctl.engine.run import RunFolder, now
from pvtctl.engine.settings import FitResult, FitSettings
from pvtctl.engine.step import Stepper, memory_errors
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.io.console import say
from pvtctl.io.names import plural
from pvtctl.io.stop import StopRequests, stopped_by

SaveWeights = Callable[[Path, nn.Module, CheckpointMeta], None]
MAX_BAD_STEPS = 3
"""Consecutive steps with a non-finite loss before the run rolls back to its last checkpoint."""
LOGS = ("metrics.jsonl", "nonfinite.jsonl")
SAVE_SHARE = 0.05
"""Fraction of the time that checkpoints at the ends of short epochs may take."""


def fit(
    task: Task,
    settings: FitSettings,
    run: RunFolder,
    dist: Distributed,
    *,
    save_weights: SaveWeights,
    after_eval: Callable[[RunFolder], None] | None = None,
    layer_depths: tuple[Mapping[str, int], int] | None = None,
    talk: Say = say,
) -> FitResult:
    """Train `task.model` in `run`, resuming from the newest intact checkpoint if there is one.

    `save_weights(path, module, meta)` writes the best weights so far; `after_eval(run)` may draw curves. Both run on
    rank 0 only. `layer_depths` is needed for layer-wise decay: see `build_optimizer`. A finished run returns its result
    again; `run`, on leaving its `with` block, records how an unfinished one ended. `talk` receives log lines;
    `log.silent` hides the progress bars too.

    Raises Stopped (exit code 75 or 130) when a signal or the time limit ended the run after saving, and PvtctlError
    when memory or disk ran out, or when the loss stayed non-finite after one roll-back.
    """
    talk = talk if dist.is_main else silent
    if dist.from_main(run.finished):
        talk(f"{run.path} has finished already")
        return dist.from_main(run.result)
    size = task.meta().image_size
    with StopRequests(settings.train.max_minutes) as stop, memory_errors(settings, size):
        return _Fit(task, settings, run, dist, stop, save_weights, after_eval, layer_depths, talk).run()


class _Fit:
    """The state of a `fit` call."""

    def __init__(
        self,
        task: Task,
        settings: FitSettings,
        run: RunFolder,
        dist: Distributed,
        stop: StopRequests,
        save_weights: SaveWeights,
        after_eval: Callable[[RunFolder], None] | None,
        layer_depths: tuple[Mapping[str, int], int] | None,
        talk: Say,
    ) -> None:
        self.task, self.settings, self.run_folder, self.dist = task, settings, run, dist
        self.stop, self.save_weights, self.after_eval, self.talk = stop, save_weights, after_eval, talk
        run.checkpoints.keep = settings.train.keep_checkpoints
        self.at = Progressed()
        checkpoint = self._newest()
        state = load_state(checkpoint) if checkpoint else None
        precision = Precision(state["precision"], "as the run began") if state else None
        self.stepper = Stepper(task, settings, dist, layer_depths=layer_depths, precision=precision, say=talk)
        self.batches_per_epoch = self.stepper.steps_per_epoch * settings.train.accumulate
        epochs, self.total_steps = settings.span(self.stepper.steps_per_epoch, dist.world_size)
        self.epochs = math.ceil(epochs)
        self.log_every = settings.log_every or min(50, max(1, self.stepper.steps_per_epoch // 10))
        self.saved_at = self.began = time.monotonic()
        self.save_took, self.saved_step = 0.0, -1
        self.note = ""
        self.line_began, self.line_images = time.monotonic(), 0
        if state is None:
            for file in LOGS:
                run.rewind(file, 0)
        else:
            self._restore(state)
            self._on_main(lambda: run.rewind("nonfinite.jsonl", self.at.lengths["nonfinite.jsonl"]))
            talk(f"resuming {run.path} at {self.where} from {checkpoint.name if checkpoint else ''}")
        run.record(precision=self.stepper.precision.name)

    @property
    def step(self) -> int:
        """Optimiser steps done, including skipped ones."""
        return self.at.epoch * self.stepper.steps_per_epoch + self.at.batch // self.settings.train.accumulate

    @property
    def where(self) -> str:
        return f"epoch {self.at.epoch + 1}/{self.epochs}, step {self.step}/{self.total_steps}"

    def run(self) -> FitResult:
        """Train to the end."""
        while True:
            # After a roll-back the loop restarts at the checkpoint's position, maybe in an earlier epoch.
            if self.step < self.total_steps and self.at.batch < self.batches_per_epoch and not self._train_epoch():
                continue
            last = self.step >= self.total_steps
            self._save_at_epoch_end(last)
            if last or (self.at.epoch + 1) % self.settings.train.eval_every == 0:
                self._evaluate()
            if last:
                return self._finish()
            self.at.epoch, self.at.batch = self.at.epoch + 1, 0

    # --- training -----------------------------------------------------------------------------------------------------

    def _train_epoch(self) -> bool:
        """Train from the current position to the end of the epoch or the last step; False after a roll-back."""
        task, dist, epoch = self.task, self.dist, self.at.epoch
        task.model.train()
        loader = task.train_loader(epoch=epoch, first_batch=self.at.batch, rank=dist.rank, world_size=dist.world_size)
        batches = iter(loader)
        title = f"epoch {epoch + 1}/{self.epochs}"
        start = self.at.batch // self.settings.train.accumulate
        with Progress(
            title, self.stepper.steps_per_epoch, start=start, unit="steps", shown=self.talk is not silent
        ) as progress:
            while self.at.batch < self.batches_per_epoch and self.step < self.total_steps:
                if not self._train_step(self._take(batches)):
                    return False
                progress.advance(self.note)
        return True

    def _take(self, batches: Iterator[Any]) -> list[Any]:
        """The batches of one step."""
        taken = []
        for _ in range(self.settings.train.accumulate):
            try:
                taken.append(next(batches))
            except UsageError as error:  # caused by this process's images, so it must be reported here
                raise PvtctlError(error.message, error.hint, exit_code=error.exit_code) from error
            except StopIteration:
                raise PvtctlError(
                    f"the data ended at batch {self.at.batch + len(taken)} of {self.batches_per_epoch} in epoch "
                    f"{self.at.epoch + 1}",
                    "check it with: pvtctl data check",
                ) from None
        return taken

    def _train_step(self, batches: list[Any]) -> bool:
        """Take a step, then log and save as due; False after a roll-back."""
        at, settings = self.at, self.settings
        place, step = [at.epoch, at.batch], self.step
        at.batch += settings.train.accumulate
        if place in at.passed_over:
            return True
        outcome = self.stepper(batches, step, attempt=at.rollbacks, flags=self._flags)
        if outcome.applied:
            at.bad_in_a_row = 0
            self.note = f"loss {outcome.sums['loss'] / outcome.images:.3f}"
            for name, value in outcome.sums.items():
                at.sums[name] = at.sums.get(name, 0.0) + value
            at.images += outcome.images
            self.line_images += outcome.images
            if math.isfinite(outcome.grad_norm):
                at.norms += outcome.grad_norm
            else:
                at.overflows += 1
            at.steps_in_line += 1
        elif not self._skip(place, step, outcome.bad_ids):
            return False
        if self.step % self.log_every == 0 or at.batch >= self.batches_per_epoch or self.step >= self.total_steps:
            self._log_line()
        stop_code, save_now = int(outcome.flags[0]), bool(outcome.flags[1])
        if stop_code or save_now:
            self._save()
        if stop_code:
            raise stopped_by(stop_code, self.where)
        return True

    def _flags(self) -> tuple[float, float]:
        """Whether to stop, and whether a checkpoint is due."""
        return self.stop.code, time.monotonic() - self.saved_at >= self.settings.train.save_minutes * 60

    def _skip(self, place: list[int], step: int, ids: list[str]) -> bool:
        """Record a step with a non-finite loss, and roll back once after several; False after a roll-back."""
        at = self.at
        at.skipped += 1
        at.bad_in_a_row += 1
        everyone = [i for ids_ in self.dist.gather(ids) for i in ids_]
        line = {"epoch": place[0] + 1, "batch": place[1], "step": step, "attempt": at.rollbacks, "ids": everyone}
        self.run_folder.log(line, "nonfinite.jsonl")
        self.talk(f"warning: no finite loss at step {step}; skipped, its samples are listed in nonfinite.jsonl")
        if at.bad_in_a_row < MAX_BAD_STEPS:
            return True
        checkpoint = self._newest() if at.rollbacks == 0 else None
        if checkpoint is None:
            again = " again after a roll-back" if at.rollbacks else ""
            raise PvtctlError(
                f"the loss is not finite: {MAX_BAD_STEPS} steps in a row{again}, the last one step {step}",
                "look at nonfinite.jsonl; try a lower train.optimizer.lr, train.clip_grad=1.0 or train.precision=fp32",
            )
        skipped, accumulate = at.skipped, self.settings.train.accumulate
        steps = [[place[0], place[1] - back * accumulate] for back in range(MAX_BAD_STEPS)]
        self._restore(load_state(checkpoint))
        at = self.at
        at.rollbacks, at.bad_in_a_row, at.skipped = 1, 0, skipped
        at.passed_over = [*at.passed_over, *steps]
        self.talk(f"going back to {self.where} ({checkpoint.name}); the failed steps are skipped")
        return False

    def _log_line(self) -> None:
        """Log the averages over all ranks since the last line."""
        at = self.at
        names = sorted(at.sums)
        totals = self.dist.reduce([at.images, self.line_images, *(at.sums[name] for name in names)], "sum")
        elapsed = max(time.monotonic() - self.line_began, 1e-9)
        images = max(totals[0], 1.0)
        line: dict[str, Any] = {"event": "train", "epoch": at.epoch + 1, "step": self.step}
        line |= {name: total / images for name, total in zip(names, totals[2:], strict=True)}
        line |= {
            "lr": self.stepper.schedule.at(self.step - 1),
            "grad_norm": at.norms / max(at.steps_in_line - at.overflows, 1),
            "skipped": at.skipped,
            "images_per_s": round(totals[1] / elapsed, 2),
            "seconds": round(self._seconds(), 1),
        }
        if at.steps_in_line:
            self.run_folder.log(line)
            self._scalars("train", {k: v for k, v in line.items() if k not in ("event", "epoch", "step", "seconds")})
        at.sums, at.images, at.norms, at.overflows, at.steps_in_line = {}, 0, 0.0, 0, 0
        self.line_began, self.line_images = time.monotonic(), 0

    def _scalars(self, prefix: str, values: Mapping[str, float]) -> None:
        if self.settings.tensorboard:
            self.run_folder.scalars({f"{prefix}/{name}": value for name, value in values.items()}, self.step)

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Evaluate the weights, and their EMA if there is one, and keep the best."""
        began = time.monotonic()
        raw = self._score(self.task.model)
        averaged = self._score(self.stepper.ema.module) if self.stepper.ema else None
        at = self.at
        at.metrics = averaged or raw
        line: dict[str, Any] = {"event": "eval", "epoch": at.epoch + 1, "step": self.step, "metrics": raw}
        if averaged:
            line["ema_metrics"] = averaged
        self.run_folder.log({**line, "seconds": round(time.monotonic() - began, 1)})
        self._scalars("eval", raw)
        self._scalars("eval_ema", averaged or {})
        shown = ", ".join(f"{name} {at.metrics[name]:.4g}" for name in self.task.headline if name in at.metrics)
        self.talk(f"epoch {at.epoch + 1}/{self.epochs} after {clock(self._seconds())}: {shown}")
        if self._is_best():
            at.best, at.best_epoch = at.metrics, at.epoch + 1
            self._on_main(self._save_best)
        if (after_eval := self.after_eval) is not None:
            self._on_main(lambda: after_eval(self.run_folder))
        self.line_began += time.monotonic() - began  # images per second count training time only

    def _score(self, model: nn.Module) -> dict[str, float]:
        self.dist.share_buffers(model)
        try:
            metric = evaluate(
                self.task,
                model,
                self.dist,
                self.stepper.precision,
                should_stop=lambda: self.stop.code != 0,
                shown=self.talk is not silent,
            )
        except EvaluationStopped:
            self._save()
            code = int(self.dist.reduce([self.stop.code], "max")[0])
            raise stopped_by(code, f"{self.where}, while it was evaluated") from None
        # Undefined numbers (COCO's -1: no such objects) are left out, as JSON has no NaN.
        return {name: value for name, value in metric.compute().items() if math.isfinite(value)}

    def _is_best(self) -> bool:
        sign = 1 if self.task.higher_is_better else -1
        new, old = (
            sign * found.get(self.task.best_metric, -sign * math.inf) for found in (self.at.metrics, self.at.best)
        )
        return not self.at.best or new > old

    def _save_best(self) -> None:
        module = self.stepper.ema.module if self.stepper.ema else self.task.model
        meta = self.task.meta().updated(score=self.at.best, epoch=self.at.best_epoch)
        self.save_weights(self.run_folder.best_weights, module, meta)

    # --- saving -------------------------------------------------------------------------------------------------------

    def _on_main(self, action: Callable[[], None]) -> None:
        """Run `action` on rank 0; an error is raised on all ranks."""
        error = None
        if self.dist.is_main:
            try:
                action()
            except PvtctlError as caught:
                error = caught
        self.dist.agree(error)

    def _save(self) -> None:
        began = time.monotonic()
        shares = self.dist.gather([self.at.sums, self.at.images])
        self._on_main(lambda: self._write(shares))
        self.saved_at, self.saved_step = time.monotonic(), self.step
        self.save_took = self.saved_at - began

    def _write(self, shares: list[Any]) -> None:
        lengths = {file: self.run_folder.length(file) for file in LOGS}
        state = {
            "format": 1,
            "progressed": asdict(self.at) | {"seconds": self._seconds(), "lengths": lengths},
            "shares": shares,
            "world_size": self.dist.world_size,
            "batches_per_epoch": self.batches_per_epoch,
            "meta": self.task.meta().as_json(),
            **self.stepper.state_dict(),
        }
        try:
            self.run_folder.checkpoints.save(state, self.step)
        except PvtctlError as error:
            raise PvtctlError(
                f"the checkpoint could not be saved: {error.message}",
                "earlier checkpoints are untouched: free some space, then add --resume to the same command",
            ) from error

    def _save_at_epoch_end(self, last: bool) -> None:
        """Save, unless epochs are so short that saving would take too large a fraction of the time."""
        if self.saved_step == self.step:
            return
        waited = time.monotonic() - self.saved_at
        due = last or self.save_took == 0.0 or self.save_took <= waited * SAVE_SHARE
        if self.dist.from_main(due):
            self._save()

    def _newest(self) -> Path | None:
        """The newest intact checkpoint, as found by rank 0."""
        store = self.run_folder.checkpoints
        path = None
        if self.dist.is_main:
            path = store.newest(self.talk)
            store.set_aside_after(path)
        return self.dist.from_main(path)

    def _restore(self, state: dict[str, Any]) -> None:
        if state["world_size"] != self.dist.world_size:
            raise UsageError(
                f"the run was made by {plural(state['world_size'], 'process')}, and this is {self.dist.world_size}",
                f"resume it with --gpus {state['world_size']}",
            )
        if state["batches_per_epoch"] != self.batches_per_epoch:
            raise UsageError(
                f"the data has changed: {state['batches_per_epoch']} batches an epoch before, {self.batches_per_epoch} now",
                "resume with the data that the run began with, or start a new run in another --out",
            )
        self.stepper.load_state_dict(state)
        self.at = Progressed(**state["progressed"])
        self.at.sums, self.at.images = state["shares"][self.dist.rank]
        self.saved_step = self.step
        self._on_main(lambda: self.run_folder.rewind("metrics.jsonl", self.at.lengths["metrics.jsonl"]))
        self.began = self.line_began = time.monotonic()
        self.line_images = 0

    def _seconds(self) -> float:
        """Total time of the run, over all resumed parts."""
        return self.at.seconds + time.monotonic() - self.began

    def _finish(self) -> FitResult:
        at = self.at
        result = FitResult(
            metrics=at.metrics,
            best=at.best,
            best_epoch=at.best_epoch,
            epochs=at.epoch + 1,
            steps=self.step,
            seconds=round(self._seconds(), 1),
            skipped=at.skipped,
        )
        self.run_folder.record(status="finished", reason=None, finished=now(), score=at.best, result=asdict(result))
        return result
