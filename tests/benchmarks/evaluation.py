"""How much of an evaluation is spent outside the network: `python tests/benchmarks/evaluation.py DIR`.

DIR holds images and label maps (`pvtctl data check DIR` says whether it does). A Semantic FPN with random weights is scored on
its validation images by the very code of `pvtctl eval`: reading, resizing, label maps at the size of the files, mIoU and
boundary F-score.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Timed(nn.Module):
    """A network that adds up the seconds of its calls."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seconds = 0.0

    def forward(self, *arguments: Any) -> Any:
        began = time.perf_counter()
        out = self.network(*arguments)
        self.seconds += time.perf_counter() - began
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="pvt_small")
    parser.add_argument("--size", type=int, default=360, help="short side in pixels")
    options = parser.parse_args()
    from pvtctl.io.allocator import keep_memory

    keep_memory()
    from pvtctl.engine import choose_precision, evaluate, single
    from pvtctl.recipe.load import load_recipe
    from pvtctl.tasks.from_recipe import build_task

    sizes = f"{{test_short_side: {options.size}, test_long_side: {4 * options.size}}}"
    recipe = load_recipe(
        "small_maps",
        None,
        overrides=[
            f"model.backbone.name={options.backbone}",
            f"data.path={options.data}",
            f"data.segmentation={sizes}",
        ],
    )
    dist = single("cpu")
    task = build_task(recipe, device=dist.device)
    network = Timed(task.model)
    evaluate(task, network, dist, choose_precision("fp32", dist.device))  # files in memory, kernels chosen
    network.seconds = 0.0
    began = time.perf_counter()
    metric = evaluate(task, network, dist, choose_precision("fp32", dist.device))
    whole = time.perf_counter() - began
    images = int(metric.compute()["images"])
    print(
        f"{images} images, {options.backbone} at {options.size} px, {torch.get_num_threads()} threads: {whole:.1f} s, "
        f"{network.seconds:.1f} s of it in the network, {100 * (1 - network.seconds / whole):.1f} % outside"
    )


if __name__ == "__main__":
    main()
