"""Find default weights for a command, if the user named none. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pvtctl.cli._resolve_recipe import note
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.models.backbone_names import TIMM_PREFIX, split_name
from pvtctl.runs.paths import runs_root


@dataclass(frozen=True)
class Found:
    """Weights found for a backbone."""

    source: str
    """A run directory or a file."""
    why: str
    published_top1: float | None = None
    """Published top-1 accuracy in percent."""


def choose_weights(
    backbone: str, data_name: str, place: Path | None, head: str | None = None, task: str = "classification"
) -> Found:
    """The newest finished run of `backbone` (with `head`) on the data, else its published checkpoint, downloaded if
    needed.

    `place` is the folder of the data (from `find_data`); None accepts a run on any ImageNet with 1000 classes, or on
    any data with the same name. Raises UsageError if there is neither, PvtctlError if the download fails.
    """
    from pvtctl.engine.run_files import find_runs
    from pvtctl.weights.catalogue import cached_file, detector_page, published_for, published_model
    from pvtctl.weights.download import fetch_weights

    what = f"{backbone} + {head}" if head else backbone
    plain, narrower = split_name(backbone), None
    for run in find_runs(runs_root()):
        trained = _trained_in(run, data_name, place, head, task)
        if trained == backbone:
            return Found(str(run), f"the newest finished run of {what} on {data_name}")
        if trained is not None and split_name(trained)._replace(width=1.0) == plain:
            narrower = narrower or trained
    classifier = data_name == "imagenet" and head is None
    entry = published_for(backbone) if classifier else published_model(backbone, head, data_name)
    # the profile for scenes trains at reduced width unless full width is named; timm's models have one width
    full = data_name == "scenes" and "@" not in backbone and not head and not backbone.startswith(TIMM_PREFIX)
    spec = f"{plain.name}@1{backbone.removeprefix(plain.name)}" if full else backbone
    train = f"pvtctl {'finetune' if head else 'pretrain'} {data_name} --backbone {spec}"
    train += f" --head {head}" if head else ""
    if entry is None and (plain.width != 1 or plain.options):
        fit = "have the papers' sizes" if plain.options else "fit the full width only"
        raise UsageError(
            f"no weights for {what}: published ones {fit}, and no finished run of it on {data_name} is under {runs_root()}",
            f"train: {train}",
        )
    if entry is None:
        page = detector_page(backbone, head) if head and data_name == "coco" else None
        offered = f"get one from {page} and name the file with --weights" if page else "name a file with --weights"
        raise UsageError(
            f"no weights for {what}: no finished run of it on {data_name} under {runs_root()}, and none published "
            "that could be fetched",
            f"one of {narrower} is there: --backbone {narrower}" if narrower else f"{offered}, or train: {train}",
        )
    file = cached_file(entry)
    if file is None:
        note(f"weights: no run of {backbone} under {runs_root()}; fetching the published ones from {entry.url}")
        try:
            file = fetch_weights(entry.name)
        except PvtctlError as error:
            hint = f"fetch it elsewhere and name the file with --weights, or train: {train}"
            raise PvtctlError(error.message, hint, exit_code=error.exit_code) from error
    return Found(str(file), f"published by {entry.source}: {entry.scores}", entry.figures.get("top1"))


def _trained_in(run: Path, data_name: str, place: Path | None, head: str | None, task: str) -> str | None:
    """The backbone of a finished run with this task, head and data; None if they differ."""
    from pvtctl.data.find import find_data
    from pvtctl.engine.run_files import read_info
    from pvtctl.recipe.load import load_recipe

    if not ((run / "recipe.yaml").is_file() and (run / "best.safetensors").is_file()):
        return None
    try:
        recipe = load_recipe(run / "recipe.yaml")
    except UsageError as error:
        note(f"{run} is left out of the search: {error.message}")
        return None
    own_head = recipe.model.head.name if recipe.model.head else None
    if (recipe.task, own_head, recipe.data.name) != (task, head, data_name):
        return None
    spec = recipe.model.backbone.spec
    if place is None:
        return spec if data_name != "imagenet" or read_info(run).get("num_classes") == 1000 else None
    if recipe.data.val_annotations:
        return None  # trained on annotations outside a known layout
    try:
        if recipe.data.url is not None:
            return None
        return spec if find_data(data_name, recipe.data.path).resolve() == place.resolve() else None
    except UsageError:  # its data no longer exists
        return None
