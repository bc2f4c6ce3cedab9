"""Parts of a backbone, by which training freezes it (`train.freeze`). No torch.

A part is the whole `backbone`, its `stem`, or `stage1` to `stage4`. Its name alone freezes all of it; `.norms` freezes the
normalisation layers in it, `.statistics` only the stored statistics of its batch norms, whose scale and shift train on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pvtctl.errors import UsageError, nearest

Parts = Mapping[str, tuple[str, ...]]
"""Name of a part -> prefixes of the names of its parameters and modules; the longest prefix decides."""
WHOLE, STEM = "backbone", "stem"
STAGES = ("stage1", "stage2", "stage3", "stage4")
NORMS, STATISTICS = "norms", "statistics"


def parts_of_stages(stem: tuple[str, ...], stages: Iterable[tuple[str, ...]]) -> Parts:
    """The parts of a backbone by the prefixes of its stem and stages; without stages it has none but the whole."""
    named = dict(zip(STAGES, stages, strict=False))
    return {STEM: stem, **named} if stem and named else named


def part_with(name: str, parts: Parts) -> str | None:
    """The part of a parameter, or of a module whose name ends with a dot; None outside stem and stages."""
    found = [(len(prefix), part) for part, prefixes in parts.items() for prefix in prefixes if name.startswith(prefix)]
    return max(found)[1] if found else None


def freezable(parts: Iterable[str]) -> list[str]:
    """What `train.freeze` may name of a backbone with these parts."""
    return [f"{part}{kind}" for part in (WHOLE, *parts) for kind in ("", f".{NORMS}", f".{STATISTICS}")]


def require_freezable(names: Iterable[str], parts: Iterable[str], backbone: str) -> None:
    """Raise UsageError with the nearest name if the backbone has no such part."""
    known = freezable(parts)
    for name in names:
        if name not in known:
            has = ", ".join(one for one in known if "." not in one)
            raise UsageError(
                f"{backbone} has no {name} to freeze",
                f"{nearest(name, known)} ({has}; with .{NORMS} or .{STATISTICS} only those of it)",
            )
