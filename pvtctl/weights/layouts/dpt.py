"""Parameter names of the original DPT (isl-org/DPT), depth and segmentation, and pvtctl's.

Source: the parameters of the original models, by name and shape. Some parameters in its files are never used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_BODY = "pretrained.model."
_STEM = "patch_embed.backbone."
_UNUSED = re.compile(r"pretrained\.model\.(norm|head|head_dist)\.|scratch\.refinenet4\.resConfUnit1\.")
_PARTS = re.compile(
    r"pretrained\.act_postprocess(?P<reassemble>[1-4])\.(?P<step>0\.project\.0|3|4)\.(?P<a>.+)"
    r"|scratch\.layer(?P<narrow>[1-4])_rn\.(?P<b>.+)"
    r"|scratch\.refinenet(?P<mix>[1-4])\.out_conv\.(?P<c>.+)"
    r"|scratch\.refinenet(?P<fusion>[1-4])\.resConfUnit(?P<unit>[12])\.(?P<layer>conv|bn)(?P<number>[12])\.(?P<d>.+)"
    r"|scratch\.output_conv\.(?P<output>\d)\.(?P<e>.+)"
    r"|auxlayer\.(?P<auxiliary>\d)\.(?P<f>.+)"
)
_STEPS = {"0.project.0": "read", "3": "project", "4": "resample"}
_DEPTH = {"0": "first", "2": "second", "4": "last"}
_CLASSES = {"0": "first.conv", "1": "first.bn", "4": "last"}


def is_dpt(keys: set[str]) -> bool:
    """Whether this is the original DPT, depth or segmentation, with a ViT or the hybrid."""
    return {"scratch.refinenet1.out_conv.weight", "pretrained.act_postprocess4.3.weight", f"{_BODY}pos_embed"} <= keys


def is_unused(key: str) -> bool:
    """Whether the original's outputs never depend on this parameter: the ViT's final norm and classifier, and the first
    residual unit of the coarsest fusion.
    """
    return _UNUSED.match(key) is not None


def from_dpt(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename to pvtctl's names. Unknown names and unused parameters (`is_unused`) are kept."""
    norm = "scratch.refinenet1.resConfUnit1.bn1.weight" in state
    return {_to_ours(key, norm): value for key, value in state.items()}


def _to_ours(key: str, norm: bool) -> str:
    if is_unused(key):
        return key
    if key.startswith(_BODY):
        return f"backbone.{_body(key.removeprefix(_BODY))}"
    found = _PARTS.fullmatch(key)
    if found is None:
        return key
    part = {name: value for name, value in found.groupdict().items() if value is not None}
    rest = next(part[name] for name in "abcdef" if name in part)
    outputs = _CLASSES if norm else _DEPTH
    match part:
        case {"reassemble": level, "step": step}:
            return f"head.reassemble.{int(level) - 1}.{_STEPS[step]}.{rest}"
        case {"narrow": level}:
            return f"head.decoder.narrow.{int(level) - 1}.{rest}"
        case {"mix": level}:
            return f"head.decoder.fusions.{int(level) - 1}.mix.{rest}"
        case {"fusion": level, "unit": unit, "layer": layer, "number": number}:
            inside = f".{layer}" if norm else ".0" if number == "1" else ""  # with bias, a ReLU follows the first
            place = f"{'skip' if unit == '1' else 'unit'}.{'first' if number == '1' else 'second'}{inside}"
            return f"head.decoder.fusions.{int(level) - 1}.{place}.{rest}"
        case {"output": number} if number in outputs:
            return f"head.output.{outputs[number]}.{rest}"
        case {"auxiliary": number} if number in _CLASSES:
            return f"head.auxiliary.{_CLASSES[number]}.{rest}"
        case _:
            return key


def _body(key: str) -> str:
    if key in ("cls_token", "dist_token"):
        return "class_token" if key == "cls_token" else "distillation_token"
    return hybrid_stem(key)


def hybrid_stem(key: str) -> str:
    """Rename a parameter of timm's hybrid ResNet, without `backbone.`; other names are returned unchanged."""
    if not key.startswith(_STEM):
        return key
    rest = key.removeprefix(_STEM).replace("stem.conv.", "stem.").replace("stem.norm.", "stem_norm.")
    rest = rest.replace(".blocks.", ".").replace("downsample.conv.", "shortcut.0.")
    return f"patch_embed.{rest.replace('downsample.norm.', 'shortcut.1.')}"
