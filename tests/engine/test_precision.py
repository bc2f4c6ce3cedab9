"""What the device does well."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pvtctl.engine import choose_precision
from pvtctl.engine.precision import Precision, cpu_bf16_gain, scoring_precision, wants_channels_last

CPU = torch.device("cpu")


@pytest.mark.parametrize(("gain", "name"), [(2.0, "bf16"), (1.1, "fp32"), (0.01, "fp32")])
@pytest.mark.parametrize("flags", [{"avx2", "avx512_bf16"}, {"asimd", "bf16"}, {}])
def test_bf16_is_chosen_by_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, gain: float, name: str, flags: Any
) -> None:
    """Where the processor has instructions for it, or does not say which it has."""
    monkeypatch.setattr("pvtctl.engine.precision.cpu_bf16_gain", lambda: gain)
    monkeypatch.setattr("pvtctl.engine.precision.cpu_flags", lambda: frozenset(flags))
    chosen = choose_precision("auto", CPU)
    assert chosen.name == name
    assert "on this CPU" in chosen.why
    assert scoring_precision("bf16", CPU).name == "bf16"


def test_a_processor_without_bf16_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvtctl.engine.precision.cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr("pvtctl.engine.precision.cpu_bf16_gain", lambda: pytest.fail("measured"))
    assert str(choose_precision("auto", CPU)) == "fp32 (this CPU has no instructions for bf16)"
    for name in ("bf16", "fp16"):
        assert str(scoring_precision(name, CPU)) == f"fp32 (this CPU has no instructions for {name})"
        assert choose_precision(name, CPU).name == scoring_precision(name, torch.device("cuda")).name == name
    assert scoring_precision("fp32", CPU).name == "fp32"


def test_measuring_changes_no_random_numbers() -> None:
    cpu_bf16_gain.cache_clear()
    before = torch.get_rng_state()
    assert cpu_bf16_gain() > 0
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_autocast_runs_in_the_format_asked_for(name: Any) -> None:
    precision = choose_precision(name, CPU)
    with precision.autocast(CPU):
        out = nn.Linear(4, 4)(torch.ones(2, 4))
    assert out.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    assert (precision.scaler(CPU) is not None) == (name == "fp16")


@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16", "fp16"])
def test_who_wants_channels_last(name: Any) -> None:
    convolutions = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Linear(8, 2))
    tokens = nn.Sequential(nn.Conv2d(3, 8, 4), nn.Linear(64, 64))
    precision = Precision(name, "as asked")
    assert wants_channels_last(convolutions, CPU, precision)
    assert not wants_channels_last(tokens, CPU, precision)
    for model in (convolutions, tokens):  # a GPU's tensor cores do, for the convolutions that there are
        assert wants_channels_last(model, torch.device("cuda"), precision) == (name != "fp32")
