"""Resolve the value of `--weights` to a file."""

from __future__ import annotations

import os
from pathlib import Path

from pvtctl.errors import UsageError, nearest
from pvtctl.io.download import check_hash
from pvtctl.weights.catalogue import cached_file, find_published, published


def resolve_weights(text: str) -> Path:
    """The checkpoint that `text` names: a file, a run directory (see `weights_in_folder`), a transformers directory
    (returned unchanged), or a published name that has been fetched, whose hash is checked.

    Raises UsageError when nothing is found, with the nearest names or the command that fetches it, and PvtctlError when
    the fetched file has changed.
    """
    path = find_weights_file(text)
    if (entry := find_published(text)) is not None and path == cached_file(entry):
        check_hash(path, known_as=path, prefix=entry.sha256, hint=entry.get_again)
    return path


def find_weights_file(text: str) -> Path:
    """`resolve_weights` without checking hashes."""
    try:
        path = Path(text).expanduser()
        if path.is_file():
            return path
        if path.is_dir():
            return path if (path / "config.json").is_file() else weights_in_folder(path)
    except (OSError, RuntimeError):  # a name that no file can have, a `~user` who is not here
        pass
    entry = find_published(text)
    if entry is None:
        names = [each.name for each in published()]
        if os.sep in text or text.startswith((".", "~")):
            raise UsageError(
                f"no weights: there is no file or folder {text}", "name a checkpoint or the folder of a run"
            )
        raise UsageError(f"no weights {text!r}: neither a file nor a folder nor a published name", nearest(text, names))
    file = cached_file(entry)
    if file is None:
        raise UsageError(
            f"the published weights {entry.name} are not on this machine",
            f"`pvtctl weights fetch {entry.name}` gets them from {entry.url}",
        )
    return file


def weights_in_folder(folder: Path) -> Path:
    """The weights file of a run directory (the best, else the newest checkpoint) or of a transformers directory.

    Raises UsageError when there are no weights.
    """
    for name in ("best.safetensors", "model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    checkpoints = sorted([*folder.glob("checkpoints/step-*.pt"), *folder.glob("step-*.pt")])
    if checkpoints:
        return checkpoints[-1]
    if any(folder.glob("*.index.json")):
        raise UsageError(
            f"{folder} holds weights split over several files, which pvtctl does not read",
            "join them: read each with safetensors.torch.load_file, and save all of them in one dict with save_file",
        )
    raise UsageError(
        f"{folder} is a folder without weights",
        "expected best.safetensors (a run), or model.safetensors or pytorch_model.bin with config.json (transformers)",
    )


def replaced_by(path: Path) -> Path | None:
    """What to read for a checkpoint of a running run that it has removed since; None if it is another file, or there."""
    if path.exists() or path.parent.name != "checkpoints" or not path.name.startswith("step-"):
        return None
    try:
        return weights_in_folder(path.parent.parent)
    except UsageError:
        return None
