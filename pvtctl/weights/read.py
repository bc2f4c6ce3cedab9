"""Read checkpoint files without running code from them; one-line errors for invalid ones."""

from __future__ import annotations

import argparse
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.io.checkpoint_meta import CheckpointMeta, is_safetensors
from pvtctl.io.console import say
from pvtctl.io.files import sha256_of, without_nan
from pvtctl.io.foreign import foreign, open_foreign, parse_json, read_json
from pvtctl.io.names import shown
from pvtctl.models.backbone_names import split_name
from pvtctl.models.registry import DETECTION, backbone_specs
from pvtctl.weights.catalogue import Published, cache_folder, published, published_with_hash
from pvtctl.weights.files.inside import StatePart, chosen_part, find_state, known_part, meta_of_part, no_weights
from pvtctl.weights.files.pixels import Pixels, stated_pixels
from pvtctl.weights.files.shards import INDEX, read_shards
from pvtctl.weights.layouts import depth_anything, detr, torchvision, transformers
from pvtctl.weights.layouts.base import DETECTOR_RESIZE, Format
from pvtctl.weights.recognise import Converted, convert_state
from pvtctl.weights.resolve import model_folder, replaced_by, resolve_weights, split_inside, weights_in_folder
from pvtctl.weights.tensors import check_tensors

_META_KEY = "pvtctl"
_numpy_scalar = np.float64(0).__reduce__()[0]


# What training scripts save with the weights and what holds no code: their arguments, and scores as numpy numbers,
# whose module had another name before numpy 2.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
    *((_numpy_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


@dataclass(frozen=True)
class Checkpoint:
    """A file's contents under pvtctl's names."""

    state: dict[str, Tensor]
    """`backbone.*` and `head.*` where the format is known, the file's own names where it is "unknown"."""
    format: Format
    meta: CheckpointMeta = field(default_factory=CheckpointMeta)
    path: Path | None = None
    pixels: Pixels = field(default_factory=Pixels)
    raw: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """The same tensors under the file's own names, without a prefix that all of a model has."""
    left_out: tuple[str, ...] = ()
    """Names outside the prefix or the key that was taken."""
    inside: str | None = None
    """The key or prefix that was asked for."""

    @property
    def source(self) -> str:
        """What to name as `--weights` to read the same again: the path, with `inside`."""
        return f"{self.path}#{self.inside}" if self.inside else str(self.path)

    @property
    def names(self) -> list[str]:
        """All names in the file."""
        return [*self.raw, *self.left_out]

    @property
    def note(self) -> str:
        """What was taken where there was a choice; else an empty string."""
        said = []
        if also := self.meta.also_averaged:
            said.append(f"the file also holds {', '.join(also)} (--inside {also[0]} takes it)")
        if self.left_out:
            some = ", ".join(self.left_out[:3]) + (", ..." if len(self.left_out) > 3 else "")
            said.append(f"{len(self.left_out)} other tensors are left out ({some})")
        return "; ".join([f"taken from {self.meta.inside!r}", *said]) if said else ""


def read_weights(source: Path | str, backbone: str | None = None) -> Checkpoint:
    """Read what `--weights` names (see `resolve_weights`), the part of it after a `#` included. Raises as
    `read_checkpoint`.
    """
    return read_checkpoint(resolve_weights(str(source), backbone), split_inside(str(source))[1])


def read_checkpoint(path: Path | str, inside: str | None = None) -> Checkpoint:
    """Read a checkpoint file or a transformers model directory and rename its parameters to pvtctl's names.

    Files: safetensors, those of `torch.save` (read with `weights_only=True`; a pickle with code is refused), or the index
    of weights in several files. `inside`: the key of a training script's dict, the prefix of names, or both joined by
    a dot; unset: see `find_state`, and the only prefix under which a known model lies.
    Raises UsageError for anything that is not a checkpoint: a missing, empty or truncated file, a web page, a Git LFS
    pointer, a pickle that would run code, a directory without weights. For a checkpoint that its run has replaced
    since it was found, the newest is read.
    """
    path = Path(path)
    try:
        with foreign(path, _get_again(path)):  # names and shapes of others too lead to anything
            return _read(path, inside)
    except UsageError:
        if (newer := replaced_by(path)) is None:
            raise
    say(f"the run has replaced {path.name} meanwhile; {newer.name} is read")
    return read_checkpoint(newer, inside)


def _read(path: Path, inside: str | None) -> Checkpoint:
    file = weights_in_folder(path) if path.is_dir() else path
    raw, meta, prefix = _tensors_of(file, inside)
    if (folder := model_folder(path)) is not None:
        meta = CheckpointMeta.read(_transformers_meta(folder) | meta.as_json(), path)
    part = chosen_part(str(path), raw, prefix) if prefix else StatePart(raw, "")
    converted = Converted(part.state, "pvtctl") if _is_ours(part.state, meta) else convert_state(part.state)
    unknown = inside is None and converted.format == "unknown" and meta.backbone is None
    if unknown and (found := known_part(str(path), raw)) is not None:
        part, converted = found, convert_state(found.state)
    if part.prefix:
        meta = meta_of_part(meta, part)
    state, hashed = converted.state, _hash_where_it_tells(path, converted)
    if hashed.startswith(torchvision.PUBLISHED_SHA256):
        state = torchvision.without_eps(state)
    if hashed.startswith(detr.DILATED_SHA256):
        meta = meta.updated(style="dilated")
    entry = published_with_hash(hashed) if hashed else _fetched(path)
    if entry is not None and entry.scale_shift is not None:  # only in its publisher's code
        meta = meta.updated(scale_shift=list(entry.scale_shift))
    pixels = stated_pixels(meta, converted.format, entry.normalization if entry else None, folder)
    meta = _with_resize(meta, converted.format)
    return Checkpoint(state, converted.format, meta, path, pixels, part.state, part.left_out, inside)


def _is_ours(raw: Mapping[str, Tensor], meta: CheckpointMeta) -> bool:
    """Whether a pvtctl header names the backbone and the names are pvtctl's; `--to official` changes them."""
    stated = meta.backbone
    if stated is None or split_name(stated).name not in {spec.name for spec in backbone_specs()}:
        return False
    return all(key.startswith(("backbone.", "neck.", "head.")) for key in raw)


def _with_resize(meta: CheckpointMeta, format: Format) -> CheckpointMeta:
    """Metadata with a detector's `data.detection.resize`, by whose it is where the file does not say."""
    stated, origin = meta.detection or {}, (meta.converted_from or {}).get("format", format)
    ours = bool(stated) or (origin == "pvtctl" and meta.converted_from is not None and meta.task == DETECTION)
    how = "antialias" if ours else DETECTOR_RESIZE.get(origin)  # ours: of before there was a choice
    return meta if how is None else meta.updated(detection={"resize": how, **stated})


def _hash_where_it_tells(path: Path, converted: Converted) -> str:
    """The SHA-256 of a file that may be a published one whose outputs depend on more than its names show: two detectors,
    DPT's metric depth models (scale and shift are in its code), and Google's ViTs of 384 pixels (mean and std are not
    ImageNet's). Else an empty string.
    """
    match converted.format:
        case "torchvision RetinaNet" | "torchvision Mask R-CNN" | "facebookresearch DETR":
            told = not any(
                key.endswith("num_batches_tracked") for key in converted.state
            )  # frozen, as both publishers'
        case "isl-org DPT":
            told = "head.output.second.weight" in converted.state  # depth
        case "timm ViT / DeiT":
            table = converted.state.get("backbone.pos_embed")
            told = table is not None and table.shape[1] == 1 + 24**2
        case _:
            told = False
    return sha256_of(path) if told and path.is_file() else ""


def _transformers_meta(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        return {}
    config = without_nan(read_json(folder / "config.json", dict))
    wanted = ("model_type", "image_size", "hidden_sizes", "depths", "architectures")
    stated = {key: config[key] for key in wanted if key in config}
    if not isinstance(stated.get("image_size"), int):  # (height, width) in some, which pvtctl has no use for
        stated.pop("image_size", None)
    return stated | transformers.stated(config) | depth_anything.depth_anything_meta(config)


def _fetched(path: Path) -> Published | None:
    """The entry whose fetched file this is."""
    return next((each for each in published() if path.name == each.file_name and path.parent == cache_folder()), None)


def _get_again(path: Path) -> str:
    """The hint for a damaged file."""
    entry = _fetched(path)
    return "get or copy it again" if entry is None else entry.get_again


def read_raw(path: Path | str) -> tuple[dict[str, Tensor], CheckpointMeta]:
    """Read a file's tensors under their own names, and its metadata. Raises as `read_checkpoint`."""
    return _tensors_of(Path(path), None)[:2]


def _tensors_of(path: Path, inside: str | None) -> tuple[dict[str, Tensor], CheckpointMeta, str]:
    """A file's tensors, its metadata, and the prefix of names that is left of `inside`."""
    start = _first_bytes(path)
    if path.name.endswith(INDEX):
        return read_shards(path, lambda part: read_raw(part)[0]), CheckpointMeta(), inside or ""
    if is_safetensors(start):
        state, meta = _read_safetensors(path)
        prefix = inside or ""
    else:
        _refuse_text(path, start)
        state, meta, prefix = find_state(str(path), _load_torch(path), inside)
    check_tensors(path, state)
    return state, meta, prefix


def _first_bytes(path: Path) -> bytes:
    if not path.exists():
        raise UsageError(f"there is no file {path}", "`pvtctl weights ls` lists published ones")
    with foreign(path), open_foreign(path) as handle:
        start = handle.read(1024)
    if not start:
        raise UsageError(f"{path} is empty", f"the download or copy failed: {_get_again(path)}")
    return start


def _refuse_text(path: Path, start: bytes) -> None:
    """Raise for text files: web pages, Git LFS pointers, server messages."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise UsageError(
            f"{path} is a web page, not a checkpoint",
            "a failed download, probably: get the file itself, by its direct link",
        )
    if text.startswith(b"version https://git-lfs"):
        raise UsageError(f"{path} is a Git LFS pointer, not the weights", "run `git lfs pull` where it was cloned")
    if text[:1] in (b"{", b"[") and start.isascii():
        raise UsageError(f"{path} is JSON text, not a checkpoint", "give the weights file or its folder")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], CheckpointMeta]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UsageError(f"{path} is damaged: a truncated safetensors file ({error})", _get_again(path)) from error
    if not state:
        raise no_weights(path)
    meta = without_nan(parse_json(header.get(_META_KEY, "{}"), f"{path}: the metadata", dict))
    return state, CheckpointMeta.read(meta, path)


def _load_torch(path: Path) -> Any:
    with foreign(path, _get_again(path)):
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _refuse_compressed(path)
    with path.open("rb") as handle:
        magic = handle.read(4)
    if magic[:2] == b"PK" and not zipped:
        raise UsageError(f"{path} is damaged: a truncated checkpoint", _get_again(path))
    try:
        with (
            torch.serialization.safe_globals(_HARMLESS),
            warnings.catch_warnings(),
            path.open("rb") as handle,
        ):
            warnings.simplefilter("ignore")  # of pickles in other protocols: relevant problems are reported below
            # torch would take a file of this name for safetensors, which it is not: it gets no name then.
            source = handle if path.suffix == ".safetensors" else path
            return torch.load(source, map_location="cpu", weights_only=True, mmap=zipped and source is path)
    except pickle.UnpicklingError as error:
        raise _pickle_error(path, str(error)) from error
    except Exception as error:  # damaged or hostile bytes make torch's reader raise any of them
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        why = "" if isinstance(error, LookupError) else f" ({shown(first, most=120)})"
        raise UsageError(f"{path} is damaged or not a checkpoint{why}", _get_again(path)) from error


def _refuse_compressed(path: Path) -> None:
    """Raise for an archive that is larger inside than outside: torch stores tensors as they are."""
    with zipfile.ZipFile(path) as archive:
        inside = sum(each.file_size for each in archive.infolist())
    if inside > path.stat().st_size:
        raise UsageError(
            f"{path} is refused: it unpacks to {inside:,} bytes, which torch.save does not do", _get_again(path)
        )


def _pickle_error(path: Path, text: str) -> UsageError:
    wanted = re.search(r"GLOBAL ([\w.]+)", text)
    if wanted or ("Unsupported operand" in text and _names_code(path)):
        what = f" ({wanted.group(1)})" if wanted else ""
        return UsageError(
            f"{path} is refused: loading this pickle would run code{what}",
            "save its state dict alone, with torch.save(model.state_dict(), ...) or as safetensors, where you trust it",
        )
    return UsageError(f"{path} is damaged or not a checkpoint", _get_again(path))


def _names_code(path: Path) -> bool:
    """Whether a plain pickle, of any protocol, names something to call. Reads its instructions and runs none."""
    try:
        with path.open("rb") as handle:
            if handle.read(1) != b"\x80":
                return False
            handle.seek(0)
            return any(op.name in ("GLOBAL", "STACK_GLOBAL", "INST") for op, _, _ in pickletools.genops(handle))
    except (ValueError, OSError):
        return False
