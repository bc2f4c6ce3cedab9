"""Write pvtctl's checkpoints: safetensors with metadata in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from pvtctl import __version__
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.io.files import atomic_path


def save_safetensors(
    path: Path | str, module_or_state: nn.Module | Mapping[str, Tensor], meta: CheckpointMeta | Mapping[str, Any]
) -> None:
    """Write a module's or a state dict's tensors to `path`, replacing it atomically.

    `meta`, or JSON values for its fields; pvtctl's version is added.
    Raises PvtctlError when the disk is full; `path` is then unchanged.
    """
    state = module_or_state.state_dict() if isinstance(module_or_state, nn.Module) else module_or_state
    # Copies: safetensors refuses tensors that share memory or have gaps (channels_last, views).
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    header = {
        "format": "pt",
        "pvtctl": json.dumps(
            {"pvtctl_version": __version__} | (meta.as_json() if isinstance(meta, CheckpointMeta) else dict(meta))
        ),
    }
    # Not `save_file`: it hides the error of a full disk, and writes files readable only by their owner.
    content = to_bytes(tensors, metadata=header)
    size = int.from_bytes(content[:8], "little")
    content = b"".join((_sorted_header(content[8 : 8 + size]), memoryview(content)[8 + size :]))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _sorted_header(text: bytes) -> bytes:
    """A header's size and text. safetensors shuffles the metadata: sorted, equal weights give equal bytes."""
    header = json.loads(text)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    lasting = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    lasting += b" " * (-len(lasting) % 8)  # tensors start at multiples of 8
    return len(lasting).to_bytes(8, "little") + lasting
