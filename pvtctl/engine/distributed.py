"""Distributed training: processes started by `launch` (`--gpus N`), or by torchrun, also under Slurm."""

from __future__ import annotations

import datetime
import os
import signal
import socket
import subprocess
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import distributed as torch_dist
from torch import nn

from pvtctl.errors import ExitCode, PvtctlError, ToldElsewhereError, UsageError, is_out_of_memory
from pvtctl.io.cuda import use_tf32
from pvtctl.io.stop import LAUNCHER, handling, orphaned, stop_signals

GRACE = 60.0
"""Seconds that the other processes have for saving after one has failed."""
PATIENCE = "PVTCTL_PATIENCE"
"""Environment variable: minutes that a process waits for the others before it gives up."""
_LOST = ("by peer", "gloo", "nccl")
"""In messages of errors that torch.distributed raises as plain RuntimeError."""
_STOPPED = (ExitCode.RESUMABLE, ExitCode.INTERRUPTED)


@dataclass(frozen=True)
class Distributed:
    """This process in its process group. With one process all methods work and cost nothing."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and logs."""
        return self.rank == 0

    def reduce(self, values: Sequence[float], op: Literal["sum", "max"]) -> list[float]:
        """Elementwise sum or maximum over all ranks, the same list on each."""
        if self.world_size == 1:
            return list(values)
        kind = torch_dist.ReduceOp.SUM if op == "sum" else torch_dist.ReduceOp.MAX
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch_dist.all_reduce(tensor, kind)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order, on each rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch_dist.all_gather_object(values, value)
        return values

    def from_main(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""
        if self.world_size == 1:
            return value
        values = [value]
        torch_dist.broadcast_object_list(values, src=0)
        return values[0]

    def agree(self, error: PvtctlError | None) -> None:
        """Raise rank 0's `error`, if any, on every rank, so that no rank waits for another."""
        told = (error.message, int(error.exit_code)) if error else None
        told = self.from_main(told)
        if error is not None:
            raise error
        if told is not None:
            raise ToldElsewhereError(told[0], exit_code=told[1])

    def wrap(self, model: nn.Module) -> nn.Module:
        """Wrap the model in DDP, which averages gradients over the ranks."""
        if self.world_size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        # Depth-wise kernels (C, 1, 3, 3) have two equivalent strides; the warning about it is irrelevant here.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # Gradients are views of the buckets that are reduced: one copy of them less. `static_graph` would gain nothing, as all
        # parameters take part in each step.
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)

    def share_buffers(self, model: nn.Module) -> None:
        """Broadcast rank 0's buffers (batch norm statistics), so that all ranks evaluate the same model."""
        if self.world_size > 1:
            for buffer in model.buffers():
                torch_dist.broadcast(buffer, src=0)


def single(device: torch.device | str | None = None) -> Distributed:
    """One process on `device` (default: CUDA if available, else the CPU)."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Distributed(0, 1, find_device(device))


def find_device(device: torch.device | str) -> torch.device:
    """The device of that name, a GPU with exact fp32 (`use_tf32`). Raises UsageError if this machine does not have it."""
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UsageError(f"no device {str(device)!r}", "cpu, cuda or cuda:1") from None
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("no CUDA device is available here", "use --device cpu")
        if (found.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"this machine has no {found}", "pvtctl doctor says what it has")
        use_tf32(False)
    elif found.type != "cpu" and not (found.type == "mps" and torch.backends.mps.is_available()):
        raise UsageError(f"device {str(device)!r} cannot be used for training", "cpu, cuda or cuda:1")
    return found


def start_distributed(device: str | None = None) -> Distributed:
    """Join the other processes if this one was started by `launch` or torchrun, else `single(device)`.

    NCCL on GPUs (one each, by LOCAL_RANK), gloo on the CPU.
    """
    try:
        alone = int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ
    except ValueError:
        raise UsageError(
            f"$WORLD_SIZE is {os.environ['WORLD_SIZE']!r}, not a number", "unset it, or use --gpus"
        ) from None
    if alone:
        return single(device)
    kind = find_device(device).type if device else ("cuda" if torch.cuda.is_available() else "cpu")
    own = torch.device(kind)
    if kind == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"process {local} has no GPU: this machine has {torch.cuda.device_count()}",
                f"use --gpus {max(torch.cuda.device_count(), 1)}",
            )
        own = torch.device("cuda", local)
        torch.cuda.set_device(own)
    if not torch_dist.is_initialized():
        torch_dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=_patience())
    return Distributed(torch_dist.get_rank(), torch_dist.get_world_size(), own)


def _patience() -> datetime.timedelta:
    """How long a process waits for the others. Raises UsageError for a value that is no number of minutes."""
    text = os.environ.get(PATIENCE, "30")
    if not text.isdecimal() or int(text) == 0:
        raise UsageError(f"${PATIENCE} is {text!r}, not a number of minutes", "unset it for the default, 30")
    return datetime.timedelta(minutes=int(text))


def lost_process(error: RuntimeError) -> str | None:
    """What to say of an error of torch.distributed: that another process ended, or was silent. None for other errors."""
    text = str(error).lower()
    if is_out_of_memory(error) or not (isinstance(error, torch_dist.DistError) or any(each in text for each in _LOST)):
        return None
    if "timeout" in text or "timed out" in text:
        minutes = _patience().total_seconds() / 60
        return f"another process has not answered for {minutes:.0f} minutes (${PATIENCE}); its own output may say why"
    return "another process has ended, and this one cannot continue without it"


def stop_distributed() -> None:
    """Destroy the process group, if there is one."""
    if torch_dist.is_available() and torch_dist.is_initialized():
        # Older ones wait for gloo's threads without releasing the interpreter, which these need to drop their last tensors.
        if torch.__version__ < "2.8":  # compared by number: no plain text
            time.sleep(0.2)
        torch_dist.destroy_process_group()


def launch(command: Sequence[str], processes: int) -> int:
    """Run `command` in `processes` processes on this machine and return the exit code of the first that failed, or 0.

    Sets the variables that torchrun sets. Unlike torchrun it forwards signals and keeps exit codes, so that a run on
    several GPUs stops, resumes and reports like a run on one: if a signal stopped a process, so that the others failed
    without it, its code is returned. When a process fails, the others are terminated.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    base |= {"LOCAL_WORLD_SIZE": str(processes), LAUNCHER: str(os.getpid())}
    base.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # Separate sessions: Ctrl-C then reaches the processes once, forwarded from here, and not also from the terminal.
    ranks = [base | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    running: list[subprocess.Popen[bytes]] = []
    told: list[int] = []

    def hand_on(number: int, frame: object) -> None:
        told.append(number)
        for process in running:
            if process.poll() is None:
                process.send_signal(number)

    try:
        with handling(hand_on, stop_signals()):
            for own in ranks:
                running.append(subprocess.Popen(list(command), env=own, start_new_session=True))
            # One that was told while they started may have missed it; nothing is lost by ending them.
            return _stopped_code(-told[0] if told else _wait(running), told)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()


def _wait(running: list[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended; after the first failure the others get GRACE seconds."""
    failed_at: float | None = None
    code = 0
    told = False
    while True:
        if orphaned() and not told:
            told = True
            for process in running:
                process.terminate()
        codes = [process.poll() for process in running]
        if failed_at is None and any(codes):
            failed_at = time.monotonic()
            code = next(c for c in codes if c)
        late = failed_at is not None and time.monotonic() - failed_at > GRACE
        if late or None not in codes:
            return next((c for c in codes if c in _STOPPED), code)
        time.sleep(0.1)


def _stopped_code(code: int, told: Sequence[int]) -> int:
    """The exit code for the processes' `code`, of which one may have died of a signal `told` before it could heed it."""
    if -code in told:
        return ExitCode.INTERRUPTED if told[0] == signal.SIGINT else ExitCode.RESUMABLE
    return code if code >= 0 else 128 - code
