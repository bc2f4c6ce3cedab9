"""Label maps as pictures: overlaid on the image, next to the ground truth with errors, and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pvtctl.data.images import to_rgb
from pvtctl.io.files import atomic_path
from pvtctl.models.structures import IGNORE_LABEL
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.segmentation.transforms import resize_labels
from pvtctl.views.class_colours import NO_CLASS, class_colours
from pvtctl.views.sheet import Colour, Pixels, captioned, font_of

Labels = NDArray[np.uint8]
"""(H, W) labels of classes from 0; IGNORE_LABEL for unlabelled."""
Colours = NDArray[np.uint8]
"""(256, 3) RGB by label: `class_colours`."""

PANEL = 340
"""Width of each picture of `draw_label_comparison`."""
_OVER = 0.6
"""Opacity of the class colour."""
_SMALLEST, _LARGEST = 480, 1600
"""Overlays are resized to these limits of the long side, so that names are readable."""
_HATCH = 60
_NAMED = 0.01
"""Share of the image from which a class's name is written at its widest point."""


def draw_label_overlay(image: Pixels, labels: Labels, class_names: Sequence[str], colours: Colours) -> Pixels:
    """The label map over its image, both (H, W), with outlines, names and a legend of the classes in it.

    Pixels without a class are left as they are.
    """
    height, width = image.shape[:2]
    long = min(max(height, width, _SMALLEST), _LARGEST)
    panel = max(1, round(width * long / max(height, width)))
    image, labels = _resized(image, panel), _resized_labels(labels, panel)
    entries = [(class_names[at], _colour(colours, at)) for at in _present(labels)]
    return _stacked([_overlaid(image, labels, class_names, colours), _legend(entries, panel)])


def labels_tile(split: DenseDataset, pixels: Tensor, labels: Tensor, side: int) -> Pixels:
    """uint8 (3, H, W) and its labels in the colours of a split's classes -> a picture `side` pixels wide."""
    labels = resize_labels(labels, (pixels.shape[-2], pixels.shape[-1]))  # those of evaluation have the original size
    colours = class_colours(len(split.class_names), split.source.palette)
    overlay = draw_label_overlay(to_rgb(pixels), labels.contiguous().numpy(), split.class_names, colours)
    height = max(1, round(overlay.shape[0] * side / overlay.shape[1]))
    return np.asarray(Image.fromarray(overlay).resize((side, height), Image.Resampling.LANCZOS))


def draw_label_comparison(
    image: Pixels, truth: Labels, prediction: Labels, class_names: Sequence[str], colours: Colours
) -> Pixels:
    """Image, ground truth, prediction, errors in a row over a legend, each `PANEL` wide, 6 pixels apart.

    Among the errors, wrong pixels have the colour of the predicted class, correct ones are grey, and those without a
    true class hatched. The legend marks classes that were missed completely and those that are absent.
    """
    true, found = _resized_labels(truth, PANEL), _resized_labels(prediction, PANEL)
    picture = _resized(image, PANEL)
    labelled = truth != IGNORE_LABEL
    right = float((truth == prediction)[labelled].mean()) if labelled.any() else 0.0
    panels = [
        captioned(picture, "image"),
        captioned(_overlaid(picture, true, class_names, colours), "truth"),
        captioned(_overlaid(picture, found, class_names, colours), "prediction"),
        captioned(
            draw_label_errors(picture, true, found, colours),
            f"{100 * (1 - right):.1f} % wrong (colour: taken for)" if labelled.any() else "nothing labelled",
        ),
    ]
    gap = np.full((panels[0].shape[0], 6, 3), 255, np.uint8)
    row = np.concatenate([panels[0], *(part for panel in panels[1:] for part in (gap, panel))], axis=1)
    is_true, is_found = set(_present(truth)), set(_present(prediction[labelled]))
    entries = []
    for at in sorted(is_true | is_found):
        note = "" if at in is_true & is_found else " (missed)" if at in is_true else " (not there)"
        entries.append((class_names[at] + note, _colour(colours, at)))
    if (prediction[labelled] == IGNORE_LABEL).any():
        entries.append(("a class that the data does not have", NO_CLASS))
    if not labelled.all():
        entries.append(("unlabelled (hatched)", (_HATCH,) * 3))
    return _stacked([row, _legend(entries, row.shape[1])])


def draw_label_errors(image: Pixels, truth: Labels, prediction: Labels, colours: Colours) -> Pixels:
    """The image in light grey, wrong pixels in the colour of the predicted class, unlabelled ones hatched."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    picture = np.repeat((0.35 * grey + 150).astype(np.uint8), 3, axis=2)
    wrong = (truth != prediction) & (truth != IGNORE_LABEL)
    picture[wrong] = colours[prediction[wrong]]
    y, x = np.indices(truth.shape)
    picture[(truth == IGNORE_LABEL) & ((x + y) % 8 < 2)] = _HATCH
    return picture


def write_label_map(path: Path | str, labels: Labels, colours: Colours) -> Path:
    """Write a palette PNG whose values are the labels (IGNORE_LABEL: none), and which viewers show in `colours`."""
    picture = Image.fromarray(labels).convert("L")
    picture.putpalette(colours.tobytes())
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
    return Path(path)


def _overlaid(image: Pixels, labels: Labels, class_names: Sequence[str], colours: Colours) -> Pixels:
    """Colours, thin white outlines and names over the image."""
    there = (labels != IGNORE_LABEL)[..., None]
    plain = image.astype(np.float32)
    over = colours[np.where(labels == IGNORE_LABEL, 0, labels)]
    picture = np.where(there, plain + _OVER * (over - plain), plain).round().astype(np.uint8)
    edge = np.zeros(labels.shape, np.bool_)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    picture[edge] = 255
    return _with_names(picture, labels, class_names, colours)


def _with_names(picture: Pixels, labels: Labels, class_names: Sequence[str], colours: Colours) -> Pixels:
    """Each class's name where it is widest, if it fits; largest classes first."""
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    font = font_of(max(13, round(max(picture.shape[:2]) / 45)))
    counts = np.bincount(labels.ravel(), minlength=256)[: len(class_names)]
    placed: list[tuple[float, float, float, float]] = []
    for at in np.argsort(-counts, kind="stable").tolist():
        if counts[at] < _NAMED * labels.size or counts[at] == 0:
            break
        spot = _spot(labels == at, pen.textlength(class_names[at], font=font), font, canvas.size)
        if spot is None or any(spot[0] < p[2] and p[0] < spot[2] and spot[1] < p[3] and p[1] < spot[3] for p in placed):
            continue
        placed.append(spot)
        pen.text(
            ((spot[0] + spot[2]) / 2, (spot[1] + spot[3]) / 2),
            class_names[at],
            fill="white",
            font=font,
            anchor="mm",
            stroke_width=2,
            stroke_fill="black",
        )
    return np.asarray(canvas)


def _spot(
    mask: NDArray[np.bool_], wide: float, font: ImageFont.FreeTypeFont, size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """Position of a text of `wide` pixels: the pixel farthest from the mask's edge; None if it is too narrow."""
    from scipy.ndimage import distance_transform_edt

    step = max(1, max(mask.shape) // 160)
    depth = distance_transform_edt(np.pad(mask[::step, ::step], 1))
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    high = 1.3 * font.size
    if step * depth[y, x] < 0.5 * high or wide > size[0]:
        return None
    left = min(max((int(x) - 1) * step - wide / 2, 0), size[0] - wide)
    top = min(max((int(y) - 1) * step - high / 2, 0), max(size[1] - high, 0))
    return left, top, left + wide, top + high


def _legend(entries: Sequence[tuple[str, Colour]], width: int) -> Pixels:
    """Swatches with names, on as many lines as needed."""
    size = max(13, round(min(width, 1600) / 95))
    font, line = font_of(size), round(1.6 * size)
    spots: list[tuple[float, int, str, Colour]] = []
    x, row = 4.0, 0
    for text, colour in entries:
        taken = size + 6 + font.getlength(text) + 18
        if x > 4 and x + taken > width:
            x, row = 4.0, row + 1
        spots.append((x, row, text, colour))
        x += taken
    strip = Image.new("RGB", (width, line * (row + 1) + 4), "white")
    pen = ImageDraw.Draw(strip)
    for x, row, text, colour in spots:
        y = 2 + line * row + line / 2
        pen.rectangle((x, y - size / 2, x + size, y + size / 2), fill=colour, outline=(90, 90, 90))
        pen.text((x + size + 6, y), text, fill="black", font=font, anchor="lm")
    return np.asarray(strip)


def _present(labels: Labels) -> list[int]:
    return np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[:IGNORE_LABEL]).tolist()


def _colour(colours: Colours, label: int) -> Colour:
    red, green, blue = colours[label].tolist()
    return red, green, blue


def _resized(image: Pixels, width: int) -> Pixels:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _resized_labels(labels: Labels, width: int) -> Labels:
    height = max(1, round(labels.shape[0] * width / labels.shape[1]))
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


def _stacked(parts: Sequence[Pixels]) -> Pixels:
    return np.concatenate(parts, axis=0)
