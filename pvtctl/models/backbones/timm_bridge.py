"""Any timm model with features, as a pyramid (`timm:NAME`)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones.base import Backbone, Tap, TapName, check_images, in_eval
from pvtctl.models.backbones.freezing import parts_by_outputs
from pvtctl.models.backbones.timm_build import TimmModel, build_timm, layers_of, plain_name
from pvtctl.models.backbones.timm_sizes import Resized, Size
from pvtctl.models.variants import STRIDES

COARSE = 32
"""Sides are padded to multiples of this where a model takes no others."""
_ODD, _EVEN = (65, 97), (64, 96)
"""Sizes that a model is tried with. Smaller ones would leave single tokens, which fit tables of any size."""
_DEPTH_OF_LARGE, _TAPS_OF_LARGE = 24, (5, 12, 18, 24)
"""Blocks of ViT-Large that the dense heads of DINOv2 and DINOv3 read (4, 11, 17, 23 from zero); others: each quarter."""
_MOST_SIZES = 4
"""Models for other image sizes kept at a time; each holds indices of positions, which grow with the number of tokens."""


class TimmBackbone(Backbone):
    """A timm model's features resized to strides 4, 8, 16, 32.

    For each stride the deepest map of that stride is taken; where a model has none, the map of the nearest stride, or in
    a plain ViT the one after that quarter of its blocks, resized (bilinear). Initial weights are timm's.

    Images may have any size. Sides that the model cannot divide are padded with zeros (right, bottom), and the maps
    cropped; a model that is built for one size is built again for others around the same parameters, its position tables
    interpolated (`Resized`). `prepare` says which.

    `classifier`: with the layers of timm's own classifier up to its last linear one, whose input is `pooled`.

    Plain ViTs can be read block by block: only they have `patch_size`, `depth`, `embed_dim`, `tap_channels`,
    `default_taps` (`ReadsTaps`), and `special_tokens`, the number of class tokens. DINOv2's and DINOv3's blocks are read
    after the final norm, as their own dense heads do.
    """

    def __init__(
        self, name: str, *, drop_path_rate: float = 0.0, image_size: int = 224, classifier: bool = False
    ) -> None:
        model = build_timm(name, drop_path_rate=drop_path_rate, image_size=image_size, classifier=classifier)
        super().__init__(model.channels)
        self.net = model.net
        self.model = model
        own: Any = model.net
        if not model.features:
            self.num_features = int(getattr(own, "head_hidden_size", None) or own.num_features)
        layout = getattr(own, "output_fmt", "NCHW") if model.features else "NCHW"
        self.channels_last_maps = getattr(layout, "value", layout) == "NHWC"
        parts = parts_by_outputs(model.net, list(model.modules))
        self.parts = {part: tuple(f"net.{each}" for each in names) for part, names in parts.items()}
        self.multiple, self.rebuilds = _known_handling(model)
        self._sizes: OrderedDict[tuple[Any, ...], Resized] = OrderedDict()
        self._checkpointing = False
        if model.is_plain_vit:
            body = model.body
            self.patch_size, self.depth, self.embed_dim = model.patch, len(body.blocks), int(body.embed_dim)
            self.special_tokens = int(body.num_prefix_tokens) - int(getattr(body, "num_reg_tokens", 0) or 0)
            self.tap_channels: dict[TapName, int] = dict.fromkeys(range(1, self.depth + 1), self.embed_dim)
            self.default_taps: tuple[TapName, ...] = tuple(self.depth * quarter // 4 for quarter in (1, 2, 3, 4))
            if model.final_norm and self.depth == _DEPTH_OF_LARGE:
                self.default_taps = _TAPS_OF_LARGE

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles build their own models for other sizes."""
        return self.__dict__ | {"_sizes": OrderedDict()}

    def forward(self, images: Tensor) -> list[Tensor]:
        features, padded = self._run(images, self._maps)
        return [
            self._resized(features[tap], (own, stride), images, padded)
            for tap, own, stride in zip(self.model.taps, self.model.strides, STRIDES, strict=True)
        ]

    def pooled(self, images: Tensor) -> Tensor:
        if self.model.features:
            return super().pooled(images)
        return self._run(images, lambda net, x: net.forward_head(net.forward_features(x), pre_logits=True))[0]

    def read_taps(self, images: Tensor, taps: Sequence[TapName]) -> list[Tap]:
        """The outputs of each of `taps` (blocks of a plain ViT, counted from 1); images are padded to whole patches."""

        def read(net: Any, x: Tensor) -> Any:
            return getattr(net, "model", net).forward_intermediates(
                x,
                indices=[int(tap) - 1 for tap in taps],
                return_prefix_tokens=True,
                norm=self.model.final_norm,
                output_fmt="NCHW",
                intermediates_only=True,
            )

        found, _ = self._run(images, read)
        if not self.special_tokens:
            return [Tap(each[0] if isinstance(each, tuple) else each, None) for each in found]
        return [Tap(x, prefix[:, : self.special_tokens]) for x, prefix in found]

    def prepare(self, size: Size) -> list[str]:
        remarks = []
        strides = sorted(set(self.model.reductions))
        if missing := [stride for stride in STRIDES if stride not in strides]:
            remarks.append(f"maps of stride {_listed(missing)} are resized copies: its own have {_listed(strides)}")
        left_out = [stride for stride in strides if stride > self.model.reductions[self.model.levels[-1]]]
        if left_out:
            where = "left out, with the layers that make it" if self.model.features else "for its classifier only"
            remarks.append(f"its map of stride {_listed(left_out)} is {where}")
        if (inner := getattr(self.model.body, "img_size_scaled", None)) is not None:  # CrossViT's two branches
            remarks.append(
                f"every image is resized within, to {' and '.join(map(_shape, inner))}: its cost does not grow"
            )
        example = next(self.net.parameters())
        images = torch.zeros(1, 3, *size, device=example.device, dtype=example.dtype)
        net, padded = self._net_for(images)
        if net is not self.net:
            remarks.append(f"built again for images of {_shape(padded)}: position tables are interpolated")
        if padded != tuple(size):
            remarks.append(f"images of {_shape(size)} are padded to {_shape(padded)}")
        return remarks

    def _maps(self, net: Any, images: Tensor) -> list[Tensor]:
        if self.model.features:
            return list(net(images))
        levels = list(self.model.levels)
        return list(net.forward_intermediates(images, indices=levels, intermediates_only=True, output_fmt="NCHW"))

    def _run(self, images: Tensor, call: Callable[[Any, Tensor], Any]) -> tuple[Any, Size]:
        """`call` on the net for images of this size and the padded images; their (height, width)."""
        check_images(images)
        net, padded = self._net_for(images)
        height, width = images.shape[2:]
        if padded != (height, width):
            images = F.pad(images, (0, padded[1] - width, 0, padded[0] - height))
        with self._errors_told(height, width):
            return call(net, images), padded

    def _net_for(self, images: Tensor) -> tuple[nn.Module, Size]:
        """The model that takes images of this size, and the size that they are padded to for it."""
        height, width = images.shape[2:]
        if (self.multiple is None and torch.compiler.is_compiling()) or (self.multiple == 1 and not self.rebuilds):
            return self.net, (height, width)  # without a look at sizes, which are unknown in a traced graph
        fits = self.model.native == (height, width) or not (self._is_fixed or height % COARSE or width % COARSE)
        if self.multiple is None:
            if fits:
                return self.net, (height, width)
            self.multiple, self.rebuilds = self._find_handling(images)
        high, wide = (-(-side // self.multiple) * self.multiple for side in (height, width))
        if not self.rebuilds or (high, wide) == self.model.native:
            return self.net, (high, wide)
        return self._rebuilt((high, wide), images)

    @property
    def _is_fixed(self) -> bool:
        """timm states one input size for it."""
        own: Any = self.net
        return bool(own.default_cfg.get("fixed_input_size"))

    def _find_handling(self, images: Tensor) -> tuple[int, bool]:
        """The multiple that sides must have, and whether the model must be built again for other sizes, by trying."""
        for size, multiple in ((_ODD, 1), (_EVEN, COARSE)):
            try:
                with torch.no_grad(), in_eval(self.net):
                    self._maps(self.net, images.new_zeros(1, 3, *size))
                return multiple, False
            except Exception as error:  # models refuse sizes with all kinds of errors
                if _is_of_the_machine(error):
                    raise
        return COARSE, True

    def _rebuilt(self, size: Size, images: Tensor) -> tuple[nn.Module, Size]:
        for each in dict.fromkeys((size, (max(size), max(size)))):  # NesT takes squares only
            key = (each, images.device)
            if key in self._sizes:
                self._sizes.move_to_end(key)
                return self._sizes[key].ready(), each
            try:
                found = Resized(self.model, each, images.device)
            except AssertionError:
                continue
            except (TypeError, RuntimeError, ValueError) as error:
                if _is_of_the_machine(error):
                    raise
                break
            if self._checkpointing:
                _set_checkpointing(found.net, True)
            self._sizes[key] = found
            if len(self._sizes) > _MOST_SIZES:
                self._sizes.popitem(last=False)
            return found.ready(), each
        raise UsageError(
            f"timm's {self.model.name} takes images of {_shape(self.model.native)} only, not {_shape(size)}",
            "choose that size, or another backbone: docs/backbones.md lists models that take any",
        )

    def _resized(self, x: Tensor, strides: tuple[int, int], images: Tensor, padded: Size) -> Tensor:
        """A map of the padded images -> (B, C, h, w) of the second of `strides` (timm's and ours), of the images alone."""
        own, stride = strides
        x = x.permute(0, 3, 1, 2) if self.channels_last_maps else x
        height, width = images.shape[2:]
        target = -(-height // stride), -(-width // stride)
        if padded != (height, width):
            cells = padded[0] / x.shape[2] / stride, padded[1] / x.shape[3] / stride
            if cells != (
                1.0,
                1.0,
            ):  # with copies of the last cells, so that what is rounded down reaches the last pixels
                x = F.pad(x, (0, math.ceil(1 / cells[1]), 0, math.ceil(1 / cells[0])), mode="replicate")
                x = F.interpolate(x, scale_factor=cells, mode="bilinear", align_corners=False)
            return x[:, :, : target[0], : target[1]]
        if own != stride:  # a family may round odd sizes either way
            x = F.interpolate(x, size=target, mode="bilinear", align_corners=False)
        return x

    @contextmanager
    def _errors_told(self, height: int, width: int) -> Iterator[None]:
        """Context in which an error from inside timm becomes a UsageError with its message."""
        try:
            yield
        except Exception as error:
            if isinstance(error, UsageError) or _is_of_the_machine(error) or torch.compiler.is_compiling():
                raise
            message = next(iter(str(error).splitlines()), type(error).__name__)
            raise UsageError(
                f"timm's {self.model.name} at {height}x{width}: {message}",
                f"it is made for images of {_shape(self.model.native)}; docs/backbones.md lists models that take any size",
            ) from error

    @property
    def num_layers(self) -> int:
        return max(self._layers().values()) + 1

    def layer_of(self, name: str) -> int:
        return self._layers()[name]

    def _layers(self) -> dict[str, int]:
        """timm's layer of each parameter, without gaps: what comes after the last numbered block belongs to it."""
        if not hasattr(self, "_layer_of"):
            names = [name for name, _ in self.named_parameters()]
            whole = layers_of(self.model)
            found = {name: whole.get(plain_name(name), 0) for name in names}
            ranks = {layer: at for at, layer in enumerate(sorted(set(found.values())))}
            self._layer_of = {name: ranks[layer] for name, layer in found.items()}
        return self._layer_of

    def set_activation_checkpointing(self, on: bool) -> None:
        try:
            _set_checkpointing(self.net, on)
        except (AttributeError, AssertionError) as error:  # some have none, some refuse it
            if on:
                raise UsageError(
                    f"activation checkpointing is not available for timm's {self.model.name}", "switch it off"
                ) from error
        self._checkpointing = on
        self._sizes.clear()


def _set_checkpointing(net: Any, on: bool) -> None:
    target = net if hasattr(net, "set_grad_checkpointing") else getattr(net, "model", net)
    target.set_grad_checkpointing(on)


def _known_handling(model: TimmModel) -> tuple[int | None, bool]:
    """The multiple that sides must have (None: not known before trying), and whether the model must be built again.

    DINOv2 without registers is built again at other sizes, though timm's would interpolate its positions: timm's way
    smooths them where images are smaller, the original's (and Depth Anything's) does not.
    """
    if model.options.get("dynamic_img_size"):
        original = "dinov2" in model.name and not getattr(model.body, "num_reg_tokens", 0)
        return model.patch, original
    return (model.patch if model.options.get("strict_img_size") is False else None), False


def _is_of_the_machine(error: Exception) -> bool:
    """Whether an error is about memory or a device, not about the image size."""
    words = ("not enough memory", "allocate memory", "out of memory", "CUDA", "cuDNN")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _shape(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
