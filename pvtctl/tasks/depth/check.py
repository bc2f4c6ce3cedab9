"""Checks a depth set before training on it: the files' values, and settings that would fix problems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtctl.data.base import reason
from pvtctl.data.check import (
    LABELLED,
    MEANING,
    CheckTable,
    DatasetCheck,
    DatasetVerdict,
    Examination,
    Examinations,
    ImageFiles,
    Severity,
    compared,
)
from pvtctl.data.images import AS_SHOWN, BadImage, Reading
from pvtctl.data.layouts import guess_layout
from pvtctl.errors import UsageError
from pvtctl.io.foreign import require_folder
from pvtctl.tasks.depth.data import coding_of, kb_cropped
from pvtctl.tasks.depth.errors import read_ordinal_pairs
from pvtctl.tasks.depth.files import DepthCoding, raw_depth, valid_values
from pvtctl.tasks.depth.layouts import LAYOUTS, DepthPairs, NoSplitError, find_depth_pairs
from pvtctl.tasks.depth.settings import DepthData

DEPTH_MEANING: Mapping[str, tuple[Severity, str]] = (
    MEANING
    | LABELLED
    | {
        "no_scale": ("error", "files of integers without a known value per metre"),
        "scale": ("warning", "depths that no camera sees: the scale looks wrong"),
        "scales_differ": ("warning", "one split lies many times as far as the other: their scales differ"),
        "mixed_types": ("warning", "integers and floats in one set: one scale is hardly right for both"),
        "bad_depth": ("warning", "no depth map: skipped in training, left out of scores"),
        "no_depth": ("warning", "not one value is a depth: skipped in training, left out of scores"),
        "other_size": ("warning", "image and depth differ in size: skipped"),
        "out_of_range": ("warning", "no depth between min_depth and max_depth: skipped"),
        "all_equal": ("warning", "one depth all over: nothing can be learned from it"),
        "saturated": ("warning", "the largest number of the type, which is no depth: learned and scored as one"),
        "no_depth_at_all": ("error", "no depth file of the split can be used"),
        "without_depth": ("warning", "images without a depth file of their name, or listed with None: not used"),
        "without_image": ("note", "depth files without an image of their name: not used"),
        "ordinal": ("error", "ordinal pairs that cannot be used: evaluation does not start"),
        "negative": ("note", "values below 0: taken as no depth"),
        "not_finite": ("note", "NaN or infinite values: taken as no depth"),
    }
)
"""kind -> (severity, what it means for a run)."""

NEAREST, FARTHEST = 0.05, 500.0
"""Metres: medians of a split outside this range suggest a wrong scale."""

_SCALES = (1000.0, 256.0, 5000.0, 100.0, 1.0, 65535.0)
"""Scales in use: millimetres, KITTI, TUM, centimetres, metres, shares."""
_PLAUSIBLE = (0.3, 60.0)
_SPARSE = 0.25
_SAMPLES = 512
"""Values of a file used for the percentiles of a split."""


@dataclass(frozen=True)
class _Seen(Examination):
    """Findings for an image and its depth file."""

    dtype: str = ""
    valid: int = 0
    """Pixels."""
    pixels: int = 0
    largest: float = 0.0
    values: NDArray[np.float64] | None = None
    """Some of the valid raw values, spread evenly over the map."""


@dataclass
class DepthFigures:
    """Statistics of a split's examined depth files. Metres are None without a scale."""

    images: int
    types: dict[str, int]
    """Files by number type."""
    scale: float | None
    """Metres = value / scale, as used for reading."""
    valid_share: float
    """Of the pixels of all files that can be read."""
    median: float | None
    low: float | None
    """5th percentile."""
    high: float | None
    """95th percentile."""
    farthest: float | None


@dataclass
class DepthVerdict(DatasetVerdict):
    """Result of checking a depth set."""

    splits: dict[str, DepthFigures]

    def tables(self) -> list[CheckTable]:
        """Statistics of the depth files, by split."""
        rows = figure_rows(self)
        if not rows:
            return []
        cells = [["-" if cell is None else cell for cell in row.values()] for row in rows]
        return [CheckTable(list(rows[0]), cells, "Metres = value / scale (data.depth.scale).")]


def check_depth_data(
    root: Path | str,
    *,
    name: str | None = None,
    settings: DepthData | None = None,
    reading: Reading = AS_SHOWN,
    **options: Any,
) -> DepthVerdict:
    """Check the pairs, sizes and values of a depth set: `nyu`, `kitti` or `depth`, by default guessed from its files.

    `settings` are a recipe's `data.depth`, `reading` follows its `data.exif`; `options`: see `DatasetCheck`.
    Raises UsageError when there is no such folder or layout, or a setting makes no sense.
    """
    root = Path(root).expanduser()
    require_folder(root, LAYOUTS["depth"])
    if name is None:
        guess = guess_layout(root)
        name = guess if guess is not None and guess in LAYOUTS else "depth"
    settings = settings or DepthData()
    coding = coding_of(name, settings, root)
    check = DatasetCheck(DEPTH_MEANING, **options)
    found = check.find_splits(
        lambda split: find_depth_pairs(name, root, split, settings),
        lambda split, error: isinstance(error, NoSplitError),
    )
    figures = {}
    for split, pairs in found.items():
        for kind, names in pairs.left_out.items():
            for each in names:
                check.add(kind, split, each)
        summary = _Summary(coding)
        dataset = partial(_DepthExaminations, pairs, coding, settings.crop == "kb", reading)
        check.examine(split, pairs.names, dataset, note=summary.add)
        figures[split] = summary.figures(len(pairs))
        summary.judge(split, check)
    medians = {split: each.median for split, each in figures.items() if each.median}
    if len(medians) == 2 and max(medians.values()) > 20 * min(medians.values()):
        check.add("scales_differ", "val", ", ".join(f"{split} {_readable(each)}" for split, each in medians.items()))
    if "val" in found:
        try:
            read_ordinal_pairs(root, found["val"].names)
        except UsageError as error:
            check.add("ordinal", "val", error.message)
    return check.verdict(DepthVerdict, root, 0, splits=figures)


def figure_rows(verdict: DepthVerdict) -> list[dict[str, Any]]:
    """One row per split for tables: types, scale, share of pixels with depth, and their range in metres."""
    metres = {"median m": "median", "5 % m": "low", "95 % m": "high", "farthest m": "farthest"}
    rows: list[dict[str, Any]] = []
    for split, figures in verdict.splits.items():
        row = {
            "split": split,
            "files of": ", ".join(figures.types),
            "scale": figures.scale,
            "pixels with depth": f"{figures.valid_share:.1%}",
        }
        for title, name in metres.items():
            value = getattr(figures, name)
            row[title] = None if value is None else f"{value:.3g}"
        rows.append(row)
    return rows


class _DepthExaminations(Examinations):
    """Reads each picked image of a split with its depth file, in the loader's processes."""

    def __init__(
        self, pairs: DepthPairs, coding: DepthCoding, kb_crop: bool, reading: Reading, picks: NDArray[np.int64]
    ) -> None:
        super().__init__(ImageFiles(Path(), pairs.images), picks)
        self.pairs, self.coding, self.kb_crop, self.reading = pairs, coding, kb_crop, reading

    def __getitem__(self, at: int) -> Examination:
        image = super().__getitem__(at)
        try:
            values = raw_depth(Path(self.pairs.depths[image.index]))
            whole = values.shape
            values = kb_cropped(values) if self.kb_crop else values
        except (BadImage, OSError) as error:
            bad = replace(image, kinds=(*image.kinds, "bad_depth"), detail=image.detail or reason(error))
            return _Seen(**vars(bad))
        image = compared(image, (whole[0], whole[1]), self.reading, f"its depth {whole[1]}x{whole[0]}")
        kinds, detail = list(image.kinds), image.detail
        valid = valid_values(values, self.coding.invalid)
        known = values[valid].astype(np.float64)
        kinds += _odd(values, known, self.coding)
        largest = float(known.max(initial=0))
        if "saturated" in kinds:
            detail = detail or f"{largest:.0f}; data.depth.invalid=[{largest:.0f}] would leave it out"
        spread = known[np.linspace(0, len(known) - 1, min(_SAMPLES, len(known))).astype(np.int64)]
        return _Seen(
            **vars(replace(image, kinds=tuple(kinds), detail=detail)),
            dtype=str(values.dtype),
            valid=int(valid.sum()),
            pixels=values.size,
            largest=largest,
            values=spread,
        )


def _odd(values: NDArray[Any], known: NDArray[np.float64], coding: DepthCoding) -> Iterator[str]:
    """Kinds of anomalies in a map and its valid values."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        yield "not_finite"
    if (values < 0).any():
        yield "negative"
    if not len(known):
        yield "no_depth"
        return
    if known.min() == known.max():
        yield "all_equal"
    if values.dtype.kind != "f" and known.max() == _largest(values):
        yield "saturated"
    scale = coding.scale_of(values.dtype)
    limits = coding.min_depth, coding.max_depth or np.inf
    if scale is not None and not ((known >= limits[0] * scale) & (known <= limits[1] * scale)).any():
        yield "out_of_range"


def _largest(values: NDArray[Any]) -> int:
    """The saturation value: some decoders read 16-bit files as wider integers."""
    return 65535 if values.max() <= 65535 else int(np.iinfo(values.dtype).max)


class _Summary:
    """Collects statistics of a split's files."""

    def __init__(self, coding: DepthCoding) -> None:
        self.coding = coding
        self.values: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        """Of each type of number, some raw values of each file."""
        self.valid = self.pixels = self.usable = self.looked_at = 0
        self.farthest = 0.0

    def add(self, result: Examination) -> None:
        self.looked_at += 1
        if isinstance(result, _Seen) and result.values is not None:
            self.values[result.dtype].append(result.values)
            self.valid += result.valid
            self.pixels += result.pixels
            unfit = result.is_bad or {"other_size", "out_of_range", "no_depth"} & set(result.kinds)
            self.usable += not unfit
            self.farthest = max(self.farthest, result.largest / (self._scale_of(result.dtype) or np.inf))

    def figures(self, images: int) -> DepthFigures:
        types = {each: len(files) for each, files in self.values.items()}
        scale = self._scale_of(max(types, key=lambda each: types[each])) if types else None
        metres = self._metres()
        if not len(metres):
            return DepthFigures(images, types, scale, self.share, None, None, None, None)
        median, low, high = np.percentile(metres, (50, 5, 95)).tolist()
        return DepthFigures(images, types, scale, self.share, median, low, high, self.farthest)

    @property
    def share(self) -> float:
        """Share of pixels with a depth."""
        return self.valid / self.pixels if self.pixels else 0.0

    def judge(self, split: str, check: DatasetCheck) -> None:
        """Report what only shows over all files of a split."""
        if self.looked_at and not self.usable:
            check.add("no_depth_at_all", split, f"all {self.looked_at} examined")
        if len({np.dtype(each).kind == "f" for each in self.values}) > 1:
            told = ", ".join(f"{len(files)} of {each}" for each, files in self.values.items())
            check.add("mixed_types", split, told)
        for each, files in self.values.items():
            scale, known = self._scale_of(each), np.concatenate(files)
            if not len(known):
                continue
            middle = float(np.median(known))
            if scale is None:
                check.add("no_scale", split, f"median value {middle:g}; {suggested_scale(middle, self.share)}")
            elif not NEAREST <= middle / scale <= FARTHEST:
                told = f"median {_readable(middle / scale)} at scale {scale:g}"
                check.add("scale", split, f"{told}; {suggested_scale(middle, self.share)}")

    def _scale_of(self, dtype: str) -> float | None:
        return self.coding.scale_of(np.dtype(dtype))

    def _metres(self) -> NDArray[np.float64]:
        """Values in metres of all files with a known scale."""
        scaled = [(files, self._scale_of(each)) for each, files in self.values.items()]
        return np.concatenate([np.zeros(0), *(values / scale for files, scale in scaled if scale for values in files)])


def suggested_scale(middle: float, share: float = 1.0) -> str:
    """Suggested setting for a median raw value; if few pixels have a depth, the data are from
    a laser, usually KITTI."""
    low, high = _PLAUSIBLE
    scales = (256.0, *_SCALES) if share < _SPARSE else _SCALES
    scale = next((scale for scale in scales if low <= middle / scale <= high), None)
    if scale is None:
        return "no usual scale makes it a depth: are the files inverse depth?"
    others = [other for other in _SCALES if other != scale and low <= middle / other <= high]
    also = "".join(f", {_readable(middle / other)} at {other:g}" for other in others[:1])
    return f"data.depth.scale={scale:g} would make it {_readable(middle / scale)}{also}"


def _readable(metres: float) -> str:
    if metres >= 1000:
        return f"{metres / 1000:.3g} km"
    return f"{metres:.3g} m" if metres >= 0.1 else f"{metres * 1000:.3g} mm"
