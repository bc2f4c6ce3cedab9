"""A training step lets the host wait for the GPU once, to decide whether the loss is finite; see `pretend_gpu.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from pretend_gpu import GPU, OnGpu, PretendGpu
from torch import Tensor

from pvtctl.engine.distributed import Distributed
from pvtctl.engine.log import silent
from pvtctl.engine.precision import Precision
from pvtctl.engine.step import Stepper, seed_step
from pvtctl.recipe.load import load_recipe
from pvtctl.tasks.from_recipe import build_task, fit_settings

DECIDES = ("tolist", "engine/step.py:Stepper.__call__")
MATCHES = ("copy to the host", "models/losses/set_criterion.py:match_queries")
"""DETR's assignment of queries is solved on the CPU."""
REGIONS = {"models/heads/proposals.py", "models/heads/mask_rcnn.py"}
"""Mask R-CNN: the numbers of proposals after NMS, of sampled boxes and of those on each map are known to the GPU alone."""
MORE = [
    "model.backbone={name: pvt_v2_b0, width: 0.25}",
    "train.ema={enabled: true}",
    "train.accumulate=2",
    "train.clip_grad=1",
]
CASES = [
    ("small_photos", MORE),
    ("small_objects", ["model.head.width=32"]),
    ("small_objects", ["model.head={name: detr}"]),
    ("small_maps", ["model.head.width=32"]),
    ("small_depth", ["model.head.width=32"]),
]


def waits_of(recipe: str, settings: list[str]) -> Counter[tuple[str, str]]:
    """Where the host waits in a step, whose losses are those of the same step on the CPU."""
    small = ["model.backbone={name: resnet18, width: 0.25}", "train.total_batch=2", "train.optimizer.name=sgd"]
    chosen = load_recipe(recipe, None, "smoke", [*small, "data.workers=0", *settings])
    task, alone, quiet = (
        build_task(chosen, device="cpu", say=silent),
        Distributed(0, 1, GPU),
        Precision("fp32", "asked"),
    )
    task.model.train()
    batches = iter(task.train_loader(epoch=0, first_batch=0, rank=0, world_size=1))
    taken = [next(batches) for _ in range(chosen.train.accumulate)]
    seed_step(chosen.train.seed, 0, 0)
    expected = [task.losses(task.model, batch)["loss"].item() for batch in taken]
    with PretendGpu() as gpu:
        stepper = Stepper(task, fit_settings(chosen, 1), alone, precision=quiet, say=silent)
        gpu.waits.clear()
        outcome = stepper(taken, 0)
    assert outcome.applied
    assert outcome.sums["loss"] == pytest.approx(sum(expected) * task.batch_size(taken[0]), rel=1e-5)
    return gpu.waits


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "settings"), CASES)
def test_the_host_waits_once_in_a_step(recipe: str, settings: list[str]) -> None:
    expected = Counter({DECIDES: 1})
    if any("detr" in each for each in settings):
        expected[MATCHES] = 1
    assert waits_of(recipe, settings) == expected


@pytest.mark.slow
def test_mask_rcnn_waits_for_numbers_of_regions_alone() -> None:
    waits = waits_of("small_masks", ["model.head={name: mask_rcnn, rois_per_image: 16, width: 32}"])
    assert waits.pop(DECIDES) == 1
    outside = {place for _, place in waits if place.partition(":")[0] not in REGIONS}
    assert outside <= {"engine/step.py:Stepper._passes"}  # the backward pass of the same masks
    assert not any("copy to the host" in operation or operation == "_local_scalar_dense" for operation, _ in waits)


WAITS: dict[str, Callable[[Tensor], object]] = {
    "_local_scalar_dense": lambda x: float(x.sum()),
    "tolist": lambda x: x.tolist(),
    "copy to the host": lambda x: x.cpu(),
    "copy to the GPU": lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device),
    "nonzero": lambda x: torch.where(x > 1),
    "a mask as index": lambda x: x[x > 1],
    "an index on the host": lambda x: x[torch.tensor([0, 2])],
    "masked_select": lambda x: x.masked_select(x > 1),
}
PASSES: dict[str, Callable[[Tensor], object]] = {
    "arithmetic": lambda x: (x * 2 + 1).relu_().softmax(0),
    "a copy that is not waited for": lambda x: x + torch.ones(3).to(x.device, non_blocking=True),
    "made there": lambda x: torch.arange(3, device=x.device) * x,
    "a number put under a mask": lambda x: x.clone().__setitem__(x > 1, 0.0),
    "an index made there": lambda x: x[x.argsort()],
}


@pytest.mark.parametrize("name", WAITS)
def test_what_makes_the_host_wait_is_seen(name: str) -> None:
    with PretendGpu() as gpu:
        x = torch.tensor([0.0, 1.0, 2.0]).to(GPU, non_blocking=True)
        WAITS[name](x)
    assert name in {operation for operation, _ in gpu.waits}


@pytest.mark.parametrize("name", PASSES)
def test_what_does_not_is_not(name: str) -> None:
    with PretendGpu() as gpu:
        x = torch.tensor([0.0, 1.0, 2.0]).to(GPU, non_blocking=True)
        PASSES[name](x)
    assert not gpu.waits


def test_it_computes_what_the_cpu_does_and_mixes_nothing() -> None:
    values = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    conv = torch.nn.Conv2d(3, 4, 3)
    expected = torch.autograd.grad(conv(values).square().sum(), conv.weight)[0]
    with PretendGpu():
        conv.to(GPU)
        conv(values.to(GPU)).square().sum().backward()
        assert isinstance(conv.weight.grad, OnGpu)
        assert torch.equal(conv.weight.grad.values, expected)
        with pytest.raises(RuntimeError, match="1 on the host"):
            conv.weight.grad + torch.ones(3)
