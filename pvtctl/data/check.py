"""Checks a data set before training on it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset

from pvtctl.data.images import BadImage, TooLarge, decode, open_image
from pvtctl.errors import ExitCode

Severity = Literal["error", "warning", "note"]

MEANING: dict[str, tuple[Severity, str]] = {
    "missing_split": ("warning", "only the other split can be used"),
    "layout": ("error", "cannot be used as it is"),
    "empty_class": ("error", "class folder without images"),
    "not_in_train": ("error", "class of val that train does not have"),
    "not_in_val": ("error", "class of train that val does not have"),
    "nothing_readable": ("error", "no image of the split can be read"),
    "unreadable": ("warning", "skipped in training, left out of scores"),
    "truncated": ("warning", "cut short; skipped in training, left out of scores"),
    "too_large": ("warning", "more pixels than are decoded safely; skipped"),
    "in_train_and_val": ("warning", "the same bytes in both: scores are flattered"),
    "label_gap": ("warning", "class of the list without a sample"),
    "class_order": ("note", "labels follow the sorted names, not the numbers in them"),
    "cmyk": ("note", "converted to RGB"),
    "mode": ("note", "greyscale, palette, alpha or 16 bits; converted to RGB"),
    "exif_rotation": ("note", "the rotation is ignored, as ImageNet's training code does"),
    "tiny": ("note", "a side below 32 pixels: enlarged"),
    "repeated": ("note", "the same bytes twice within a split"),
    "other_files": ("note", "not images by their names: ignored"),
}
"""kind -> (severity, what it means for a run)."""

QUICK_LIMIT = 20_000
"""Images of a split that are examined without `full`, spread evenly."""

_EXAMPLES = 5


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
    """(height, width) of the decodable image."""

    @property
    def is_bad(self) -> bool:
        """Whether no run can use it."""
        return self.size is None


class Readable(Protocol):
    """A source of image bytes."""

    def read(self, index: int) -> bytes:
        """Raises OSError."""


class Examinations(Dataset[Examination]):
    """Reads and decodes each picked image of a split, in the loader's processes."""

    def __init__(self, source: Readable, picks: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        self.source = source
        self.picks = picks

    def __len__(self) -> int:
        return len(self.picks)

    def __getitem__(self, at: int) -> Examination:
        index = int(self.picks[at])
        try:
            data = self.source.read(index)
        except OSError as error:
            return Examination(index, b"", ("unreadable",), error.strerror or str(error))
        digest = hashlib.blake2b(data, digest_size=16).digest()
        try:
            kinds, size = _look_at(data)
            return Examination(index, digest, kinds, size=size)
        except TooLarge as error:
            return Examination(index, digest, ("too_large",), str(error))
        except BadImage as error:
            kind = "truncated" if "truncated" in str(error).lower() else "unreadable"
            return Examination(index, digest, (kind,), str(error))


def _look_at(data: bytes) -> tuple[tuple[str, ...], tuple[int, int]]:
    """(kinds of anomalies of a readable image, its height and width). Raises BadImage."""
    image = open_image(data)
    kinds = []
    if image.mode == "CMYK":
        kinds.append("cmyk")
    elif image.mode != "RGB":
        kinds.append("mode")
    if image.getexif().get(0x0112, 1) != 1:
        kinds.append("exif_rotation")
    if min(image.size) < 32:
        kinds.append("tiny")
    decode(image)
    return tuple(kinds), (image.height, image.width)


class DatasetFindings:
    """Collects faults by kind and split; `meaning`: severity and effect of each kind."""

    def __init__(self, meaning: Mapping[str, tuple[Severity, str]] = MEANING) -> None:
        self._meaning = meaning
        self._found: dict[tuple[str, str], list[str]] = defaultdict(list)

    def add(self, kind: str, split: str, what: str) -> None:
        self._found[kind, split].append(what)

    def problems(self) -> list[Problem]:
        """Worst first."""
        order = {"error": 0, "warning": 1, "note": 2}
        problems = [
            Problem(kind, split, *self._meaning[kind], len(found), found[:_EXAMPLES])
            for (kind, split), found in self._found.items()
        ]
        return sorted(problems, key=lambda problem: (order[problem.severity], problem.split, problem.kind))

    def verdict(self) -> Literal["ok", "warnings", "unusable"]:
        """The verdict of the worst fault."""
        worst = {self._meaning[kind][0] for kind, _ in self._found}
        return "unusable" if "error" in worst else "warnings" if "warning" in worst else "ok"


def compare_splits(digests: Mapping[str, Mapping[bytes, str]], findings: DatasetFindings) -> None:
    """Report images in both train and val; `digests` by split, from `collect_examinations`."""
    for digest, name in digests.get("val", {}).items():
        if digest in digests.get("train", {}):
            findings.add("in_train_and_val", "val", f"{name} = train/{digests['train'][digest]}")


def picks_of(total: int, full: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Positions of the images to examine: all with `full`, else at most QUICK_LIMIT, spread evenly."""
    picked = total if full else min(total, QUICK_LIMIT)
    return np.arange(picked, dtype=np.int64) * total // max(picked, 1)


def examine(
    dataset: Examinations, workers: int, split: str, on_progress: Callable[[str, int, int], None] | None
) -> Iterator[Examination]:
    """Read and decode the picked images in `workers` processes."""
    done = 0
    for results in DataLoader(dataset, batch_size=32, num_workers=workers, collate_fn=list):
        yield from results
        done += len(results)
        if on_progress:
            on_progress(split, done, len(dataset))


def collect_examinations(
    ids: Sequence[str], results: Iterable[Examination], split: str, findings: DatasetFindings
) -> dict[bytes, str]:
    """Digest -> name of the split's examined images."""
    digests: dict[bytes, str] = {}
    total = bad = 0
    for result in results:
        name = ids[result.index]
        total += 1
        bad += result.is_bad
        for kind in result.kinds:
            findings.add(kind, split, f"{name}: {result.detail}" if result.detail else name)
        if not result.is_bad and digests.setdefault(result.digest, name) != name:
            findings.add("repeated", split, f"{name} = {digests[result.digest]}")
    if total and bad == total:
        findings.add("nothing_readable", split, f"all {total} images examined")
    return digests
