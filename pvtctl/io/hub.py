"""Weights of the Hugging Face Hub: `hf:OWNER/NAME`. Loads without torch.

The local cache of huggingface_hub is looked in first and never written. What is not there is downloaded into pvtctl's cache,
one folder per commit, in the Hub's own protocol: the list of a repository's files with their hashes, then the files.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvtctl.errors import PvtctlError, UsageError, nearest
from pvtctl.io.console import byte_progress, say, say_once
from pvtctl.io.download import TIMEOUT, Order, Progress, UnreachableError, check_hash, get
from pvtctl.io.files import user_folder
from pvtctl.io.foreign import foreign, read_json

HF_PREFIX = "hf:"
PUBLIC = "https://huggingface.co"
"""The public Hub; `$HF_ENDPOINT` replaces it."""
BESIDE = ("config.json", "preprocessor_config.json")
"""Files that describe weights."""
INDEX_SUFFIX = ".index.json"
_WHOLE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Names of a repository's weights, by preference."""
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_PART = re.compile(r"[\w][\w.-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub, and which file in it."""

    owner: str
    name: str
    revision: str = "main"
    """A branch, a tag or a commit."""
    file: str | None = None
    """Path in the repository; None: its weights."""

    @property
    def id(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def folder(self) -> Path:
        """Where its files are in pvtctl's cache."""
        return user_folder("cache") / "hub" / f"{self.owner}--{self.name}"

    @property
    def page(self) -> str:
        return f"{endpoint()}/{self.id}"


@dataclass(frozen=True)
class Listing:
    """What the Hub says of a repository at a revision."""

    commit: str
    sha256: Mapping[str, str | None]
    """File -> hash, which the Hub keeps of large files."""
    license: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)


def hub_weights(repository: Repository, text: str) -> Path:
    """The weights of a repository, named `text` by the user: a file, or a folder with their description. Downloads them if
    neither huggingface_hub nor pvtctl has them on this machine.

    Raises:
        UsageError: A repository that does not exist, cannot be reached, asks for consent first or has no weights.
        PvtctlError: A file that has another hash than the Hub's.
    """
    kept = _kept_by_hub(repository)
    if kept is not None:
        _check_kept(kept)
        say_once(f"weights: {text} of huggingface_hub's cache, {kept}")
        return kept
    listing = _known(repository)
    if listing is not None:
        folder = repository.folder / listing.commit
        files = _needed(repository, listing, folder, text)
        if all((folder / file).is_file() for file in files):
            _check_fetched(folder, files, listing, text)
            return _entry(repository, folder, files)
    with byte_progress() as watch:
        return fetch_hub_weights(repository, text, progress=watch(text))


def fetch_hub_weights(
    repository: Repository,
    text: str,
    *,
    again: bool = False,
    progress: Progress | None = None,
    timeout: float = TIMEOUT,
    pause: float = 1.0,
) -> Path:
    """`hub_weights` from the Hub, even if huggingface_hub has them.

    The revision is looked up again; `again` replaces files that are there. Other options and errors: those of
    `pvtctl.io.download.get`.
    """
    return _Download(repository, text, again, progress, timeout, pause).weights()


def _check_fetched(folder: Path, files: Sequence[str], listing: Listing, text: str) -> None:
    for file in files:
        check_hash(
            folder / file,
            known_as=folder / file,
            prefix=listing.sha256[file],
            hint=f"get it again: pvtctl weights fetch {text} --again",
        )
    say_once(f"weights: {text}, licence {listing.license or 'not stated'}, {folder}")


def parse_hub_name(text: str) -> Repository:
    """The repository of `hf:OWNER/NAME[@REVISION][/FILE]`. Raises UsageError."""
    owner, _, rest = text.removeprefix(HF_PREFIX).partition("/")
    name, _, file = rest.partition("/")
    name, _, revision = name.partition("@")
    named = _PART.fullmatch(owner) and _PART.fullmatch(name) and ".." not in owner + name
    if not named or (revision and not _PART.fullmatch(revision)) or (file and not _is_plain(file)):
        raise UsageError(
            f"{text!r} is not a name of the Hugging Face Hub",
            "hf:OWNER/NAME, with @REVISION behind it or /FILE: hf:timm/resnet50.a1_in1k",
        )
    return Repository(owner, name, revision or "main", file or None)


def _is_plain(file: str) -> bool:
    """Whether a path stays in its folder."""
    parts = file.split("/")
    return all(_PART.fullmatch(part) for part in parts) and ".." not in parts


def endpoint() -> str:
    """The address of the Hub: `$HF_ENDPOINT`, else the public one."""
    return (os.environ.get("HF_ENDPOINT") or PUBLIC).rstrip("/")


def is_offline() -> bool:
    """Whether `$HF_HUB_OFFLINE` (or transformers' variable) forbids downloads."""
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def hub_cache() -> Path:
    """Where huggingface_hub keeps files: `$HF_HUB_CACHE`, else `hub` in `$HF_HOME`."""
    if stated := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(stated).expanduser()
    return _home() / "hub"


def _home() -> Path:
    if stated := os.environ.get("HF_HOME"):
        return Path(stated).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"


# --- finding


def _kept_by_hub(repository: Repository) -> Path | None:
    """A complete copy in huggingface_hub's cache, or None."""
    home = hub_cache() / f"models--{repository.owner}--{repository.name}"
    try:
        commit = repository.revision
        if not _COMMIT.fullmatch(commit):
            commit = (home / "refs" / repository.revision).read_text(encoding="utf-8").strip()
        snapshot = home / "snapshots" / commit
        if not _COMMIT.fullmatch(commit) or not snapshot.is_dir():
            return None
        present = {file.relative_to(snapshot).as_posix() for file in snapshot.rglob("*") if file.is_file()}
        files = _needed(repository, Listing(commit, dict.fromkeys(present)), snapshot, "")
    except (OSError, UnicodeError, UsageError):
        return None
    if not all((snapshot / file).is_file() for file in files):
        return None
    return _entry(repository, snapshot, files)


def _check_kept(path: Path) -> None:
    """Compare large files with their hashes, which huggingface_hub names its blobs by."""
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        blob = file.resolve()
        if _DIGEST.fullmatch(blob.name) and file.suffix in _SUFFIXES:
            check_hash(blob, known_as=blob, prefix=blob.name, recorded=False, hint=f"delete {blob} and get it again")


def _entry(repository: Repository, folder: Path, files: Sequence[str]) -> Path:
    """What to read: the folder if the weights in it are described, or in parts; else their file."""
    if repository.file is not None:
        return folder / repository.file
    if "config.json" in files or any(file.endswith(INDEX_SUFFIX) for file in files):
        return folder
    return folder / files[0]


def _needed(repository: Repository, listing: Listing, folder: Path, text: str) -> list[str]:
    """The files to have: the weights first (an index with its parts, if it is there), then their description."""
    there = listing.sha256
    if repository.file is not None:
        if repository.file not in there:
            raise UsageError(
                f"{text}: {repository.id} has no {repository.file}", nearest(repository.file, _weights_in(there))
            )
        return [repository.file]
    first = next((name for name in _WHOLE if name in there), None)
    if first is None:
        found = _weights_in(there)
        if len(found) != 1:
            raise UsageError(
                f"{text}: {repository.id} has {'no' if not found else 'several'} weights",
                f"name one: {HF_PREFIX}{repository.id}/{found[0]} (or {', '.join(found[1:6])})"
                if found
                else f"look at {repository.page}",
            )
        first = found[0]
    files = [first]
    if first.endswith(INDEX_SUFFIX) and (folder / first).is_file():
        files += _parts(folder / first, there)
    return files + [name for name in BESIDE if name in there]


def _weights_in(files: Mapping[str, Any]) -> list[str]:
    return sorted(file for file in files if file.endswith(_SUFFIXES))


def _parts(index: Path, there: Mapping[str, Any]) -> list[str]:
    """The files that an index names. Raises BadFile unless the repository has them."""
    with foreign(index):
        parts = sorted({str(part) for part in read_json(index, dict)["weight_map"].values()})
    if lost := [part for part in parts if part not in there]:
        raise UsageError(f"{index} names {lost[0]}, which its repository does not have", "fetch it again with --again")
    return parts


# --- downloading


@dataclass(frozen=True)
class _Download:
    """The download of one repository; options as `fetch_hub_weights`."""

    repository: Repository
    text: str
    again: bool = False
    progress: Progress | None = None
    timeout: float = TIMEOUT
    pause: float = 1.0

    def weights(self) -> Path:
        listing = self._listing()
        folder = self.repository.folder / listing.commit
        files = _needed(self.repository, listing, folder, self.text)
        size = sum(listing.sizes.get(file, 0) for file in files)
        say(
            f"weights: {self.text}, {size / 1e6:.1f} MB of {self.repository.page} at commit {listing.commit[:8]}, "
            f"licence {listing.license or 'not stated'}"
        )
        self._get(folder, files, listing)
        if files[0].endswith(INDEX_SUFFIX):  # now its parts are known
            files = _needed(self.repository, listing, folder, self.text)
            self._get(folder, files, listing)
        return _entry(self.repository, folder, files)

    def _listing(self) -> Listing:
        if is_offline():
            raise UsageError(
                f"{self.text} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it",
                f"unset it, or put the files into {hub_cache()} as huggingface_hub does",
            )
        id, revision = self.repository.id, urllib.parse.quote(self.repository.revision, safe="")
        url = f"{endpoint()}/api/models/{id}/revision/{revision}?blobs=true"
        with _reaching(self.text):
            file = get(self._order(url, _listing_file(self.repository), what="list of files"), again=True, **self._how)
        return read_listing(file)

    def _get(self, folder: Path, files: Sequence[str], listing: Listing) -> None:
        for file in files:
            url = f"{self.repository.page}/resolve/{listing.commit}/{urllib.parse.quote(file)}"
            order = self._order(url, folder / file, sha256=listing.sha256[file])
            with _reaching(self.text):
                get(order, again=self.again, **self._how)

    def _order(self, url: str, target: Path, *, sha256: str | None = None, what: str = "checkpoint") -> Order:
        target.parent.mkdir(parents=True, exist_ok=True)
        token = _token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return Order(url, target, sha256, what, f"open {self.repository.page}", headers=headers, refusal=self._refusal)

    @property
    def _how(self) -> dict[str, Any]:
        return {"progress": self.progress, "timeout": self.timeout, "pause": self.pause}

    def _refusal(self, status: int, headers: Mapping[str, str]) -> PvtctlError | None:
        """The Hub's reasons for refusing."""
        reason = headers.get("X-Error-Code", "")
        if reason == "GatedRepo":
            return UsageError(
                f"{self.text} is given after consent only (the Hub's gated access)",
                f"accept its terms at {self.repository.page}, then set HF_TOKEN to your token",
            )
        if reason == "RevisionNotFound":
            return UsageError(f"{self.text}: there is no revision {self.repository.revision}", self.repository.page)
        if status == 404 or reason == "RepoNotFound" or (status == 401 and not reason):
            return UsageError(
                f"{self.text}: there is no {self.repository.id} at {endpoint()}, or it is private",
                "check the name; private ones need HF_TOKEN",
            )
        return None


@contextmanager
def _reaching(text: str) -> Iterator[None]:
    """A server that cannot be reached makes a name unusable: UsageError, with what else can be done."""
    try:
        yield
    except UnreachableError as error:
        raise UsageError(
            f"{text}: {error.message}",
            "give a file, or set HF_ENDPOINT to a mirror, or copy huggingface_hub's cache from another machine",
        ) from error


def _token() -> str | None:
    """The user's token for the Hub, if there is one."""
    token = os.environ.get("HF_TOKEN")
    if not token:
        path = os.environ.get("HF_TOKEN_PATH")
        try:
            token = (Path(path).expanduser() if path else _home() / "token").read_text(encoding="utf-8")
        except (OSError, UnicodeError):
            return None
    token = token.strip()
    return token if token.isascii() and token.isprintable() else None


def _listing_file(repository: Repository) -> Path:
    return repository.folder / f"{repository.revision}.json"


def _known(repository: Repository) -> Listing | None:
    """The listing that was fetched before, or None."""
    file = _listing_file(repository)
    if not file.is_file():
        return None
    try:
        return read_listing(file)
    except UsageError:
        return None  # damaged: it is fetched again


def read_listing(file: Path) -> Listing:
    """The Hub's description of a repository, saved as `file`. Raises BadFile for anything else."""
    with foreign(file):
        answer = read_json(file, dict)
        commit = str(answer["sha"])
        if not _COMMIT.fullmatch(commit):
            raise ValueError(f"{commit[:50]!r} is no commit")
        entries = {str(each["rfilename"]): each for each in answer["siblings"]}
        entries = {name: each for name, each in entries.items() if _is_plain(name)}
        large = {name: each.get("lfs") or {} for name, each in entries.items()}
        sha256 = {name: str(about["sha256"]) if about.get("sha256") else None for name, about in large.items()}
        if any(digest is not None and not _DIGEST.fullmatch(digest) for digest in sha256.values()):
            raise ValueError("it states a hash that is not a SHA-256")
        sizes = {name: int(each.get("size") or large[name].get("size") or 0) for name, each in entries.items()}
    return Listing(commit, sha256, _license(answer), sizes)


def _license(answer: Mapping[str, Any]) -> str | None:
    """The licence that the author states: `apache-2.0`; for `other` its name, if it has one."""
    card = answer.get("cardData")
    card = card if isinstance(card, Mapping) else {}
    stated = card.get("license_name") if card.get("license") == "other" else card.get("license")
    if isinstance(stated, list):
        stated = ", ".join(map(str, stated))
    if not stated:
        tags = answer.get("tags")
        found = [str(tag) for tag in (tags if isinstance(tags, list) else []) if str(tag).startswith("license:")]
        stated = found[0].removeprefix("license:") if found else card.get("license")
    return str(stated)[:60] if stated else None
