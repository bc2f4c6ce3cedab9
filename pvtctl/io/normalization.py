"""How a network's inputs are made from pixels: mean, standard deviation, channel order. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

from pvtctl.errors import UsageError

Order = Literal["rgb", "bgr"]
Triple = tuple[float, float, float]

_LARGEST, _SMALLEST = 1e6, 1e-6
"""Beyond these, inputs leave the range of float32 or lose all digits."""
_LARGEST_FRACTION = 10.0
"""A larger mean was not meant for pixels between 0 and 1."""


class Normalization(NamedTuple):
    """Inputs are (x - mean) / std by channel, x between 0 (black) and 1 (white).

    In text it is one of `NORMALIZATIONS`, or `mean=A,B,C std=A,B,C`, with `range=LOW..HIGH` if black and white are other
    values than 0 and 1, and `order=bgr` for channels in that order, mean and std too.
    """

    mean: Triple
    std: Triple
    order: Order = "rgb"

    @classmethod
    def of_range(
        cls,
        mean: Sequence[float],
        std: Sequence[float],
        limits: tuple[float, float] = (0.0, 1.0),
        order: Order = "rgb",
    ) -> Self:
        """Mean and std of channels whose black and white are `limits`: (0, 255), (-1, 1). Raises ValueError."""
        low, high = limits
        if not (math.isfinite(low) and math.isfinite(high)) or low == high:
            raise ValueError(f"the range {low:g}..{high:g} has no black and white")
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(f"{len(mean)} means and {len(std)} deviations, not three each")
        means, deviations = ([(m - low) / (high - low) for m in mean], [s / (high - low) for s in std])
        if not all(_SMALLEST <= deviation <= _LARGEST for deviation in deviations):
            raise ValueError(f"a deviation of {', '.join(f'{each:g}' for each in std)}: each must be above 0")
        if not all(abs(one) <= _LARGEST for one in means):
            raise ValueError(f"a mean of {', '.join(f'{each:g}' for each in mean)}")
        return cls((means[0], means[1], means[2]), (deviations[0], deviations[1], deviations[2]), order)

    @classmethod
    def read(cls, text: str) -> Normalization:
        """The inverse of `str`. Raises UsageError."""
        if (named := NORMALIZATIONS.get(text.strip())) is not None:
            return named
        hint = f"{', '.join(NORMALIZATIONS)}, or mean=A,B,C std=A,B,C, with range=0..255 or order=bgr if need be"
        said: dict[str, str] = {}
        for word in text.split():
            key, equals, value = word.partition("=")
            if not equals or key not in ("mean", "std", "range", "order") or key in said:
                raise UsageError(f"{text!r} is not a mean and standard deviation of pixels", hint)
            said[key] = value
        order = said.get("order", "rgb")
        if order not in ("rgb", "bgr"):
            raise UsageError(f"{text!r}: the order {order!r} is neither rgb nor bgr", hint)
        try:
            low, high = (float(part) for part in said.get("range", "0..1").split(".."))
            mean, std = ([float(part) for part in said[key].split(",")] for key in ("mean", "std"))
        except (KeyError, ValueError):
            raise UsageError(f"{text!r} is not a mean and standard deviation of pixels", hint) from None
        try:
            return cls.of_range(mean, std, (low, high), "bgr" if order == "bgr" else "rgb")
        except ValueError as error:
            raise UsageError(f"{text!r}: {error}", hint) from None

    @classmethod
    def stated(cls, text: str) -> Normalization:
        """`read` what a user wrote. Raises UsageError for the means of bytes without their range, too."""
        found = cls.read(text)
        if "range=" not in text and text not in NORMALIZATIONS and max(map(abs, found.mean)) > _LARGEST_FRACTION:
            raise UsageError(f"{text!r}: means of bytes, and pixels are between 0 and 1", "add range=0..255")
        return found

    def __str__(self) -> str:
        name = next((name for name, known in NORMALIZATIONS.items() if known == self), None)
        if name is not None:
            return name
        mean, std = (",".join(map(repr, each)) for each in (self.mean, self.std))
        return f"mean={mean} std={std}{' order=bgr' if self.order == 'bgr' else ''}"

    @property
    def grey(self) -> tuple[int, int, int]:
        """The RGB bytes nearest to 0 after normalisation, for areas without an image."""
        first, green, last = (min(max(round(255 * mean), 0), 255) for mean in self.mean)
        return (last, green, first) if self.order == "bgr" else (first, green, last)

    @property
    def in_words(self) -> str:
        """`mean 0.5, 0.5, 0.5, standard deviation 0.5, 0.5, 0.5 (half)`."""
        mean, std = (", ".join(f"{each:.6g}" for each in three) for three in (self.mean, self.std))
        name = f" ({self})" if str(self) in NORMALIZATIONS else ""
        return f"mean {mean}, standard deviation {std}{name}{', channels in BGR order' if self.order == 'bgr' else ''}"


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

NORMALIZATIONS = {
    "imagenet": IMAGENET,
    "half": HALF,
    "clip": Normalization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "unit": Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "caffe": Normalization.of_range((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), (0.0, 255.0), "bgr"),
}
"""By name: `half` is of DPT and of Google's ViTs, `clip` of CLIP, `unit` leaves values between 0 and 1, and `caffe` is of
the ResNets in mmdetection's and detectron's caffe style."""
