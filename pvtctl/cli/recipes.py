"""`pvtctl recipes`: list, show, copy, check and compare experiments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pvtctl.cli._console import print_json, print_text, table
from pvtctl.cli._options import AS_JSON, App
from pvtctl.errors import UsageError
from pvtctl.io.console import say
from pvtctl.io.names import plural

if TYPE_CHECKING:
    from pvtctl.recipe.load import Resolved

app = App(
    no_args_is_help=True,
    help="List, show, copy, check and compare experiments.",
)

_PAPERS = {"pvt_v1": "PVT v1", "pvt_v2": "PVT v2", "dpt": "DPT"}
_RECIPE = typer.Argument(metavar="NAME", help="A name listed by `pvtctl recipes ls`, or the path of a recipe file.")
_ROW = typer.Option(None, help="The row of the recipe's table.")
_PROFILE = typer.Option("paper", help="The scale: paper, mini or smoke.")
_SET = typer.Option([], "--set", metavar="KEY.PATH=VALUE", help="Change one value; may be repeated.")


@app.command("ls")
def recipes_ls(as_json: bool = AS_JSON) -> None:
    """List the shipped recipes, each with its paper's table and its rows."""
    from pvtctl.recipe.source import read_recipe, recipe_names

    found: list[dict[str, Any]] = []
    for name in recipe_names():
        source = read_recipe(name)
        said = {path: value for layer in source.shared for path, value in layer.values.items()}
        paper = said.get(("paper", "key"))
        place = next(
            (f"{k.capitalize()} {said['paper', k]}" for k in ("table", "figure") if said.get(("paper", k))), ""
        )
        found.append(
            {
                "name": name,
                "paper": f"{_PAPERS.get(paper, paper)}, {place}" if paper else None,
                "about": said.get(("about",)),
                "rows": list(source.rows),
                "printed_only": list(source.printed),
                "profiles": list(source.profiles),
                "path": str(source.path),
            }
        )
    if as_json:
        print_json({"recipes": found})
        return
    rows = [[one["name"], one["paper"] or "-", len(one["rows"]) or "-", one["about"] or ""] for one in found]
    table("", ["recipe", "paper", "rows", "what it is"], rows)
    say("pvtctl recipes show NAME prints one")


@app.command("show", epilog="Example: pvtctl recipes show imagenet_pvt_v1 --row pvt_small --profile mini --origin")
def recipes_show(
    name: str = _RECIPE,
    row: str | None = _ROW,
    profile: str = _PROFILE,
    set_: list[str] = _SET,
    origin: bool = typer.Option(False, "--origin", help="Show where each value that is not a default was set."),
    as_json: bool = AS_JSON,
) -> None:
    """Print the flat recipe of one run as YAML; without --row, a recipe with several rows is printed as its file."""
    from pvtctl.recipe.load import dump, flat, resolve
    from pvtctl.recipe.source import read_recipe

    source = read_recipe(name)
    plain = not (set_ or origin or as_json) and profile == "paper"
    if row is None and len(source.rows) > 1 and plain and not source.faults:
        print_text(source.path.read_text(encoding="utf-8"), end="")
        say(f"this is the file of {plural(len(source.rows), 'row')}; --row ROW shows what one of them runs")
        return
    resolved = resolve(name, row, profile, set_)
    if as_json:
        origins = {".".join(path): str(origin) for path, origin in resolved.origins.items()}
        print_json({"recipe": resolved.recipe.plain_values(), "flat": flat(resolved.recipe), "origins": origins})
    elif origin:
        print_text("\n".join(_with_origins(resolved)))
    else:
        print_text(dump(resolved.recipe), end="")


def _with_origins(resolved: Resolved) -> list[str]:
    """`key: value  # origin` lines, each followed by its provenance."""
    from pvtctl.recipe.load import flat

    origins = {".".join(path): origin for path, origin in resolved.origins.items()}
    values = {key: value for key, value in flat(resolved.recipe).items() if not key.startswith("provenance.")}
    values = {key: value for key, value in values.items() if value is not None or not key.startswith("expect.")}
    lines = {key: f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()}
    width = min(60, max(map(len, lines.values())))
    result = []
    for key, line in lines.items():
        result.append(f"{line:<{width}}  # {origins[key]}" if key in origins else line)
        note = resolved.recipe.provenance.get(key)
        by_scale = key in origins and origins[key].label.startswith(("profile", "--set"))
        if note and not by_scale:
            result.append(f"  # {note}")
    return result


@app.command(epilog="Example: pvtctl recipes cp imagenet_pvt_v1 mine.yaml")
def cp(
    name: str = _RECIPE,
    dest: Path = typer.Argument(help="The new file, or a folder for it; nothing is overwritten."),
) -> None:
    """Copy a recipe file to edit it."""
    from pvtctl.io.files import write_text
    from pvtctl.recipe.source import recipe_path

    source = recipe_path(name)
    target = dest / source.name if dest.is_dir() else dest
    if target.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{target} is not a recipe file's name", f"end it in .yaml, as in {target}.yaml")
    if target.exists():
        raise UsageError(f"{target} exists", "choose another name, or remove it first")
    write_text(target, source.read_text(encoding="utf-8"))
    say(f"wrote {target}; pvtctl recipes check {target} checks it, and --recipe {target} runs it")


@app.command("check")
def recipes_check(
    files: list[str] = typer.Argument(metavar="FILE...", help="Recipe files, or names of `pvtctl recipes ls`."),
    as_json: bool = AS_JSON,
) -> None:
    """Check recipes: all rows in all profiles, and their backbones. Lists every fault; exit code 2 if there is one."""
    reports = [{"file": file, **_check_file(file)} for file in files]
    if as_json:
        print_json({"files": reports})
    for report in reports:
        if not as_json and not report["faults"]:
            print_text(f"{report['file']}: fine ({plural(report['runs'], 'run')}: rows x profiles)")
    faults = [fault for report in reports for fault in report["faults"]]
    if faults:
        head = faults[0] if len(faults) == 1 else "\n  ".join([f"{len(faults)} faults", *faults])
        raise UsageError(head, "pvtctl recipes schema describes every key and its default")


def _check_file(file: str) -> dict[str, Any]:
    from pvtctl.models.registry import backbone_spec
    from pvtctl.recipe.load import load_recipe
    from pvtctl.recipe.source import RecipeFaults, read_recipe

    faults: dict[str, None] = {}  # in order, each once
    runs = 0
    backbones: dict[str, str] = {}
    try:
        source = read_recipe(file)
        for row in source.rows or [None]:
            for profile in source.profiles:
                runs += 1
                try:
                    recipe = load_recipe(file, row, profile)
                except RecipeFaults as error:
                    faults |= dict.fromkeys(error.faults)
                    continue
                backbones.setdefault(recipe.model.backbone.spec, f"row {row}" if row else f"profile {profile}")
    except UsageError as error:
        faults[error.message] = None
    for name, where in backbones.items():
        try:
            backbone_spec(name)
        except UsageError as error:
            faults[f"{file}: model.backbone.name: {error.message} ({where}), {error.hint}"] = None
    return {"runs": runs, "faults": list(faults)}


@app.command(epilog="Example: pvtctl recipes diff imagenet_pvt_v1:pvt_small imagenet_pvt_v1:pvt_small@mini")
def diff(
    left: str = typer.Argument(metavar="A", help="NAME[:ROW][@PROFILE]; NAME may be a file."),
    right: str = typer.Argument(metavar="B", help="The same form."),
    as_json: bool = AS_JSON,
) -> None:
    """Print the values in which two runs differ."""
    from pvtctl.recipe.load import parse_spec, recipe_differences

    first, second = parse_spec(left), parse_spec(right)
    found = recipe_differences(first.load(), second.load())
    if as_json:
        print_json({"a": str(first), "b": str(second), "differences": {key: list(pair) for key, pair in found.items()}})
    elif found:
        dumps = [(key, *(json.dumps(value, ensure_ascii=False) for value in pair)) for key, pair in found.items()]
        table("", ["key", str(first), str(second)], dumps)
    else:
        say(f"{first} and {second} are the same run")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a recipe file, for editors that complete and check YAML."""
    from pvtctl.recipe.json_schema import file_schema

    print_json(file_schema())
