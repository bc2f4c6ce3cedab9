"""Reads the files of a run directory, which a copy may have cut or an editor changed."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

from pvtctl.errors import UsageError
from pvtctl.io.foreign import BadFile, read_foreign, read_json
from pvtctl.io.plain_yaml import read_plain_yaml
from pvtctl.recipe.earlier import with_earlier

_COPY_AGAIN = "copy the folder again, or train the run again"
_FIELDS = {
    **dict.fromkeys(("status", "reason", "name", "row", "profile", "task", "version"), str),
    **dict.fromkeys(("started", "finished", "precision"), str),
    **dict.fromkeys(("score", "result"), dict),
    "num_classes": int,
}
"""Of run.json; each may be null or missing."""


def damaged(file: Path, reason: str = "", hint: str = _COPY_AGAIN) -> UsageError:
    """The error for a file of a run that is not as pvtctl writes it."""
    return UsageError(f"{file} is damaged{f' ({reason})' if reason else ''}", hint)


def read_info(path: Path | str) -> dict[str, Any]:
    """Content of run.json of a run directory; empty if there is no such file. Raises UsageError if it is damaged."""
    file = Path(path) / "run.json"
    if not file.exists():
        return {}
    try:
        info: dict[str, Any] = read_json(file, dict)
    except BadFile as error:
        raise damaged(file, error.reason) from error
    for key, kind in _FIELDS.items():
        if not isinstance(info.get(key), kind | None) or (key == "score" and not all_numbers(info.get(key) or {})):
            raise damaged(file, f"its {key} cannot be {json.dumps(info[key])[:60]}")
    return info


def read_run_recipe(path: Path | str) -> dict[str, Any]:
    """The flat recipe of a run, with the settings that are newer than the run as they were then.

    Raises UsageError when the directory contains no run, or when the file is damaged.
    """
    file = Path(path) / "recipe.yaml"
    if not file.exists():
        raise UsageError(f"there is no run in {path}", "give a folder that holds recipe.yaml")
    try:
        recipe: dict[str, Any] = read_plain_yaml(file, dict)
    except BadFile as error:
        where = "" if error.line is None else f"line {error.line} "
        raise damaged(
            file, where + error.reason, "copy the folder again, or start a new run in another --out"
        ) from error
    return with_earlier(recipe)


def read_starts(path: Path | str) -> list[dict[str, Any]]:
    """The starts in environment.json of a run directory. It only describes: what is missing or damaged is left out."""
    try:
        starts: list[Any] = read_json(Path(path) / "environment.json", list)
    except BadFile:
        return []
    return [start for start in starts if isinstance(start, dict) and isinstance(start.get("processes", 1), int)]


def read_lines(file: Path, *, growing: bool = False) -> list[dict[str, Any]]:
    """The lines of a run's log; none if there is no such file.

    `growing`: the run may be writing it, so that its last line may be cut off. Raises UsageError if it is damaged.
    """
    if not file.exists():
        return []
    try:
        texts = read_foreign(file, most=None).decode("utf-8", "replace").splitlines()
    except BadFile as error:
        raise damaged(file, error.reason) from error
    found: list[dict[str, Any]] = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if _is_line(line):
            found.append(line)
        elif number < len(texts) or not growing:
            raise UsageError(f"{file} is damaged in line {number}", f"remove that line, or {_COPY_AGAIN}")
    return found


def _is_line(line: Any) -> bool:
    if not isinstance(line, dict):
        return False
    scores = [value for value in line.values() if isinstance(value, dict)]
    plain = {key: value for key, value in line.items() if not isinstance(value, dict | str)}
    places = [line.get(key, 0) for key in ("step", "epoch")]
    return all_numbers(plain) and all(map(all_numbers, scores)) and all(isinstance(each, int) for each in places)


def all_numbers(values: dict[str, Any]) -> bool:
    """Whether all values are finite numbers, or null."""
    try:
        return all(value is None or math.isfinite(value) for value in values.values())
    except (TypeError, OverflowError):
        return False


def find_runs(
    root: Path | str, *, name: str | None = None, row: str | None = None, status: str | None = "finished"
) -> list[Path]:
    """Run directories under `root` (itself included), newest first, that match a recipe name, row and status."""
    found: list[tuple[str, Path]] = []
    for file in Path(root).rglob("run.json"):
        try:
            info = read_info(file.parent)
        except UsageError:  # not a file of pvtctl
            continue
        wanted = (("name", name), ("row", row), ("status", status))
        if all(value is None or info.get(key) == value for key, value in wanted):
            found.append((info.get("finished") or info.get("started") or "", file.parent))
    return [path for _, path in sorted(found, reverse=True)]


_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes (see `atomic_path`). For who holds the folder's lock."""
    for file in folder.rglob(".*.tmp"):
        match = _TEMPORARY.fullmatch(file.name)
        if match and not file.is_dir() and not _runs(int(match[1])):
            file.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    """Whether another process of that number is there, which may be drawing a picture of this run."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
