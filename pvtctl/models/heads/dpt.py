"""DPT's head (arXiv 2103.13413, section 3): depth or classes from the blocks of a ViT, or from any pyramid's four maps."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError, nearest
from pvtctl.models.backbones.base import ReadsTaps, Tap, TapName
from pvtctl.models.heads.base import DenseHead
from pvtctl.models.heads.midas import WIDTH, DepthOutput, RefinementDecoder
from pvtctl.models.layers.conv_norm import ConvNorm
from pvtctl.models.layers.patches import to_map, to_tokens
from pvtctl.models.registry import DEPTH, SEGMENTATION

Readout = Literal["ignore", "add", "project"]
READOUTS: tuple[Readout, ...] = get_args(Readout)
STRIDES = (4, 8, 16, 32)
WIDE = 1024
"""From that width a ViT's maps get the channels of DPT-Large."""


class Dpt(DenseHead):
    """Depth (B, 1, H, W): inverse, of an unknown scale, never below 0. Segmentation: logits (B, K, H/2, W/2).

    With a token backbone it reads four blocks, the `taps` (counted from 1; "R0" and "R1" are stages of a hybrid's ResNet,
    used unchanged), combines them with the class token by `readout` (section 3.1, "Read"), and resizes the maps to strides
    4, 8, 16, 32 ("Resample"). With a pyramid its four maps are used directly, and with `reads` "maps" a token backbone's
    too. Then follows one `RefinementDecoder`; segmentation adds batch norms to it, and in training an auxiliary classifier
    on the fusion of stride 4.

    Patches of 14 pixels are treated as of 16: the maps have strides 3.5, 7, 14, 28, and the output covers the image again
    (Depth Anything, arXiv 2401.10891 and 2406.09414). Sides are then multiples of 14 instead of 32.

    `taps` None: DPT's own. `readout` None: "project", without a class token "ignore". `channels`: of the four maps made of
    tokens. `max_depth`: depth for metres, sigmoid x `max_depth`, given as inverse depth 1 / metres (Depth Anything V2);
    None: a final ReLU. `dropout` and `auxiliary_weight` are for segmentation (None: 0.1 and 0.2). `width`: channels in the
    decoder. Raises UsageError for taps that do not exist or are out of order, and for options without effect.
    """

    def __init__(
        self,
        backbone: Any,
        *,
        task: Literal["segmentation", "depth"],
        num_classes: int = 1,
        dropout: float | None = None,
        taps: Sequence[TapName] | None = None,
        readout: Readout | None = None,
        auxiliary_weight: float | None = None,
        width: int = WIDTH,
        channels: Sequence[int] | None = None,
        reads: Literal["tokens", "maps"] | None = None,
        max_depth: float | None = None,
    ) -> None:
        super().__init__()
        self.taps: tuple[TapName, ...] = ()
        self.reassemble = nn.ModuleList()
        patch = 0
        if isinstance(backbone, ReadsTaps) and reads != "maps":
            self.taps = checked_taps(backbone, taps)
            patch = backbone.patch_size
            self.multiple = self.multiple if self.multiple % patch == 0 or patch % self.multiple == 0 else patch
            has_class_token = getattr(backbone, "special_tokens", 1) > 0
            if readout in ("add", "project") and not has_class_token:
                raise UsageError(f"readout {readout} needs a class token, which this backbone has not", "use ignore")
            channels = self._build_reassemble(
                backbone, readout or ("project" if has_class_token else "ignore"), channels
            )
        else:
            if reads == "tokens":
                raise UsageError(f"{type(backbone).__name__} backbones have no blocks to read", "leave reads out")
            what = f"{type(backbone).__name__} backbones give four maps as they are"
            refuse(what, taps=taps, readout=readout, channels=channels)
            channels = backbone.feature_channels
        self.decoder = RefinementDecoder(channels, norm=task == SEGMENTATION, mixing=True, width=width)
        self.auxiliary: nn.Module | None = None
        if task == DEPTH:
            refuse("DPT for depth is trained without them", dropout=dropout, auxiliary_weight=auxiliary_weight)
            self.upsampling = "bicubic"
            factor = 2 * patch / power_of_two(patch) if patch else 2.0
            self.output: nn.Module = DepthOutput(align_corners=True, width=width, factor=factor, max_depth=max_depth)
            return
        refuse("segmentation predicts no metres", max_depth=max_depth)
        self.align_corners = True
        rate = 0.1 if dropout is None else dropout
        if not 0 <= rate < 1:
            raise UsageError(f"a dropout of {rate:g} is out of range", "use 0 <= dropout < 1, the paper's is 0.1")
        self.output = classifier(num_classes, rate, width)
        self.auxiliary_weight = 0.2 if auxiliary_weight is None else auxiliary_weight
        if self.auxiliary_weight > 0:
            self.auxiliary = classifier(num_classes, rate, width)

    def _build_reassemble(self, backbone: ReadsTaps, readout: Readout, stated: Sequence[int] | None) -> list[int]:
        if readout not in READOUTS:
            raise UsageError(f"no readout {readout!r}", nearest(str(readout), READOUTS))
        channels = reassembled_channels(backbone) if stated is None else list(stated)
        for at, (tap, stride) in enumerate(zip(self.taps, STRIDES, strict=True)):
            if isinstance(tap, str):
                channels[at] = backbone.tap_channels[tap]
                self.reassemble.append(nn.Identity())
            else:
                self.reassemble.append(
                    Reassemble(backbone.embed_dim, channels[at], power_of_two(backbone.patch_size), stride, readout)
                )
        return channels

    def read(self, backbone: Any, images: Tensor) -> list[Tap]:
        """The taps of a token backbone; other backbones' maps, without special tokens."""
        if self.taps:
            return cast("ReadsTaps", backbone).read_taps(images, self.taps)
        return [Tap(x, None) for x in backbone(images)]

    def maps(self, taps: Sequence[Tap]) -> list[Tensor]:
        """The outputs of `read` as maps of strides 4, 8, 16, 32."""
        if not self.taps:
            return [tap.map for tap in taps]
        steps = zip(taps, self.reassemble, strict=True)
        return [step(tap) if isinstance(step, Reassemble) else tap.map for tap, step in steps]

    def forward(self, features: Sequence[Tap], auxiliary: bool = False) -> tuple[Tensor, Sequence[Tensor]]:
        paths = self.decoder(self.maps(features))
        others = (self.auxiliary(paths[1]),) if auxiliary and self.auxiliary is not None else ()
        return self.output(paths[0]), others


class Reassemble(nn.Module):
    """One block's tokens -> a map (B, channels, h, w) of `stride` (DPT section 3.1).

    Read: the special tokens are ignored (`ignore`), their mean is added to every patch (`add`), or the class token is
    concatenated to every patch and both are projected to the width of one (`project`: linear, GELU). Then a 1x1 convolution,
    and where the grid has another stride a transposed convolution (kernel = stride) or one of 3x3 with that stride.
    """

    def __init__(self, embed_dim: int, channels: int, patch_size: int, stride: int, readout: Readout) -> None:
        super().__init__()
        self.readout = readout
        self.read = nn.Linear(2 * embed_dim, embed_dim) if readout == "project" else None
        self.project = nn.Conv2d(embed_dim, channels, 1)
        self.resample: nn.Module | None = None
        if patch_size > stride:
            factor = patch_size // stride
            self.resample = nn.ConvTranspose2d(channels, channels, factor, factor)
        elif patch_size < stride:
            self.resample = nn.Conv2d(channels, channels, 3, stride // patch_size, padding=1)

    def forward(self, tap: Tap) -> Tensor:
        size = tap.map.shape[2], tap.map.shape[3]
        tokens, special = to_tokens(tap.map), cast("Tensor", tap.special)
        if self.read is not None:
            tokens = self.projected(tokens, special[:, :1])
        elif self.readout == "add":
            tokens = tokens + special.mean(1, keepdim=True)
        x: Tensor = self.project(to_map(tokens.contiguous(), size))
        return x if self.resample is None else cast("Tensor", self.resample(x))

    def projected(self, tokens: Tensor, first: Tensor) -> Tensor:
        """GELU of the linear layer on `tokens` (B, N, C) concatenated with `first` (B, 1, C): (B, N, C)."""
        assert self.read is not None
        return F.gelu(self.read(torch.cat((tokens, first.expand_as(tokens)), dim=-1)))


def classifier(num_classes: int, dropout: float, width: int = WIDTH) -> nn.Sequential:
    """(B, width, h, w) -> logits (B, K, h, w): 3x3 convolution, batch norm, ReLU, dropout, 1x1."""
    return nn.Sequential(
        OrderedDict(first=ConvNorm(width, width, 3), dropout=nn.Dropout(dropout), last=nn.Conv2d(width, num_classes, 1))
    )


def power_of_two(patch_size: int) -> int:
    """The nearest power of two: the sizes for which strides of 4, 8, 16 and 32 can be made by whole factors."""
    return int(2 ** round(math.log2(patch_size)))


def reassembled_channels(backbone: ReadsTaps) -> list[int]:
    """Channels of the four maps made from a backbone's tokens; a hybrid's first two are its ResNet's."""
    width = backbone.embed_dim
    if "R0" in backbone.tap_channels:
        return [backbone.tap_channels["R0"], backbone.tap_channels["R1"], width, width]
    return usual_channels(width)


def usual_channels(width: int) -> list[int]:
    """Channels of the four maps made from the tokens of a plain ViT of `width`, from DPT's tables of ViT-Base and ViT-Large;
    other widths have the proportions of the nearer of the two.
    """
    shares = (4, 2, 1, 1) if width >= WIDE else (8, 4, 2, 1)
    return [width // share for share in shares]


def checked_taps(backbone: ReadsTaps, taps: Sequence[TapName] | None) -> tuple[TapName, ...]:
    """Four names of `backbone.tap_channels` in their order, the last block last, from `taps` (numbers may be strings).

    None: the backbone's own. Raises UsageError.
    """
    if taps is None:
        return backbone.default_taps
    wanted = tuple(int(tap) if isinstance(tap, str) and tap.isdecimal() else tap for tap in taps)
    names = list(backbone.tap_channels)
    hint = f"four of {names[0]} to {backbone.depth}, such as {', '.join(map(str, backbone.default_taps))}"
    shown = ", ".join(map(str, wanted))
    for tap in wanted:
        if tap not in names:
            raise UsageError(f"taps: there is no block {tap!r}", hint)
    if len(wanted) != 4 or [names.index(tap) for tap in wanted] != sorted({names.index(tap) for tap in wanted}):
        raise UsageError(f"taps {shown} are not four rising ones", hint)
    if wanted[-1] != backbone.depth:
        raise UsageError(f"taps {shown} leave the blocks behind {wanted[-1]} idle", f"end with {backbone.depth}")
    for name, place in (("R0", 0), ("R1", 1)):
        if name in wanted and wanted.index(name) != place:
            raise UsageError(f"taps {shown}: {name} has stride {STRIDES[place]}", f"put it at place {place + 1}")
    return wanted


def refuse(why: str, **options: Any) -> None:
    """Raise UsageError if one of `options` is set."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"dpt has no {name} here: {why}", f"leave {name} out")
