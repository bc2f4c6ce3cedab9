"""Reading training images: JPEG bytes to a normalised tensor, ours against a plain PIL loop, on one core."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

IMAGES = 64


def photographs() -> list[bytes]:
    """JPEGs of 500x375, ImageNet's usual size, with the spectrum of photographs (amplitude 1/f), quality 90."""
    rng = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(375)[:, None], np.fft.fftfreq(500)[None, :]
    falloff = 1 / np.maximum(np.hypot(rows, columns), 1 / 500)
    encoded = []
    for _ in range(IMAGES):
        noise = np.fft.fft2(rng.standard_normal((3, 375, 500)))
        field = np.fft.ifft2(noise * falloff).real
        field = (field - field.mean()) / field.std() * 50 + 120
        out = io.BytesIO()
        Image.fromarray(field.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(out, "jpeg", quality=90)
        encoded.append(out.getvalue())
    return encoded


def _loop(read: Callable[[int, bytes], Tensor]) -> Callable[[], None]:
    torch.set_num_threads(1)
    files = photographs()

    def call() -> None:
        for number, file in enumerate(files):
            assert read(number, file).shape == (3, 224, 224)

    return call


def ours() -> Callable[[], None]:
    from pvtctl.data.images import EncodedPicture
    from pvtctl.data.randomness import generator_for
    from pvtctl.tasks.classification.settings import Augment
    from pvtctl.tasks.classification.transforms import TrainTransform

    transform = TrainTransform(224, Augment(rand_augment=False, erasing=0))
    return _loop(lambda number, file: transform(EncodedPicture(file), generator_for(number)))


def pil() -> Callable[[], None]:
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(224, interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    return _loop(lambda _, file: transform(Image.open(io.BytesIO(file)).convert("RGB")))


READERS = {"our-input": ours, "pil-input": pil}
