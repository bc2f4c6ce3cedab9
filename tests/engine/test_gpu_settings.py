"""What training sets for GPUs: exact fp32, cuDNN's search, DDP, patience with other processes. Settings, seen without a GPU."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from test_fit import DIST
from torch import distributed as torch_dist
from torch import nn
from toy_task import ToyTask, save_weights, settings

from pvtctl.engine import choose_precision, dry_run, evaluate
from pvtctl.engine.distributed import Distributed, start_distributed
from pvtctl.engine.environment import describe_environment
from pvtctl.engine.precision import Precision
from pvtctl.errors import UsageError, is_out_of_memory
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.io.cuda import use_tf32

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_torch_sets_it() -> Iterator[None]:
    """Flags of the process; tf32 on for all, unlike anything that pvtctl chooses but `tf32`."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    use_tf32(True)
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def tf32() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_what_is_called_fp32_is_exact(name: Any) -> None:
    dry_run(ToyTask(), settings(precision=name), DIST, save_weights=save_weights, talk=lambda text: None)
    assert tf32() == (False, False)


def test_tf32_is_there_for_those_who_ask() -> None:
    task = ToyTask()
    use_tf32(False)
    evaluate(task, task.model, DIST, Precision("tf32", "as asked"), shown=False)
    assert tf32() == (True, True)
    evaluate(task, task.model, DIST, Precision("fp32", "as asked"), shown=False)
    assert tf32() == (False, False)
    assert choose_precision("tf32", torch.device("cuda")).scaler(torch.device("cuda")) is None
    with pytest.raises(UsageError, match="TF32 is a format of NVIDIA GPUs"):
        choose_precision("tf32", CPU)


@pytest.mark.parametrize("size", [32, None])
def test_cudnn_searches_where_training_images_have_one_size(size: int | None) -> None:
    task, seen = ToyTask(), []
    inner = task.losses

    def losses(model: nn.Module, batch: Any) -> Mapping[str, torch.Tensor]:
        seen.append(torch.backends.cudnn.benchmark)
        return inner(model, batch)

    task.losses = losses  # type: ignore[method-assign]
    task.meta = lambda: CheckpointMeta(num_classes=3, image_size=size)  # type: ignore[method-assign]
    dry_run(task, settings(), DIST, save_weights=save_weights, talk=lambda text: None)
    assert set(seen) == {size is not None}
    assert not torch.backends.cudnn.benchmark  # nor while it evaluates images of many sizes


def test_the_environment_states_what_cuda_does() -> None:
    found = describe_environment(CPU)
    assert (found["cuda"], found["cudnn"], found["deterministic"]) == (None, None, False)
    torch.use_deterministic_algorithms(True)
    try:
        assert describe_environment(CPU)["deterministic"]
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone."""
    torch_dist.init_process_group("gloo", store=torch_dist.HashStore(), rank=0, world_size=1)
    yield
    torch_dist.destroy_process_group()


def test_gradients_are_views_of_what_is_reduced(group: None) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    images = torch.randn(5, 3, 4, 4)
    plain(images).square().mean().backward()
    expected = [parameter.grad.clone() for parameter in plain.parameters() if parameter.grad is not None]
    plain.zero_grad(set_to_none=True)
    wrapped = Distributed(0, 2, CPU).wrap(plain)
    assert isinstance(wrapped, nn.parallel.DistributedDataParallel)
    wrapped(images).square().mean().backward()
    gradients = [parameter.grad for parameter in plain.parameters()]
    assert len({each.untyped_storage().data_ptr() for each in gradients if each is not None}) == 1
    for one, other in zip(gradients, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("text", ["", "soon", "0", "-3", "2.5"])
def test_patience_is_a_number_of_minutes(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("PVTCTL_PATIENCE", text)):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch_dist, "init_process_group", lambda *_, **__: pytest.fail("joined"))
    with pytest.raises(UsageError, match=r"PVTCTL_PATIENCE is .* not a number of minutes"):
        start_distributed("cpu")


def test_processes_wait_as_long_as_was_asked(monkeypatch: pytest.MonkeyPatch, group: None) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("PVTCTL_PATIENCE", "7")):
        monkeypatch.setenv(name, value)
    joined: list[Any] = []
    monkeypatch.setattr(torch_dist, "is_initialized", lambda: False)
    monkeypatch.setattr(torch_dist, "init_process_group", lambda *_, timeout: joined.append(timeout))
    start_distributed("cpu")
    assert joined == [datetime.timedelta(minutes=7)]


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("a file called out of memory.txt"), False),
    ],
)
def test_lack_of_memory_has_many_names(error: Exception, memory: bool) -> None:
    assert is_out_of_memory(error) == memory
