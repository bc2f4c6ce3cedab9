"""State dicts in the layouts of others, filled with the parity kit's numbers or with random ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from torch import Tensor


@pytest.fixture(scope="session")
def original_state(shared: Path, kit: ModuleType) -> Callable[[str], dict[str, Tensor]]:
    """`original_state("pvt_tiny")`: the state dict of the original implementation, under its own names."""

    def build(name: str) -> dict[str, Tensor]:
        manifest = json.loads((shared / "parity" / "manifests" / f"{name}.json").read_text())
        shapes = {
            key: shape
            for key, shape, dtype, _ in manifest["entries"]
            if dtype == "float32" or key.endswith("num_batches_tracked")
        }
        filled = kit.fill_state_dict(shapes)
        return {key: value.clone() for key, value in filled.items()}

    return build
