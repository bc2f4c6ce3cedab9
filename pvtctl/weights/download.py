"""Download published checkpoints. Loads without torch."""

from __future__ import annotations

import os
import urllib.parse
from functools import partial
from pathlib import Path

from pvtctl.errors import UsageError, nearest
from pvtctl.io.checkpoint_meta import is_safetensors
from pvtctl.io.download import TIMEOUT, Order, Progress, get, through_mirror
from pvtctl.io.foreign import open_foreign
from pvtctl.io.hub import Repository, fetch_hub_weights
from pvtctl.io.urls import require_server, without_secrets
from pvtctl.weights.catalogue import Published, cache_folder, find_published, published
from pvtctl.weights.resolve import hub_name, is_hub_name


def fetch_weights(
    name_or_url: str,
    *,
    mirror: str | None = None,
    folder: str | Path | None = None,
    to: str | Path | None = None,
    again: bool = False,
    progress: Progress | None = None,
    timeout: float = TIMEOUT,
    pause: float = 1.0,
) -> Path:
    """Download a published checkpoint, one of the Hugging Face Hub (`hf:OWNER/NAME`, `timm:NAME.TAG`; a folder then), or any
    other by its URL, and return the file; an existing one is only checked.

    `mirror` replaces scheme and host (published names: default `$PVTCTL_MIRROR`); `folder` reads from a local directory
    instead of the network; `to` is the target directory (default: the cache). Interrupted downloads are resumed, also in
    later calls; retries wait `pause` seconds, doubled each time. `again` replaces an existing file.
    The hash is compared with the publisher's digits, if any, and with that of the first download. Files must be
    checkpoints; those that are published without a hash must have the parameters of their model.

    Raises UsageError for unknown names and files with other contents, PvtctlError when the download fails or the hash
    differs.
    """
    if is_hub_name(name_or_url):
        if mirror or folder is not None or to is not None:
            raise UsageError(
                f"{name_or_url} goes into the cache, from the Hub",
                "HF_ENDPOINT names a mirror of it; leave the options out",
            )
        found = hub_name(name_or_url)
        if isinstance(found, Repository):
            return fetch_hub_weights(found, name_or_url, again=again, progress=progress, timeout=timeout, pause=pause)
        name_or_url = found
    order = _order(name_or_url, mirror, Path(to) if to is not None else cache_folder())
    return get(order, folder=folder, again=again, progress=progress, timeout=timeout, pause=pause)


def _order(name_or_url: str, mirror: str | None, target_folder: Path) -> Order:
    entry = find_published(name_or_url)
    if entry is not None:
        url, sha256, file_name = entry.url, entry.sha256, entry.file_name
    elif "://" in name_or_url:
        require_server(name_or_url)
        url, sha256 = name_or_url, None
        file_name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1])
    else:
        names = [each.name for each in published()]
        raise UsageError(f"no published weights {name_or_url!r}", f"{nearest(name_or_url, names)}; or give an address")
    url = through_mirror(url, mirror or (os.environ.get("PVTCTL_MIRROR") if entry is not None else None))
    if not file_name or file_name in (".", "..") or "/" in file_name or "\\" in file_name:
        raise UsageError(f"{without_secrets(url)!r} names no file", "give the address of the checkpoint itself")
    check = partial(_check_model, entry) if entry is not None and not sha256 else _check_start
    return Order(url, target_folder / file_name, sha256, check=check)


def _check_start(file: Path) -> None:
    """Raise UsageError unless a file starts as checkpoints do: safetensors, an archive of torch, or a pickle."""
    with open_foreign(file) as handle:
        start = handle.read(16)
    if not (is_safetensors(start) or start.startswith((b"PK\x03\x04", b"\x80"))):
        raise UsageError(
            f"{file.name.removesuffix('.part')} is not a checkpoint: it starts with {start!r}",
            "check the address; nothing was kept",
        )


def _check_model(entry: Published, file: Path) -> None:
    """Raise UsageError unless a file has the names and shapes of a published model's parameters, all finite."""
    from pvtctl.weights.inspect import inspect_file  # loads torch
    from pvtctl.weights.tensors import nonfinite_note

    _check_start(file)
    found = inspect_file(file)
    if entry.backbone not in found.models:
        raise UsageError(
            f"{entry.file_name} does not hold {entry.backbone}, but {' or '.join(found.models) or 'no known model'}",
            f"fetch it from another mirror, or with --from; if it is there already: pvtctl weights fetch {entry.name} --again",
        )
    if found.nonfinite:
        raise UsageError(f"{entry.file_name} holds {nonfinite_note(found.nonfinite)}", "try another mirror")
