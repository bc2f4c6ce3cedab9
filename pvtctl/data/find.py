"""Finds the folders of data sets."""

from __future__ import annotations

import os
from pathlib import Path

from pvtctl.data.layouts import COCO_LAYOUT, EXPECTED, IMAGENET_LAYOUT
from pvtctl.data.public_sets import find_public
from pvtctl.errors import UsageError, nearest
from pvtctl.io.foreign import require_folder
from pvtctl.io.urls import is_url, without_secrets

DATA_NAMES = ("imagenet", "coco", *EXPECTED, "scenes")


def find_data(name: str, path: str | Path | None = None) -> Path:
    """The folder of a data set: `path`, else `$PVTCTL_DATA/<name>`, else `./data/<name>`.

    `scenes` needs no folder, and the sets of a `mix` have their own: the current one is returned. Raises UsageError with
    the expected layout.
    """
    if name in ("scenes", "mix"):
        return Path()
    if name not in DATA_NAMES:
        raise UsageError(f"unknown data set {name!r}", nearest(name, DATA_NAMES))
    layout = {"imagenet": IMAGENET_LAYOUT, "coco": COCO_LAYOUT, **EXPECTED}[name]
    if is_url(path):
        raise UsageError(
            f"{name} is not read from {without_secrets(str(path))}",
            "tar shards of images with classes are read from URLs; fetch other data into a folder",
        )
    if path is not None:
        folder = Path(path).expanduser()
        require_folder(folder, layout)
        return folder
    for folder in data_places(name):
        if folder.is_dir():
            return folder
    fetch = f"      `pvtctl data fetch {name}` downloads it\n" if find_public(name) is not None else ""
    kind = {"kitti": "nyu", "depth": "nyu"}.get(name, name)  # the layout in which scenes are exported for its reader
    stand_in = f"      `pvtctl data export scenes --layout {kind} --to data/{name}` makes a small stand-in"
    if kind not in ("imagenet", "coco", "ade20k", "nyu"):
        stand_in = "      `pvtctl data export scenes --layout ade20k --to data/ade20k` makes a small set of label maps"
    here = f"if the folder {name} here is meant, write ./{name}; else " if Path(name).is_dir() else ""
    raise UsageError(
        f"no data for {name!r}: looked for {' and '.join(str(place) for place in data_places(name))}",
        f"{here}name it with --data FOLDER or PVTCTL_DATA; {layout}\n{fetch}{stand_in}",
    )


def data_places(name: str) -> list[Path]:
    """Where `find_data` looks when no path is given, in order."""
    base = os.environ.get("PVTCTL_DATA")
    return [*([Path(base).expanduser() / name] if base else []), Path("data") / name]
