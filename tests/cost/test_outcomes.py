"""Kept outputs of operations on the meta device: new tensors, and no number that depends on what was kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pvtctl.cost import memory, outcomes
from pvtctl.cost.outcomes import outcome

ATEN = torch.ops.aten


def test_what_is_kept_is_given_as_new_tensors() -> None:
    image = torch.empty(2, 3, 5, 7, device="meta").to(memory_format=torch.channels_last)
    first, second = (outcome(ATEN.relu.default, (image,), {}) for _ in range(2))
    assert (first.shape, first.stride(), first.dtype) == (second.shape, second.stride(), second.dtype)
    assert first.stride() == image.stride()
    assert first.untyped_storage()._cdata != second.untyped_storage()._cdata
    assert outcome(ATEN.relu.default, (image.half(),), {}).dtype == torch.float16


def test_what_shares_memory_shares_it_every_time() -> None:
    rows = torch.empty(4, 6, device="meta")
    for _ in range(2):
        for function, more in ((ATEN.t.default, ()), (ATEN._unsafe_view.default, ([24],)), (ATEN.relu_.default, ())):
            out = outcome(function, (rows, *more), {})
            assert out.untyped_storage()._cdata == rows.untyped_storage()._cdata, function


@pytest.mark.parametrize("training", [True, False])
def test_memory_does_not_depend_on_what_was_kept(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def needed() -> int:
        return memory.estimate_memory("pvt_v2_b0+depths=1,1,1,1", "semantic_fpn", (64, 96), 2, training=training)

    def run(func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)

    monkeypatch.setattr(outcomes, "_OUTCOMES", {})
    found = [needed(), needed()]
    assert outcomes._OUTCOMES
    monkeypatch.setattr(memory, "outcome", run)
    assert found == [needed()] * 2
