"""The result of loading weights: which parameters were loaded, which not, and why."""

from __future__ import annotations

from dataclasses import dataclass, field

from pvtctl.io.names import plural
from pvtctl.weights.tensors import nonfinite_note, shortened

LEAST_SHARE = 0.95
"""Least share of the backbone's parameters, or of a dense model's neck and head, below which loading is refused."""


@dataclass
class LoadReport:
    """The result of `load_weights`. Lists of pairs hold (parameter name, reason)."""

    source: str
    """The file, or "a state dict"."""
    format: str
    model: str | None
    """pvtctl's name of the backbone or dense prediction model in the file, from its shapes; None if unknown."""
    loaded: list[str] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    """In the module, not in the file."""
    unexpected: list[tuple[str, str]] = field(default_factory=list)
    """In the file, not in the module."""
    mismatched: list[tuple[str, str]] = field(default_factory=list)
    """In both, with incompatible shapes."""
    dropped: list[tuple[str, str]] = field(default_factory=list)
    """In the file, left out on purpose: not needed by this module."""
    scale_shift: tuple[float, float] | None = None
    """Of a metric depth file: metres = 1 / (a x + b)."""
    resized: list[tuple[str, str]] = field(default_factory=list)
    """Position tables interpolated to another grid."""
    nonfinite: list[str] = field(default_factory=list)
    """Parameters of the file with NaN or infinity."""
    identities: list[str] = field(default_factory=list)
    """Backbone parts missing in the file that change nothing before training."""
    backbone_loaded: int = 0
    """Number of backbone parameters loaded from the file."""
    backbone_total: int = 0
    above_loaded: int = 0
    """Number of parameters loaded into a detector's or dense model's neck and head, without rows of classes."""
    above_total: int = 0
    above_note: str = ""
    """Why they were not loaded."""
    head_kept: int = 0
    """Rows (classes) of the head loaded from the file."""
    head_new: int = 0
    head_dropped: int = 0
    """Rows of the file's head that no class of the module uses."""
    head_note: str = ""
    note: str = ""
    """Other weights in the file that could be loaded instead."""
    assumed: str = ""
    """What the file does not say of its model, and how it was taken."""

    @property
    def backbone_share(self) -> float:
        """Share of the backbone's parameters loaded from the file, 0..1."""
        return self.backbone_loaded / self.backbone_total if self.backbone_total else 1.0

    @property
    def above_share(self) -> float:
        """Share of a detector's or dense model's neck and head loaded from the file, without rows of classes, 0..1."""
        return self.above_loaded / self.above_total if self.above_total else 0.0

    @property
    def misfits(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """`missing`, `mismatched` and `unexpected`, each with its description."""
        return [
            ("not in the file", self.missing),
            ("of another shape", self.mismatched),
            ("without a place here", self.unexpected),
        ]

    @property
    def warning(self) -> str:
        """What makes every output useless; empty if nothing does."""
        return nonfinite_note(self.nonfinite)

    def summary(self) -> str:
        """A few lines of text."""
        lines = [
            f"weights: {self.source}: {self.model or 'unknown model'} ({self.format} layout)",
            f"  backbone: {percent_loaded(self.backbone_share)} of {_millions(self.backbone_total)} parameters loaded",
        ]
        if self.identities:
            lacking = plural(len(self.identities), "parameter")
            lines.append(f"  {lacking} not in the file, without effect before training")
        if self.above_total:
            share = f"{percent_loaded(self.above_share)} of {_millions(self.above_total)} parameters loaded"
            lines.append(f"  neck and head: {f'start fresh ({self.above_note})' if self.above_note else share}")
        if self.head_kept + self.head_new and not self.above_note:
            lines.append(
                f"  head: {plural(self.head_kept, 'class')} kept, {self.head_new} new, {self.head_dropped} dropped"
                + (f" ({self.head_note})" if self.head_note else "")
            )
        for word, pairs in (*self.misfits, ("left out", self.dropped), ("interpolated", self.resized)):
            if pairs:
                lines.append(f"  {word}: {listed(pairs)}")
        lines += [f"  note: {note}" for note in (self.note, self.assumed) if note]
        if self.nonfinite:
            lines.append(f"  warning: {self.warning}")
        return "\n".join(lines)


def listed(pairs: list[tuple[str, str]]) -> str:
    """`name (reason), name (reason) and 5 more`."""
    return shortened([f"{name} ({reason})" if reason else name for name, reason in pairs])


def percent_loaded(share: float) -> str:
    """`98.7 %`, rounded down, so that 100.0 % means all."""
    return f"{int(share * 1000) / 10:.1f} %"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
