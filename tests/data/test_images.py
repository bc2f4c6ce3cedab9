from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pvtctl.data.images import BadImage, EncodedPicture, TensorPicture, TooLarge, decode, open_image, pixels_of


def plain(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("mode", "format"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("1", "PNG"), ("P", "GIF")],
)
def test_modes_become_rgb_as_pil_does_it(image_bytes, mode, format):
    data = image_bytes(mode=mode, format=format)
    assert torch.equal(pixels_of(decode(open_image(data))), plain(data))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(format):
    out = io.BytesIO()
    Image.fromarray(np.array([[0, 257 * 128, 65535]], dtype=np.uint16)).save(out, format)
    pixels = pixels_of(decode(open_image(out.getvalue())))
    assert pixels[:, 0].tolist() == [[0, 128, 255]] * 3


def test_crop_and_resize_agrees_with_pil(shared):
    """The two passes of a resampling clip at 0 and 255 in an order of their own: at saturated edges PIL and torch are
    up to 12 levels apart, and each as far from exact arithmetic. Elsewhere it is one level."""
    files = sorted((shared / "data" / "imagenet1k_sample" / "val").glob("*/*.JPEG"))[::20]
    differences = []
    for file in files:
        data = file.read_bytes()
        image = Image.open(io.BytesIO(data)).convert("RGB")
        left, top, width, height = 5, 8, image.width * 2 // 3, image.height * 3 // 4
        expected = image.crop((left, top, left + width, top + height)).resize((224, 224), Image.Resampling.BICUBIC)
        got = EncodedPicture(data).resized((top, left, height, width), (224, 224)).permute(1, 2, 0).numpy()
        differences.append(np.abs(got.astype(int) - np.asarray(expected).astype(int)))
    difference = np.stack(differences)
    assert (difference > 1).mean() < 0.001
    assert difference.max() <= 16
    assert difference.mean() < 0.1


def test_large_jpeg_is_decoded_smaller_and_stays_close(image_bytes):
    data = image_bytes(size=(1003, 801), quality=95)
    box = (101, 53, 650, 800)
    got = EncodedPicture(data).resized(box, (64, 64), exact=False)
    expected = TensorPicture(plain(data)).resized(box, (64, 64))
    difference = (got.int() - expected.int()).abs()
    assert 0 < difference.max() <= 8
    assert difference.float().mean() < 1


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_tiny_pictures(image_bytes, size):
    picture = EncodedPicture(image_bytes(size=size))
    assert picture.resized((0, 0, picture.height, picture.width), (32, 32)).shape == (3, 32, 32)


def test_giant_image_is_refused_before_decoding(giant_png):
    with pytest.raises(TooLarge, match="too large to be decoded safely"):
        EncodedPicture(giant_png)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_truncated_file(image_bytes, format, share):
    data = image_bytes(size=(200, 200), format=format)
    with pytest.raises(BadImage):
        EncodedPicture(data[: int(len(data) * share)]).resized((0, 0, 200, 200), (32, 32))


@pytest.mark.parametrize("data", [b"<html>not found</html>", b"\0" * 100, b"\xff\xd8\xff" + b"x" * 50])
def test_not_an_image(data):
    with pytest.raises(BadImage, match=r"not an image|Truncated|cannot"):
        EncodedPicture(data)
