"""Weights in several files, by their index: transformers' *.safetensors.index.json and *.bin.index.json."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.io.foreign import read_json
from pvtctl.io.names import shown

INDEX = ".index.json"
"""Ending of an index's name."""


def read_shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that an index lists, in its order; `read` gives those of one part, each of which is read once.

    Raises UsageError for an index that is damaged, that names a file outside its folder or one that is not there, or a
    tensor that its file does not hold.
    """
    placed = read_json(index, dict).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(part, str) for part in placed.values()):
        raise UsageError(f"{index} is no index of weights: it has no weight_map of names and files", _HINT)
    names = defaultdict(list)
    for name, part in placed.items():
        names[part].append(name)
    for part in names:
        _check_part(index, part)
    found: dict[str, Tensor] = {}
    for part, wanted in names.items():
        held = read(index.parent / part)
        if lacking := [name for name in wanted if name not in held]:
            raise UsageError(
                f"{index} says that {part} holds {shown(lacking[0], most=80)}, and it does not"
                + (f" (nor {len(lacking) - 1} others)" if len(lacking) > 1 else ""),
                _HINT,
            )
        found |= {name: held[name] for name in wanted}
    return {name: found[name] for name in placed}


_HINT = "take the index and all its parts from one copy of the model"


def _check_part(index: Path, part: str) -> None:
    if Path(part).name != part or "\\" in part or part in ("", ".", "..") or "\0" in part:
        raise UsageError(f"{index} names a part outside its folder: {shown(part, most=80)}", "it is not safe to follow")
    if not (index.parent / part).is_file():
        raise UsageError(f"{index} names {shown(part, most=80)}, which is not there", "get all parts of the model")
