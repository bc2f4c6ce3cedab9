"""Base class of all recipe blocks, and number types they share. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pvtctl.errors import UsageError
from pvtctl.io.checkpoint_meta import metadata_error
from pvtctl.io.normalization import Normalization

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Side = Annotated[int, Field(ge=32, le=8192)]


def _is_normalization(text: str) -> str:
    try:
        Normalization.stated(text)
    except UsageError as error:
        raise ValueError(f"{error.message} ({error.hint})") from error
    return text


NormalizationText = Annotated[str, AfterValidator(_is_normalization)]
"""A name or the numbers of a `Normalization`."""


class SettingsBlock(BaseModel):
    """A block of a recipe: frozen, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any] | None) -> Self:
        """The settings in a checkpoint's metadata (`meta.depth`); missing ones have their defaults.

        Raises UsageError for values that are not settings: the file comes from anywhere.
        """
        try:
            return cls.model_validate({key: value for key, value in (meta or {}).items() if key in cls.model_fields})
        except ValidationError as error:
            raise metadata_error(error) from error

    def plain_values(self) -> dict[str, Any]:
        """All settings as plain JSON values, for files and output."""
        return self.model_dump(mode="json")


def dotted(values: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Nested values by dotted key; empty mappings are left out."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        here = f"{at}.{key}" if at else str(key)
        result |= dotted(value, here) if isinstance(value, Mapping) else {here: value}
    return result
