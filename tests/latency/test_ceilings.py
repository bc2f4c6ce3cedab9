"""The limits of a machine: what they count."""

from __future__ import annotations

import pytest
import torch

from pvtctl.latency import ceilings
from pvtctl.latency.ceilings import copy_gb_s, matmul_gflops, measure_ceilings

CPU = torch.device("cpu")


def test_a_multiply_add_is_two_operations_and_a_copy_reads_and_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "_shortest", lambda call, device: call() is None or 0.5)
    assert matmul_gflops(CPU, torch.float32) == pytest.approx(2 * 256**3 / 0.5 / 1e9)  # long enough at the first size
    assert copy_gb_s(CPU, 4000) == pytest.approx(2 * 4000 / 0.5 / 1e9)


def test_they_are_measured_with_the_given_threads() -> None:
    before = torch.get_num_threads()
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ceilings, "matmul_gflops", lambda device, kind: seen.append((torch.get_num_threads(), kind)) or 3.0
        )
        patch.setattr(ceilings, "copy_gb_s", lambda device: 5.0)
        found = measure_ceilings("cpu", "bf16", threads=before + 1)
    assert found == ceilings.Ceilings(1.5e9, 5e9)
    assert seen == [(before + 1, torch.bfloat16)]
    assert torch.get_num_threads() == before


def test_real_calls_take_some_time() -> None:
    assert 0.01 < matmul_gflops(CPU, torch.float32, budget_s=0.0) < 1e5
    assert 0.01 < copy_gb_s(CPU, 1 << 20) < 1e5
