"""What a probe runs: one recipe per backbone under one protocol, and a run directory per seed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvtctl.errors import UsageError
from pvtctl.io.files import user_folder
from pvtctl.recipe.block import dotted
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.registry import spec_of

FEATURES = "float16"
"""The numbers that features are kept in."""
_NO_PROTOCOL = (
    *("name", "row", "profile", "about", "title", "paper", "module", "expect", "provenance"),
    *("model.backbone", "model.weights", "model.init", "train.seed", "train.keep_checkpoints", "train.save_minutes"),
    *("train.max_minutes", "data.path", "data.workers", "data.normalization", "eval.backend"),
)
"""Keys of a recipe that are not part of the protocol: backbone, weights and their pixels, descriptions, and what affects no
result."""


@dataclass(frozen=True)
class ProbedBackbone:
    """One backbone of a probe."""

    recipe: Recipe
    """Of seed 0, with the starting weights."""
    views: int

    @property
    def name(self) -> str:
        return self.recipe.model.backbone.spec

    @property
    def protocol(self) -> dict[str, Any]:
        """All settings that rows of one table share, by dotted key."""
        said = {
            key: value
            for key, value in dotted(self.recipe.plain_values()).items()
            if not any(key == each or key.startswith(f"{each}.") for each in _NO_PROTOCOL)
        }
        return said | {"features": FEATURES, "views": self.views}

    @property
    def protocol_id(self) -> str:
        """Eight digits that differ between protocols."""
        text = json.dumps(self.protocol, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:8]

    def of_seed(self, seed: int) -> Recipe:
        """The recipe of another seed."""
        return self.recipe.model_copy(update={"train": self.recipe.train.model_copy(update={"seed": seed})})


@dataclass(frozen=True)
class ProbePlan:
    """A probe of several backbones."""

    backbones: Sequence[ProbedBackbone]
    out: Path
    seeds: int = 3
    cache: Path = field(default_factory=lambda: user_folder("cache") / "features")
    cache_bytes: int = 8 * 10**9

    def run_folder(self, backbone: ProbedBackbone, seed: int) -> Path:
        """The run directory of a seed; another protocol has others."""
        name = re.sub(r"[^\w.+-]+", "_", backbone.name)
        return self.out / "rows" / f"{name}-{backbone.protocol_id}" / f"seed{seed}"


def check_plan(plan: ProbePlan) -> None:
    """Raise UsageError for settings that features cannot be kept for: they are of one view and no mixed images."""
    recipe = plan.backbones[0].recipe
    more = [
        key
        for key, used in (
            ("eval.flip", recipe.eval.flip),
            ("eval.scales", len(recipe.eval.scales) > 1),
            ("eval.ratios", recipe.eval.ratios not in ((), (1.0,))),
            ("eval.window", recipe.eval.window is not None),
            ("data.augment.mixup_alpha", spec_of(recipe).mixes(recipe)),
            ("train.ema.enabled", recipe.train.ema.enabled),
            ("train.compile", recipe.train.compile),
        )
        if used
    ]
    if more:
        raise UsageError(
            f"{more[0]} is not for a probe, whose features are kept on disk", f"leave out {', '.join(more)}"
        )
