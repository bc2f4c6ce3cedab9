"""torchvision's ResNets and ResNeXts as pyramids, with frozen stages, dilation, context blocks and deep stems."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones.base import Backbone, check_images
from pvtctl.models.backbones.freezing import freeze
from pvtctl.models.parts import STAGES, parts_of_stages
from pvtctl.models.variants import RESNET_STAGES, RESNET_STEM, Four


class ResNet(Backbone):
    """conv1, bn1, layer1 to layer4 with torchvision's names; the outputs of the four layers are the pyramid.

    `frozen_stages` n: the stem and the layers 1 to n are not trained, including their batch norms (n = 1 in the papers'
    detectors; 0: nothing is frozen). `freeze_norm`: every batch norm uses its stored statistics, also in training mode;
    scales and shifts outside the frozen stages are still trained (`freeze` with `backbone.statistics`). With both, the trainable parameters are those of PVT v1
    Tables 3 and 4. Initial values are torchvision's. `output_stride` 16 or 8: the last stage, or the last two, are
    dilated instead of strided, so that the last maps have that stride.

    `context_ratio` (bottleneck blocks only): a `ContextBlock` in every block of the layers 2 to 4, as in GCNet (c3 to
    c5), named `layer{i}.{j}.context_block`.

    `base_width` (torchvision's is 64): channels of the stem and of layer1's 3x3 convolutions; all others scale with it.

    `deep_stem` w: three 3x3 convolutions, w, w and 2 w wide, instead of conv1's 7x7, as `conv1.0`, `conv1.3`, `conv1.6`,
    with their norms `conv1.1`, `conv1.4` and `bn1` (names of timm and of Trans2Seg's code).
    """

    def __init__(
        self,
        *,
        block: Literal["basic", "bottleneck"],
        depths: Four,
        groups: int = 1,
        width_per_group: int = 64,
        deep_stem: int = 0,
        context_ratio: float | None = None,
        base_width: int = 64,
        frozen_stages: int = 0,
        freeze_norm: bool = False,
        output_stride: int = 32,
    ) -> None:
        # importing torchvision takes as long as importing torch: only done for ResNets
        from torchvision.models import resnet as torchvision_resnet

        kind = torchvision_resnet.BasicBlock if block == "basic" else torchvision_resnet.Bottleneck
        super().__init__(tuple(base_width * times * kind.expansion for times in (1, 2, 4, 8)))
        if not 0 <= frozen_stages <= 4:
            raise UsageError(
                f"frozen_stages {frozen_stages} is out of range", "a ResNet has stages 1 to 4; 0 freezes none"
            )
        if output_stride not in (8, 16, 32):
            raise UsageError(f"an output stride of {output_stride} is not possible", "8, 16 or 32")
        if output_stride != 32 and block == "basic":
            raise UsageError("ResNets of basic blocks are not dilated", "output_stride 32, or a resnet50")
        if deep_stem not in (0, base_width // 2) and block == "basic":
            raise UsageError(f"ResNets of basic blocks have no deep stem of {deep_stem} channels", "32, or a resnet50s")
        whole = _whole(torchvision_resnet.ResNet, base_width)(
            kind,
            list(depths),
            groups=groups,
            width_per_group=width_per_group,
            num_classes=1,
            replace_stride_with_dilation=[False, output_stride < 16, output_stride < 32],
        )
        self.feature_strides = (4, 8, min(16, output_stride), output_stride)
        self.depths = depths
        self.conv1: nn.Module = whole.conv1
        self.bn1, self.relu, self.maxpool = whole.bn1, whole.relu, whole.maxpool
        if base_width != 64:
            self.conv1, self.bn1 = _conv(3, base_width, 7, stride=2), nn.BatchNorm2d(base_width)
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4
        if deep_stem:
            self.conv1, self.bn1 = _deep_stem(deep_stem), nn.BatchNorm2d(2 * deep_stem)
            first: Any = self.layer1[0]  # a bottleneck that may read another number of channels than the stem gives
            if first.conv1.in_channels != 2 * deep_stem:
                first.conv1 = _conv(2 * deep_stem, first.conv1.out_channels, 1)
                first.downsample[0] = _conv(2 * deep_stem, first.downsample[0].out_channels, 1)
        if context_ratio is not None:
            for layer in (self.layer2, self.layer3, self.layer4):
                for name, plain in list(layer.named_children()):
                    setattr(layer, name, ContextBottleneck(cast("Any", plain), context_ratio))
        self.parts = parts_of_stages(RESNET_STEM, RESNET_STAGES)
        stages = ["stem", *STAGES[:frozen_stages]] if frozen_stages else []
        freeze(self, [*stages, *(["backbone.statistics"] if freeze_norm else [])])

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images)
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps: list[Tensor] = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps

    @property
    def num_layers(self) -> int:
        return sum(self.depths) + 1

    def layer_of(self, name: str) -> int:
        part = name.split(".")
        if not part[0].startswith("layer"):
            return 0
        return sum(self.depths[: int(part[0][-1]) - 1]) + int(part[1]) + 1

    def begins_as_identity(self, name: str) -> bool:
        return ".context_block." in name


def _whole(original: Any, base_width: int) -> Any:
    """torchvision's ResNet with `base_width` in place of 64 in its four layers; the stem is unchanged."""
    if base_width == 64:
        return original

    class Scaled(original):  # type: ignore[misc]  # torchvision is imported late
        def _make_layer(self, block: Any, planes: int, *args: Any, **options: Any) -> nn.Sequential:
            if planes == 64:  # the first layer, which reads the stem
                self.inplanes = base_width
            layer: nn.Sequential = super()._make_layer(block, planes * base_width // 64, *args, **options)
            return layer

    return Scaled


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, initialised as in torchvision's ResNets."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _deep_stem(width: int) -> nn.Sequential:
    """Images -> maps of 2 x `width` channels and stride 2, before the last norm and ReLU."""
    return nn.Sequential(
        _conv(3, width, 3, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        _conv(width, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        _conv(width, 2 * width, 3),
    )


class ContextBottleneck(nn.Module):
    """A torchvision Bottleneck with a context block after its last convolution and norm, before the shortcut is added."""

    def __init__(self, plain: Any, ratio: float) -> None:
        super().__init__()
        self.conv1, self.bn1 = plain.conv1, plain.bn1
        self.conv2, self.bn2 = plain.conv2, plain.bn2
        self.conv3, self.bn3 = plain.conv3, plain.bn3
        self.relu, self.downsample = plain.relu, plain.downsample
        self.context_block = ContextBlock(plain.conv3.out_channels, ratio)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.context_block(self.bn3(self.conv3(out)))
        return cast("Tensor", self.relu(out + (x if self.downsample is None else self.downsample(x))))


class ContextBlock(nn.Module):
    """Maps (B, C, H, W) -> the same shape.

    A 1x1 convolution scores the positions; the map's mean under the softmax of the scores goes through a bottleneck of
    `ratio` C channels (1x1, LayerNorm, ReLU, 1x1) and is added to each position. The last layer starts at zero: an
    untrained block is the identity. Names are the original's, to load its checkpoints.
    """

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        inner = int(channels * ratio)
        self.conv_mask = nn.Conv2d(channels, 1, 1)
        self.channel_add_conv = nn.Sequential(
            nn.Conv2d(channels, inner, 1),
            nn.LayerNorm([inner, 1, 1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, 1),
        )
        nn.init.kaiming_normal_(self.conv_mask.weight, nonlinearity="relu")
        last = cast("nn.Conv2d", self.channel_add_conv[3])
        for start in (self.conv_mask.bias, last.weight, last.bias):
            nn.init.zeros_(cast("Tensor", start))

    def weights(self, x: Tensor) -> Tensor:
        """Weight of each position of (B, C, H, W) in the summary: (B, 1, HW), rows that sum to 1."""
        return cast("Tensor", self.conv_mask(x).flatten(2).softmax(-1))

    def forward(self, x: Tensor) -> Tensor:
        context = torch.einsum("bcn,bqn->bcq", x.flatten(2), self.weights(x)).unsqueeze(-1)  # (B, C, 1, 1)
        return cast("Tensor", x + self.channel_add_conv(context))
