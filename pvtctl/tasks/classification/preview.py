"""Draws training samples: each with its evaluation crop, then augmented views."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from pvtctl.data.class_names import readable_name
from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import denormalize
from pvtctl.errors import UsageError
from pvtctl.io.files import atomic_path
from pvtctl.tasks.base import PreviewRequest
from pvtctl.tasks.classification.data import ClassificationDataset, ClassificationSample, open_classification_split
from pvtctl.tasks.classification.mixup import Mixup
from pvtctl.tasks.classification.settings import Augment
from pvtctl.tasks.classification.transforms import EvalTransform

_MARGIN = 6
_LINE = 16


def draw_preview(dataset: ClassificationDataset, path: Path | str, *, count: int = 6, copies: int = 5) -> list[str]:
    """Write a PNG with `count` samples spread over the classes, one a row: the evaluation crop, then `copies` training
    views (of epochs 0, 1, ...). Returns the ids drawn.

    Raises UsageError when no sample can be read, or `path` does not end in .png.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path} does not end in .png", "the preview is a PNG: -o preview.png")
    side = dataset.transform.image_size
    plain = ClassificationDataset(dataset.source, EvalTransform(side, round(side * 256 / 224)))
    kept = dataset.kept
    rows: list[tuple[str, list[torch.Tensor]]] = []
    ids = []
    for at in np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int).tolist():
        views = [plain[int(kept[at])], *(dataset[Draw(epoch, at)] for epoch in range(copies))]
        images = [view.image for view in views if isinstance(view, ClassificationSample)]
        if isinstance(views[0], ClassificationSample) and len(images) == len(views):
            label = readable_name(dataset.class_names[views[0].label])
            rows.append((f"{label}  ({views[0].id})", images))
            ids.append(views[0].id)
    if not rows:
        raise UsageError("no sample could be read", "`pvtctl data check FOLDER` lists every fault")
    sheet = _sheet(rows, side)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return ids


def _sheet(rows: list[tuple[str, list[torch.Tensor]]], side: int) -> Image.Image:
    columns = len(rows[0][1])
    step = side + _MARGIN
    width = _MARGIN + columns * step
    sheet = Image.new("RGB", (width, 2 * _MARGIN + _LINE + len(rows) * (step + _LINE)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    for column in range(columns):
        text = "as evaluated" if column == 0 else f"training, epoch {column - 1}"
        pen.text((_MARGIN + column * step, _MARGIN), text, fill="black", font=font)
    for row, (label, images) in enumerate(rows):
        top = 2 * _MARGIN + _LINE + row * (step + _LINE)
        pen.text((_MARGIN, top), label, fill="black", font=font)
        for column, image in enumerate(images):
            pixels = denormalize(image).permute(1, 2, 0).contiguous().numpy()
            sheet.paste(Image.fromarray(pixels), (_MARGIN + column * step, top + _LINE))
    return sheet


def preview_classification(request: PreviewRequest) -> str:
    """`pvtctl data preview` of a set; returns a description."""
    name, split, copies = request.name, request.split, request.copies or 5
    dataset = open_classification_split(
        name, request.root, split, image_size=request.size or 224, augment=request.data.augment, seed=request.seed
    )
    ids = draw_preview(dataset, request.output, count=request.count, copies=copies)
    return f"{request.output}: {len(ids)} of {len(dataset)} {split} samples, {copies} training views each"


def mix_in_words(
    augment: Augment, images: torch.Tensor, labels: torch.Tensor, names: Sequence[str], key: int
) -> tuple[torch.Tensor, list[str]]:
    """Images (B, 3, H, W) mixed by mixup or CutMix as a batch with this key, and their soft labels in words."""
    mixed, targets = Mixup.from_augment(len(names), augment)(images, labels, key)
    return mixed, [_soft_label(target, names) for target in targets]


def _soft_label(target: torch.Tensor, names: Sequence[str]) -> str:
    """`ball 62 %, ring 30 %`: classes above the share from label smoothing."""
    best = target.topk(min(2, len(target)))
    least = 1.5 * float(target.min())
    said = [
        f"{names[label]} {100 * share:.0f} %"
        for share, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        if share > least
    ]
    return ", ".join(said)
