"""Files in object storage and on web servers, through fsspec: found, listed and fetched with patience. Loads without torch.

Whatever goes wrong on the way is tried again, up to ATTEMPTS times in a row without progress, with a pause that doubles.
Errors name the URL without its secrets.
"""

from __future__ import annotations

import errno
import importlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pvtctl.errors import PvtctlError, UsageError, nearest
from pvtctl.io.urls import require_server, scheme_of, without_secrets

T = TypeVar("T")
SCHEMES = {"https": "aiohttp", "http": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
"""What a URL may begin with, and the package that fsspec needs for it."""
ATTEMPTS = 5
PAUSE = 1.0
"""Seconds before the second attempt, doubled for each further one."""
TIMEOUT = 30.0
"""Seconds without a response or data before an attempt fails."""
CHUNK = 16 << 20
"""Bytes of a request where a file is fetched in parts."""
_TAGS = ("ETag", "etag", "md5Hash", "Content-MD5", "Last-Modified", "created")
_OPEN: dict[tuple[int, str, float], Any] = {}
"""File systems by process, scheme and time-out. A loader process keeps those of its parent and does not use them: their
connections are the parent's, and fsspec would close them when they go.
"""
_REFUSED = (401, 403)
_GONE = (404, 410)
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


class ServerAway(PvtctlError):
    """A server that does not respond, or not with the file; a run can be resumed once it does."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"{without_secrets(url)} could not be read: {reason}",
            f"{ATTEMPTS} attempts failed; look whether the server is up, then run again: --resume continues a run",
        )


class FileChanged(PvtctlError):
    """A file that is not the one that it was."""

    def __init__(self, file: RemoteFile, now: RemoteFile) -> None:
        super().__init__(
            f"{without_secrets(file.url)} was changed on the server while it was in use: it had {file}, now it has {now}",
            "put the former file back and resume, or start a new run",
        )


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server, as it was when it was looked up."""

    url: str
    """Whole, with any secrets."""
    size: int
    tag: str
    """What the server says to tell versions of a file apart (ETag); may be empty."""
    in_parts: bool
    """Whether the server said nothing against requests for a part of the file."""

    def __str__(self) -> str:
        return f"{self.size:,} bytes" + (f" (ETag {self.tag})" if self.tag else "")

    def is_same(self, other: RemoteFile) -> bool:
        """Whether both are the same version of a file."""
        return (self.size, self.tag) == (other.size, other.tag)


def file_system(url: str) -> Any:
    """fsspec's view of a server, with the options of the user's fsspec configuration. Raises UsageError without its package."""
    scheme = scheme_of(url)
    if scheme not in SCHEMES:
        raise UsageError(f"{without_secrets(url)} starts with {scheme}://", nearest(scheme, tuple(SCHEMES)))
    require_server(url)
    key = os.getpid(), scheme, TIMEOUT
    if key in _OPEN:
        return _OPEN[key]
    try:
        importlib.import_module(SCHEMES[scheme])
        fsspec = importlib.import_module("fsspec")
        fs = fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False, **_patience(scheme))
        return _OPEN.setdefault(key, fs)
    except ImportError as error:
        raise UsageError(
            f"{scheme}:// needs the package {SCHEMES[scheme]}: {error}", "pip install 'pvtctl[remote]'"
        ) from error


def _patience(scheme: str) -> dict[str, Any]:
    """Options of a file system: time-outs for a pause between bytes, not for a whole file."""
    if scheme == "s3":
        return {"config_kwargs": {"connect_timeout": TIMEOUT, "read_timeout": TIMEOUT}}
    if SCHEMES[scheme] == "aiohttp":
        waits = importlib.import_module("aiohttp").ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)
        return {"client_kwargs": {"timeout": waits, "trust_env": True}}  # proxies, and passwords in ~/.netrc
    return {}


def look_up(url: str) -> RemoteFile:
    """Size and tag of a file. Raises UsageError if it does not exist, ServerAway."""
    fs = file_system(url)

    def look() -> RemoteFile:
        info = fs.info(url)
        if info.get("size") is None:
            raise UsageError(f"{without_secrets(url)}: the server does not say its size", "another server may")
        tag = next((str(info[key]) for key in _TAGS if info.get(key)), "")
        return RemoteFile(url, int(info["size"]), tag, info.get("partial", True))

    return _patiently(url, look)


def matching(pattern: str) -> list[str]:
    """Sorted URLs of the files of a pattern with `*`; empty if there are none. Raises UsageError, ServerAway."""
    fs, (base, _, query) = file_system(pattern), pattern.partition("?")

    def look() -> list[str]:
        return sorted(fs.unstrip_protocol(name) for name in fs.glob(base))

    return [f"{url}?{query}" if query else url for url in _patiently(pattern, look)]


def read_small(url: str, most: int = 64 << 20) -> bytes | None:
    """The bytes of a document of at most `most` bytes; None if it does not exist. Raises UsageError, ServerAway."""
    try:
        file = look_up(url)
    except UsageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    if file.size > most:
        raise UsageError(f"{without_secrets(url)} is too large: {file.size:,} bytes", f"at most {most:,} are expected")
    return _patiently(url, lambda: file_system(url).cat_file(url))


def read_part(file: RemoteFile, offset: int, size: int) -> bytes:
    """Some bytes of a file. Raises UsageError, ServerAway."""

    def read() -> bytes:
        data: bytes = file_system(file.url).cat_file(file.url, start=offset, end=offset + size)
        if len(data) == file.size > size:  # a server may answer with the whole
            return data[offset : offset + size]
        if len(data) != size:
            raise ConnectionError(f"{len(data):,} of {size:,} bytes came")
        return data

    return _patiently(file.url, read)


def fetch(file: RemoteFile, part: Path) -> None:
    """Complete `part`, which may have the first bytes of the file already.

    Raises FileChanged when the server has another version, ServerAway, UsageError, OSError of the disk.
    """
    require_same(file)
    part.touch()
    with part.open("r+b") as handle:
        at = min(part.stat().st_size, file.size)
        while at < file.size:
            at = _patiently(file.url, partial(_more, file, handle, at))
        handle.truncate(file.size)
    try:
        require_same(file)
    except FileChanged:  # what came in between may be of both versions
        part.unlink(missing_ok=True)
        raise


def require_same(file: RemoteFile) -> None:
    """Raises FileChanged if the server has another version of a file now, ServerAway, UsageError."""
    if not file.is_same(now := look_up(file.url)):
        raise FileChanged(file, now)


def _more(file: RemoteFile, handle: BinaryIO, at: int) -> int:
    """Add what one request gives to the first `at` bytes; returns how many there are. Raises what went wrong if none came.

    A web server may send the whole where a part was asked for. So the beginning is asked for as a whole, which is
    written as it comes, and a part only after that was cut.
    """
    fs = file_system(file.url)
    if file.in_parts and (at or not _is_web(file.url)):
        asked = min(CHUNK, file.size - at)
        data: bytes = fs.cat_file(file.url, start=at, end=at + asked)
        if at and len(data) == file.size:
            data = data[at:]
        elif len(data) > asked:
            raise ConnectionError("the server sent another part than asked")
        handle.seek(at)
        handle.write(data)
    else:
        handle.seek(0)
        try:
            fs.get_file(file.url, handle)
        except Exception:
            if handle.tell() <= at:
                raise
    done = handle.tell()
    if not at < done <= file.size:
        raise ConnectionError("the connection was cut" if done <= at else "more came than the server had announced")
    return done


def _is_web(url: str) -> bool:
    return scheme_of(url) in ("http", "https")


def _patiently(url: str, ask: Callable[[], T]) -> T:
    """What a request returns. Raises UsageError for a failure that another attempt does not change, else ServerAway."""
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return ask()
        except (PvtctlError, MemoryError):
            raise
        except Exception as error:  # each store has errors of its own
            if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
                raise
            cause = (error.__cause__ or error) if _is_web(url) else error  # there fsspec calls any failure not found
            status = getattr(cause, "status", None)
            if status in _GONE or (status is None and isinstance(cause, FileNotFoundError)):
                raise UsageError(
                    f"{without_secrets(url)} does not exist", "check the address, and the pattern of the shards"
                ) from FileNotFoundError()
            if status in _REFUSED or isinstance(cause, PermissionError) or "Credentials" in type(cause).__name__:
                raise UsageError(
                    f"{without_secrets(url)} is refused: {_reason(cause, status)}",
                    "log in as the store's own tools do (AWS_* variables, gcloud, ~/.netrc); docs/data.md says more",
                ) from None
            reason = _reason(cause, status)
    raise ServerAway(url, reason)


def _reason(error: BaseException, status: int | None) -> str:
    if status is not None:
        return f"the server returned {status}"
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return f"no answer within {TIMEOUT:g} s"
    said = str(error).strip().splitlines()
    return without_secrets(said[0]) if said else type(error).__name__
