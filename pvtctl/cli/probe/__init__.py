"""`pvtctl probe`: compare frozen backbones by heads trained on their features."""

from __future__ import annotations

from pathlib import Path

from pvtctl.cli._console import print_json, print_text, table
from pvtctl.cli._options import (
    AS_JSON,
    DEVICE,
    FOLDER,
    OVERRIDES,
    TASK,
    App,
    argument,
    bundle,
    examples,
    option,
    shared,
)
from pvtctl.cli.probe._plan import LINEAR, probe_plan
from pvtctl.io.console import say
from pvtctl.io.machine import size_in_bytes

app = App(rich_markup_mode=None)

EPILOG = examples(
    "pvtctl probe photos/ --backbone pvt_tiny,pvt_v2_b1,resnet18",
    "pvtctl probe cells/ --backbone pvt_tiny,resnet18 --head retinanet --weights pvt_tiny=runs/mine",
    "pvtctl probe rooms/ --backbone pvt_v2_b0,timm:convnext_atto --head dpt --weights none --seeds 2",
)


@bundle
class ProbeOptions:
    """Options of `pvtctl probe`."""

    data: str = argument(
        metavar="DATA",
        help="A folder (class folders, COCO's layout, images and label maps, images and depth), a named data set, or scenes.",
    )
    backbone: str = option(
        default="pvt_tiny,pvt_v2_b0,resnet18", help="Names with commas; `pvtctl models ls` lists them; or timm:NAME."
    )
    head: str | None = option(
        help=f"{LINEAR} (a classifier on pooled features) or a dense head, as in `finetune`. Default: the first for the data."
    )
    task: str | None = shared(TASK)
    folder: str | None = shared(FOLDER)
    weights: list[str] = option(
        default=[],
        metavar="BACKBONE=FILE",
        help="Weights of a backbone: a file, run directory, published name, hf:OWNER/NAME, timm:NAME.TAG, timm, scenes (its "
        "newest run on scenes), or none (random); repeatable. scenes, timm and none without BACKBONE= are for all others. "
        "Default: as for `finetune`.",
    )
    seeds: int = option(default=3, min=1, max=100, help="Heads per backbone, each from its own random start.")
    views: int = option(
        default=2, min=1, max=100, help="Augmented views of each training image whose features are kept, used in turn."
    )
    overrides: list[str] = shared(OVERRIDES)
    cache: Path | None = option(
        metavar="DIR", help="Folder of the features. Default: features in the user's cache folder."
    )
    cache_size: int | None = option(
        "--cache-size", parse=size_in_bytes, metavar="SIZE", help="Most that it holds, such as 500MB. Default: 8GB."
    )
    out: Path | None = option(help="Folder of the table and its runs. Default: $PVTCTL_RUNS (or runs)/probe-HEAD-DATA.")
    latency: bool = option(default=True, help="Time backbone and head on this machine.")
    seconds: float = option(default=3.0, min=0.01, help="Timed seconds per model.")
    device: str | None = shared(DEVICE)
    as_json: bool = shared(AS_JSON)


@app.command(epilog=EPILOG)
def probe(options: ProbeOptions) -> None:
    """Train heads on the features of frozen backbones and compare them: score, spread over seeds, and costs.

    The features of every image are computed once and kept on disk. Running the same command again continues it, and other
    backbones are added to the same table; rows of different protocols or data are not ranked together.
    """
    plan = probe_plan(options)
    from pvtctl.engine import single
    from pvtctl.probe.run import run_probe
    from pvtctl.probe.table import COLUMNS, cells, collect_probe, document, notes, write_probe

    dist = single(options.device)
    run_probe(plan, dist, say)
    seconds = options.seconds if options.latency else None
    found = collect_probe(plan.out, seconds=seconds, device=str(dist.device), say=say)
    files = write_probe(plan.out, found)
    if options.as_json:
        print_json(document(found))
        return
    table("", COLUMNS, cells(found))
    for note in notes(found):
        say(note)
    for name, path in files.items():
        print_text(f"{name}: {path}")
