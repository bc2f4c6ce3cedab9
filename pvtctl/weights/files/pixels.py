"""The pixels that a checkpoint was trained with, and who says so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pvtctl.errors import UsageError
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.io.foreign import read_json
from pvtctl.io.names import shown
from pvtctl.io.normalization import HALF, IMAGENET, Normalization
from pvtctl.models.backbone_names import TIMM_PREFIX
from pvtctl.weights.layouts.base import Format

_OF_ANYONE: tuple[Format, ...] = ("pvtctl", "timm ViT / DeiT", "unknown")
"""Layouts in which weights of other pixels are usual; those of the others are ImageNet's, or DPT's."""


@dataclass(frozen=True)
class Pixels:
    """How a network's inputs were normalised in training."""

    normalization: Normalization = IMAGENET
    source: str | None = None
    """The file or the project that says so; None: nothing does, and ImageNet's are assumed."""

    def __str__(self) -> str:
        return f"{self.normalization.in_words}; {self.source or 'assumed, the file does not say'}"


def stated_pixels(meta: CheckpointMeta, format: Format, published: Normalization | None, folder: Path | None) -> Pixels:
    """What a file's metadata says, else the catalogue (`published`), else a file next to the weights in the `folder` of a
    model, else the layout.

    Raises UsageError for a file in `folder` that is damaged.
    """
    if (stated := meta.pixels) is not None:
        return Pixels(stated, "its metadata")
    if published is not None:
        return Pixels(published, "its publisher's code")
    if folder is not None and (found := _beside(folder)) is not None:
        return found
    if format in ("isl-org DPT", "transformers DPT"):
        return Pixels(HALF, f"as all of {format}")
    return Pixels() if format in _OF_ANYONE else Pixels(IMAGENET, f"as all of {format}")


def for_backbone(pixels: Pixels, backbone: str) -> Pixels:
    """`pixels`, or those of timm's configuration for `timm:NAME` if a file does not say."""
    if pixels.source is not None or not backbone.startswith(TIMM_PREFIX) or find_spec("timm") is None:
        return pixels
    from timm.models import get_pretrained_cfg

    name = backbone.removeprefix(TIMM_PREFIX)
    config = get_pretrained_cfg(name)
    if config is None:
        return pixels
    return Pixels(_checked("timm", name, config.mean, config.std), f"timm's configuration of {name}")


_NUMBERS = r"\s*=\s*[\[(]([-+\d.e,\s]{5,80})[\])]\s*,\s*"
_MM = re.compile(rf"\bmean{_NUMBERS}std{_NUMBERS}")
_MM_ORDER = re.compile(r"\b(?:bgr_)?to_rgb\s*=\s*(True|False)")


def of_mm_config(text: str) -> Normalization | None:
    """Of an mmdetection configuration: bytes in the order that they have after `to_rgb` (2.x) or `bgr_to_rgb` (3.x)."""
    found = _MM.search(text)
    if found is None:
        return None
    order = _MM_ORDER.search(text, found.end() - 1, found.end() + 100)
    try:
        mean, std = ([float(part) for part in numbers.split(",") if part.strip()] for numbers in found.groups())
        bgr = order is not None and order.group(1) == "False"
        return Normalization.of_range(mean, std, (0.0, 255.0), "bgr" if bgr else "rgb")
    except ValueError:  # text of anyone's: what is no three numbers says nothing
        return None


def _beside(folder: Path) -> Pixels | None:
    """Of transformers' preprocessor_config.json, else of timm's config.json."""
    file = folder / "preprocessor_config.json"
    if file.is_file():
        config = read_json(file, dict)
        if (found := _of_preprocessor(file, config)) is not None:
            return Pixels(found, file.name)
    file = folder / "config.json"
    if not file.is_file():
        return None
    config = read_json(file, dict)
    inner = config.get("pretrained_cfg", config)
    if "architecture" not in config or not isinstance(inner, dict) or not {"mean", "std"} <= inner.keys():
        return None
    return Pixels(_checked(file, "", inner["mean"], inner["std"]), f"timm's {file.name}")


def _of_preprocessor(file: Path, config: Mapping[str, Any]) -> Normalization | None:
    """Bytes times `rescale_factor` (then minus 1 with `rescale_offset`), minus `image_mean`, divided by `image_std`."""
    black, white = 0.0, 1.0
    if (factor := config.get("rescale_factor")) is not None:
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            raise UsageError(f"{file}: rescale_factor is {factor!r}, not a number", "take another copy of the file")
        white = 255 * factor
        if abs(white - 1) < 1e-5:  # 1/255, as 0.00392156862745098
            white = 1.0
    if not config.get("do_rescale", True):
        white = 255.0
    elif config.get("rescale_offset"):
        black, white = -1.0, white - 1
    order = {"order": "bgr"} if config.get("do_flip_channel_order") else {}
    if not config.get("do_normalize", True):
        return _checked(file, "", (0.0,) * 3, (1.0,) * 3, limits=(black, white), **order)
    if config.get("image_mean") is None or config.get("image_std") is None:
        return None
    return _checked(file, "", config["image_mean"], config["image_std"], limits=(black, white), **order)


def _checked(source: object, name: str, mean: Any, std: Any, **options: Any) -> Normalization:
    """Numbers that others wrote, one for all channels or three. Raises UsageError."""
    try:
        return Normalization.of_range(_three(mean), _three(std), **options)
    except ValueError as error:
        of = f" of {name}" if name else ""
        raise UsageError(f"{source}: the pixels{of}: {error}", "take another copy of the file") from error


def _three(values: Any) -> list[float]:
    numbers = [values] * 3 if isinstance(values, int | float) else values
    if not isinstance(numbers, list | tuple) or any(
        isinstance(one, bool) or not isinstance(one, int | float) for one in numbers
    ):
        raise ValueError(f"mean or deviation is {shown(str(values), most=60)}, not three numbers")
    return [float(one) for one in numbers]
