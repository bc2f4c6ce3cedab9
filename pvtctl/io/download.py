"""Resumable download with hash verification. Loads without torch."""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pvtctl import __version__
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.files import sha256_of, write_text
from pvtctl.io.foreign import read_facts
from pvtctl.io.urls import require_server, without_secrets

Progress = Callable[[int, int | None], None]
"""Called with the bytes on disk and the total size, None if unknown."""

ATTEMPTS = 4
TIMEOUT = 30.0
"""Seconds without a response or data before an attempt fails."""
_CHUNK = 1 << 20
_HTML = (b"<!doctype", b"<html", b"<?xml", b"<head")


class UnreachableError(PvtctlError):
    """The server was not reached, or did not deliver in any attempt."""


@dataclass(frozen=True)
class Order:
    """One file to download: URL, target, and the first digits of its SHA-256 if known."""

    url: str
    target: Path
    sha256: str | None = None
    what: str = "checkpoint"
    """Kind of file, for messages."""
    listed_by: str = "pvtctl weights ls"
    """The command that lists the known addresses, for messages."""
    check: Callable[[Path], object] | None = None
    """Raises PvtctlError if the complete file is not what was ordered: the only proof where no hash is known."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent to the URL's own host, not to where it redirects: a token is for no one else."""
    refusal: Callable[[int, Mapping[str, str]], PvtctlError | None] = lambda status, headers: None
    """What a server's refusal (status, headers) means, where it says more than its status."""

    @property
    def shown(self) -> str:
        """The URL without its secrets, for messages and records."""
        return without_secrets(self.url)

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def tag_file(self) -> Path:
        """File with the server's ETag of the part, so that it is never continued with bytes of another version."""
        return self.target.with_name(self.target.name + ".part.etag")

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.tag_file.unlink(missing_ok=True)


def get(
    order: Order,
    *,
    folder: str | Path | None = None,
    again: bool = False,
    progress: Progress | None = None,
    timeout: float = TIMEOUT,
    pause: float = 1.0,
) -> Path:
    """Download the file of an order and return its path; an existing file is only verified, unless `again`.

    An interrupted download is resumed, also by a later call. The hash is compared with the order's and with the one
    recorded at the first download.

    Args:
        folder: Copy the file from this local folder instead.
        again: Replace an existing file, also where the new one has another hash than the first download.
        pause: Seconds before the second attempt, doubled for each further one.

    Raises:
        PvtctlError: The file cannot be downloaded or is not the expected one.
        UsageError: The file is not in `folder`.
    """
    with _disk_errors(order), _alone(order.target.parent):
        if order.target.is_file() and not again:
            check_hash(order.target, known_as=order.target, prefix=order.sha256)
            if order.check is not None:
                order.check(order.target)
            return order.target
        if folder is not None:
            _copy(order, Path(folder).expanduser() / order.target.name)
        elif order.url.startswith("file:"):
            _copy(order, Path(urllib.request.url2pathname(urllib.parse.urlsplit(order.url).path)))
        else:
            _download(order, progress, timeout, pause)
        _accept(order, again)
    return order.target


def through_mirror(url: str, mirror: str | None) -> str:
    """`url`, its scheme and host replaced by `mirror` if there is one. Raises UsageError unless it is http, https or file,
    and for an address that names no server.
    """
    require_server(mirror or url)
    url = mirror.rstrip("/") + urllib.parse.urlsplit(url).path if mirror else url
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise UsageError(
            f"cannot fetch from {without_secrets(url)!r}", "addresses start with https://, http:// or file://"
        )
    return url


def _accept(order: Order, again: bool) -> None:
    """Verify the complete part and rename it to the target; a wrong one is removed, and an existing file stays then."""
    try:
        _refuse_html(order)
        digest = check_hash(order.part, known_as=order.target, prefix=order.sha256, recorded=not again)
        if order.check is not None:
            order.check(order.part)
    except PvtctlError:
        order.discard()
        raise
    write_record(order.target, order.shown, digest, order.part.stat().st_size)
    order.part.replace(order.target)
    order.discard()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock `folder`, so that one process at a time downloads into it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows: no lock
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _disk_errors(order: Order) -> Iterator[None]:
    """Convert a full or read-only disk to a PvtctlError; the partial download is kept."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PvtctlError(
                f"the disk is full: {order.target} was not fetched",
                "free some space and fetch again: the download resumes. Or choose another folder with --to",
            ) from error
        raise PvtctlError(
            f"{order.target} cannot be written: {error.strerror or error}", "choose --to FOLDER"
        ) from error


def _copy(order: Order, file: Path) -> None:
    if not file.is_file():
        raise UsageError(f"there is no {file.name} in {file.parent}", f"get it from {order.shown} and put it there")
    order.discard()
    shutil.copyfile(file, order.part)


def _download(order: Order, progress: Progress | None, timeout: float, pause: float) -> None:
    """Complete `order.part`; fails after ATTEMPTS requests in a row without new data."""
    require_server(order.url)
    if urllib.parse.urlsplit(order.url).username is not None:
        raise UsageError(
            f"{order.shown} holds a user and a password, which are not sent",
            f"get it by hand and put it at {order.target}; or use --from FOLDER",
        )
    attempts = furthest = 0
    while attempts < ATTEMPTS:
        if attempts:
            time.sleep(pause * 2 ** (attempts - 1))
        try:
            if _attempt(order, progress, timeout):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            error.close()
            if (told := order.refusal(error.code, dict(error.headers))) is not None:
                raise told from error
            _refuse_status(order, error.code)
            reason = f"the server returned {error.code}"
        except (TimeoutError, urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
            reason = _reason(error)
        have = order.part.stat().st_size if order.part.is_file() else 0
        attempts = 1 if have > furthest else attempts + 1
        furthest = max(furthest, have)
    raise UnreachableError(
        f"{order.shown} could not be fetched: {reason}",
        f"get it by hand and put it at {order.target}; or use --from FOLDER or --mirror URL",
    )


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "no response in time"
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).splitlines()[0]


def _refuse_status(order: Order, status: int) -> None:
    """Raise for status codes that a retry does not change."""
    if status in (404, 410):
        raise PvtctlError(
            f"{order.shown} does not exist (the server returned {status})",
            f"check the address or the mirror; `{order.listed_by}` lists those known",
        )
    if status == 416:  # the part is longer than the file: it belongs to another file
        order.discard()
        return
    if 400 <= status < 500 and status not in (408, 429):
        raise PvtctlError(
            f"{order.shown} is refused (the server returned {status})", "get it by hand and use --from FOLDER"
        )


def _attempt(order: Order, progress: Progress | None, timeout: float) -> bool:
    """Send one request; True if the part is complete afterwards."""
    have = _usable_part(order)
    request = urllib.request.Request(order.url, headers={"User-Agent": f"pvtctl/{__version__}"})
    for name, value in order.headers.items():
        request.add_unredirected_header(name, value)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if order.tag_file.is_file():
            request.add_header("If-Range", order.tag_file.read_text(encoding="utf-8"))
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have and error.headers.get("Content-Range", "").endswith(f"/{have}"):
            error.close()
            return True  # it was complete already
        raise
    with answer:
        if "text/html" in answer.headers.get("Content-Type", ""):
            order.discard()
            raise _html_error(order)
        begin, total = _extent(answer, have)
        if begin != have:
            order.discard()
        if tag := answer.headers.get("ETag"):
            order.tag_file.write_text(tag, encoding="utf-8")
        with order.part.open("r+b" if begin else "wb") as part:
            part.seek(begin)
            done = _pour(answer, part, begin, total, progress)
            part.truncate()
    return total is None or done == total


def _usable_part(order: Order) -> int:
    """Bytes of an earlier attempt that can be continued: only if an ETag or a hash would reveal another version."""
    if not order.part.is_file():
        return 0
    if order.sha256 is None and not order.tag_file.is_file():
        order.discard()
        return 0
    return order.part.stat().st_size


def _extent(answer: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """(offset of the response's first byte, total size if known); a server may ignore the range."""
    found = re.match(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if answer.status == 206 and found:
        begin, total = found.groups()
        if int(begin) != have:
            raise http.client.HTTPException("the server sent another range than asked")
        return int(begin), None if total == "*" else int(total)
    length = answer.headers.get("Content-Length")
    return 0, int(length) if length is not None and length.isdigit() else None


def _pour(answer: BinaryIO, part: BinaryIO, done: int, total: int | None, progress: Progress | None) -> int:
    while True:
        try:
            chunk = answer.read(_CHUNK)
        except TimeoutError:
            raise
        except OSError as error:  # counts as a network error and is retried, unlike one to write
            raise http.client.HTTPException(error.strerror or str(error)) from error
        if not chunk:
            return done
        part.write(chunk)
        done += len(chunk)
        if progress is not None:
            progress(done, total)


def _refuse_html(order: Order) -> None:
    with order.part.open("rb") as handle:
        start = handle.read(256).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(_HTML):
        raise _html_error(order)
    if not start:
        raise PvtctlError(f"{order.shown} is an empty file", "check the address or the mirror")


def _html_error(order: Order) -> PvtctlError:
    return PvtctlError(
        f"{order.shown} is a web page, not a {order.what}",
        f"open it in a browser (a login or a notice, perhaps), save the file and use --from FOLDER, or put it at {order.target}",
    )


def record_path(path: Path) -> Path:
    """The JSON file next to a downloaded file, with its URL and SHA-256."""
    return path.with_name(path.name + ".json")


def recorded_sha256(path: Path) -> str | None:
    """The SHA-256 recorded when `path` was first downloaded."""
    digest = read_facts(record_path(path)).get("sha256")
    return digest if isinstance(digest, str) else None


def write_record(path: Path, url: str, digest: str, size: int) -> None:
    """Write the record of a first download."""
    record: dict[str, Any] = {"url": url, "sha256": digest, "size": size}
    write_text(record_path(path), json.dumps(record, indent=2) + "\n")


def check_hash(
    file: Path, *, known_as: Path, prefix: str | None, recorded: bool = True, hint: str | None = None
) -> str:
    """Return the SHA-256 of `file` after comparing it with `prefix` and, if `recorded`, with the record of `known_as`.

    Raises PvtctlError if either differs; `hint` is the command that fetches the file again.
    """
    digest = sha256_of(file)
    if prefix is not None and not digest.startswith(prefix):
        raise PvtctlError(
            f"{known_as.name} has the wrong hash: SHA-256 {digest[: len(prefix)]}..., its publisher gives {prefix}...",
            hint or "the file is damaged or was replaced: fetch it again, from another mirror if this repeats",
        )
    first = recorded_sha256(known_as) if recorded else None
    if first is not None and first != digest:
        raise PvtctlError(
            f"{known_as.name} has the wrong hash: SHA-256 {digest[:12]}..., at the first fetch it was {first[:12]}...",
            hint or f"fetch it again; if its publisher replaced it and you trust that, delete {record_path(known_as)}",
        )
    return digest
