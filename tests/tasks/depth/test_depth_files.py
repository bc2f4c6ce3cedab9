"""Depth files of every kind become metres; what is none of them is told, not guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvtctl.data.images import BadImage
from pvtctl.errors import UsageError
from pvtctl.tasks.depth.files import DepthCoding, decode_depth, raw_depth

VALUES = np.array([[0, 500, 1000], [2000, 4000, 65535]], np.uint16)


def save(path: Path, values: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("a.png", "u2"),
        ("a.tif", "u2"),
        ("a.tif", "f4"),
        ("a.tif", "i4"),
        ("a.npy", "u2"),
        ("a.npy", ">u2"),
        ("a.npy", "i8"),
    ],
)
def test_values_are_read_as_they_lie(tmp_path: Path, name: str, dtype: str) -> None:
    values = raw_depth(save(tmp_path / name, VALUES.astype(dtype)))
    assert np.array_equal(values, VALUES)
    depth = decode_depth(values, DepthCoding(scale=1000, invalid=(65535,)))
    assert depth.tolist() == [[0, 0.5, 1], [2, 4, 0]]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_are_metres_unless_a_scale_is_stated(tmp_path: Path, dtype: str) -> None:
    file = save(tmp_path / "a.npy", np.array([[[1.5], [0.25]]], dtype))  # one channel, last
    assert np.allclose(decode_depth(raw_depth(file), DepthCoding()), [[1.5, 0.25]])
    assert np.allclose(decode_depth(raw_depth(file), DepthCoding(integer_scale=1000)), [[1.5, 0.25]])
    assert np.allclose(decode_depth(raw_depth(file), DepthCoding(scale=0.5)), [[3, 0.5]])


def test_sixteen_bit_pgm_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + np.array([256, 51200], ">u2").tobytes())
    assert np.allclose(decode_depth(raw_depth(tmp_path / "a.pgm"), DepthCoding(integer_scale=256)), [[1, 200]])


def test_what_is_no_depth_becomes_zero() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, -1, 0, -9999, 2, 0.5, 30]], np.float32)
    assert decode_depth(values, DepthCoding(min_depth=1, max_depth=10)).tolist() == [[0, 0, 0, 0, 0, 0, 2, 0, 0]]
    assert decode_depth(values, DepthCoding(invalid=(2.0,))).tolist()[0][6:] == [0, 0.5, 30]
    assert decode_depth(np.array([[1e300, 1.0]]), DepthCoding()).tolist() == [[0, 1]]


def test_inverse_depth_is_inverted_up_to_its_scale() -> None:
    values = np.array([[0, 100, 200, 400]], np.uint16)
    for factor in (1, 7):  # the files' unknown scale is gone
        depth = decode_depth(values * factor, DepthCoding(inverse=True, max_depth=1e-3 + 1e-9))
        assert depth.tolist() == [[0, 2, 1, 0.5]]


@pytest.mark.parametrize(
    ("values", "mode", "says"),
    [
        (VALUES.astype(np.uint8), None, "8-bit grey"),
        (np.zeros((4, 4, 3), np.uint8), None, r"colours \(RGB\)"),
        (np.zeros((4, 4), np.uint8), "P", "8-bit palette"),
        (np.zeros((4, 4), bool), None, "black and white"),
    ],
)
def test_pictures_are_no_depth(tmp_path: Path, values: np.ndarray, mode: str | None, says: str) -> None:
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(tmp_path / "a.png")
    with pytest.raises(BadImage, match=says):
        raw_depth(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((4, 4), np.uint8), "type uint8"),
        (np.zeros((4, 4), complex), "type complex"),
        (np.zeros((4, 4, 3), np.float32), r"shape \(4, 4, 3\)"),
        (np.zeros(4, np.float32), r"shape \(4,\)"),
        (np.array([["a"]]), "type <U1"),
        (np.array([[{}]], object), "not an npy file of numbers"),
    ],
)
def test_arrays_of_another_kind(tmp_path: Path, values: np.ndarray, says: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(BadImage, match=says):
        raw_depth(tmp_path / "a.npy")


def test_broken_files(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 65535, (64, 64), dtype=np.uint16)
    whole = save(tmp_path / "a.png", noise).read_bytes()
    for name, data in (
        ("a.png", whole[:2000]),
        ("b.png", b""),
        ("c.npy", b"no array"),
        ("d.npy", b""),
        ("e.png", b"no"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadImage):
            raw_depth(tmp_path / name)
    np.savez(tmp_path / "f.npz", VALUES)
    (tmp_path / "f.npy").write_bytes((tmp_path / "f.npz").read_bytes())
    with pytest.raises(BadImage, match="npz"):
        raw_depth(tmp_path / "f.npy")


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 2), np.uint16),
        np.full((2, 2), 65535, np.uint16),
        np.full((2, 2), -3.0, np.float32),
        np.full((2, 2), np.nan, np.float32),
        np.full((2, 2), np.inf, np.float32),
    ],
)
def test_a_map_without_any_depth_is_bad(values: np.ndarray) -> None:
    with pytest.raises(BadImage, match="no value of it is a depth"):
        decode_depth(values, DepthCoding(scale=1000, invalid=(65535,)))


def test_a_map_wholly_out_of_range_tells_where_it_lies() -> None:
    with pytest.raises(BadImage, match=r"no depth from 0.001 to 10 m: its median is 5000 m at scale 1"):
        decode_depth(np.full((2, 2), 5000, np.uint16), DepthCoding(scale=1, max_depth=10))


def test_integers_need_a_scale() -> None:
    with pytest.raises(UsageError, match="integers without a known value per metre") as error:
        decode_depth(VALUES, DepthCoding())
    assert "data.depth.scale=1000" in str(error.value.hint)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_make_no_depth(scale: float) -> None:
    with pytest.raises(UsageError, match="no depth can be made"):
        DepthCoding(scale=scale)


def test_limits_that_leave_nothing() -> None:
    with pytest.raises(UsageError, match="not above min_depth"):
        DepthCoding(min_depth=1, max_depth=1)


def npy(header: bytes, values: bytes = b"") -> bytes:
    padded = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + values


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00\x76\x00",
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}"),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (64, 64)}", b"\0" * 100),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}"),
        npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}", b"\x80\x04N."),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1" + b"(" * 200),
        npy(b"{'descr': '<f4'"),
        npy(b"1" * 5000),
        b"PK\x03\x04 no zip",
    ],
)
def test_damaged_npy_files_are_bad_images(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(BadImage):
        raw_depth(tmp_path / "a.npy")


def test_bits_that_flip_in_npy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((5, 7), np.float32))
    whole = (tmp_path / "a.npy").read_bytes()
    for place in range(128):
        (tmp_path / "a.npy").write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        try:
            values = raw_depth(tmp_path / "a.npy")
        except BadImage:
            continue
        assert values.ndim == 2
