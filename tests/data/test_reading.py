"""How files become RGB: turned by their EXIF orientation or not, and 16-bit grey between black and white."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pvtctl.data.images import (
    AS_SHOWN,
    AS_STORED,
    BadImage,
    EncodedPicture,
    Reading,
    decode,
    open_image,
    orientation_of,
    pixels_of,
    read_beside,
    read_image,
    size_read,
)
from pvtctl.data.survey import survey

PICTURE = Image.fromarray(np.arange(40 * 24 * 3, dtype=np.uint32).reshape(24, 40, 3).astype(np.uint8))
SIZE = (24, 40)


def saved(orientation: int, form: str = "PNG", image: Image.Image = PICTURE) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    return out.getvalue()


def grey(values: object, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.array(values, np.uint16)).save(out, form)
    return out.getvalue()


def upright(data: bytes) -> torch.Tensor:
    """As PIL shows it."""
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert shown is not None
    return pixels_of(shown.convert("RGB"))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_viewers_show_them(form: str, orientation: int) -> None:
    data = saved(orientation, form)
    image = open_image(data)
    height, width = size_read(image, AS_SHOWN)
    pixels = pixels_of(decode(image, reading=AS_SHOWN))
    assert pixels.shape == (3, height, width)
    assert torch.equal(pixels, upright(data))
    if form != "TIFF":  # PIL itself turns those
        assert pixels_of(decode(open_image(data))).shape == (3, *SIZE)
        assert (height, width) == (SIZE[::-1] if orientation >= 5 else SIZE)


@pytest.mark.parametrize("orientation", [0, 9, 99, 65535])
def test_orientations_that_do_not_exist_say_nothing(orientation: int) -> None:
    assert orientation_of(open_image(saved(orientation))) == 1


def test_damaged_exif_data_say_nothing() -> None:
    data = bytearray(saved(6, "JPEG"))
    place = data.index(b"Exif\0\0")
    for cut in range(place + 6, place + 30):
        spoiled = data[:cut] + b"\xff" + data[cut + 1 :]
        assert size_read(open_image(bytes(spoiled)), AS_SHOWN) in (SIZE, SIZE[::-1])
        assert read_image(bytes(spoiled), AS_SHOWN).shape[1:] in (SIZE, SIZE[::-1])


@pytest.mark.parametrize("reading", [AS_STORED, AS_SHOWN])
def test_the_size_of_the_labels_tells_the_frame(reading: Reading) -> None:
    data = saved(6)
    stored, shown = read_image(data), read_image(data, AS_SHOWN)
    assert torch.equal(read_image(data, reading, SIZE), stored)
    assert torch.equal(read_image(data, reading, SIZE[::-1]), shown)
    assert torch.equal(read_beside(data, reading, lambda: SIZE[::-1]), shown)
    with pytest.raises(BadImage, match=r"\d+x\d+ pixels, but its annotations are for 9x9"):
        read_image(data, reading, (9, 9))
    half_turn = saved(3)  # the size cannot tell
    assert torch.equal(read_image(half_turn, reading, SIZE), read_image(half_turn, reading))


@pytest.mark.parametrize("exact", [True, False])
def test_crops_are_of_the_picture_as_shown(exact: bool) -> None:
    big = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 10, 3), np.uint8)).resize((400, 240))
    data = saved(6, "JPEG", big)
    picture = EncodedPicture(data, AS_SHOWN)
    assert (picture.height, picture.width) == (400, 240)
    whole = upright(data)
    part = picture.resized((40, 24, 200, 100), (20, 10), exact=exact)
    expected = torch.nn.functional.interpolate(
        whole[None, :, 40:240, 24:124].float(), (20, 10), mode="bicubic", antialias=True
    )
    assert (part.float() - expected[0]).abs().mean() < (1 if exact else 4)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([[1152, 1344, 1536]], [0, 127, 255]),  # 12 bits: not two levels
        ([[0, 2048, 4095]], [0, 127, 255]),
        ([[257, 257 * 128, 65535]], [1, 128, 255]),  # the upper half is used: 16 bits
        ([[7, 7, 7]], [0, 0, 0]),
    ],
)
def test_grey_of_an_unknown_range_keeps_its_levels(values: list[list[int]], levels: list[int]) -> None:
    assert read_image(grey(values))[:, 0].tolist() == [levels] * 3


def test_a_range_is_the_same_for_all_images() -> None:
    reading = Reading(grey=(1000.0, 3000.0))
    assert read_image(grey([[0, 1000, 2000, 3000, 9000]]), reading)[0].tolist() == [[0, 0, 127, 255, 255]]
    assert read_image(grey([[2000] * 5]), reading)[0].tolist() == [[127] * 5]
    full = Reading(grey=(0.0, 65535.0))
    values = np.arange(0, 65536, 13)[None]
    assert read_image(grey(values), full)[0].tolist() == (values // 257).tolist()


class Files:
    def __init__(self, *files: bytes) -> None:
        self.files = files

    def read(self, index: int) -> bytes:
        if not self.files[index]:
            raise OSError("gone")
        return self.files[index]


def test_the_range_of_a_set_is_that_of_its_images() -> None:
    thermal = [grey([[1000 + at, 1500 + at]], "TIFF") for at in range(9)]
    assert survey(Files(*thermal), 9).grey == (1000, 1508)
    assert survey(Files(*thermal, b"", b"no image", saved(1)), 12).grey == (1000, 1508)
    assert survey(Files(grey([[5, 40000]])), 1).grey == (0, 65535)
    assert survey(Files(saved(1), saved(1)), 2).grey is None
    assert survey(Files(), 0).grey is None
    assert survey(Files(saved(1), saved(6), saved(3), b""), 4).turned == 2
