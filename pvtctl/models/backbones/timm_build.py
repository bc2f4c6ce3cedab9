"""Build timm's models: with features or with their own classifier's layers; the layer of each parameter."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from pvtctl.errors import PvtctlError, UsageError, nearest
from pvtctl.models.backbone_names import TIMM_PREFIX
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.variants import STRIDES, Four

_NORMED = re.compile(r"^vit_.*dinov[23]")
"""ViTs whose own dense heads read blocks after the final norm (DINOv2 and DINOv3: `get_intermediate_layers(norm=True)`)."""


@dataclass(frozen=True)
class TimmModel:
    """A built timm model, and what its bridge must know."""

    name: str
    net: nn.Module
    """With `features` a module that returns maps, else timm's whole model without its last linear layer."""
    features: bool
    options: dict[str, Any] = field(repr=False)
    """timm's arguments that made it."""
    reductions: tuple[int, ...]
    """Stride of each of timm's maps."""
    channels: Four
    """Of the maps for strides 4, 8, 16, 32; likewise the next."""
    strides: tuple[int, ...]
    """timm's own of those maps."""
    levels: tuple[int, ...]
    """Numbers of the maps that are used, rising."""
    taps: tuple[int, ...]
    """For strides 4, 8, 16, 32: the position in what `net` returns."""
    modules: tuple[str, ...]
    """Name in `net` of the module that makes each of those maps."""
    native: tuple[int, int]
    """Height and width that it was built for."""
    final_norm: bool
    """Its maps are normalised by the model's last norm."""

    @property
    def body(self) -> Any:
        """timm's own model: feature extractors of ViTs wrap it, the others are taken apart and have none."""
        return getattr(self.net, "model", self.net)

    @property
    def is_plain_vit(self) -> bool:
        """Whether single blocks can be read: one grid of patches, special tokens returned apart."""
        read = getattr(self.body, "forward_intermediates", None)
        can = read is not None and "return_prefix_tokens" in inspect.signature(read).parameters
        return can and set(self.reductions) == {self.patch} and len(self.reductions) == len(self.body.blocks)

    @property
    def patch(self) -> int:
        """Side of a patch in pixels; 1 for models without `patch_embed`."""
        size = getattr(getattr(self.body, "patch_embed", None), "patch_size", 1)
        return int(size[0] if isinstance(size, tuple | list) else size)


def check_timm_name(name: str) -> None:
    """Raise UsageError with the nearest names if timm has no model `name`, PvtctlError if timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        raise PvtctlError(f"{TIMM_PREFIX}{name} needs timm, which is not installed", "pip install 'pvtctl[timm]'")
    import timm

    if not timm.is_model(name):
        raise UsageError(f"timm has no model called {name!r}", nearest(name, timm.list_models()))


def build_timm(name: str, *, drop_path_rate: float, image_size: int, classifier: bool) -> TimmModel:
    """Build timm's `name` with its initial weights, once: on the meta device within `without_values`.

    Args:
        classifier: The whole model without its last linear layer, where timm can read maps of that; else its features.

    Raises:
        PvtctlError: timm is not installed.
        UsageError: An unknown name (with the nearest), a model without features, or a drop path rate that it has not.
    """
    check_timm_name(name)
    import timm

    common: dict[str, Any] = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
    # ViTs take the first, windowed models the second; others keep timm's own size. What a model does not take, its
    # constructor refuses before anything is built
    tries: list[dict[str, Any]] = [{"dynamic_img_size": True}, {"img_size": image_size, "strict_img_size": False}, {}]
    fault: Exception | None = None
    for extra in tries:
        options = {**common, **extra}
        try:
            if classifier:
                net = timm.create_model(name, pretrained=False, num_classes=0, **options)
                if all(hasattr(net, part) for part in ("forward_intermediates", "forward_head", "feature_info")):
                    return _described(name, net, options, features=False)
            return _described(name, _features(name, options), options, features=True)
        except Exception as error:  # timm models raise various errors: TypeError, RuntimeError, AttributeError ...
            fault = error
    if "drop_path_rate" in str(fault):
        raise UsageError(f"timm's {name} has no drop path", "leave drop_path_rate at 0") from fault
    raise UsageError(
        f"timm's {name} gives no features: {fault}", "choose a model that timm lists with features"
    ) from fault


def _features(name: str, options: dict[str, Any]) -> nn.Module:
    import timm

    if _NORMED.match(name):
        from timm.models._features import FeatureGetterNet

        options = {**options, "feature_cls": functools.partial(FeatureGetterNet, norm=True)}
    return timm.create_model(name, pretrained=False, features_only=True, **options)


def _described(name: str, net: Any, options: dict[str, Any], *, features: bool) -> TimmModel:
    info = net.feature_info.info if features else list(net.feature_info)
    reductions = tuple(entry["reduction"] for entry in info)
    maps = _choose_maps(reductions)
    levels = tuple(sorted(set(maps)))
    given = tuple(net.feature_info.out_indices) if features else levels
    if given != levels:
        if features and given[-1] != levels[-1]:  # without the layers after the last map that is used
            return _described(name, _features(name, {**options, "out_indices": list(levels)}), options, features=True)
        if hasattr(net, "out_indices"):
            net.out_indices, given = list(levels), levels
    patches = getattr(getattr(net, "model", net), "patch_embed", None)
    size = getattr(patches, "img_size", None) or options.get("img_size") or net.default_cfg["input_size"][1:]
    return TimmModel(
        name=name,
        net=net,
        features=features,
        options=options,
        reductions=reductions,
        channels=cast("Four", tuple(info[at]["num_chs"] for at in maps)),
        strides=tuple(reductions[at] for at in maps),
        levels=levels,
        taps=tuple(given.index(at) for at in maps),
        modules=tuple(info[at]["module"] for at in maps),
        native=(size, size) if isinstance(size, int) else (int(size[0]), int(size[1])),
        final_norm=bool(_NORMED.match(name)),
    )


def _choose_maps(reductions: tuple[int, ...]) -> list[int]:
    """Choose among maps of these strides for strides 4, 8, 16, 32."""
    if len(set(reductions)) == 1:  # one resolution throughout: after each quarter, as in pvtctl's ViTs
        return [max(len(reductions) * quarter // 4 - 1, 0) for quarter in (1, 2, 3, 4)]
    deepest = {reduction: at for at, reduction in enumerate(reductions)}
    return [deepest[min(deepest, key=lambda reduction: abs(reduction - stride))] for stride in STRIDES]


def build_at(model: TimmModel, size: tuple[int, int]) -> nn.Module:
    """The same model for images of `size`, with the values of its buffers, its parameters on the meta device.

    Raises whatever timm raises for sizes that it does not build.
    """
    import timm

    options = {key: value for key, value in model.options.items() if key not in ("dynamic_img_size", "img_size")}
    options["img_size"] = size
    with _parameters_without_values():
        if not model.features:
            return timm.create_model(model.name, pretrained=False, num_classes=0, **options)
        net: Any = _features(model.name, options)
        if tuple(net.feature_info.out_indices)[-1] != model.levels[-1]:
            net = _features(model.name, {**options, "out_indices": list(model.levels)})
        elif hasattr(net, "out_indices"):
            net.out_indices = list(model.levels)
        return net


@contextmanager
def _parameters_without_values() -> Iterator[None]:
    """Context in which modules register their parameters on the meta device, and their buffers as usual."""
    plain = nn.Module.register_parameter

    def register(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        plain(self, name, parameter)

    nn.Module.register_parameter = register  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = plain  # type: ignore[method-assign]


def plain_name(key: str) -> str:
    """A parameter's name without what timm's feature extractors do to it: `net.stages_0.x`, `net.model.x`."""
    return re.sub(r"^(\w+?)[._](\d+)\.", r"\1.\2.", key.removeprefix("net.").removeprefix("model."))


def layers_of(model: TimmModel) -> dict[str, int]:
    """timm's layer of each parameter of its whole model (`group_matcher`), by `plain_name`, numbered from 0.

    Raises UsageError for the few models without.
    """
    import timm
    from timm.models import group_parameters

    with without_values(), torch.no_grad():
        whole: Any = timm.create_model(model.name, pretrained=False)
    if not hasattr(whole, "group_matcher"):
        raise UsageError(f"timm numbers no layers of {model.name}", "set layer_decay to 1")
    found = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
    return {plain_name(name): layer for name, layer in found.items()}
