"""Parameter groups, learning rates and averages."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from pvtctl.engine import Distributed, Ema, Schedule, build_optimizer, describe_lr, parameter_groups, scale_lr
from pvtctl.engine.optim import set_lr
from pvtctl.engine.step import synchronise_batch_norm
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.models.backbones import build_backbone
from pvtctl.recipe.schema import Optimizer, ScheduleSettings


def build_schedule(*, lr: float, epochs: float, steps_per_epoch: int, **curve: Any) -> Schedule:
    return Schedule(ScheduleSettings(**curve), lr=lr, epochs=epochs, steps_per_epoch=steps_per_epoch)


class Model(nn.Module):
    """One parameter of each kind that the rules tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.class_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.backbone.pos_embed = nn.Parameter(torch.zeros(1, 9, 4))
        self.backbone.norm = nn.LayerNorm(4)
        self.backbone.proj = nn.Conv2d(3, 4, 2)
        self.backbone.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 2)


def decayed(**options: Any) -> set[str]:
    groups = parameter_groups(Model(), Optimizer(weight_decay=0.1, **options))
    return {name for group in groups if group["weight_decay"] for name in group["names"]}


def test_papers_rule_decays_position_tables_but_no_biases_norms_or_class_tokens() -> None:
    assert decayed() == {"backbone.pos_embed", "backbone.proj.weight", "head.weight"}


def test_other_rules() -> None:
    assert decayed(no_decay="norms") == decayed() | {"backbone.class_token"}
    every = {name for name, p in Model().named_parameters() if p.requires_grad}
    assert decayed(no_decay="none") == every


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_backbone_and_decoder_learn_at_two_rates(name: str) -> None:
    """DPT's depth: 1e-5 for the backbone and 1e-4 for the decoder."""
    settings = Optimizer(name=name, weight_decay=0, backbone_lr_mult=0.1)  # type: ignore[arg-type]
    optimizer = build_optimizer(Model(), settings, 1e-4)
    rates = {entry: group["lr"] for group in optimizer.param_groups for entry in group["names"]}
    assert rates == {entry: pytest.approx(1e-5 if entry.startswith("backbone.") else 1e-4) for entry in rates}
    assert {entry.partition(".")[0] for entry in rates} == {"backbone", "head"}
    set_lr(optimizer, 5e-5)
    assert sorted({round(group["lr"], 12) for group in optimizer.param_groups}) == [5e-6, 5e-5]


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    model = Model()
    groups = parameter_groups(model, Optimizer(weight_decay=0.1, backbone_lr_mult=0.5))
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_layer_decay_and_backbone_factor_multiply() -> None:
    model = Model()
    depths = {name: (0 if name.startswith("backbone.") else 2) for name, _ in model.named_parameters()}
    settings = Optimizer(weight_decay=0.1, layer_decay=0.5, backbone_lr_mult=0.1)
    groups = parameter_groups(model, settings, (depths, 3))
    scales = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert scales["backbone.proj.weight"] == pytest.approx(0.1 * 0.5**3)
    assert scales["head.weight"] == pytest.approx(0.5)


def test_layer_decay_needs_every_depth() -> None:
    with pytest.raises(PvtctlError, match="needs the depth"):
        parameter_groups(Model(), Optimizer(weight_decay=0.1, layer_decay=0.5))
    with pytest.raises(PvtctlError, match=r"class_token belongs to no layer"):
        parameter_groups(Model(), Optimizer(weight_decay=0.1, layer_decay=0.5), ({}, 3))


def test_nothing_trainable_is_an_error() -> None:
    with pytest.raises(PvtctlError, match="no parameter"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), Optimizer(), 1e-3)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_fused_update_equals_the_plain_one(name: str) -> None:
    torch.manual_seed(0)
    ours = nn.Linear(5, 3)
    theirs = copy.deepcopy(ours)
    settings = Optimizer(name=name, weight_decay=0.2, no_decay="none", nesterov=name == "sgd")  # type: ignore[arg-type]
    optimizer = build_optimizer(ours, settings, 0.1)
    plain: torch.optim.Optimizer
    if name == "adamw":
        plain = torch.optim.AdamW(theirs.parameters(), 0.1, weight_decay=0.2, foreach=False)
    elif name == "adam":
        plain = torch.optim.Adam(theirs.parameters(), 0.1, weight_decay=0.2, foreach=False)
    else:
        plain = torch.optim.SGD(theirs.parameters(), 0.1, 0.9, weight_decay=0.2, nesterov=True, foreach=False)
    # SGD's decay is the plain L2 one in both.
    for _ in range(3):
        for model, step in ((ours, optimizer), (theirs, plain)):
            step.zero_grad()
            model(torch.arange(5.0)).square().sum().backward()
            step.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_lr_follows_the_batch() -> None:
    assert scale_lr(1e-3, 256, 1024) == pytest.approx(2.5e-4)
    assert scale_lr(1e-3, 256, 1024, "sqrt") == pytest.approx(5e-4)
    assert scale_lr(1e-3, 256, 1024, "none") == 1e-3
    assert describe_lr(1e-3, 64, 1024, "linear") == (
        "learning rate 6.25e-05 for 64 images a step: 0.001 at 1024, scaled by the linear rule"
    )
    assert "as the recipe states it" in describe_lr(1e-3, 64, 64, "linear")
    assert "not scaled" in describe_lr(1e-3, 64, 128, "none")


def test_official_schedule_lags_as_the_papers_code_does() -> None:
    """The rates printed by the official code."""
    schedule = build_schedule(name="official_lagging", lr=1e-3, epochs=300, steps_per_epoch=1251)
    rates = [schedule.at(1251 * epoch + 7) for epoch in range(7)]
    assert rates == pytest.approx([1e-6, 1e-6, 2.008e-4, 4.006e-4, 6.004e-4, 8.002e-4, 9.993e-4], rel=2e-4)
    assert schedule.at(1251 * 300 - 1) == pytest.approx(1.011e-5, rel=1e-3)


def test_cosine_warms_up_each_iteration_and_ends_at_the_minimum() -> None:
    schedule = build_schedule(lr=1.0, epochs=10, steps_per_epoch=10, min_lr=0.1, warmup_epochs=2, warmup_lr=0.0)
    assert [schedule.at(step) for step in (0, 5, 10, 20)] == pytest.approx([0.0, 0.25, 0.5, 1.0])
    assert schedule.at(60) == pytest.approx(0.55)
    assert schedule.at(100) == pytest.approx(0.1)
    falling = [schedule.at(step) for step in range(20, 101)]
    assert falling == sorted(falling, reverse=True)


def test_poly_step_and_constant() -> None:
    common = {"lr": 1.0, "epochs": 10, "steps_per_epoch": 10, "warmup_epochs": 0.0}
    poly = build_schedule(name="poly", min_lr=0.0, power=0.9, **common)  # type: ignore[arg-type]
    assert poly.at(50) == pytest.approx(0.5**0.9)
    steps = build_schedule(name="step", steps=(3, 6), gamma=0.1, **common)  # type: ignore[arg-type]
    assert [steps.at(step) for step in (29, 30, 59, 60)] == pytest.approx([1.0, 0.1, 0.1, 0.01])
    constant = build_schedule(name="constant", **common)  # type: ignore[arg-type]
    assert constant.at(99) == 1.0


def test_a_warm_up_longer_than_the_run_is_cut() -> None:
    schedule = build_schedule(lr=1.0, epochs=2, steps_per_epoch=10, warmup_epochs=5)
    assert schedule.at(10) == pytest.approx(1.0)


def test_ema_formula() -> None:
    model = nn.BatchNorm1d(1)
    ema = Ema(model, decay=0.9)
    expected = 1.0
    for update in range(200):
        with torch.no_grad():
            model.weight.fill_(float(update))
        ema.update(model)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    assert ema.module.weight.item() == pytest.approx(expected, rel=1e-4)
    model.running_mean.fill_(7.0)  # type: ignore[union-attr, operator]
    ema.update(model)
    assert ema.module.running_mean.item() == 7.0  # type: ignore[union-attr, operator]
    other = Ema(nn.BatchNorm1d(1))
    other.load_state_dict(ema.state_dict())
    assert other.updates == 201
    assert torch.equal(other.module.weight, ema.module.weight)


def test_warm_up_may_be_told_in_steps() -> None:
    # mmdetection's: 500 steps from a thousandth, then epochs count as if there had been none
    common = {"name": "step", "lr": 2e-4, "epochs": 12, "steps_per_epoch": 7330, "steps": (8, 11), "gamma": 0.1}
    schedule = build_schedule(warmup_steps=500, warmup_lr=2e-7, warmup_epochs=5.0, **common)  # type: ignore[arg-type]
    rates = [schedule.at(step) for step in (0, 250, 499, 500, 8 * 7330 - 1, 8 * 7330, 11 * 7330)]
    expected = [2e-7, 2e-7 + (2e-4 - 2e-7) / 2, 2e-7 + (2e-4 - 2e-7) * 499 / 500, 2e-4, 2e-4, 2e-5, 2e-6]
    assert rates == pytest.approx(expected)
    assert build_schedule(warmup_steps=0, **common).at(0) == 2e-4  # type: ignore[arg-type]
    short = build_schedule(lr=1.0, epochs=1, steps_per_epoch=10, warmup_steps=500, warmup_lr=0.0)
    assert short.at(5) == pytest.approx(1.0)


def test_batch_norm_is_synchronised_where_there_are_ranks_with_gpus() -> None:
    def model() -> nn.Module:
        return build_backbone("resnet18", freeze_norm=True).train()

    def kinds(model: nn.Module) -> set[type[nn.Module]]:
        return {type(module) for module in model.modules() if "BatchNorm" in type(module).__name__}

    alone, ranks = model(), model()
    names = list(ranks.state_dict())
    synchronise_batch_norm(alone, Distributed(0, 1, torch.device("cpu")))
    assert kinds(alone) == {nn.BatchNorm2d}
    synchronise_batch_norm(ranks, Distributed(0, 2, torch.device("cuda", 0)))
    assert kinds(ranks) == {nn.SyncBatchNorm}
    assert list(ranks.state_dict()) == names
    ranks.train()  # what is frozen stays so
    assert not any(module.training for module in ranks.modules() if isinstance(module, nn.SyncBatchNorm))
    with pytest.raises(UsageError, match="2 processes on the CPU"):
        synchronise_batch_norm(alone, Distributed(0, 2, torch.device("cpu")))
