"""Verify the hash and contents of checkpoints on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pvtctl.errors import PvtctlError
from pvtctl.io.download import check_hash, recorded_sha256
from pvtctl.weights.catalogue import find_published
from pvtctl.weights.inspect import inspect_file
from pvtctl.weights.resolve import find_weights_file


@dataclass(frozen=True)
class WeightsVerdict:
    """The result for one file."""

    name: str
    ok: bool
    path: str | None = None
    hash: str = "unknown"
    """What the hash was compared with: "publisher", "first fetch", or "unknown" without a reference."""
    models: list[str] = field(default_factory=list)
    fault: str | None = None
    hint: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify_weights(text: str) -> WeightsVerdict:
    """Check the hash and the contents of a published checkpoint's file, or of any checkpoint.

    A file passes when its hash agrees with the known ones, it can be read, its shapes are those of a pvtctl model (of the
    published one, for a name), and no value is NaN or infinite.
    """
    path, compared = None, "unknown"
    entry = find_published(text)
    try:
        path = find_weights_file(text)
        if path.is_file():
            prefix = entry.sha256 if entry is not None else None
            compared = "publisher" if prefix else "first fetch" if recorded_sha256(path) else "unknown"
            check_hash(path, known_as=path, prefix=prefix)
        found = inspect_file(path)
    except PvtctlError as error:
        return WeightsVerdict(text, False, str(path) if path else None, compared, fault=error.message, hint=error.hint)
    fault = None
    if not found.models:
        fault = f"holds no model that pvtctl knows ({found.format} layout)"
    elif entry is not None and entry.backbone not in found.models:
        fault = f"holds {' or '.join(found.models)}, not {entry.backbone}"
    elif found.nonfinite:
        fault = f"holds NaN or infinity in {found.nonfinite[0]}"
    hint = f"`pvtctl weights inspect {text}` shows what is in it" if fault else None
    return WeightsVerdict(text, fault is None, str(path), compared, found.models, fault, hint)
