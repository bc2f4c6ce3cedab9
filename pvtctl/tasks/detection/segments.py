"""Masks of COCO annotations, as columns of numbers: polygons, and COCO's compressed run lengths."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

MAX_COORDINATE = 1e6
"""Pixels: pycocotools allocates memory for every pixel along a polygon, also outside of the image."""

MAX_OUTLINE = 5e6
"""Pixels: the length of all polygons of an object, of which pycocotools keeps five points a pixel."""
_BLOCK = 300
"""Masks that are checked at once."""
SegmentFault = Literal["bad_polygon", "bad_mask", "mask_size", "flat_polygon", "short_polygon"]
"""Of the last two, something is stored: one polygon that was not in a list of its own, and the parts with an area."""


@dataclass
class Segments:
    """Masks of N annotations without a Python object for each: polygons as numbers, run lengths as bytes."""

    coordinates: NDArray[np.float64]
    """x, y, x, y ... of all polygons."""
    part_ends: NDArray[np.int64]
    """(P + 1,): end of each polygon in `coordinates`, after a 0."""
    parts: NDArray[np.int64]
    """(N, 2): first polygon and one past the last."""
    runs: NDArray[np.uint8]
    """All run-length masks, in COCO's compressed format."""
    run_ends: NDArray[np.int64]
    """(N, 2): first byte and one past the last."""

    def __getitem__(self, rows: NDArray[Any]) -> Segments:
        """Masks of some rows, sharing memory."""
        return Segments(self.coordinates, self.part_ends, self.parts[rows], self.runs, self.run_ends[rows])

    def has_mask(self) -> NDArray[np.bool_]:
        """(N,)."""
        return (self.parts[:, 0] < self.parts[:, 1]) | (self.run_ends[:, 0] < self.run_ends[:, 1])

    def polygons(self, row: int) -> list[NDArray[np.float64]]:
        """The polygons of an annotation, flat x, y, ...; none for a run-length mask."""
        first, last = self.parts[row]
        return [self.coordinates[self.part_ends[at] : self.part_ends[at + 1]] for at in range(first, last)]

    def rle(self, row: int, height: int, width: int) -> dict[str, Any]:
        """The mask as one compressed RLE {"size": [height, width], "counts": bytes}; empty without a mask."""
        first, last = self.run_ends[row]
        if counts := self.runs[first:last].tobytes():
            return {"size": [height, width], "counts": counts}
        polygons = [part.tolist() for part in self.polygons(row)]
        if not polygons:
            return {"size": [height, width], "counts": _compressed([height * width], height, width)}
        merged: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        return merged

    def masks(self, rows: NDArray[np.int64], height: int, width: int) -> NDArray[np.bool_]:
        """bool (len(rows), height, width), as pycocotools draws them."""
        drawn = np.empty((len(rows), height, width), np.bool_)
        for mask, row in zip(drawn, rows.tolist(), strict=True):
            mask[:] = decode_rle(self.rle(row, height, width))
        return drawn


class SegmentReader:
    """Collects the `segmentation` of annotations one by one."""

    def __init__(self) -> None:
        self._coordinates = array("d")
        self._part_ends = array("q", [0])
        self._parts = array("q")
        self._runs = bytearray()
        self._run_ends = array("q")

    def add(self, segmentation: Any, height: int, width: int) -> SegmentFault | None:
        """Store it, or nothing if it is bad; a fault is returned. Empty or missing is no fault."""
        first_part, first_byte = len(self._part_ends) - 1, len(self._runs)
        fault: SegmentFault | None = None
        if isinstance(segmentation, list):
            fault = self._add_polygons(segmentation)
        elif isinstance(segmentation, dict):
            fault = self._add_runs(segmentation, height, width)
        elif segmentation is not None:
            fault = "bad_mask"
        self._parts.extend((first_part, len(self._part_ends) - 1))
        self._run_ends.extend((first_byte, len(self._runs)))
        return fault

    @np.errstate(over="ignore", invalid="ignore")  # coordinates may be as large as numbers go
    def finish(self) -> tuple[Segments, NDArray[np.bool_]]:
        """The stored masks, and for each annotation whether a coordinate is non-finite or absurd."""
        segments = Segments(
            coordinates=np.array(self._coordinates),
            part_ends=np.array(self._part_ends),
            parts=np.array(self._parts).reshape(-1, 2),
            runs=np.frombuffer(bytes(self._runs), np.uint8),
            run_ends=np.array(self._run_ends).reshape(-1, 2),
        )
        sizes = np.abs(segments.coordinates)
        wrong = np.flatnonzero(~(sizes <= MAX_COORDINATE))
        part = np.searchsorted(segments.part_ends, wrong, "right") - 1
        infinite = np.zeros(len(segments.parts), np.bool_)
        infinite[np.searchsorted(segments.parts[:, 1], part, "right")] = True
        longest = np.diff(segments.part_ends[segments.parts]).max(initial=0) * sizes.max(initial=0)
        if not longest <= MAX_OUTLINE:  # as for all usual sets
            infinite |= ~(_outlines(segments) <= MAX_OUTLINE)
        segments.parts[infinite] = 0
        return segments, infinite

    def _add_polygons(self, polygons: list[Any]) -> SegmentFault | None:
        coordinates, parts = len(self._coordinates), len(self._part_ends)
        fault: SegmentFault | None = None
        if polygons and not isinstance(polygons[0], list) and not any(isinstance(each, list) for each in polygons):
            polygons, fault = [polygons], "flat_polygon"
        for polygon in polygons:
            try:
                if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                    if isinstance(polygon, list) and len(polygon) % 2 == 0:
                        fault = "short_polygon"
                        continue
                    raise TypeError("not x, y pairs")
                self._coordinates.fromlist(polygon)
            except (TypeError, OverflowError):  # a string or list among the numbers, or a number of hundreds of digits
                del self._coordinates[coordinates:]
                del self._part_ends[parts:]
                return "bad_polygon"
            self._part_ends.append(len(self._coordinates))
        return fault

    def _add_runs(self, rle: dict[str, Any], height: int, width: int) -> SegmentFault | None:
        size, counts = rle.get("size"), rle.get("counts")
        if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int for side in size):
            return "bad_mask"
        if size != [height, width]:
            return "mask_size"
        if isinstance(counts, list):
            if not counts or not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != height * width:
                return "bad_mask"
            self._runs += _compressed(_without_gaps(counts), height, width)
            return None
        if not isinstance(counts, str | bytes) or not counts.isascii():  # JSON has text, pycocotools bytes
            return "bad_mask"
        spelled = counts.encode("ascii") if isinstance(counts, str) else counts
        runs = _runs(spelled)
        if runs is None or runs.sum() != height * width:  # pycocotools would read out of bounds
            return "bad_mask"
        self._runs += _compressed(_without_gaps(runs.tolist()), height, width) if (runs[1:] == 0).any() else spelled
        return None


def pack_masks(segmentations: Iterable[Any], sizes: Iterable[tuple[int, int]]) -> tuple[list[bytes], dict[int, str]]:
    """Masks as COCO writes them, polygons or run lengths, as counts of compressed run lengths.

    Every mask from a file comes through here, through `SegmentReader` or through `damaged_counts` before pycocotools gets
    it: its C code reads past its memory, or never ends, where runs do not cover the image.

    Args:
        segmentations: One for each object.
        sizes: (height, width) of its image.

    Returns:
        The counts, empty for a mask with a fault, and position -> fault.
    """
    reader, limits, faults = SegmentReader(), list(sizes), dict[int, str]()
    for at, (segmentation, (height, width)) in enumerate(zip(segmentations, limits, strict=True)):
        if fault := reader.add(segmentation, height, width):
            faults[at] = fault
    segments, infinite = reader.finish()
    unusable = infinite | ~segments.has_mask()
    faults = {at: fault for at, fault in faults.items() if unusable[at]}
    faults |= {at: "bad_polygon" for at in np.flatnonzero(unusable).tolist() if at not in faults}
    packed = [b"" if bad else segments.rle(at, *limits[at])["counts"] for at, bad in enumerate(unusable.tolist())]
    return packed, faults


def of_masks(function: Callable[[Any], NDArray[Any]], masks: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """A function of pycocotools, such as `area` or `toBbox`, of many masks: it stores their number in a byte."""
    parts = [function(masks[at : at + 255]) for at in range(0, len(masks), 255)]
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)


def damaged_counts(counts: Sequence[bytes], pixels: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For N masks as compressed counts of images of `pixels` pixels: whether each is damaged, and whether it has runs of
    length 0 inside, where pycocotools' overlaps can end too early."""
    parts = [_damaged(counts[at : at + _BLOCK], pixels[at : at + _BLOCK]) for at in range(0, len(counts), _BLOCK)]
    damaged, gaps = zip(*parts, strict=True) if parts else ([np.zeros(0, np.bool_)],) * 2
    return np.concatenate(damaged), np.concatenate(gaps)


def _damaged(counts: Sequence[bytes], pixels: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    lengths = np.array([len(each) for each in counts], np.int64)
    stops = np.cumsum(lengths)
    codes = np.frombuffer(b"".join(counts), np.uint8) - np.uint8(48)  # wraps: what is below is above 63 too
    damaged, gaps = lengths == 0, np.zeros(len(counts), np.bool_)
    damaged[np.searchsorted(stops, np.flatnonzero(codes > 63), "right")] = True
    damaged[~damaged] = codes[stops[~damaged] - 1] & 32 != 0
    if damaged.any():
        good = np.flatnonzero(~damaged)
        if len(good):
            damaged[good], gaps[good] = _damaged([counts[at] for at in good.tolist()], pixels[good])
        return damaged, gaps
    ends = np.flatnonzero(codes < 32)
    starts = np.append(0, ends[:-1] + 1)
    digits = ends - starts + 1
    mask = np.repeat(np.arange(len(counts)), np.diff(np.searchsorted(ends, stops), prepend=0))
    damaged[mask[digits > 7]] = True  # more than 35 bits
    runs = -((codes[ends].astype(np.int64) >> 4 & 1) << (5 * np.minimum(digits, 7)))
    for digit in range(min(int(digits.max()), 7)):
        rows = np.flatnonzero(digits > digit)
        runs[rows] += (codes[starts[rows] + digit] & 31).astype(np.int64) << (5 * digit)
    place = np.arange(len(mask)) - _starts(mask)
    for chain in (place % 2 == 1, (place % 2 == 0) & (place > 0)):  # differences to the run before the last
        sums = np.append(0, np.cumsum(runs[chain]))
        runs[chain] = sums[1:] - sums[_starts(mask[chain])]
    covered = np.bincount(mask, weights=runs, minlength=len(counts)).astype(np.int64)
    damaged |= covered != pixels
    damaged[mask[(runs < 0) | (runs > pixels[mask])]] = True
    gaps[mask[(runs == 0) & (place > 0)]] = True
    return damaged, gaps & ~damaged


def _starts(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of the sorted `groups` the position where its group begins."""
    first = np.flatnonzero(np.append(True, groups[1:] != groups[:-1])[: len(groups)])
    return np.repeat(first, np.diff(np.append(first, len(groups))))


def _outlines(segments: Segments) -> NDArray[np.float64]:
    """(N,): length of all polygons of an object in steps of a pixel, diagonal ones too."""
    lengths = np.zeros(len(segments.part_ends))
    if len(segments.coordinates):
        points = segments.coordinates.reshape(-1, 2)
        starts, ends = segments.part_ends[:-1] // 2, segments.part_ends[1:] // 2
        following = np.arange(1, len(points) + 1)
        following[ends - 1] = starts
        with np.errstate(invalid="ignore", over="ignore"):
            steps = np.abs(points[following] - points).max(1)
        # what is not finite is a fault by itself
        steps = np.where(np.isfinite(steps), steps, 0.0).clip(max=2 * MAX_OUTLINE)
        lengths[1:] = np.cumsum(np.add.reduceat(steps, starts))
    return lengths[segments.parts[:, 1]] - lengths[segments.parts[:, 0]]


def _without_gaps(counts: list[int]) -> list[int]:
    """The same mask without runs of length 0 after the first: their neighbours become one."""
    runs = counts[:1]
    for at, run in enumerate(counts[1:], 1):
        if run and (len(runs) - at) % 2 == 0:
            runs.append(run)
        elif run:
            runs[-1] += run
    return runs


def _compressed(counts: list[int], height: int, width: int) -> bytes:
    spelled: bytes = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    return spelled


def decode_rle(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """A compressed RLE -> bool (H, W). (pycocotools' decoder warns for every mask under numpy 2.)

    Raises ValueError if its runs do not cover the image.
    """
    height, width = rle["size"]
    runs = _runs(rle["counts"])
    if runs is None or runs.sum() != height * width:
        raise ValueError("run lengths do not cover the image")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _runs(counts: bytes) -> NDArray[np.int64] | None:
    """Decode COCO's compressed run lengths, of background and mask in turn; None if invalid.

    Each is encoded in digits of 5 bits and a continuation bit, from chr(48) up, lowest digit first, in two's
    complement; from the fourth on it is the difference to the run before the last.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(codes < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digit = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if digit.max() > 6:  # more than 35 bits
        return None
    values: NDArray[np.int64] = np.add.reduceat((codes & 31) << (5 * digit), starts)
    values -= (codes[ends] >> 4 & 1) << (5 * (ends - starts + 1))
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return None if values.min() < 0 else values
