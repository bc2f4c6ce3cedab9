"""Resumable download of public data sets, unpacked where `find_data` looks; existing files are kept."""

from __future__ import annotations

import json
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from pvtctl.data.find import data_places
from pvtctl.data.public_sets import Archive, PublicSet, find_public, public_sets
from pvtctl.errors import PvtctlError, UsageError, nearest
from pvtctl.io.download import TIMEOUT, Order, Progress, check_hash, get, record_path, through_mirror
from pvtctl.io.files import without_nan, write_text
from pvtctl.io.foreign import read_facts

Watch = Callable[[str], Progress]
"""Returns the progress callback for a step with this description."""

SPLITS = ("train", "val")

_DOWNLOADS = ".fetch"
_CHUNK = 1 << 20


def fetch_set(
    name: str,
    *,
    to: Path | str | None = None,
    split: str | None = None,
    mirror: str | None = None,
    folder: Path | str | None = None,
    keep: bool = False,
    watch: Watch | None = None,
    timeout: float = TIMEOUT,
    pause: float = 1.0,
) -> Path:
    """Download a public set, or what one split needs of it; returns its folder: `to`, else the first of `data_places`.

    `mirror` (else `$PVTCTL_MIRROR`) replaces scheme and host; with `folder`, archives are read from there. Free
    disk space is checked first. An interrupted download resumes where it stopped, also in a later
    call. Hashes are compared with the known ones and with those of the first download. An archive's content appears
    in one step when all of it is unpacked and its checksums agree; then the archive is removed, unless `keep`.
    Parts that are there already are not fetched again.

    Raises UsageError for an unknown set or split, PvtctlError if it cannot be downloaded, does not fit, or has
    unexpected content.
    """
    entry = find_public(name)
    if entry is None:
        raise UsageError(f"no public data set {name!r}", nearest(name, [each.name for each in public_sets()]))
    if split is not None and split not in SPLITS:
        raise UsageError(f"no split {split!r}", "--split train, --split val, or none of it for both")
    target = Path(to).expanduser() if to is not None else data_places(name)[0]
    mirror = mirror or os.environ.get("PVTCTL_MIRROR")
    wanted = [archive for archive in entry.archives_for(split) if not _is_there(archive, target)]
    source = Path(folder).expanduser() if folder is not None else None
    _check_space(target, wanted, stored_elsewhere=source is not None, keep=keep)
    try:
        (target / _DOWNLOADS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PvtctlError(
            f"{target / _DOWNLOADS} cannot be written: {error.strerror or error}", "choose --to FOLDER"
        ) from error
    for archive in wanted:
        if source is not None:
            file = _from_folder(archive, source, target)
        else:
            url = through_mirror(archive.url, mirror)
            place = target / _DOWNLOADS / archive.file_name
            order = Order(url, place, archive.sha256, "zip archive", "pvtctl data ls")
            file = get(order, progress=watch(archive.file_name) if watch else None, timeout=timeout, pause=pause)
        _unpack(archive, file, target, watch(f"unpacking {archive.file_name}") if watch else None)
        _record(entry, archive, file, target)
        if source is None and not keep:
            file.unlink()
    return target


def _is_there(archive: Archive, target: Path) -> bool:
    """Whether the archive's whole content is in the set's folder. Raises UsageError if only part of it is."""
    there = [place for place in archive.places if (target / place).exists()]
    if there and len(there) < len(archive.places):
        absent = next(place for place in archive.places if place not in there)
        raise UsageError(
            f"{target} holds {there[0]} but no {absent}", "name another folder with --to, or move away what is there"
        )
    return bool(there)


def _check_space(target: Path, archives: list[Archive], *, stored_elsewhere: bool, keep: bool) -> None:
    """Raises PvtctlError if the disk lacks space for the archives and their content."""
    sizes = [0 if stored_elsewhere else max(0, archive.size - _have(archive, target)) for archive in archives]
    # an archive goes before the next one comes
    needed = sum(archive.unpacked for archive in archives) + (sum(sizes) if keep else max(sizes, default=0))
    place = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise PvtctlError(
            f"{target} needs about {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB left",
            "choose another disk with --to FOLDER, or take only --split val",
        )


def _have(archive: Archive, target: Path) -> int:
    file = target / _DOWNLOADS / archive.file_name
    parts = (file, file.with_name(file.name + ".part"))
    return sum(part.stat().st_size for part in parts if part.is_file())


def _from_folder(archive: Archive, source: Path, target: Path) -> Path:
    file = source / archive.file_name
    if not file.is_file():
        raise UsageError(f"there is no {file.name} in {source}", f"get it from {archive.url} and put it there")
    check_hash(file, known_as=target / _DOWNLOADS / file.name, prefix=archive.sha256)
    return file


def _unpack(archive: Archive, file: Path, target: Path, progress: Progress | None) -> None:
    """Unpack the archive into `target`, each entry in one step."""
    inside = target / _DOWNLOADS / f"{file.stem}.unpacking"
    shutil.rmtree(inside, ignore_errors=True)  # of a call that was killed
    try:
        with zipfile.ZipFile(file) as packed:
            members = _members(packed, archive)
            _extract(packed, members, inside, target, progress)
        for place in archive.places:
            if not (inside / place).exists():
                raise PvtctlError(f"{file.name} does not hold {archive.below}{place}", "is it of another version?")
        for place in archive.places:
            (inside / place).rename(target / place)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise PvtctlError(
            f"{file} is damaged: {error}", "remove it and fetch again, from another mirror if this repeats"
        ) from error
    except OSError as error:
        raise PvtctlError(
            f"{file.name} could not be unpacked into {target}: {error.strerror or error}",
            "free some space and fetch again: what was downloaded is kept",
        ) from error
    finally:
        shutil.rmtree(inside, ignore_errors=True)


def _members(packed: zipfile.ZipFile, archive: Archive) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """(member, its path below the set's folder) of all files that are wanted.

    Raises PvtctlError for names that lead out of the folder and for links: no data set needs them.
    """
    members = []
    for info in packed.infolist():
        path = PurePosixPath(info.filename.replace("\\", "/"))
        is_link = stat.S_ISLNK(info.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0] or is_link:
            raise PvtctlError(
                f"{packed.filename} holds {info.filename!r}, which leads out of its folder",
                "nothing was unpacked; get the archive from its publisher",
            )
        if not info.is_dir() and path.as_posix().startswith(archive.below):
            inner = PurePosixPath(path.as_posix().removeprefix(archive.below))
            if inner.parts[0] in archive.places:
                members.append((info, inner))
    return members


def _extract(
    packed: zipfile.ZipFile,
    members: list[tuple[zipfile.ZipInfo, PurePosixPath]],
    inside: Path,
    target: Path,
    progress: Progress | None,
) -> None:
    total = sum(info.file_size for info, _ in members)
    free = shutil.disk_usage(target).free
    if total > free:
        raise PvtctlError(
            f"{packed.filename} unpacks to {total / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB left",
            "free some space and fetch again: what was downloaded is kept",
        )
    done = 0
    for info, inner in members:
        path = inside / inner
        path.parent.mkdir(parents=True, exist_ok=True)
        with packed.open(info) as content, path.open("wb") as out:  # zipfile compares the CRC at the end of each
            shutil.copyfileobj(content, out, _CHUNK)
        done += info.file_size
        if progress is not None:
            progress(done, total)


def _record(entry: PublicSet, archive: Archive, file: Path, target: Path) -> None:
    """Record source and terms of the set in `fetched.json`."""
    path = target / "fetched.json"
    known = read_facts(path).get("archives")
    fetched = read_facts(record_path(file)) or {"url": str(file)}
    archives = (known if isinstance(known, dict) else {}) | {archive.file_name: fetched}
    document = {"name": entry.name, "title": entry.title, "terms": entry.terms, "archives": archives}
    write_text(path, json.dumps(without_nan(document), indent=2) + "\n")
