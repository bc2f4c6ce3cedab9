"""A quick form of `growth.py`: what must not grow with the number of images does not, and the rest grows in proportion.

Held by counts of bytes and calls, which are the same on every machine.
"""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import growth
import pytest

from pvtctl.tasks.detection.coco import CocoAnnotations

IMAGES = 300
SEEN = 160
"""Bytes an image for its number among those seen, in a set that has just grown, and for the arrays' own heads."""


@pytest.fixture(autouse=True)
def small_heap() -> None:
    """What lives already is not looked at by each of the many collections below: after other tests that is millions of objects."""
    gc.freeze()


@pytest.mark.parametrize("task", [growth.classification, growth.segmentation])
def test_counts_of_classes_do_not_grow_with_the_images(
    task: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "SIDE", 16)
    metric, update = task(5)
    metric.num_worst = 0  # the list of the worst images changes, but has a length
    for at in range(IMAGES):  # what libraries and the interpreter keep of first calls
        update(at)
    # that may still happen in a stretch, but what is kept of each image is kept in all of them
    assert min(growth.kept_bytes(update, at, at + 100) for at in range(0, IMAGES, 100)) < 40 * 100


def test_depth_keeps_a_row_of_numbers_of_each_image() -> None:
    metric, update = growth.depth()
    kept = growth.kept_bytes(update, 0, IMAGES) - growth.kept_bytes(growth.depth()[1], 0, 10)  # some maps at most
    assert kept < (metric.rows().itemsize + SEEN) * IMAGES


@pytest.mark.parametrize("number", [1, 100])
def test_detection_keeps_its_columns(number: int) -> None:
    _, update = growth.detection(number=number)
    assert growth.kept_bytes(update, 0, IMAGES) < (52 * number + SEEN) * IMAGES


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("annotations")
    made = {images: folder / f"{images}.json" for images in (50, 100, 400)}
    for images, file in made.items():
        growth.write_annotations(file, images)
    return made


def test_the_file_is_like_cocos(files: dict[int, Path]) -> None:
    data = json.loads(files[400].read_text())
    assert len(data["images"]) == 400
    assert len(data["annotations"]) == int(400 * growth.OBJECTS)
    assert files[400].stat().st_size / 400 == pytest.approx(448e6 / growth.COCO_IMAGES, rel=0.25)
    annotations = CocoAnnotations(data)
    assert annotations.has_masks
    assert not annotations.cautions


def test_opening_annotations_is_linear(files: dict[int, Path]) -> None:
    CocoAnnotations.read(files[50])  # what is imported and compiled once
    calls = {images: _calls(lambda file=file: CocoAnnotations.read(file)) for images, file in files.items()}
    assert calls[400] - calls[100] < 1.05 * 6 * (calls[100] - calls[50])
    peaks, kept = {}, {}
    for images, file in files.items():
        tracemalloc.start()
        annotations = CocoAnnotations.read(file)
        peaks[images] = tracemalloc.get_traced_memory()[1]
        gc.collect()
        kept[images] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        del annotations
    for grown in (peaks, kept):
        assert grown[400] - grown[100] < 1.1 * 6 * (grown[100] - grown[50])
    columns = int(400 * growth.OBJECTS) * (16 * growth.CORNERS + 120)  # coordinates in float64, and numbers
    assert kept[400] < 1.1 * columns
    assert peaks[400] < 8 * files[400].stat().st_size


def _calls(run: Callable[[], object]) -> int:
    """Calls of Python and C functions."""
    count = 0

    def seen(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count
