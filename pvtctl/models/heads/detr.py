"""DETR: a transformer over the backbone's last map, whose learned queries become a set of objects (Carion et al. 2020).

Names in state dicts are those of the original code after `head.`; sizes and weights are those of its configuration. No
layer attends to padding: the mask applies to the position encoding and to the attention of every layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.heads.base import DetectionHead
from pvtctl.models.layers.precision import full_precision
from pvtctl.models.structures import Detections, DetectOptions, ImageSize, Maps, Objects, Sizes

WIDTH, NUM_HEADS, HIDDEN, DEPTH = 256, 8, 2048, 6
POSITION_EPS, POSITION_SCALE, TEMPERATURE = 1e-6, 2 * math.pi, 10000
MAX_DETECTIONS = 100


@dataclass
class DetrOutputs:
    """Outputs of all layers, from the first decoder layer to the last. L decoder layers, Q queries, N tokens of the map."""

    positions: Tensor
    """float32 (B, 256, h, w)."""
    memory: Tensor
    """The encoder's output (B, N, 256), padding included."""
    decoded: Tensor
    """(L, B, Q, 256), normed."""
    logits: Tensor
    """float32 (L, B, Q, K + 1), no-object last."""
    boxes: Tensor
    """float32 (L, B, Q, 4), cxcywh relative to the image's own size."""


class Detr(DetectionHead):
    """The backbone's last map -> `num_queries` objects per image.

    With `alone` the detector runs the backbone on every image without the padding of its batch: the backbone's features of
    padding would otherwise affect the map.
    """

    alone = True
    output_names = ("logits", "boxes")

    def __init__(self, in_channels: int, num_classes: int, *, num_queries: int = 100, dropout: float = 0.1) -> None:
        super().__init__()
        if num_queries < 1:
            raise UsageError(f"num_queries {num_queries} is out of range", "DETR uses 100")
        self.num_classes = num_classes
        self.transformer = Transformer(dropout)
        self.class_embed = nn.Linear(WIDTH, num_classes + 1)
        self.bbox_embed = BoxMlp()
        self.query_embed = nn.Embedding(num_queries, WIDTH)
        self.input_proj = nn.Conv2d(in_channels, WIDTH, 1)

    def raw(self, features: Maps, sizes: Sizes, padded: ImageSize) -> DetrOutputs:
        """All outputs that the losses need, from the last of `features`."""
        last = features[-1]
        valid = valid_cells(sizes, padded, (int(last.shape[2]), int(last.shape[3])))
        mask = padding_mask(valid, last)
        positions = sine_positions(mask)
        # No mask without padding: the attention kernels are faster.
        full = all(cells == tuple(last.shape[2:]) for cells in valid)
        tokens = self.input_proj(last).flatten(2).transpose(1, 2)
        queries = self.query_embed.weight
        memory, decoded = self.transformer(
            tokens, positions.flatten(2).transpose(1, 2).to(queries.dtype), queries, None if full else mask.flatten(1)
        )
        # In full precision under autocast too: bf16 would move the boxes of a large image by a pixel.
        with full_precision(last.device):
            final = decoded.to(queries.dtype)
            logits, boxes = self.class_embed(final).float(), self.bbox_embed(final).float().sigmoid()
        return DetrOutputs(positions, memory, decoded, logits, boxes)

    def raw_outputs(self, features: Maps, sizes: Sizes, padded: ImageSize) -> list[Tensor]:
        out = self.raw(features, sizes, padded)
        return [out.logits, out.boxes]

    def exported(self, features: Maps) -> tuple[Tensor, ...]:
        """Logits (B, Q, K + 1), no-object last, and boxes (B, Q, 4), cxcywh relative to the image, of the last layer.

        All images must fill the map: nothing is masked.
        """
        last = features[-1]
        positions = sine_positions(torch.zeros_like(last[:, 0], dtype=torch.bool)).flatten(2).transpose(1, 2)
        tokens = self.input_proj(last).flatten(2).transpose(1, 2)
        _, decoded = self.transformer(tokens, positions, self.query_embed.weight, None)
        return self.class_embed(decoded[-1]), self.bbox_embed(decoded[-1]).sigmoid()

    def exported_eagerly(self, features: Maps, sizes: Sizes, padded: ImageSize) -> tuple[Tensor, ...]:
        out = self.raw(features, sizes, padded)
        return out.logits[-1], out.boxes[-1]

    def losses(self, features: Maps, sizes: Sizes, padded: ImageSize, targets: Sequence[Objects]) -> dict[str, Tensor]:
        """`loss_cls`, `loss_box`, `loss_giou`, summed over the decoder's layers, and `recall`: see `set_losses`."""
        from torchvision.ops import box_convert

        from pvtctl.models.losses.set_criterion import set_losses

        out = self.raw(features, sizes, padded)
        truth = [
            box_convert(one.boxes, "xyxy", "cxcywh") / _extent(size, one.boxes)
            for one, size in zip(targets, sizes, strict=True)
        ]
        with full_precision(out.boxes.device):
            return set_losses(out.logits, out.boxes, [one.labels for one in targets], truth)

    def detect(self, features: Maps, sizes: Sizes, padded: ImageSize, options: DetectOptions) -> list[Detections]:
        """The best class of every query, except no-object; best first, boxes clipped to the image.

        Raises UsageError for `nms_iou`: DETR needs no NMS, as training penalises duplicates.
        """
        out = self.raw(features, sizes, padded)
        return self.detect_from((out.logits[-1], out.boxes[-1]), sizes, padded, options)

    def graph_outputs(self, features: Maps) -> tuple[Tensor, ...]:
        return self.exported(features)

    def detect_from(
        self, outputs: Sequence[Tensor], sizes: Sizes, padded: ImageSize, options: DetectOptions
    ) -> list[Detections]:
        from torchvision.ops import box_convert, clip_boxes_to_image

        if options.nms_iou is not None:
            raise UsageError("DETR has no non-maximum suppression", "leave the NMS IoU out, or use another head")
        logits, shares = outputs
        best, classes = logits.softmax(-1)[..., :-1].max(-1)
        limit = MAX_DETECTIONS if options.max_detections is None else options.max_detections
        found = []
        for scores, labels, boxes, size in zip(best, classes, shares, sizes, strict=True):
            scores, order = scores.sort(descending=True, stable=True)
            scores, order = scores[:limit], order[:limit]
            if options.score_threshold:
                order = order[scores >= options.score_threshold]
                scores = scores[: len(order)]
            pixels = box_convert(boxes[order], "cxcywh", "xyxy") * _extent(size, boxes)
            found.append(Detections(clip_boxes_to_image(pixels, size), scores, labels[order]))
        return found


def _extent(size: ImageSize, like: Tensor) -> Tensor:
    """(width, height, width, height) of an image."""
    return torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32).to(like.device, non_blocking=True)


def valid_cells(sizes: Sizes, padded: ImageSize, cells: ImageSize) -> list[ImageSize]:
    """Rows and columns of each image in a map of `cells` (h, w), for a batch of `padded` (H, W) pixels.

    A cell belongs to the image if its nearest pixel does: number floor(i H / h) for row i, as in the original.
    """
    return [
        (-(-height * cells[0] // padded[0]), -(-width * cells[1] // padded[1]))  # rounded up
        for height, width in sizes
    ]


def padding_mask(valid: Sequence[ImageSize], features: Tensor) -> Tensor:
    """bool (B, h, w), True where `features` (B, C, h, w) is padding; `valid` is the result of `valid_cells`."""
    limits = torch.tensor(valid).to(features.device, non_blocking=True)
    rows = torch.arange(features.shape[2], device=features.device)[None] >= limits[:, :1]
    columns = torch.arange(features.shape[3], device=features.device)[None] >= limits[:, 1:]
    return rows[:, :, None] | columns[:, None, :]


def sine_positions(mask: Tensor) -> Tensor:
    """float32 (B, 256, h, w): sines and cosines of a cell's position in its own image, 128 for y and then 128 for x.

    `mask` (B, h, w) is True in padding. The position of the last valid row or column is 2 pi.
    """
    valid = (~mask).float()
    y, x = valid.cumsum(1), valid.cumsum(2)
    y = y / (y[:, -1:, :] + POSITION_EPS) * POSITION_SCALE
    x = x / (x[:, :, -1:] + POSITION_EPS) * POSITION_SCALE
    steps = torch.arange(WIDTH // 4, dtype=torch.float32, device=mask.device)
    periods = TEMPERATURE ** (2 * steps / (WIDTH // 2))
    waves = []
    for axis in (y, x):
        angles = axis[..., None] / periods
        waves.append(torch.stack((angles.sin(), angles.cos()), -1).flatten(3))
    return torch.cat(waves, 3).permute(0, 3, 1, 2)


class BoxMlp(nn.Module):
    """Three linear layers: decoded query -> its box before the sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x)))))


class Transformer(nn.Module):
    """Six encoder layers over the map's tokens, six decoder layers over the queries."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(EncoderLayer(dropout) for _ in range(DEPTH))})
        self.decoder = DetrDecoder(dropout)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, tokens: Tensor, positions: Tensor, queries: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """tokens and positions (B, N, 256), queries (Q, 256), padding bool (B, N) -> memory (B, N, 256), decoded
        (L, B, Q, 256)."""
        memory = tokens
        for layer in cast("nn.ModuleList", self.encoder["layers"]):
            memory = layer(memory, positions, padding)
        return memory, self.decoder(memory, positions, queries.expand(tokens.shape[0], -1, -1), padding)


class DetrDecoder(nn.Module):
    """The decoder's layers; returns the results of all of them, through one norm."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList([DetrDecoderLayer(dropout) for _ in range(DEPTH)])
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, memory: Tensor, positions: Tensor, queries: Tensor, padding: Tensor | None) -> Tensor:
        x, keys, results = torch.zeros_like(queries), memory + positions, []
        for layer in self.layers:
            x = layer(x, queries, keys, memory, padding)
            results.append(self.norm(x))
        return torch.stack(results)


class EncoderLayer(nn.Module):
    """Self-attention and two linear layers, each added and then normed. Positions are added to queries and keys only."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.self_attn = _attention(dropout)
        self.linear1, self.linear2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        placed = x + positions
        x = self.norm1(x + self.dropout(_attend(self.self_attn, placed, placed, x, padding)))
        hidden = self.linear2(self.dropout(F.relu(self.linear1(x))))
        return cast("Tensor", self.norm2(x + self.dropout(hidden)))


class DetrDecoderLayer(nn.Module):
    """Self-attention of the queries, attention to the encoder's memory, two linear layers; each added and then normed."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.self_attn, self.multihead_attn = _attention(dropout), _attention(dropout)
        self.linear1, self.linear2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None) -> Tensor:
        placed = x + queries
        x = self.norm1(x + self.dropout(_attend(self.self_attn, placed, placed, x, None)))
        x = self.norm2(x + self.dropout(_attend(self.multihead_attn, x + queries, keys, values, padding)))
        hidden = self.linear2(self.dropout(F.relu(self.linear1(x))))
        return cast("Tensor", self.norm3(x + self.dropout(hidden)))


def _attention(dropout: float) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(WIDTH, NUM_HEADS, dropout=dropout, batch_first=True)


def _attend(
    attention: nn.MultiheadAttention, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
) -> Tensor:
    result, _ = attention(queries, keys, values, key_padding_mask=padding, need_weights=False)
    return result
