"""Data settings for `pvtctl data`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pvtctl.errors import UsageError

if TYPE_CHECKING:
    from pvtctl.recipe.schema import Data


def data_settings(overrides: Sequence[str]) -> Data:
    """A recipe's `data` block with its defaults and `--set data.KEY=VALUE`. Raises UsageError."""
    from pydantic import ValidationError

    from pvtctl.recipe.layers import nest
    from pvtctl.recipe.schema import Data
    from pvtctl.recipe.yaml_loader import parse_value

    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        block, *path = key.strip().split(".")
        if not equals or block != "data" or not path:
            raise UsageError(f"--set {override}: not a setting of the data", "for example: --set data.depth.scale=5000")
        values[tuple(path)] = parse_value(text)
    try:
        return Data.model_validate_json(json.dumps(nest(values)), strict=True)
    except ValidationError as error:
        from pvtctl.recipe.layers import Layer, check_layer

        first = error.errors()[0]
        where = ".".join(("data", *map(str, first["loc"])))
        known = check_layer(Layer("--set", {("data", *path): value for path, value in values.items()}))
        if known:
            text = known[0].text.replace(" (None)", "")
            raise UsageError(f"--set {text}", "`pvtctl recipes schema` lists all settings") from error
        raise UsageError(
            f"--set {where}: {first['msg'][0].lower()}{first['msg'][1:]}", "`pvtctl recipes schema` lists all settings"
        ) from error
