"""Detections drawn into images: alone, and next to the ground truth with right and wrong marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as rle
from torch import Tensor

from pvtctl.io.names import plural
from pvtctl.models.structures import Detections, Objects
from pvtctl.tasks.detection.scoring.analysis import ERRORS
from pvtctl.tasks.detection.scoring.columns import columns_of, xywh
from pvtctl.tasks.detection.scoring.matching import IGNORED, RIGHT, Matching, TrueObjects, match
from pvtctl.views.sheet import Colour, Pixels, captioned, enlarged, enlargement, font_of

PALETTE: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)
"""Okabe and Ito's, distinguishable with common colour blindness. Classes reuse them in turn; labels name the class."""
_TRUE, _RIGHT, _WRONG = (240, 240, 240), PALETTE[4], PALETTE[5]
_MASK = 0.45
"""Opacity of masks."""
_WRONGS = {code: name for name, code in ERRORS.items()}


@dataclass(frozen=True)
class _Mark:
    """A box to draw, in pixels of the picture."""

    box: list[float]
    colour: Colour
    text: str
    dashed: bool = False


def colour_of(label: int) -> Colour:
    """The colour of a class, the same in every picture."""
    return PALETTE[label % len(PALETTE)]


def draw_detections(image: Pixels, found: Detections | Objects, class_names: Sequence[str]) -> Pixels:
    """Boxes, masks, names and scores drawn into a copy of `image` (H, W, 3) uint8; true objects have no score.

    An image under 400 pixels on its long side is enlarged by a whole number, so that its labels can be read. A label
    that would cover another is left out; the best detection is labelled first. A single class is not named.
    """
    scale = enlargement(image)
    labels = found.labels.tolist()
    picture = _with_masks(image, _masks(found), [colour_of(label) for label in labels], scale)
    scores = found.scores.tolist() if isinstance(found, Detections) else [None] * len(labels)
    marks = [
        _Mark(box, colour_of(label), _text(class_names, label, score))
        for box, label, score in zip(_scaled(found.boxes, scale), labels, scores, strict=True)
    ]
    return _with_marks(picture, marks)


def draw_side_by_side(
    image: Pixels, truth: Objects, found: Detections, class_names: Sequence[str], *, threshold: float = 0.3
) -> Pixels:
    """Ground truth on the left, detections of at least `threshold` on the right, matched at IoU 0.5.

    Objects that were missed are dashed on the left; wrong detections are dashed on the right and named by their kind of
    error. Colours: white for found, light blue for right, red for missed and wrong.
    """
    shown = found.chosen(found.scores >= threshold)
    matching = _matched(truth, shown)
    scale = enlargement(image)
    owned = set(matching.object[matching.kind == RIGHT].tolist())
    left = [
        _Mark(box, _TRUE if at in owned else _WRONG, _text(class_names, label), at not in owned)
        for at, (box, label) in enumerate(zip(_scaled(truth.boxes, scale), truth.labels.tolist(), strict=True))
    ]
    right = []
    rows = zip(shown.labels.tolist(), shown.scores.tolist(), matching.kind.tolist(), strict=True)
    for box, (label, score, kind) in zip(_scaled(shown.boxes, scale), rows, strict=True):
        good = kind in (RIGHT, IGNORED)
        text = _text(class_names, label, score, "" if good else _WRONGS[kind])
        right.append(_Mark(box, _RIGHT if good else _WRONG, text, not good))
    correct = len(owned)
    captions = (
        f"truth: {plural(len(truth), 'object')}, {len(truth) - correct} missed (dashed)",
        f"found, score from {threshold:.2f}: {correct} right, {len(shown) - correct} wrong (dashed)",
    )
    halves = []
    sides: tuple[Detections | Objects, ...] = (truth, shown)
    for objects, marks, caption in zip(sides, (left, right), captions, strict=True):
        picture = _with_masks(image, _masks(objects), [mark.colour for mark in marks], scale)
        halves.append(captioned(_with_marks(picture, marks), caption))
    gap = np.full((halves[0].shape[0], 6, 3), 255, np.uint8)
    return np.concatenate([halves[0], gap, halves[1]], axis=1)


def rights(truth: Objects, found: Detections, threshold: float) -> tuple[int, int]:
    """Number of right and of wrong detections of at least `threshold`, as marked by `draw_side_by_side`."""
    kinds = _matched(truth, found.chosen(found.scores >= threshold)).kind
    right = int((kinds == RIGHT).sum())
    return right, int((kinds != IGNORED).sum()) - right


def _matched(truth: Objects, shown: Detections) -> Matching:
    zeros = np.zeros(len(truth), np.int64)
    true = TrueObjects(zeros, truth.labels.numpy(), xywh(truth.boxes), zeros.astype(bool))
    return match(columns_of(0, shown, masks=False)[0], true)


def _text(class_names: Sequence[str], label: int, score: float | None = None, error: str = "") -> str:
    """Label of a box; a single class is not named."""
    name = class_names[label] if len(class_names) > 1 else ""
    return " ".join(word for word in (name, "" if score is None else f"{100 * score:.0f}%", error) if word)


def _scaled(boxes: Tensor, scale: int) -> list[list[float]]:
    scaled: list[list[float]] = (scale * boxes.double()).tolist()
    return scaled


def _masks(found: Detections | Objects) -> Iterator[NDArray[np.bool_]]:
    for mask in () if found.masks is None else found.masks:
        yield mask.cpu().numpy() if isinstance(mask, Tensor) else rle.decode(mask).astype(bool)


def _with_masks(image: Pixels, masks: Iterator[NDArray[np.bool_]], colours: Sequence[Colour], scale: int) -> Pixels:
    """Colour laid over the masks' pixels, worst detection first so that the best stays on top."""
    mixed = image.astype(np.float32)
    for mask, colour in reversed(list(zip(masks, colours, strict=False))):
        mixed[mask] += _MASK * (np.asarray(colour, np.float32) - mixed[mask])
    return enlarged(mixed.round().astype(np.uint8), scale)


def _with_marks(image: Pixels, marks: Sequence[_Mark]) -> Pixels:
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    side = max(picture.size)
    line = max(2, round(side / 320))
    for mark in reversed(marks):
        _outline(pen, mark, line, picture.size)
    font = font_of(max(11, round(side / 46)))
    placed: list[tuple[float, float, float, float]] = []
    for mark in (each for each in marks if each.text):
        _label(pen, mark, font, picture.size, placed)
    return np.asarray(picture)


def _outline(pen: ImageDraw.ImageDraw, mark: _Mark, line: int, size: tuple[int, int]) -> None:
    """A frame with a dark edge, visible on any background; boxes are clipped to the image."""
    x0, y0 = max(mark.box[0], 0.0), max(mark.box[1], 0.0)
    x1, y1 = max(min(mark.box[2], size[0]) - 1, x0), max(min(mark.box[3], size[1]) - 1, y0)
    if not mark.dashed:
        pen.rectangle((x0, y0, x1, y1), outline=(0, 0, 0), width=line + 1)
        pen.rectangle((x0, y0, x1, y1), outline=mark.colour, width=line)
        return
    dash = 4 * line
    for (ax, ay), (bx, by) in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x0, y1), (x1, y1)), ((x0, y0), (x0, y1))):
        length = max(abs(bx - ax), abs(by - ay))
        pen.line((ax, ay, bx, by), fill=(0, 0, 0), width=line)
        for start in np.arange(0, max(length, 1), 2 * dash).tolist():
            low, high = start / max(length, 1), min((start + dash) / max(length, 1), 1)
            ends = (ax + low * (bx - ax), ay + low * (by - ay), ax + high * (bx - ax), ay + high * (by - ay))
            pen.line(ends, fill=mark.colour, width=line)


def _label(
    pen: ImageDraw.ImageDraw,
    mark: _Mark,
    font: ImageFont.FreeTypeFont,
    size: tuple[int, int],
    placed: list[tuple[float, float, float, float]],
) -> None:
    """Write above the box, inside it or below, where there is no label yet, else omit it. Stays in the picture:
    names longer than the picture are cut."""
    text = mark.text
    while len(text) > 2 and pen.textlength(text, font=font) + 6 > size[0]:
        text = text[:-2] + "…"
    wide, high = pen.textlength(text, font=font) + 6, font.size * 1.3
    x = min(max(mark.box[0], 0.0), max(size[0] - wide, 0.0))
    for y in (mark.box[1] - high, mark.box[1], mark.box[3] - high, mark.box[3]):
        spot = (x, y, x + wide, y + high)
        inside = y >= 0 and y + high <= size[1]
        if inside and all(spot[2] <= p[0] or p[2] <= spot[0] or spot[3] <= p[1] or p[3] <= spot[1] for p in placed):
            placed.append(spot)
            pen.rectangle(spot, fill=mark.colour)
            light = 0.299 * mark.colour[0] + 0.587 * mark.colour[1] + 0.114 * mark.colour[2] > 130
            pen.text((x + 3, y + high / 2), text, fill="black" if light else "white", font=font, anchor="lm")
            return
