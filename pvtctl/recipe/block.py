"""Base class of all recipe blocks, and number types they share. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Side = Annotated[int, Field(ge=32, le=8192)]


class SettingsBlock(BaseModel):
    """A block of a recipe: frozen, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any] | None) -> Self:
        """Settings from a checkpoint's metadata (`meta["depth"]`), with defaults for missing keys."""
        return cls.model_validate({key: value for key, value in (meta or {}).items() if key in cls.model_fields})

    def values_for(self, dataclass: Any) -> dict[str, Any]:
        """Values of the fields that `dataclass` also has, by name."""
        names = type(self).model_fields
        return {field.name: getattr(self, field.name) for field in fields(dataclass) if field.name in names}
