"""Export a model's weights in another project's layout: its publisher's, or a directory for transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from pvtctl.errors import UsageError, nearest
from pvtctl.export.check import TOLERANCE
from pvtctl.export.transformers_folder import write_folder
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.models.backbones import Backbone
from pvtctl.models.detector import Detector
from pvtctl.models.necks.reading import asked_for
from pvtctl.weights.convert import convert_file, unwritable
from pvtctl.weights.identify import identify_head
from pvtctl.weights.save import save_safetensors

Layout = Literal["official", "transformers"]
LAYOUTS: tuple[Layout, ...] = ("official", "transformers")


@dataclass(frozen=True)
class LayoutReport:
    """Result of `export_layout`: file, model, and comparison with the original."""

    path: Path
    layout: Layout
    model: str
    """Description: `PvtForImageClassification`, `pvt_small`, `retinanet of pvt_small`."""
    compared_with: str | None
    """Implementation whose outputs on one image were compared; None: only the tensors were read back, and are equal."""
    difference: float | None
    """The largest, relative to the largest output."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self) | {"path": str(self.path)}


def export_layout(
    model: nn.Module,
    path: Path | str,
    layout: Layout,
    *,
    source: Path | None = None,
    class_names: Sequence[str] | None = None,
    normalization: Normalization = IMAGENET,
    tolerance: float = TOLERANCE,
    sides: tuple[int, int] | None = None,
) -> LayoutReport:
    """Write the weights of `model` in another project's layout and verify them.

    `official`: one file (.pth, .safetensors) in the layout of the model's publisher, read back and bitwise equal: the PVT
    authors' for PVT (which timm also reads for v2), DeiT's, torchvision's; mmdetection's for RetinaNet and Mask R-CNN,
    facebookresearch's for DETR, mmsegmentation's for Semantic FPN and DeepLabV3+.
    `transformers`: a directory (config.json, model.safetensors, preprocessor_config.json) for `from_pretrained`: classifiers
    of PVT v1 and v2, ViT and DeiT; DPT on a ViT, for depth on the hybrid and timm's DINOv2 (Depth Anything) too; DETR on a
    ResNet or a PVT v2. If transformers is installed, its outputs on one image are compared, and may differ by `tolerance` of
    the largest (some of its norms have another epsilon).

    `sides`: for transformers, those that a detector's images are resized to (short, at most long); unset: 800 and 1333.
    `source` is the checkpoint that `model` was loaded from, which is converted unchanged; unset: the model's own tensors.

    Raises UsageError for a path that exists, an unknown layout, a model that the layout does not support; PvtctlError
    when the written file does not give the same back.
    """
    path = Path(path)
    match layout:
        case "official":
            return _official(model, path, class_names, source)
        case "transformers":
            name, difference = write_folder(model, path, class_names, normalization, tolerance, sides)
            compared = None if difference is None else "transformers"
            return LayoutReport(path, "transformers", name, compared, difference)
        case _:
            raise UsageError(f"no layout {layout!r}", nearest(layout, LAYOUTS))


def _official(model: nn.Module, path: Path, class_names: Sequence[str] | None, source: Path | None) -> LayoutReport:
    if path.exists():
        raise UsageError(f"{path} exists", "name another file; nothing is ever overwritten")
    if not isinstance(getattr(model, "backbone", model), Backbone):
        raise UsageError(f"a {type(model).__name__} is not a pvtctl model", "take one of `pvtctl.create_...`")
    conventions = model.conventions if isinstance(model, Detector) else None
    prefix = "backbone." if isinstance(model, Backbone) else ""
    state = {prefix + key: value for key, value in model.state_dict().items()}
    above = identify_head(state)
    spec = getattr(model, "spec", None) or (above.spec if above is not None else None)
    if spec is not None and (why := unwritable(spec.name, conventions, asked_for(model))) is not None:
        raise UsageError(f"this {why}", "--format onnx or torch exports it; `pvtctl weights convert` writes our layout")
    if source is not None:
        return _converted(source, path)
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "model.safetensors"
        known = {"class_names": list(class_names) if class_names else None, "conventions": conventions}
        save_safetensors(ours, state, {key: value for key, value in known.items() if value is not None})
        return _converted(ours, path)


def _converted(source: Path, path: Path) -> LayoutReport:
    done = convert_file(source, path, to="official")
    what = f"{done.head} of {done.backbone}" if done.head else done.backbone
    return LayoutReport(path, "official", what, done.compared_with, done.difference)
