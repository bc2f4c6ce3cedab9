"""Any timm model with features, as a pyramid (`timm:NAME`)."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from pvtctl.errors import PvtctlError, UsageError, nearest
from pvtctl.models.backbone_names import TIMM_PREFIX
from pvtctl.models.backbones.base import Backbone, check_images
from pvtctl.models.backbones.freezing import parts_by_outputs
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.variants import STRIDES


class TimmBackbone(Backbone):
    """A timm model's features resized to strides 4, 8, 16, 32.

    For each stride the deepest map of that stride is taken; where a model has none, the map of the nearest stride, or in
    a plain ViT the one after that quarter of its blocks, resized (bilinear). Initial weights are timm's.
    """

    def __init__(self, name: str, *, drop_path_rate: float = 0.0, image_size: int = 224) -> None:
        options = _find_options(name, drop_path_rate, image_size)
        with without_values():
            info = _create(name, options).feature_info.info
        taps = _choose_taps([entry["reduction"] for entry in info])
        super().__init__(tuple(info[tap]["num_chs"] for tap in taps))
        levels = sorted(set(taps))
        self.net = _create(name, {**options, "out_indices": levels})
        self.taps = [levels.index(tap) for tap in taps]
        """The net's map for each stride."""
        parts = parts_by_outputs(self.net, [info[tap]["module"] for tap in taps])
        self.parts = {part: tuple(f"net.{name}" for name in names) for part, names in parts.items()}
        layout = getattr(self.net, "output_fmt", "NCHW")
        self.channels_last_maps = getattr(layout, "value", layout) == "NHWC"

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images)
        try:
            features = self.net(images)
        except AssertionError as error:  # timm's models refuse sizes with it
            raise UsageError(
                f"timm's model does not take images of {images.shape[2]}x{images.shape[3]}: {error}",
                "choose image sizes that it takes (detectors: data.detection), or another backbone",
            ) from error
        maps: list[Tensor] = []
        for tap, stride in zip(self.taps, STRIDES, strict=True):
            x = features[tap].permute(0, 3, 1, 2) if self.channels_last_maps else features[tap]
            target = -(-images.shape[2] // stride), -(-images.shape[3] // stride)
            # a family may round odd sizes either way; larger differences are another stride
            if abs(x.shape[2] - target[0]) > 1 or abs(x.shape[3] - target[1]) > 1:
                x = F.interpolate(x, size=target, mode="bilinear", align_corners=False)
            maps.append(x)
        return maps

    @property
    def num_layers(self) -> int:
        raise UsageError("layer-wise learning rates are not available for timm backbones", "set layer_decay to 1")


def _choose_taps(reductions: list[int]) -> list[int]:
    """Choose the feature maps, given their strides, for strides 4, 8, 16, 32."""
    if len(set(reductions)) == 1:  # one resolution throughout: after each quarter, as in pvtctl's ViTs
        return [max(len(reductions) * quarter // 4 - 1, 0) for quarter in (1, 2, 3, 4)]
    deepest = {reduction: at for at, reduction in enumerate(reductions)}
    return [deepest[min(deepest, key=lambda reduction: abs(reduction - stride))] for stride in STRIDES]


def _find_options(name: str, drop_path_rate: float, image_size: int) -> dict[str, Any]:
    """The arguments that make the model `name` return features, at any image size where possible.

    Raises PvtctlError without timm, UsageError for unknown names, models without features, and a drop path rate
    that the model does not support.
    """
    if importlib.util.find_spec("timm") is None:
        raise PvtctlError(f"{TIMM_PREFIX}{name} needs timm, which is not installed", "pip install 'pvtctl[timm]'")
    import timm

    if not timm.is_model(name):
        raise UsageError(f"timm has no model called {name!r}", nearest(name, timm.list_models()))
    common: dict[str, Any] = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
    # ViTs take the first, windowed models the second; convolutional ones need neither
    tries: list[dict[str, Any]] = [{"dynamic_img_size": True}, {"img_size": image_size, "strict_img_size": False}, {}]
    fault: Exception | None = None
    for extra in tries:
        try:
            with without_values():
                _create(name, {**common, **extra})
            return {**common, **extra}
        except Exception as error:  # timm models raise various errors: TypeError, RuntimeError, AttributeError ...
            fault = error
    if "drop_path_rate" in str(fault):
        raise UsageError(f"timm's {name} has no drop path", "leave drop_path_rate at 0") from fault
    raise UsageError(
        f"timm's {name} gives no features: {fault}", "choose a model that timm lists with features"
    ) from fault


def _create(name: str, options: dict[str, Any]) -> Any:
    import timm

    return timm.create_model(name, pretrained=False, features_only=True, **options)
