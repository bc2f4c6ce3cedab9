"""`pvtctl weights`: inspect, convert, list, fetch and verify checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from pvtctl.cli._console import print_json, print_text, table
from pvtctl.cli._options import AS_JSON, INSIDE, App
from pvtctl.errors import ExitCode, PvtctlError, UsageError
from pvtctl.io.console import byte_progress, say
from pvtctl.io.foreign import reason_of
from pvtctl.io.names import plural
from pvtctl.io.urls import without_secrets
from pvtctl.weights.resolve import with_inside

if TYPE_CHECKING:
    from pvtctl.weights.inspect import Inspection

app = App(
    no_args_is_help=True,
    help="Inspect, convert, list, fetch and verify checkpoints.",
)

_SOURCE = typer.Argument(
    metavar="FILE",
    help="A checkpoint file, a run or transformers folder, a published name, hf:OWNER/NAME or timm:NAME.TAG.",
)


@app.command(epilog="Example: pvtctl weights inspect pvt_small.pth")
def inspect(file: str = _SOURCE, inside: str | None = INSIDE, as_json: bool = AS_JSON) -> None:
    """Describe a checkpoint: layout, model, parameters, classes, types, NaNs. Runs no code from it."""
    from pvtctl.weights.inspect import inspect_file

    found = inspect_file(str(with_inside(file, inside, "FILE")))
    if as_json:
        print_json(found.as_dict())
    else:
        _print_inspection(found)


def _print_inspection(found: Inspection) -> None:
    from pvtctl.weights.tensors import shortened

    rows: list[tuple[str, str]] = [
        ("file", found.path),
        ("size", f"{found.bytes / 1e6:.1f} MB"),
        ("layout", found.format),
        ("model", " or ".join(found.models) or f"unknown: {found.unknown}"),
        ("head", _head(found)),
        ("parameters", f"{found.params:,} ({found.backbone_params:,} in the backbone)"),
    ]
    if found.classes is None:
        rows.append(("classes", "none: depth" if found.head is not None else "no head"))
    else:
        names = ", ".join((found.class_names or [])[:3])
        rows.append(("classes", f"{found.classes} ({names}, ...)" if names else str(found.classes)))
    rows.append(("types", ", ".join(f"{dtype} ({count:,})" for dtype, count in found.dtypes.items())))
    if found.head is not None and found.classes is None:
        a, b = found.scale_shift or (None, None)
        rows.append(("metres", "unknown: inverse depth alone" if a is None else f"1 / ({a:g} x + {b:g}), x the output"))
    if found.unstated is not None:
        rows.append(("not in the file", found.unstated))
    rows.append(("pixels", str(found.pixels)))
    if found.left_out:
        some = ", ".join(found.left_out[:5]) + (", ..." if len(found.left_out) > 5 else "")
        rows.append(("left out", f"{plural(len(found.left_out), 'tensor')} outside of {found.meta['inside']}: {some}"))
    if found.image_size is not None:
        rows.append(("position tables", f"of {found.image_size}x{found.image_size} images"))
    rows.append(("NaN or infinity", f"in {shortened(found.nonfinite)}" if found.nonfinite else "none"))
    for key, value in found.meta.items():
        text = str(value)
        rows.append((f"metadata: {key}", text if len(text) <= 80 else f"{text[:77]}..."))
    table("", ["what", "is"], rows)
    largest = [(each["name"], "x".join(map(str, each["shape"]))) for each in found.largest]
    table(f"Largest of {plural(found.tensors, 'tensor')}", ["name", "shape"], largest)


def _head(found: Inspection) -> str:
    if found.foreign is not None:
        return f"{found.foreign}, not supported by pvtctl"
    if found.head is None:
        return "a classifier's" if found.task else "none"
    from pvtctl.weights.identify import plain

    parts = [f"{found.head} ({found.task})"]
    for name, value in found.head_options.items():
        parts.append(f"{name} {plain(value)}")
    if found.conventions is not None:
        parts.append(f"conventions of {'the papers' if found.conventions == 'papers' else found.conventions}")
    if found.output_stride is not None:
        parts.append(f"output stride {found.output_stride}")
    return "; ".join(parts)


@app.command("convert", epilog="Example: pvtctl weights convert pvt_small.pth pvt_small.safetensors")
def weights_convert(
    file: str = _SOURCE,
    inside: str | None = INSIDE,
    out: Path = typer.Argument(metavar="OUT", help="The new file: .safetensors, or .pth with --to official."),
    backbone: str | None = typer.Option(None, help="The model, if several have the same shapes."),
    to: str = typer.Option("ours", help="The layout: ours (pvtctl's), or official (that of the model's publisher)."),
    head_option: list[str] = typer.Option(
        [], metavar="KEY=VALUE", help="What FILE does not say of its head (model.head.KEY of recipes): taps=9,10,11,12."
    ),
    force: bool = typer.Option(False, "--force", help="Overwrite OUT."),
) -> None:
    """Write a checkpoint in pvtctl's or its publisher's layout, and check that outputs and tensors are unchanged."""
    from pvtctl.weights.convert import convert_file

    if to not in ("ours", "official"):
        raise UsageError(f"--to {to!r} is not a layout", "one of: ours, official")
    layout: Literal["ours", "official"] = "official" if to == "official" else "ours"
    source, options = str(with_inside(file, inside, "FILE")), dict(map(_head_option, head_option))
    done = convert_file(source, out, backbone=backbone, to=layout, head_options=options, overwrite=force)
    what = f"{done.head} of {done.backbone}" if done.head else done.backbone
    say(f"{what} ({done.format} layout) -> {out} ({'pvtctl' if to == 'ours' else to} layout)")
    for word, text in (("warning", done.warning), ("note", done.note)):
        if text:
            say(f"{word}: {text}")
    if done.dropped:
        say(
            f"left out, not part of backbone, neck or head: {', '.join(done.dropped[:5])}{' ...' * (len(done.dropped) > 5)}"
        )
    if done.compared_with is not None:
        say(f"outputs equal those of {done.compared_with}: largest difference {done.difference:.1e} of the largest")
    else:
        what = "there is no original here to compare outputs with"
        if done.head or done.warning:
            what = f"outputs of {done.head or done.backbone} are not compared"
        say(f"{what}; the tensors read back equal")


def _head_option(text: str) -> tuple[str, Any]:
    """KEY and VALUE, read as of `--set model.head.KEY=VALUE`."""
    from pvtctl.recipe.load import read_value

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--head-option {text}: write it as KEY=VALUE", "such as taps=9,10,11,12")
    return key.strip(), read_value(f"model.head.{key}", value)


@app.command("ls")
def weights_ls(as_json: bool = AS_JSON) -> None:
    """List the published checkpoints that `weights fetch` can download, and which are on this machine."""
    from pvtctl.io.download import recorded_sha256
    from pvtctl.weights.catalogue import cache_folder, cached_file, published

    entries: list[dict[str, Any]] = []
    unread = None
    for entry in published():
        try:
            file = cached_file(entry)
        except OSError as error:
            file, unread = None, f"{cache_folder()} {reason_of(error)}"
        entries.append(
            {
                "name": entry.name,
                "backbone": entry.backbone,
                "head": entry.head,
                "data": entry.data,
                "figures": dict(entry.figures),
                "scores": entry.scores,
                "scale_shift": entry.scale_shift,
                "normalization": str(entry.normalization),
                "source": entry.source,
                "license": entry.license,
                "url": entry.url,
                "sha256": entry.sha256 or (recorded_sha256(file) if file else None),
                "sha256_from": "publisher" if entry.sha256 else "first fetch" if file else None,
                "cached": str(file) if file else None,
                "bytes": file.stat().st_size if file else None,
            }
        )
    if unread:
        say(unread)
    if as_json:
        print_json({"folder": str(cache_folder()), "weights": entries})
        return
    rows = []
    for e in entries:
        model = f"{e['backbone']} + {e['head']}" if e["head"] else e["backbone"]
        here = f"{e['bytes'] / 1e6:.0f} MB" if e["cached"] else "-"
        said = [e[key] for key in ("data", "scores", "source", "license")]
        rows.append([e["name"], model, *said, e["sha256_from"] or "-", here])
    table(
        "Published weights",
        ["name", "model", "data", "scores", "source", "license", "hash from", "here"],
        rows,
        caption=f"scores as the publisher prints them (--json has all); fetched files are in {cache_folder()}",
    )


@app.command("fetch", epilog="Example: pvtctl weights fetch pvt_small pvt_v2_b2")
def weights_fetch(
    names: list[str] = typer.Argument(
        metavar="NAME|URL...", help="Names of `pvtctl weights ls`, hf:OWNER/NAME, timm:NAME.TAG, or addresses."
    ),
    mirror: str | None = typer.Option(None, help="Address that replaces scheme and host; else $PVTCTL_MIRROR."),
    folder: Path | None = typer.Option(None, "--from", help="Copy the files from this folder instead of downloading."),
    to: Path | None = typer.Option(None, help="Target folder; else the cache, where names are found."),
    again: bool = typer.Option(False, "--again", help="Replace files that are there already, if they are damaged."),
) -> None:
    """Download published checkpoints, check their hashes and print the paths. Interrupted downloads are resumed.

    Where no hash is known, the file must have the parameters of its model; its SHA-256 is recorded and checked from then on.
    """
    from pvtctl.io.download import recorded_sha256
    from pvtctl.weights.catalogue import find_published
    from pvtctl.weights.download import fetch_weights as fetch_one

    for name in names:
        shown = without_secrets(name)
        with byte_progress() as watch:
            path = fetch_one(name, mirror=mirror, folder=folder, to=to, again=again, progress=watch(shown))
        entry = find_published(name)
        if (entry is None or entry.sha256 is None) and (digest := recorded_sha256(path)):
            say(f"no hash of {shown} is known; that of the first fetch is SHA-256 {digest[:12]}...")
        print_text(path)


@app.command("verify")
def weights_verify(
    names: list[str] = typer.Argument(None, metavar="[NAME|FILE]...", help="Default: all fetched ones."),
    as_json: bool = AS_JSON,
) -> None:
    """Check that hashes match and that the files load as the expected models. Exit code 1 if one fails."""
    from pvtctl.weights.catalogue import cached_file, published
    from pvtctl.weights.inspect import verify_weights

    chosen = names or [entry.name for entry in published() if cached_file(entry) is not None]
    if not chosen:
        say("nothing was fetched yet; `pvtctl weights ls` lists what there is")
    verdicts = [verify_weights(name) for name in chosen]
    if as_json:
        print_json({"weights": [verdict.as_dict() for verdict in verdicts]})
    elif verdicts:
        rows = [(v.name, "ok" if v.ok else v.fault or "", v.hash, " or ".join(v.models) or "-") for v in verdicts]
        table("", ["weights", "verdict", "hash", "model"], rows)
    bad = [verdict for verdict in verdicts if not verdict.ok]
    if bad:
        raise PvtctlError(
            f"{len(bad)} of {len(verdicts)} failed: {bad[0].name}: {bad[0].fault}",
            bad[0].hint,
            exit_code=ExitCode.FAILED,
        )
