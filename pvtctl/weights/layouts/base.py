"""How a project's checkpoints are recognised and renamed to pvtctl's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Format = Literal[
    "pvtctl",
    "official PVT",
    "timm PVT v2",
    "timm ViT / DeiT",
    "torchvision ResNet",
    "transformers Pvt",
    "transformers PvtV2",
    "transformers ViT",
    "transformers ResNet",
    "mmdetection PVT",
    "mmdetection RetinaNet",
    "mmdetection Mask R-CNN",
    "mmdetection DETR",
    "facebookresearch DETR",
    "transformers DETR",
    "torchvision RetinaNet",
    "torchvision Mask R-CNN",
    "mmsegmentation Semantic FPN",
    "mmsegmentation DeepLabV3+",
    "Trans2Seg",
    "isl-org DPT",
    "transformers DPT",
    "Depth Anything",
    "transformers Depth Anything",
    "unknown",
]

State = Mapping[str, Tensor]

DETECTOR_RESIZE: dict[str, Literal["bilinear", "antialias"]] = {
    "mmdetection RetinaNet": "bilinear",
    "mmdetection Mask R-CNN": "bilinear",
    "mmdetection DETR": "bilinear",
    "facebookresearch DETR": "antialias",
    "transformers DETR": "antialias",
    "torchvision RetinaNet": "bilinear",
    "torchvision Mask R-CNN": "bilinear",
}
"""Layouts of others' detectors, with `data.detection.resize` as their code has it: OpenCV's, PIL's, torch's on tensors."""


@dataclass(frozen=True)
class CheckpointLayout:
    """The parameter names of one kind of model of one project."""

    format: Format
    marks: tuple[set[str], ...]
    """Every such state dict holds all names of one of these sets."""
    to_ours: Callable[[State], dict[str, Tensor]]
    """Rename a state dict to pvtctl's names. Unknown names are kept, for the report; so is `backbone.*` of a model with a
    head, whose backbone has a layout of its own.
    """
    absent: tuple[str, ...] = ()
    """No name begins with any of these."""

    def fits(self, keys: set[str]) -> bool:
        """Whether a state dict with these names has this layout."""
        return any(names <= keys for names in self.marks) and not any(key.startswith(self.absent) for key in keys)


class Rules:
    """Rename parameters by pairs of beginnings, (theirs, pvtctl's), of which the first that fits counts.

    `#` stands for a number, the same on both sides. Names that fit no rule are kept.
    """

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self._to_ours = [(_pattern(theirs), ours) for theirs, ours in pairs]
        self._to_theirs = [(_pattern(ours), theirs) for theirs, ours in pairs]

    def to_ours(self, state: State) -> dict[str, Tensor]:
        """Rename a state dict to pvtctl's names."""
        return {_renamed(key, self._to_ours): value for key, value in state.items()}

    def to_theirs(self, state: State) -> dict[str, Tensor]:
        """The inverse of `to_ours`."""
        return {_renamed(key, self._to_theirs): value for key, value in state.items()}


def join_rows(state: State, parts: Sequence[str], joined: str) -> dict[str, Tensor]:
    """Stack the rows of `X.{part}.Y` of all `parts`, in their order, as `X.{joined}.Y`.

    Tensors without a partner, or with one of another shape, keep their names, for the report.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        part = next((part for part in parts if f".{part}." in key), None)
        names = [key.replace(f".{part}.", f".{each}.") for each in parts]
        rows = [state[name] for name in names if name in state and state[name].shape == value.shape]
        if part is None or len(rows) < len(parts):
            found[key] = value
        elif part == parts[0]:
            found[key.replace(f".{part}.", f".{joined}.")] = torch.cat(rows)
    return found


def split_rows(state: State, parts: Sequence[str], joined: str) -> dict[str, Tensor]:
    """The inverse of `join_rows`."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if f".{joined}." not in key:
            found[key] = value
            continue
        rows = value.chunk(len(parts))
        found |= {key.replace(f".{joined}.", f".{part}."): each for part, each in zip(parts, rows, strict=True)}
    return found


def _pattern(beginning: str) -> re.Pattern[str]:
    return re.compile(re.escape(beginning).replace(r"\#", r"(\d+)"))


def _renamed(key: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, beginning in rules:
        if found := pattern.match(key):
            for number in found.groups():
                beginning = beginning.replace("#", number, 1)
            return beginning + key[found.end() :]
    return key
