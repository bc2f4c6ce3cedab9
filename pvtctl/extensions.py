"""User-provided Python files that register backbones and heads (`--module FILE.py`). Loads without torch.

A file is executed only if the user named it, or if it is a run directory's copy of a file that this user named before
(its hash is in the user's state folder). Any other file that a recipe, checkpoint or run directory requires is refused
with a hint. Installed plugins: `pvtctl.models.registry`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.files import atomic_path, user_folder, write_text
from pvtctl.io.foreign import read_facts
from pvtctl.models import registry

COPIES = "modules"
"""Subfolder of a run directory with copies of the files that its model needs."""


@dataclass(frozen=True)
class Extension:
    """A loaded file."""

    path: Path
    sha256: str
    content: bytes
    names: tuple[str, ...]
    """Names of the backbones and heads it registered."""

    @property
    def file(self) -> str:
        return self.path.name

    def as_meta(self) -> dict[str, str]:
        """File name and hash, as stored in checkpoints and run.json."""
        return {"file": self.file, "sha256": self.sha256}


_loaded: dict[str, Extension] = {}
"""Keyed by file name, which must be unique in a process."""


def load_module(path: str | Path) -> Extension:
    """Run a Python file that registers backbones or heads, and record its hash as trusted by this user.

    A file is loaded only once. Raises UsageError if it is missing, fails, or has the name of a loaded file but other
    content.
    """
    path = Path(path).expanduser().absolute()
    try:
        content = path.read_bytes()
    except OSError as error:
        hint = "--module takes a Python file that calls pvtctl.register (docs/extending.md)"
        raise UsageError(f"module {path} cannot be read: {error.strerror}", hint) from error
    extension = _load(path, content)
    _trust(extension)
    return extension


def _load(path: Path, content: bytes) -> Extension:
    """Run `content`, the bytes of `path` that were hashed."""
    digest = hashlib.sha256(content).hexdigest()
    if (known := _loaded.get(path.name)) is not None:
        if known.sha256 == digest:
            return known
        raise UsageError(
            f"two modules are called {path.name}: {known.path} and {path}", "name one of them, or rename it"
        )
    before = registry.registered()
    name = f"pvtctl_extension_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or path.suffix != ".py":
        raise UsageError(f"module {path} is not a Python file", "its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickled loader workers look their module up
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        registry.unregister(registry.registered() - before)
        if isinstance(error, PvtctlError):
            raise UsageError(f"module {path}: {error.message}", error.hint) from error
        raise UsageError(f"module {path} failed: {_where(path, error)}", "run it with python to see more") from error
    extension = Extension(path, digest, content, tuple(sorted(name for _, name in registry.registered() - before)))
    _loaded[path.name] = extension
    return extension


def _where(path: Path, error: Exception) -> str:
    """The error and the line of the file that raised it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" + (f" (line {line})" if line else "")


def loaded() -> list[Extension]:
    """The loaded files, in order."""
    return list(_loaded.values())


def command_words() -> list[str]:
    """`--module FILE` for each loaded file, for the command line of another process."""
    return [word for extension in loaded() for word in ("--module", str(extension.path))]


def owners(names: Iterable[str | None]) -> list[Extension]:
    """The loaded files that registered one of these backbones or heads."""
    wanted = set(names)
    return [extension for extension in loaded() if wanted & set(extension.names)]


def keep_copies(extensions: Iterable[Extension], run_folder: Path) -> None:
    """Copy files into a run directory, where `--resume`, `eval`, `predict` and `export` find them."""
    for extension in extensions:
        with atomic_path(run_folder / COPIES / extension.file) as temporary:
            temporary.write_bytes(extension.content)


def require(stated: object, beside: Path, log: Callable[[str], None] | None = None) -> None:
    """Load the files `stated` by a run directory or checkpoint at `beside` (`Extension.as_meta`).

    A file already loaded is used, with a warning through `log` if its hash differs. Otherwise the copy in the run
    directory is loaded if this user named a file with that hash before. Raises UsageError for files that are missing,
    changed, or not trusted.
    """
    for one in stated if isinstance(stated, list) else ():
        if not isinstance(one, dict):
            continue
        file, digest = file_name(str(one.get("file"))), str(one.get("sha256"))
        if (known := _loaded.get(file)) is not None:
            if known.sha256 != digest and log is not None:
                log(
                    f"warning: {known.path} is not the file that this was trained with ({known.sha256[:8]}, not {digest[:8]})"
                )
            continue
        copy = beside / COPIES / file
        if not copy.is_file():
            raise UsageError(f"{beside} needs the module {file}, which is not there", f"add --module PATH/{file}")
        content = copy.read_bytes()
        actual = hashlib.sha256(content).hexdigest()
        if actual != digest:
            raise UsageError(
                f"{copy} was changed since the run began ({actual[:8]}, not {digest[:8]})",
                f"read it, then add --module {copy} to run it all the same",
            )
        if digest not in _trusted():
            raise UsageError(
                f"{beside} needs the module {file}, code that you have not run before",
                f"read it, then add --module {copy}",
            )
        _load(copy, content)


def require_for_run(folder: Path, log: Callable[[str], None] | None = None) -> None:
    """`require` the files stated in a run directory's run.json, if there is one. Raises UsageError."""
    require(read_facts(folder / "run.json").get("modules"), folder, log)  # damage is told by what needs more of it


def file_name(path: str) -> str:
    """The name under which a module is known: its path without the folder."""
    return Path(path).name


def require_named(files: Sequence[str], recipe: str) -> None:
    """Raise UsageError unless every module that a recipe needs (its `module:`) is loaded."""
    for file in files:
        if file_name(file) not in _loaded:
            raise UsageError(f"recipe {recipe} needs --module {file}", f"read {file}, then add --module {file}")


def _state_file() -> Path:
    return user_folder("state") / "modules.json"


def _trusted() -> dict[str, str]:
    """Hash -> path of every file this user has named."""
    return read_facts(_state_file())


def _trust(extension: Extension) -> None:
    known = _trusted()
    if extension.sha256 in known:
        return
    with suppress(PvtctlError):  # without a state folder the copy must be named again
        write_text(_state_file(), json.dumps(known | {extension.sha256: str(extension.path)}, indent=2) + "\n")
        _state_file().chmod(0o600)
