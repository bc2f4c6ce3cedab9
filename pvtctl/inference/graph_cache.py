"""Exported graphs in the user's cache folder, named by a hash of all that they depend on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pvtctl import __version__
from pvtctl.errors import PvtctlError
from pvtctl.export.program import OPSET
from pvtctl.io.files import atomic_path, locked, sha256_of, user_folder, write_text
from pvtctl.io.foreign import BadFile, read_json

MOST_BYTES = 4 << 30
"""Of all graphs together; the ones that were not used for longest are removed."""
_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")
_OF_ANY_MODULE = frozenset(vars(nn.Module()))
_DAY = 86_400


def fingerprint(module: nn.Module) -> str:
    """Hash of the weights, the settings, the code of all layers, and the versions of the packages that a graph is made by."""
    digest = hashlib.sha256()
    digest.update(json.dumps([__version__, OPSET, _versions()]).encode())
    for name, layer in module.named_modules():
        settings = {key: value for key, value in vars(layer).items() if key not in _OF_ANY_MODULE}
        digest.update(f"{name}:{type(layer).__module__}.{type(layer).__qualname__}{_plain(settings)}\n".encode())
    for file in _sources(module):
        with suppress(OSError):
            digest.update(Path(file).read_bytes())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name}:{_plain(tensor)}\n".encode())
    return digest.hexdigest()[:32]


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _sources(module: nn.Module) -> list[str]:
    """The files with the classes of all layers: own modules have no version."""
    kinds = {kind.__module__ for layer in module.modules() for kind in type(layer).__mro__}
    files = {getattr(sys.modules.get(kind), "__file__", None) for kind in kinds}
    return sorted(file for file in files if file)


def _plain(value: Any) -> str:
    """A setting as text that is the same in every process."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return repr(value)
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return f"{value.dtype}{tuple(value.shape)}{hashlib.sha256(data.numpy().data).hexdigest()}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(sorted(f'{_plain(key)}:{_plain(each)}' for key, each in value.items()))}}}"
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({each.name: getattr(value, each.name) for each in fields(value)})
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


class GraphCache:
    """The graphs of one network, by label: `224x224`, or `any` for all sizes.

    A graph is an ONNX file whose name has the hash of its content, and a JSON file, written after it, that names it: where
    nothing can be locked, two processes may write the same graph at the same time.
    """

    def __init__(self, key: str, folder: Path | None = None) -> None:
        self.key = key
        self.folder = folder or user_folder("cache") / "onnx"

    def find(self, label: str) -> Path | None:
        """The file of a graph; None if it is missing or not as it was written."""
        with suppress(BadFile, OSError):
            said = read_json(self._entry(label), dict)
            path = self.folder / str(said.get("file"))
            if path.is_file() and sha256_of(path) == said.get("sha256"):
                with suppress(OSError):  # a folder that can only be read
                    os.utime(path)
                return path
        return None

    @contextmanager
    def writing(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Write graphs of the network alone: a process that needs one too, such as another rank, waits until it is there.

        `on_wait` is called before waiting. Where the folder cannot be written, each process writes for itself.
        """
        with ExitStack() as held:
            with suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = self.folder / f"{self.key}.lock"
                if not held.enter_context(locked(lock, wait=False)):
                    on_wait()
                    held.enter_context(locked(lock))
            yield

    def keep(self, label: str, file: Path) -> tuple[Path, str]:
        """Copy `file` into the cache; returns where it is now, and a remark. If the folder cannot be written, it stays."""
        digest = sha256_of(file)
        path = self.folder / f"{self.key}-{label}-{digest[:16]}.onnx"
        try:
            with atomic_path(path) as temporary:
                shutil.copyfile(file, temporary)
            write_text(self._entry(label), json.dumps({"file": path.name, "sha256": digest}))
        except (PvtctlError, OSError) as error:
            return file, f"not kept: {error}"
        self._prune(path)
        return path, f"kept in {self.folder}"

    def note(self, label: str, content: Mapping[str, Any]) -> None:
        """Keep a remark about the network, if the folder can be written."""
        with suppress(PvtctlError, OSError):
            write_text(self._entry(label), json.dumps(content))

    def noted(self, label: str) -> dict[str, Any]:
        """The remark of that label; empty if it is missing or damaged."""
        with suppress(BadFile, OSError):
            return read_json(self._entry(label), dict)
        return {}

    def _entry(self, label: str) -> Path:
        return self.folder / f"{self.key}-{label}.json"

    def _prune(self, kept: Path) -> None:
        """Remove the graphs that were not used for longest until the others fit, and what a killed process left."""
        graphs = sorted(_statuses(self.folder, "*.onnx"), key=lambda each: each[1].st_mtime)
        total = sum(status.st_size for _, status in graphs)
        for path, status in graphs:
            if total <= MOST_BYTES:
                break
            if path != kept:
                total -= status.st_size
                with suppress(OSError):  # loaded by another process, on Windows
                    path.unlink()
                    (path.with_name(f"{path.stem.rpartition('-')[0]}.json")).unlink(missing_ok=True)
        for path, status in _statuses(self.folder, ".*.tmp"):
            if time.time() - status.st_mtime > _DAY:
                with suppress(OSError):
                    path.unlink()


def _statuses(folder: Path, pattern: str) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.glob(pattern):
        with suppress(OSError):
            yield path, path.stat()
