"""Resolve the value of `--weights` to a file and a part of it."""

from __future__ import annotations

import os
from pathlib import Path

from pvtctl.errors import UsageError, nearest
from pvtctl.io.console import say_once
from pvtctl.io.download import check_hash
from pvtctl.io.foreign import require_regular
from pvtctl.io.hub import HF_PREFIX, Repository, hub_weights, parse_hub_name
from pvtctl.io.urls import is_url, without_secrets
from pvtctl.models.backbone_names import TIMM_PREFIX, timm_name
from pvtctl.weights.catalogue import cached_file, find_published, published

_OF_MODELS = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
"""Names that transformers and timm give to weights."""


def split_inside(text: str) -> tuple[str, str | None]:
    """`FILE#KEY` as FILE and KEY, the part of a file to take; (`text`, None) without one."""
    file, mark, key = text.rpartition("#")
    return (file, key) if mark and file and key and not _is_there(text) else (text, None)


def with_inside(weights: str | None, inside: str | None, given_as: str = "--weights") -> str | None:
    """The text that names `inside`, as `--inside` gives it, of `weights`, which a command takes as `given_as`.

    Raises UsageError.
    """
    if inside is None:
        return weights
    if weights in (None, "none"):
        raise UsageError(f"--inside chooses a part of a file, and no {given_as} is given", "name the file, too")
    if not inside.strip(". "):
        raise UsageError(f"--inside {inside!r} names no part of a file", "leave it out")
    if split_inside(weights)[1] is not None:
        raise UsageError(f"{given_as} {weights} names a part already", "leave --inside out")
    return f"{weights}#{inside}"


def _is_there(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError):
        return False


def resolve_weights(text: str, backbone: str | None = None) -> Path:
    """The checkpoint that `text` names: a file, a run directory (see `weights_in_folder`), a transformers directory
    (returned unchanged), a published name that has been fetched, whose hash is checked, or a name of the Hugging Face Hub
    or timm (see `hub_name`, with `backbone` for `timm` alone), which is fetched if needed.

    Raises UsageError when nothing is found, with the nearest names or the command that fetches it, and PvtctlError when
    the fetched file has changed.
    """
    path = find_weights_file(text, backbone)
    if (entry := find_published(split_inside(text)[0])) is not None and path == cached_file(entry):
        check_hash(path, known_as=path, prefix=entry.sha256, hint=entry.get_again)
    return path


def find_weights_file(text: str, backbone: str | None = None) -> Path:
    """`resolve_weights` without checking hashes of published names."""
    text, _ = split_inside(text)
    if not text.strip():
        raise UsageError("no weights: the name is empty", "name a checkpoint, the folder of a run, or a published name")
    if (path := _path_of(text)) is not None:
        return path
    if is_hub_name(text):
        return _weights_by_name(text, backbone)
    if is_url(text):
        raise UsageError(f"{without_secrets(text)} is an address, not a file", "`pvtctl weights fetch` gets it")
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


def _path_of(text: str) -> Path | None:
    """The file or folder that `text` names; None if it is no path. Raises UsageError for a folder without weights, and for
    what is there and is neither: a named pipe, a link to nothing.
    """
    try:
        path = Path(text).expanduser()
        if path.is_file():
            return path
        if path.is_dir():
            return path if (path / "config.json").is_file() else weights_in_folder(path)
        there = os.path.lexists(path)
    except (OSError, RuntimeError, ValueError):  # a name that no file can have, a `~user` who is not here
        return None
    if there:
        require_regular(path)
    return None


def is_hub_name(text: str) -> bool:
    """Whether `text` names weights of the Hugging Face Hub or of timm; `timm` alone does too."""
    return text == "timm" or text.startswith((HF_PREFIX, TIMM_PREFIX))


def hub_name(text: str, backbone: str | None = None) -> Repository | str:
    """Where weights named `text` are: a repository of the Hub, or the address of a few of timm's, which are only there.

    Args:
        text: `hf:OWNER/NAME[@REVISION][/FILE]`, `timm:NAME`, `timm:NAME.TAG`, or `timm`: timm's default weights of `backbone`.
        backbone: A name of pvtctl's (`resnet50`, `timm:resnet50`).

    Raises:
        UsageError: No such name, or timm is needed to know it and not installed.
    """
    if text.startswith(HF_PREFIX):
        return parse_hub_name(text)
    if text == "timm" and backbone is None:
        raise UsageError("`timm` alone stands for its weights of a backbone", "name them: timm:resnet50")
    name = (timm_name(backbone) if text == "timm" and backbone else text).removeprefix(TIMM_PREFIX)
    try:
        from timm.models import get_pretrained_cfg, list_pretrained
    except ImportError as error:
        if "." in name:
            return parse_hub_name(f"{HF_PREFIX}timm/{name}")
        raise UsageError(
            f"{text}: timm, which knows its weights by name, is not installed",
            "pip install 'pvtctl[timm]', or name the weights with their tag: timm:resnet50.a1_in1k",
        ) from error
    try:
        entry = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        entry = None
    if entry is None or not (entry.hf_hub_id or entry.url):
        raise UsageError(f"timm has no weights {name!r}", nearest(name, list_pretrained()))
    if not entry.hf_hub_id:
        return str(entry.url)
    file = f"/{entry.hf_hub_filename}" if entry.hf_hub_filename else ""
    return parse_hub_name(f"{HF_PREFIX}{entry.hf_hub_id}{file}")


def _weights_by_name(text: str, backbone: str | None) -> Path:
    found = hub_name(text, backbone)
    if isinstance(found, Repository):
        return hub_weights(found, text)
    from pvtctl.weights.download import fetch_weights

    say_once(f"weights: {found}, by timm's table")
    return fetch_weights(found)


def weights_in_folder(folder: Path) -> Path:
    """The weights file of a run directory (the best, else the newest checkpoint) or of a transformers directory.

    Raises UsageError when there are no weights.
    """
    for name in ("best.safetensors", *_OF_MODELS):
        if (folder / name).is_file():
            return folder / name
    checkpoints = sorted([*folder.glob("checkpoints/step-*.pt"), *folder.glob("step-*.pt")])
    if checkpoints:
        return checkpoints[-1]
    raise UsageError(
        f"{folder} is a folder without weights",
        "expected best.safetensors (a run), or model.safetensors, pytorch_model.bin or their index (transformers)",
    )


def model_folder(path: Path) -> Path | None:
    """The folder of a model of transformers or timm, which says more about its weights; else None."""
    folder = path if path.is_dir() else path.parent if path.name in _OF_MODELS else None
    return folder if folder is not None and (folder / "config.json").is_file() else None


def replaced_by(path: Path) -> Path | None:
    """What to read for a checkpoint of a running run that it has removed since; None if it is another file, or there."""
    if path.exists() or path.parent.name != "checkpoints" or not path.name.startswith("step-"):
        return None
    try:
        return weights_in_folder(path.parent.parent)
    except UsageError:
        return None
