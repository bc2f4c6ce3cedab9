"""Identify the detector, segmentation or depth model in a state dict with pvtctl's names, and its build options.

Headers of pvtctl's files are used first; everything else is inferred from shapes and names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from pvtctl.data.class_names import ADE20K_CLASSES, COCO_CATEGORIES, COCO_NAMES, PASCAL_CONTEXT_CLASSES, names_by_id
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.models.registry import DEPTH, ClassRows, Conventions, HeadMark, HeadSpec, find_head, head_specs
from pvtctl.weights.layouts import depth_anything
from pvtctl.weights.layouts.base import DETECTOR_RESIZE, Format
from pvtctl.weights.recognise import identify
from pvtctl.weights.remap_classes import class_tables

AUXILIARY = "head.auxiliary."
"""Parameters used in training only, which files may lack."""
_DETECTORS = ("pvtctl", *DETECTOR_RESIZE)
"""Layouts of detectors; third-party heads may share some of these names."""
_PUBLISHED_CLASSES: dict[int, list[str]] = {
    150: list(ADE20K_CLASSES),
    60: list(PASCAL_CONTEXT_CLASSES),
    59: list(PASCAL_CONTEXT_CLASSES[1:]),  # without the background
}
_PUBLISHED_OBJECTS: dict[int, list[str]] = {
    80: list(COCO_NAMES),
    90: names_by_id(1, 90),  # torchvision's Mask R-CNN, without its background
    91: names_by_id(0, 90),  # a row for every category id: facebookresearch's DETR, torchvision's RetinaNet
}
"""Number of classes -> class names, for third-party files without names."""


@dataclass(frozen=True)
class HeadInfo:
    """A detector, segmentation or depth model as identified from names, shapes and header."""

    backbones: list[str]
    """pvtctl's backbones with exactly these shapes: none for third-party ones, two where two share them."""
    spec: HeadSpec
    task: str
    num_classes: int
    """1 for depth."""
    options: dict[str, Any] = field(default_factory=dict)
    """Head options known from shapes, header or layout."""
    conventions: Conventions = "papers"
    """Of a detector."""
    output_stride: int | None = None
    """Of a ResNet's last map; None if unknown."""
    scale_shift: tuple[float, float] | None = None
    """Of a metric depth model: metres = 1 / (a x + b)."""
    class_names: list[str] | None = None
    """The file's own, or those of COCO, ADE20K or Pascal Context for a third-party file with as many classes."""
    category_ids: list[int] | None = None
    """Of a detector: label -> category id of its training annotations, if known from the file or COCO's names."""

    @property
    def head(self) -> str:
        return self.spec.name

    @property
    def kind(self) -> str:
        return "detector" if self.spec.detects else f"{self.task} model"

    @property
    def name(self) -> str:
        """`RetinaNet`, `DPT for depth`."""
        return f"{self.spec.title} for {self.task}" if len(self.spec.tasks) > 1 else self.spec.title

    @property
    def title(self) -> str:
        """`Semantic FPN of pvt_small`."""
        return f"{self.name} of {' or '.join(self.backbones) or 'a third-party backbone'}"

    @property
    def tables(self) -> dict[str, ClassRows]:
        """The parameters with one row or group of rows per class."""
        return {} if self.task == DEPTH else class_tables(self.spec)


def identify_head(
    state: Mapping[str, Tensor], format: Format = "pvtctl", meta: CheckpointMeta | None = None
) -> HeadInfo | None:
    """Identify the detector or dense model in `state` (pvtctl's names); None if pvtctl builds no such model.

    `format`: the original layout, which implies conventions; `meta`: the file's metadata, used where it fits the shapes.
    """
    meta = meta or CheckpointMeta()
    if format in depth_anything.FORMATS:
        stated = meta.head_options or {}
        meta = meta.updated(head="dpt", head_options=depth_anything.usual_options(state) | stated)
    found = _stated_head(state, format, meta) or _marked_head(state, format)
    if found is None:
        return None
    spec, task, num_classes = found
    info = describe_head(state, spec, task, num_classes, format)
    info = replace(info, backbones=identify(state, meta.backbone))
    return _with_meta(info if format == "pvtctl" else _with_conventions(info, format), meta)


def describe_head(
    state: Mapping[str, Tensor], spec: HeadSpec, task: str, num_classes: int, format: Format = "pvtctl"
) -> HeadInfo:
    """Infer from shapes a model whose head is known."""
    backbones = identify(state)
    stride = None
    if "resnet" in "".join(backbones):  # mmsegmentation's published DeepLabV3+ models have stride 8 ("d8")
        stride = 8 if format == "mmsegmentation DeepLabV3+" else spec.stride_of(state)
    conventions = _conventions_of(state, format) if spec.detects else "papers"
    return HeadInfo(backbones, spec, task, num_classes, spec.options_of(state), conventions, stride)


def _stated_head(state: Mapping[str, Tensor], format: Format, meta: CheckpointMeta) -> tuple[HeadSpec, str, int] | None:
    """The head, task and number of classes in the header of a pvtctl file."""
    spec = find_head(meta.head or "")
    if spec is None or format != "pvtctl" or not any(name.startswith("head.") for name in state):
        return None
    task = meta.task if meta.task in spec.tasks else spec.tasks[0]
    mark = next((mark for mark in spec.marks if mark.task == task), None)
    if mark is None:
        return spec, task, 1 if task == DEPTH else (meta.num_classes or 1)
    return (spec, task, mark.count_classes(state)) if mark.names <= state.keys() else None


def _marked_head(state: Mapping[str, Tensor], format: Format) -> tuple[HeadSpec, str, int] | None:
    """The head whose parameters are present."""
    marks: list[tuple[HeadSpec, HeadMark]] = [(spec, mark) for spec in head_specs() for mark in spec.marks]
    for spec, mark in marks:
        if mark.names <= state.keys() and (format in _DETECTORS or not spec.detects):
            classes = mark.count_classes(state)
            if classes >= 1:
                return spec, mark.task, classes
    return None


def _conventions_of(state: Mapping[str, Tensor], format: Format) -> Conventions:
    """A detector's conventions, from the layout or from RetinaNet's P6, which torchvision computes from the pyramid and
    the papers from the backbone's last map.
    """
    if format in ("torchvision RetinaNet", "torchvision Mask R-CNN"):
        return "torchvision"
    p6, laterals = state.get("neck.extra_blocks.p6.weight"), state.get("neck.inner_blocks.2.0.weight")
    if format == "pvtctl" and p6 is not None and laterals is not None and p6.shape[1] != laterals.shape[1]:
        return "torchvision"
    return "papers"


def _with_conventions(info: HeadInfo, format: Format) -> HeadInfo:
    """Add facts about a layout's published files that are not in the files."""
    if info.spec.detects:
        return replace(info, class_names=_PUBLISHED_OBJECTS.get(info.num_classes))
    return replace(info, class_names=_PUBLISHED_CLASSES.get(info.num_classes))


def _with_meta(info: HeadInfo, meta: CheckpointMeta) -> HeadInfo:
    names, scale_shift = meta.class_names, meta.scale_shift
    stated = meta.head_options if meta.head == info.head else None
    info = replace(
        info,
        options=dict(stated or {}) | info.options,
        class_names=list(names) if names and len(names) == info.num_classes else info.class_names,
    )
    if info.spec.detects:
        return replace(
            info,
            conventions=meta.conventions or info.conventions,
            category_ids=meta.category_ids or coco_ids(info.class_names),
        )
    return replace(
        info,
        output_stride=meta.output_stride or info.output_stride,
        scale_shift=(scale_shift[0], scale_shift[1]) if scale_shift else info.scale_shift,
    )


def coco_ids(class_names: Sequence[str] | None) -> list[int] | None:
    """COCO's category ids of these classes; None unless they are COCO's 80, in any order, with or without unused ones."""
    if class_names is None or not set(COCO_NAMES) <= set(class_names):
        return None
    where = {name: category for category, name in COCO_CATEGORIES.items()}
    ids = [where.get(name, _unused_id(name)) for name in class_names]
    return [each for each in ids if each is not None] if None not in ids else None


def _unused_id(name: str) -> int | None:
    number = name.removeprefix("N/A ")
    return int(number) if number != name and number.isdigit() else None


def plain(value: Any) -> str:
    """An option's value as written in recipes: `project`, `3, 6, 9, 12`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(each)}" for name, each in value.items() if each is not None)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
