"""Masks survive reading: run lengths and polygons of any shape, against pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pvtctl.tasks.detection.segments import MAX_COORDINATE, SegmentFault, SegmentReader, Segments, decode_rle

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=30)

Mask = NDArray[np.bool_]


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """bool (H, W), drawn as runs, so that long ones occur."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    runs = draw(st.lists(st.integers(0, height * width), max_size=12))
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)[: height * width]
    return np.pad(pixels, (0, height * width - len(pixels))).reshape(width, height).T


def counts_of(mask: Mask) -> list[int]:
    """COCO's uncompressed run lengths, column by column, background first."""
    pixels = mask.T.ravel()
    edges = np.flatnonzero(np.diff(pixels)) + 1
    runs = np.diff(np.concatenate([[0], edges, [len(pixels)]])).tolist()
    return [0, *runs] if pixels[0] else runs


def compressed(mask: Mask) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def read(*segmentations: Any, height: int, width: int) -> tuple[Segments, list[SegmentFault | None]]:
    reader = SegmentReader()
    faults = [reader.add(each, height, width) for each in segmentations]
    return reader.finish()[0], faults


@EXAMPLES
@given(masks())
def test_both_forms_of_run_lengths_give_the_mask_back(mask: Mask) -> None:
    height, width = mask.shape
    plain = {"size": [height, width], "counts": counts_of(mask)}
    segments, faults = read(compressed(mask), plain, height=height, width=width)
    assert faults == [None, None]
    assert segments.has_mask().all()
    np.testing.assert_array_equal(segments.masks(np.arange(2), height, width), np.stack([mask, mask]))
    assert segments.rle(0, height, width) == segments.rle(1, height, width)


@EXAMPLES
@given(masks())
def test_decoding_is_pycocotools_decoding(mask: Mask) -> None:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    np.testing.assert_array_equal(decode_rle(rle), mask)
    np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), mask)


@EXAMPLES
@given(masks(), st.sampled_from([(0, 1), (1, 0), (-1, 0), (3, 5)]))
def test_masks_of_another_size_are_faults(mask: Mask, change: tuple[int, int]) -> None:
    height, width = mask.shape[0] + change[0], mask.shape[1] + change[1]
    _, [fault] = read(compressed(mask), height=height, width=width)
    assert fault == "mask_size"
    _, [fault] = read({**compressed(mask), "size": [height, width]}, height=height, width=width)
    assert fault == (None if height * width == mask.size else "bad_mask")


@EXAMPLES
@given(st.text(st.characters(min_codepoint=32, max_codepoint=130), max_size=12), st.integers(1, 12), st.integers(1, 12))
def test_any_text_is_a_mask_or_a_fault(counts: str, height: int, width: int) -> None:
    """pycocotools reads beyond its memory where runs do not cover the image: such a text must never reach it."""
    segments, [fault] = read({"size": [height, width], "counts": counts}, height=height, width=width)
    assert fault in (None, "bad_mask")
    if fault is None:
        rle = segments.rle(0, height, width)
        np.testing.assert_array_equal(decode_rle(rle), coco_mask.decode(rle).astype(bool))
    else:
        assert not segments.has_mask().any()


coordinate = st.floats(-20, 60, width=32).map(lambda value: round(value, 2))
polygon = st.lists(coordinate, min_size=6, max_size=12).map(lambda flat: flat[: len(flat) // 2 * 2])
wrong = st.sampled_from(["text", 3, [[1, 2, 3]], [[1, 2, 3, 4, "5", 6]], [[1, 2, 3, 4, 5, 6, 7]], {"counts": []}])
annotation = st.one_of(st.lists(polygon, max_size=3), masks().map(compressed), st.none(), wrong)


@EXAMPLES
@given(st.lists(annotation, max_size=6), st.integers(1, 40), st.integers(1, 40))
def test_reading_many_is_reading_each_alone(annotations: list[Any], height: int, width: int) -> None:
    """A fault among them leaves nothing behind that would move the masks after it."""
    together, faults = read(*annotations, height=height, width=width)
    for row, (one, fault) in enumerate(zip(annotations, faults, strict=True)):
        alone, [expected] = read(one, height=height, width=width)
        assert fault == expected
        assert together.has_mask()[row] == alone.has_mask()[0]
        at = np.array([row]), np.array([0])
        np.testing.assert_array_equal(together.masks(at[0], height, width), alone.masks(at[1], height, width))


@EXAMPLES
@given(st.lists(polygon, min_size=1, max_size=3), st.integers(1, 40), st.integers(1, 40))
def test_polygons_are_drawn_as_pycocotools_draws_them(polygons: list[list[float]], height: int, width: int) -> None:
    segments, [fault] = read(polygons, height=height, width=width)
    assert fault is None
    assert [part.tolist() for part in segments.polygons(0)] == polygons
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)
    np.testing.assert_array_equal(segments.masks(np.array([0]), height, width)[0], expected)


@EXAMPLES
@given(
    st.lists(
        st.lists(st.one_of(polygon, st.just([float("nan")] * 6), st.just([0, 0, 2 * MAX_COORDINATE, 0, 0, 1]))),
        max_size=6,
    )
)
def test_coordinates_out_of_range_are_found_by_annotation(annotations: list[list[list[float]]]) -> None:
    reader = SegmentReader()
    for each in annotations:
        assert reader.add(each, 10, 10) is None
    expected = [any(not abs(value) <= MAX_COORDINATE for part in each for value in part) for each in annotations]
    assert reader.finish()[1].tolist() == expected
