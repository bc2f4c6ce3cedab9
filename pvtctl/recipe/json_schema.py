"""JSON Schema of a recipe file for editors: nested and dotted keys, rows, profiles and printed rows."""

from __future__ import annotations

import copy
from typing import Any

from pvtctl.models.registry import backbone_specs, head_specs
from pvtctl.recipe.schema import Printed, Recipe, Study

_DOTTED = r"^[a-z]\w*(\.\w+)+$"


def file_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a recipe file. No key is required: a base, a row or a profile may set it."""
    schema = Recipe.model_json_schema()
    definitions: dict[str, Any] = schema.pop("$defs")
    _list_heads(definitions)
    _list_options(definitions)
    printed = Printed.model_json_schema(ref_template="#/$defs/{model}")
    definitions |= printed.pop("$defs")
    printed["properties"]["expect"]["additionalProperties"] = _figure()
    study = Study.model_json_schema(ref_template="#/$defs/{model}")
    definitions |= study.pop("$defs")
    for definition in definitions.values():
        definition.pop("required", None)
        _allow_dotted(definition)
    properties = schema["properties"]
    properties["expect"]["additionalProperties"] = _figure()
    for name in ("row", "profile", "name"):  # written by `recipes show` and by runs, not by people
        properties[name]["description"] = "Written into flat recipes; leave it out of a recipe file."
    layer = {"type": ["object", "null"], "additionalProperties": False, "properties": copy.deepcopy(properties)}
    _allow_dotted(layer)
    scaled = copy.deepcopy(layer)
    scaled["properties"]["rows"] = {
        "type": "object",
        "description": "Settings of single rows at this scale.",
        "additionalProperties": {"$ref": "#/$defs/Layer"},
    }
    definitions |= {"Layer": layer, "Profile": scaled, "Printed": printed}
    properties["base"] = {
        "type": "string",
        "description": "A recipe whose shared blocks and profiles this one inherits.",
    }
    for key, definition, description in (
        ("rows", "Layer", "One run each: differences from the shared blocks, and the published figures."),
        ("profiles", "Profile", "Scales of the experiment (paper, mini, smoke): the changes of each."),
        ("printed", "Printed", "Rows of the paper's table that are not run."),
    ):
        properties[key] = {
            "type": "object",
            "description": description,
            "additionalProperties": {"$ref": f"#/$defs/{definition}"},
            "propertyNames": {"pattern": r"^[\w-]+$"},
        }
    properties["study"] = study | {"description": "Makes the recipe a study for `pvtctl ablate`."}
    result = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pvtctl recipe file",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": definitions,
    }
    _allow_dotted(result)
    return result


def _list_heads(definitions: dict[str, Any]) -> None:
    """Set the schema of `model.head`: the keys of the registered head that its name selects."""
    del definitions["HeadOptions"]
    choices: list[dict[str, Any]] = [{"type": "null"}]
    for spec in reversed(head_specs()):
        own = spec.Options.model_json_schema()
        own["properties"]["name"] = {"const": spec.name, "title": "Name"}
        definitions[spec.Options.__name__] = {"description": spec.title, **own}
        choices.insert(0, {"$ref": f"#/$defs/{spec.Options.__name__}"})
    definitions["Model"]["properties"]["head"] |= {"anyOf": choices}


def _list_options(definitions: dict[str, Any]) -> None:
    """Set the schema of `model.backbone.options`: the keys of all registered backbones, each with the types it has in any."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for spec in backbone_specs():
        own = spec.Options.model_json_schema()
        definitions |= own.pop("$defs", {})
        for key in spec.option_names:
            if own["properties"][key] not in kinds.setdefault(key, []):
                kinds[key].append(own["properties"][key])
    properties = {key: found[0] if len(found) == 1 else {"anyOf": found} for key, found in kinds.items()}
    definitions["OwnOptions"] |= {"additionalProperties": False, "properties": properties}


def _figure() -> dict[str, Any]:
    return {"anyOf": [{"type": "number", "description": "As published."}, {"$ref": "#/$defs/PrintedFigure"}]}


def _allow_dotted(definition: dict[str, Any]) -> None:
    """A dotted key is a path into the same block; its value is checked by `pvtctl recipes check`."""
    if definition.get("type") in ("object", ["object", "null"]):
        definition["patternProperties"] = {_DOTTED: {}}
