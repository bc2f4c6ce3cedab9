"""Random numbers that depend only on a key."""

from __future__ import annotations

import hashlib
import struct

import torch


def key_of(*parts: int | str) -> int:
    """A 63-bit key from integers and words; equal on every machine, rank and worker."""
    packed = b"".join(struct.pack("<q", part) if isinstance(part, int) else part.encode() + b"\0" for part in parts)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `key_of(*parts)`."""
    return torch.Generator().manual_seed(key_of(*parts))
