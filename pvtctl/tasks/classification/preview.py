"""Draws training samples: each with its evaluation crop, then augmented views."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pvtctl.data.base import Sample
from pvtctl.data.class_names import readable_name
from pvtctl.data.images import to_rgb
from pvtctl.data.preview import check_png, spread, write_rows
from pvtctl.data.samplers import Draw
from pvtctl.data.survey import as_in_training
from pvtctl.data.transforms import denormalize
from pvtctl.errors import UsageError
from pvtctl.io.names import plural
from pvtctl.tasks.base import PreviewRequest
from pvtctl.tasks.classification.data import ClassificationDataset, open_classification_split
from pvtctl.tasks.classification.mixup import Mixup
from pvtctl.tasks.classification.settings import Augment
from pvtctl.tasks.classification.spec import CLASSIFICATION
from pvtctl.tasks.classification.transforms import EvalTransform
from pvtctl.tasks.reading import reading_of_data


def draw_preview(dataset: ClassificationDataset, path: Path | str, *, count: int = 6, copies: int = 5) -> list[str]:
    """Write a PNG with `count` samples spread over the classes, one a row: the evaluation crop, then `copies` training
    views (of epochs 0, 1, ...). Returns the ids drawn.

    Raises UsageError when no sample can be read, or `path` does not end in .png.
    """
    check_png(path)
    side = dataset.transform.image_size
    plain = ClassificationDataset(dataset.source, EvalTransform(side, round(side * 256 / 224), dataset.normalization))
    rows: list[tuple[str, list[Image.Image]]] = []
    ids = []
    for at in spread(len(dataset), count):
        drawn = [plain[int(dataset.kept[at])], *(dataset[Draw(epoch, at)] for epoch in range(copies))]
        views = [view for view in drawn if isinstance(view, Sample)]
        if len(views) == len(drawn):
            tiles = [Image.fromarray(to_rgb(denormalize(view.image, dataset.normalization))) for view in views]
            rows.append((f"{readable_name(dataset.class_names[views[0].target])}  ({views[0].id})", tiles))
            ids.append(views[0].id)
    if not rows:
        raise UsageError("no sample could be read", "`pvtctl data check FOLDER` lists every fault")
    write_rows(path, rows, ["as evaluated", *(f"training, epoch {epoch}" for epoch in range(copies))], side)
    return ids


def preview_classification(request: PreviewRequest) -> str:
    """`pvtctl data preview` of a set; returns a description."""
    name, split, copies = request.name, request.split, request.copies or 5
    options: dict[str, Any] = {
        "augment": request.data.augment,
        "seed": request.seed,
        "reading": reading_of_data(request.data, CLASSIFICATION),
        "image_size": request.size or 224,
        "shards": request.data.shards,
    }
    root = request.data.url or request.root
    dataset = as_in_training(lambda split: open_classification_split(name, root, split, **options), split)
    ids = draw_preview(dataset, request.output, count=request.count, copies=copies)
    views = plural(copies, "training view")
    return f"{request.output}: {len(ids)} of {plural(len(dataset), f'{split} sample')}, {views} each"


def mix_in_words(
    augment: Augment, images: torch.Tensor, labels: torch.Tensor, names: Sequence[str], key: int
) -> tuple[torch.Tensor, list[str]]:
    """Images (B, 3, H, W) mixed by mixup or CutMix as a batch with this key, and their soft labels in words."""
    mixed, targets = Mixup(len(names), augment)(images, labels, key)
    words = []
    for target in targets:  # `ball 62 %, ring 30 %`: classes above the share from label smoothing
        least, best = 1.5 * float(target.min()), target.topk(min(2, len(target)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        words.append(", ".join(f"{names[label]} {100 * share:.0f} %" for share, label in pairs if share > least))
    return mixed, words
