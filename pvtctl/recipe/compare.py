"""Compare two recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pvtctl.errors import UsageError
from pvtctl.recipe.load import Override, flat, load_recipe
from pvtctl.recipe.schema import Recipe


@dataclass(frozen=True)
class Spec:
    """One run of a recipe as written on the command line: `NAME[:ROW][@PROFILE]`."""

    name: str
    row: str | None = None
    profile: str = "paper"

    def load(self, overrides: tuple[Override, ...] = ()) -> Recipe:
        return load_recipe(self.name, self.row, self.profile, overrides)

    def __str__(self) -> str:
        row = f":{self.row}" if self.row else ""
        return f"{self.name}{row}@{self.profile}"


def parse_spec(text: str) -> Spec:
    """Parse `imagenet_pvt_v1:pvt_small@mini`, `my.yaml@mini` or `small_photos`; raises UsageError."""
    rest, at, profile = text.partition("@")
    name, colon, row = rest.partition(":")
    if not name or (at and not profile) or (colon and not row):
        raise UsageError(
            f"{text!r} does not name a run", "write NAME[:ROW][@PROFILE], as in imagenet_pvt_v1:pvt_small@mini"
        )
    return Spec(name, row or None, profile or "paper")


def recipe_differences(left: Recipe, right: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return keys whose values differ, with both values (None for a missing key). Provenance is ignored."""
    ours, theirs = flat(left), flat(right)
    keys = [*ours, *(key for key in theirs if key not in ours)]
    told = [key for key in keys if ours.get(key) != theirs.get(key) and not key.startswith("provenance.")]
    return {key: (ours.get(key), theirs.get(key)) for key in told}
