"""Download published checkpoints. Loads without torch."""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path

from pvtctl.errors import UsageError, nearest
from pvtctl.io.download import TIMEOUT, Order, Progress, get, through_mirror
from pvtctl.weights.catalogue import cache_folder, find_published, published


def fetch_weights(
    name_or_url: str,
    *,
    mirror: str | None = None,
    folder: str | Path | None = None,
    to: str | Path | None = None,
    progress: Progress | None = None,
    timeout: float = TIMEOUT,
    pause: float = 1.0,
) -> Path:
    """Download a published checkpoint, or any other by its URL, and return the file; an existing one is only checked.

    `mirror` replaces scheme and host (published names: default `$PVTCTL_MIRROR`); `folder` reads from a local directory
    instead of the network; `to` is the target directory (default: the cache). Interrupted downloads are resumed, also in
    later calls; retries wait `pause` seconds, doubled each time.
    The hash is compared with the publisher's digits, if any, and with that of the first download.

    Raises UsageError for unknown names, PvtctlError when the download fails or the hash differs.
    """
    order = _order(name_or_url, mirror, Path(to) if to is not None else cache_folder())
    return get(order, folder=folder, progress=progress, timeout=timeout, pause=pause)


def _order(name_or_url: str, mirror: str | None, target_folder: Path) -> Order:
    entry = find_published(name_or_url)
    if entry is not None:
        url, sha256, file_name = entry.url, entry.sha256, entry.file_name
    elif "://" in name_or_url:
        url, sha256 = name_or_url, None
        file_name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1])
    else:
        names = [each.name for each in published()]
        raise UsageError(f"no published weights {name_or_url!r}", f"{nearest(name_or_url, names)}; or give an address")
    url = through_mirror(url, mirror or (os.environ.get("PVTCTL_MIRROR") if entry is not None else None))
    if not file_name or file_name in (".", "..") or "/" in file_name or "\\" in file_name:
        raise UsageError(f"{url!r} names no file", "give the address of the checkpoint itself")
    return Order(url, target_folder / file_name, sha256)
