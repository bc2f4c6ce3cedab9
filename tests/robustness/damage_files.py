"""Seeded damage that knows the file's format, so that it gets past the first checksum; and damage to folders."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutate import ESCAPE, ODD_TEXTS, damage_bytes, damage_value, nested


def damage_image(data: bytes, rng: random.Random) -> bytes:
    """Any damage; in PNGs half of the time to a chunk whose checksum is made right again."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or rng.random() < 0.5:
        return damage_bytes(data, rng)
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + length]])
        at += 12 + length
    chosen = rng.choice(chunks)
    if chosen[0] == b"IHDR" and rng.random() < 0.6:
        width, height = rng.choice([(0, 0), (1, 1), (2**31 - 1, 1), (20_000, 20_000), (9_000, 9_000), (48, 10**6)])
        chosen[1] = struct.pack(">II", width, height) + chosen[1][8:]
    elif rng.random() < 0.2:
        chunks.insert(
            rng.randrange(len(chunks)), [rng.choice([b"tEXt", b"eXIf", b"iCCP", b"PLTE", b"tRNS"]), rng.randbytes(40)]
        )
    else:
        chosen[1] = damage_bytes(chosen[1], rng)
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return data[:8] + b"".join(parts)


def damage_npy(data: bytes, rng: random.Random) -> bytes:
    """Another header, another type, another format; or damaged bytes."""
    pick = rng.randrange(4)
    array = np.load(io.BytesIO(data))
    if pick == 0:
        return damage_bytes(data, rng)
    out = io.BytesIO()
    if pick == 1:
        odd: list[Any] = [
            array.astype(complex),
            array.astype("U5"),
            array.astype(">f4"),
            array.astype(np.float16),
            array[None],
            array[:0],
            np.float32(3.0),
            np.full_like(array, np.nan),
            -array,
            np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
            np.asfortranarray(array),
        ]
        np.save(out, rng.choice(odd))
        return out.getvalue()
    if pick == 2:
        np.savez(out, depth=array)
        return damage_bytes(out.getvalue(), rng)
    header = rng.choice(
        [
            {
                "descr": "<f4",
                "fortran_order": False,
                "shape": rng.choice([(10**6, 10**6), (-1, 4), (2**62, 2), (), (1,) * 40]),
            },
            {"descr": "|O", "fortran_order": False, "shape": array.shape},
            {"descr": "nonsense", "fortran_order": False, "shape": array.shape},
            {"shape": array.shape},
            "(" * 300,
        ]
    )
    text = (str(header) + " " * 64 + "\n").encode("latin-1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data[128:]


class _Runs:
    """A pickle that runs a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch code_has_run",)


def _odd_tensors() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old kinds of tensors, which old files hold
        quantized = torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)
        nested_tensor = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    return [
        torch.zeros(3, 3).to(torch.float8_e4m3fn),
        torch.eye(3).to_sparse(),
        torch.empty(3, 3, device="meta"),
        torch.tensor(3.0),
        torch.zeros((1,) * 40),
        torch.zeros(1).expand(40_000, 40_000),
        torch.zeros(0, 5),
        torch.full((4, 4), float("nan")),
        torch.zeros(3, dtype=torch.complex64),
        quantized,
        nested_tensor,
        "text",
        None,
        {"inner": {"deep": torch.zeros(2)}},
        nested(300, "dict"),
    ]


def damage_checkpoint(source: Path, target: Path, rng: random.Random) -> None:
    """Write a damaged copy: of its bytes, header or archive entries, or with tensors that no model has."""
    data = source.read_bytes()
    pick = rng.randrange(4)
    if pick == 0:
        target.write_bytes(damage_bytes(data, rng))
    elif source.suffix == ".safetensors":
        target.write_bytes(_safetensors(data, rng))
    elif pick == 1:
        torch.save(rng.choice([{"a": _Runs()}, _Runs(), {"state_dict": {"x": torch.zeros(2), "y": _Runs()}}]), target)
    elif pick == 2 and zipfile.is_zipfile(source):
        _archive(source, target, rng)
    else:
        state = torch.load(source, weights_only=True)
        state = state.get("state_dict", state)
        for _ in range(rng.choice([1, 1, 5])):
            name = rng.choice([*state, *ODD_TEXTS[:8], ESCAPE + "weight", "a." * 400])
            state[name] = rng.choice(_odd_tensors())
        try:
            torch.save(rng.choice([state, {"model": state}, list(state.values())]), target)
        except Exception:  # what torch cannot write nobody has
            target.write_bytes(b"")


def _safetensors(data: bytes, rng: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    pick = rng.randrange(6)
    if pick == 0:
        return struct.pack("<Q", rng.choice([0, 1, 2**62, len(data), length - 1])) + data[8:]
    if pick == 1:  # our own metadata, as its author meant it but for a value or two
        meta = header["__metadata__"]
        key = rng.choice(sorted(meta))
        try:
            meta[key] = json.dumps(damage_value(json.loads(meta[key]), rng))
        except ValueError:
            meta[key] = rng.choice(ODD_TEXTS)
    elif pick == 2:
        name = rng.choice([each for each in header if each != "__metadata__"])
        entry = header[name]
        entry[rng.choice(["dtype", "shape", "data_offsets"])] = rng.choice(
            ["F8_E4M3", "F64", "BOOL", [], [10**12], [0, 0], [2**63, 1], [1] * 70, [-1, 3]]
        )
    elif pick == 3:
        header[rng.choice([*ODD_TEXTS, ESCAPE])] = header.pop(rng.choice(sorted(header)))
    elif pick == 4:
        for name in rng.sample(sorted(header), min(len(header) - 1, rng.choice([1, 50, 10**6]))):
            del header[name]
    else:
        header = damage_value(header, rng)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _archive(source: Path, target: Path, rng: random.Random) -> None:
    """The zip with one entry damaged, renamed, doubled or lost, and right checksums."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        names = old.namelist()
        chosen = rng.choice([name for name in names if name.endswith("data.pkl")] + names)
        for name in names:
            body = old.read(name)
            if name == chosen:
                pick = rng.randrange(5)
                if pick == 0:
                    continue
                if pick == 1:
                    name = rng.choice(["../../evil", "/evil", "x/" * 100, "archive/data.pkl"])
                elif pick == 2 and name.endswith("data.pkl"):
                    body = pickle.dumps({"x": _Runs()}, protocol=rng.choice([0, 2, 4]))
                else:
                    body = damage_bytes(body, rng)
            new.writestr(name, body)


def damage_folder(root: Path, rng: random.Random) -> None:
    """A file or folder is gone, of another kind, of an odd name, or a link to nowhere, to its own parent, to a pipe."""
    places = sorted(root.rglob("*"))
    place = rng.choice(places)
    pick = rng.randrange(9)
    if pick < 3:
        name = rng.choice(
            [b"caf\xe9", b"a\nb", ESCAPE.replace("/", "").encode(), "‮gpj".encode(), b" ", b"-x", b"x" * 240]
        )
        place.rename(os.fsdecode(os.fsencode(place.parent) + b"/" + name + os.fsencode(place.suffix)))
        return
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    match pick:
        case 3:
            return
        case 4:
            place.mkdir()
        case 5:
            os.mkfifo(place)
        case 6:
            place.symlink_to("nowhere")
        case 7:
            place.symlink_to(place.parent, target_is_directory=True)
        case _:
            place.symlink_to("/dev/zero")
