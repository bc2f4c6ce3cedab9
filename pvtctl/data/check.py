"""Checks a data set before training on it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from pvtctl.data.images import (
    BadImage,
    ReadableImages,
    Reading,
    TooLarge,
    decode,
    image_bytes,
    is_deep_grey,
    open_image,
    orientation_of,
)
from pvtctl.data.loader import from_workers
from pvtctl.data.near_equal import NearEqual, thumbnail_of
from pvtctl.data.survey import survey
from pvtctl.errors import ExitCode, UsageError
from pvtctl.io.names import plural

Severity = Literal["error", "warning", "note"]
Positions = NDArray[np.int64]
Split = TypeVar("Split")
Verdict = TypeVar("Verdict", bound="DatasetVerdict")

MEANING: dict[str, tuple[Severity, str]] = {
    "missing_split": ("warning", "only the other split can be used"),
    "layout": ("error", "cannot be used as it is"),
    "empty_class": ("error", "class folder without images"),
    "not_in_train": ("error", "class of val that train does not have"),
    "not_in_val": ("error", "class of train that val does not have"),
    "nothing_readable": ("error", "no image of the split can be used"),
    "unreadable": ("warning", "skipped in training, left out of scores"),
    "truncated": ("warning", "cut short; skipped in training, left out of scores"),
    "too_large": ("warning", "more pixels than are decoded safely; skipped"),
    "in_train_and_val": ("warning", "the same bytes in both: scores are flattered"),
    "label_gap": ("warning", "class of the list without a sample"),
    "class_order": ("note", "labels follow the sorted names, not the numbers in them"),
    "cmyk": ("note", "converted to RGB"),
    "mode": ("note", "greyscale, palette, alpha or 16 bits; converted to RGB"),
    "exif_rotation": ("note", "not turned, as ImageNet's training code does, unless data.exif=apply"),
    "deep_grey": ("note", "16-bit grey: these values become black and white (data.grey_range)"),
    "near_equal": ("warning", "nearly the same picture in both: scores are flattered"),
    "tiny": ("note", "a side below 32 pixels: enlarged"),
    "repeated": ("note", "the same bytes twice within a split"),
    "other_files": ("note", "not images by their names: ignored"),
}
"""kind -> (severity, what it means for a run)."""

QUICK_LIMIT = 20_000
"""Images of a split that are examined without `full`, spread evenly."""

_EXAMPLES = 5
_VERDICTS: dict[Severity, Literal["ok", "warnings", "unusable"]] = {
    "error": "unusable",
    "warning": "warnings",
    "note": "ok",
}
"""Severity of the worst fault -> verdict; worst first."""


LABELLED: dict[str, tuple[Severity, str]] = {
    "exif_rotation": ("warning", "turned with what is labelled, in the frame of the labels' size (data.exif)"),
}
"""What differs for sets whose labels have a place in the image."""


@dataclass
class Problem:
    """One kind of fault in one split."""

    kind: str
    split: str
    severity: Severity
    meaning: str
    count: int
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CheckTable:
    """A table of what a data set holds."""

    columns: list[str]
    rows: list[list[Any]]
    caption: str | None = None


@dataclass
class DatasetVerdict:
    """Result of checking a data set."""

    path: str
    verdict: Literal["ok", "warnings", "unusable"]
    classes: int
    images: dict[str, int]
    """Images by split."""
    examined: dict[str, int]
    """Images read and decoded, by split."""
    problems: list[Problem]

    @property
    def exit_code(self) -> ExitCode:
        """0: usable; 1: usable with losses; 2: unusable."""
        return {"ok": ExitCode.DONE, "warnings": ExitCode.FAILED, "unusable": ExitCode.USAGE}[self.verdict]

    def tables(self) -> list[CheckTable]:
        """Statistics of the data, for the terminal."""
        return []

    def lines(self) -> list[str]:
        """Findings as sentences, after the tables."""
        return []

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `pvtctl data check --json`."""
        return asdict(self)


@dataclass(frozen=True)
class Examination:
    """Findings for one image file."""

    index: int
    digest: bytes
    kinds: tuple[str, ...]
    detail: str = ""
    size: tuple[int, int] | None = None
    """(height, width) of the decodable image, as stored."""
    turned: bool = False
    """Whether its EXIF orientation swaps the two."""
    thumbnail: bytes = b""
    """`pvtctl.data.near_equal.thumbnail_of` of it."""

    @property
    def shown_size(self) -> tuple[int, int] | None:
        """The size as viewers and labelling tools show the image."""
        return self.size[::-1] if self.turned and self.size is not None else self.size

    def fits(self, size: tuple[int, int]) -> bool:
        """Whether labels of `size` belong to the image, in one of its frames."""
        return size in (self.size, self.shown_size)

    @property
    def is_bad(self) -> bool:
        """Whether no run can use it."""
        return self.size is None


class Examinations(Dataset[Examination]):
    """Reads and decodes each picked image of a split, in the loader's processes."""

    def __init__(self, source: ReadableImages, picks: Positions) -> None:
        self.source = source
        self.picks = picks

    def __len__(self) -> int:
        return len(self.picks)

    def __getitem__(self, at: int) -> Examination:
        index = int(self.picks[at])
        try:
            data = self.source.read(index)
        except (BadImage, OSError) as error:
            return Examination(index, b"", ("unreadable",), getattr(error, "strerror", None) or str(error))
        digest = hashlib.blake2b(data, digest_size=16).digest()
        try:
            return _look_at(data, index, digest)
        except TooLarge as error:
            return Examination(index, digest, ("too_large",), str(error))
        except BadImage as error:
            kind = "truncated" if "truncated" in str(error).lower() else "unreadable"
            return Examination(index, digest, (kind,), str(error))


def _look_at(data: bytes, index: int, digest: bytes) -> Examination:
    """What a readable image is. Raises BadImage."""
    image = open_image(data)
    kinds = []
    if image.mode == "CMYK":
        kinds.append("cmyk")
    elif image.mode != "RGB":
        kinds.append("mode")
    if is_deep_grey(image):
        kinds.append("deep_grey")
    if (orientation := orientation_of(image)) != 1:
        kinds.append("exif_rotation")
    if min(image.size) < 32:
        kinds.append("tiny")
    size = image.height, image.width
    thumbnail = thumbnail_of(decode(image))
    return Examination(index, digest, tuple(kinds), size=size, turned=orientation >= 5, thumbnail=thumbnail)


def compared(found: Examination, size: tuple[int, int], reading: Reading, labels: str) -> Examination:
    """The findings with what follows from the (height, width) of an image's labels, in words: another size, and the
    frame in which a turned image is read."""
    if found.size is None:
        return found
    height, width = found.size
    if not found.fits(size):
        detail = f"{width}x{height}, {labels}"
        return replace(found, kinds=(*found.kinds, "other_size"), detail=detail)
    if "exif_rotation" not in found.kinds:
        return found
    if found.size != found.shown_size:
        turned, how = size == found.shown_size, labels
    else:
        turned, how = reading.exif, "the size does not tell"
    return replace(found, detail=f"{how}: read as {'shown' if turned else 'stored'}")


class ImageFiles:
    """Image files of a folder, a source for `Examinations`."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names

    def read(self, index: int) -> bytes:
        return image_bytes(self.folder / self.names[index])


class DatasetCheck:
    """Examines the splits of a data set and collects faults by kind and split.

    `meaning`: severity and effect of each kind. Images are read and decoded in `workers` processes: all with `full`,
    else at most QUICK_LIMIT of a split, spread evenly. `on_progress(split, done, total)` is called along the way.
    `pairs_picture`: PNG for pictures of val that are nearly those of train, if there are any.
    """

    def __init__(
        self,
        meaning: Mapping[str, tuple[Severity, str]] = MEANING,
        *,
        full: bool = False,
        workers: int = 0,
        on_progress: Callable[[str, int, int], None] | None = None,
        pairs_picture: Path | None = None,
    ) -> None:
        self.pairs_picture = pairs_picture
        self.meaning, self.full, self.workers, self.on_progress = meaning, full, workers, on_progress
        self.images: dict[str, int] = {}
        """Images by split."""
        self.examined: dict[str, int] = {}
        self._digests: dict[str, dict[bytes, str]] = {}
        self._near = NearEqual()
        self._grey: tuple[float, float] | None = None
        self._found: dict[tuple[str, str], list[str]] = defaultdict(list)

    def add(self, kind: str, split: str, what: str) -> None:
        self._found[kind, split].append(what)

    def find_splits(
        self, find: Callable[[str], Split], is_absent: Callable[[str, UsageError], bool]
    ) -> dict[str, Split]:
        """What `find` finds of train and val. A split that it refuses is a fault of the layout, unless the other one is
        there and this one is absent as a whole."""
        found: dict[str, Split] = {}
        missing: dict[str, UsageError] = {}
        for split in ("train", "val"):
            try:
                found[split] = find(split)
            except UsageError as error:
                missing[split] = error
        for split, fault in missing.items():
            self.add("missing_split" if found and is_absent(split, fault) else "layout", split, fault.message)
        return found

    def examine(
        self,
        split: str,
        names: Sequence[str],
        dataset: Callable[[Positions], Examinations],
        *,
        among: Positions | None = None,
        note: Callable[[Any], None] = lambda result: None,
    ) -> None:
        """Examine images of a split, which has `names`; `dataset` reads those at the picked positions.

        Picked are positions `among` these, if given. `note` is called with each result.
        """
        there = np.arange(len(names), dtype=np.int64) if among is None else among
        picked = len(there) if self.full else min(len(there), QUICK_LIMIT)
        examinations = dataset(there[np.arange(picked, dtype=np.int64) * len(there) // max(picked, 1)])
        self.images[split], self.examined[split] = len(names), picked
        digests: dict[bytes, str] = {}
        done = bad = deep = 0
        loader = DataLoader(examinations, batch_size=32, num_workers=self.workers, collate_fn=list)
        for results in from_workers(loader):
            for result in results:
                note(result)
                name = names[result.index]
                bad += result.is_bad or "other_size" in result.kinds
                deep += "deep_grey" in result.kinds
                self._near.add(split, name, result, examinations.source)
                for kind in result.kinds:
                    if kind == "deep_grey":
                        continue
                    self.add(kind, split, f"{name}: {result.detail}" if result.detail else name)
                if not result.is_bad and digests.setdefault(result.digest, name) != name:
                    self.add("repeated", split, f"{name} = {digests[result.digest]}")
            done += len(results)
            if self.on_progress:
                self.on_progress(split, done, picked)
        if done and bad == done:
            self.add("nothing_readable", split, f"all {plural(done, 'image')} examined")
        if deep and (found := survey(examinations.source, len(names)).grey) is not None:
            self._grey = self._grey or found  # a run takes the training split's for both
            self.add("deep_grey", split, f"{self._grey[0]:g} becomes black, {self._grey[1]:g} white")
        self._digests[split] = digests

    def compare_classes(self, names: Iterable[str], present: Mapping[str, Collection[str]]) -> None:
        """Report classes of the list without a sample; `present` has those with one, by split."""
        for name in names:
            without = [split for split, classes in present.items() if name not in classes]
            if len(without) == len(present):
                self.add("label_gap", next(iter(present), "train"), name)
            elif without:
                self.add("only_in_val" if without == ["train"] else "only_in_train", "val", name)

    def verdict(self, kind: type[Verdict], path: object, classes: int, **more: Any) -> Verdict:
        """The verdict of the worst fault, and all faults, worst first; images in both splits are one of them."""
        train = self._digests.get("train", {})
        for digest, name in self._digests.get("val", {}).items():
            if digest in train:
                self.add("in_train_and_val", "val", f"{name} = train/{train[digest]}")
        pairs = self._near.pairs()
        for pair in pairs:
            self.add("near_equal", "val", self._near.in_words(pair))
        if self.pairs_picture is not None and pairs:
            self._near.draw(self.pairs_picture, pairs)
        order = list(_VERDICTS)
        problems = [
            Problem(fault, split, *self.meaning[fault], len(found), found[:_EXAMPLES])
            for (fault, split), found in self._found.items()
        ]
        problems.sort(key=lambda problem: (order.index(problem.severity), problem.split, problem.kind))
        worst = problems[0].severity if problems else "note"
        return kind(
            path=str(path),
            verdict=_VERDICTS[worst],
            classes=classes,
            images=self.images,
            examined=self.examined,
            problems=problems,
            **more,
        )
