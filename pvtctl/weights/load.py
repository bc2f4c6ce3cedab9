"""Load a checkpoint into a backbone, classifier, detector or dense model and report the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.io.names import plural
from pvtctl.models.backbone_names import split_name
from pvtctl.models.dense import DenseModel
from pvtctl.models.detector import Detector
from pvtctl.weights.files.inside import find_state, known_part, meta_of_part
from pvtctl.weights.identify import identify_head
from pvtctl.weights.layouts import depth_anything
from pvtctl.weights.load_head import check_above, head_of_module, plan_above_backbone
from pvtctl.weights.plan import is_bridge, named_as, plan_backbone, shape_of, targets_of
from pvtctl.weights.read import Checkpoint, read_weights
from pvtctl.weights.recognise import convert_state, identify
from pvtctl.weights.remap_classes import load_head
from pvtctl.weights.report import LEAST_SHARE, LoadReport, listed, percent_loaded
from pvtctl.weights.tensors import nonfinite
from pvtctl.weights.unknown import explain_unknown

# v1 and ViT have these for classification; the dense models of the official code do not.
_CLASSIFICATION_ONLY = ("backbone.class_token", "backbone.norm.weight", "backbone.norm.bias")

# Third-party ResNets whose names and shapes equal those of the plain ones
_STYLES = {
    "caffe": "of caffe's style, with other strides and pixels in BGR order",
    "dilated": "with a dilated last stage (DETR-DC5)",
}


def load_checkpoint(
    module: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    *,
    partial: bool = False,
    class_names: Sequence[str] | None = None,
    source_class_names: Sequence[str] | None = None,
) -> LoadReport:
    """Load a checkpoint of pvtctl or another project into `module`: a Backbone, Classifier, Detector or DenseModel.

    `source`: a file, a run or transformers directory, a published name, or a state dict in any known layout.
    `class_names`: the module's classes, in the order of its head's rows. The file's own names come from its metadata,
    else from `source_class_names`, else they are those of COCO, ADE20K or Pascal Context for a third-party file with as
    many classes. With both known, rows of classes are matched by name; otherwise a head of equal size is loaded
    completely and one of another size not at all.
    Position tables of another grid are interpolated. A file without neck and head initialises the backbone of a
    detector or dense model only; a backbone or classifier takes the backbone of a detector or dense model. `module`
    changes only if nothing is raised.

    Raises UsageError for files that are not checkpoints, and, unless `partial`, for files with less than 95 % of the
    backbone's parameters (or of neck and head), with unexpected parts, or of another task or head; always when nothing
    fits.
    """
    checkpoint = _checkpoint(source)
    targets = targets_of(module)
    state = named_as(targets, checkpoint, module)
    found = identify_head(state, checkpoint.format, checkpoint.meta)
    report = LoadReport(
        source=str(checkpoint.path) if checkpoint.path else "a state dict",
        format="timm" if is_bridge(targets) and found is None else checkpoint.format,
        model=found.title
        if found
        else " or ".join(identify(state, checkpoint.meta.backbone)) or checkpoint.meta.backbone,
        nonfinite=nonfinite(state),
        note=checkpoint.note,
        assumed=_assumed(checkpoint, module),
    )
    _check_backbone(module, checkpoint, state, partial)
    plan = plan_backbone(module, targets, state, checkpoint, report)
    names = checkpoint.meta.class_names or source_class_names
    _sort_out_rest(targets, state, report, dense=isinstance(module, Detector | DenseModel))
    if isinstance(module, Detector | DenseModel):
        here = head_of_module(module, targets)
        taken = check_above(module, here, found, checkpoint, report, partial)
        if isinstance(module, DenseModel) and taken is not None and taken.scale_shift:
            report.scale_shift = taken.scale_shift
            report.note = _metres(module, taken.scale_shift) or report.note
        _refuse_misfit(module, targets, state, report, partial)
        if taken is not None:
            names = names or taken.class_names
        plan += plan_above_backbone(targets, state, here, taken, (class_names, names), report, partial)
    else:
        head = getattr(module, "head", None)
        if isinstance(head, nn.Linear) and hasattr(module, "backbone"):
            plan += load_head(head, state, (class_names, names), report)
        _refuse_misfit(module, targets, state, report, partial)
    with torch.no_grad():
        for target, value in plan:
            target.copy_(value)
    return report


def _checkpoint(source: str | Path | Mapping[str, Tensor]) -> Checkpoint:
    if isinstance(source, str | Path):
        return read_weights(source)
    state, meta, _ = find_state("the state dict", source)
    converted = convert_state(state)
    left_out: tuple[str, ...] = ()
    if converted.format == "unknown" and (found := known_part("the state dict", state)) is not None:
        state, converted, left_out = found.state, convert_state(found.state), found.left_out
        meta = meta_of_part(meta, found)
    return Checkpoint(converted.state, converted.format, meta, raw=state, left_out=left_out)


def built_as(module: nn.Module) -> str:
    """The name that the module's backbone was built by; empty if it was made otherwise."""
    return str(getattr(getattr(module, "backbone", module), "built_as", ""))


def _check_backbone(module: nn.Module, checkpoint: Checkpoint, state: Mapping[str, Tensor], partial: bool) -> None:
    """Raise UsageError for the weights of a backbone that differs in what no shape shows: a ResNet's style, other options,
    such as heads.
    """
    if (style := _STYLES.get(checkpoint.meta.style or "")) and not partial:
        raise UsageError(
            f"{checkpoint.path} holds a ResNet {style}: its outputs would be wrong here",
            "take a file of a plain ResNet, or pass --partial (partial=True) to start training from this one",
        )
    stated, here = checkpoint.meta.backbone, built_as(module)
    names = identify(state) if stated is None else [stated]
    named = [name for name in (*names, here) if split_name(name).options]
    if partial or not names or not here or not named or here in names:
        return
    raise UsageError(
        f"{checkpoint.path or 'the state dict'} holds {' or '.join(names)}, and this is {here}",
        f"build {names[0]}, or pass --partial (partial=True) to start training from what fits",
    )


def _assumed(checkpoint: Checkpoint, module: nn.Module) -> str:
    """What a file of Depth Anything's authors does not say, and how it was taken."""
    unstated = depth_anything.unstated(checkpoint.format, checkpoint.meta.head_options, checkpoint.state)
    if not unstated or not isinstance(module, DenseModel):
        return ""
    taps = ", ".join(map(str, getattr(module.head, "taps", ())))
    return f"read with blocks {taps} and {'metres' if module.scale_shift else 'inverse depth'}: {unstated}"


def _metres(module: DenseModel, theirs: tuple[float, float]) -> str:
    if module.scale_shift == theirs:
        return ""
    a, b = theirs
    here = "none" if module.scale_shift is None else f"{module.scale_shift[0]:g}, {module.scale_shift[1]:g}"
    return f"the file's metres are made with the scale_shift {a:g}, {b:g}; this model has {here}"


def _sort_out_rest(
    targets: Mapping[str, Tensor], state: Mapping[str, Tensor], report: LoadReport, *, dense: bool
) -> None:
    """List the file's tensors that the module does not have, except the head: as dropped or as unexpected."""
    for name, value in state.items():
        if name in targets or name.endswith("num_batches_tracked") or name in ("head.weight", "head.bias"):
            if name in ("head.weight", "head.bias") and name not in targets:
                report.dropped.append((name, "no classification head here"))
        elif name in _CLASSIFICATION_ONLY:
            report.dropped.append((name, "for classification only"))
        elif name.startswith("backbone."):
            report.unexpected.append((name, shape_of(value)))
        elif not (dense and name.startswith(("neck.", "head."))):
            report.dropped.append((name, "not part of such a model" if dense else "not part of a backbone"))


def _refuse_misfit(
    module: nn.Module,
    targets: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    report: LoadReport,
    partial: bool,
) -> None:
    missing = [name for name, _ in report.missing if name.startswith("backbone.")]
    # a timm model without its last norm gives other outputs, few as its parameters are
    lost = missing if is_bridge(targets) else [name for name in missing if "running_" in name]
    fits = report.backbone_share >= LEAST_SHARE and not report.unexpected and not lost
    if report.backbone_loaded and (fits or partial):
        return
    here = " or ".join(identify(targets, built_as(module))) or "this backbone"
    if report.model:
        what = f"{report.source} holds {report.model} ({report.format} layout), not {here}"
    elif report.format != "unknown":
        what = f"{report.source} holds a {report.format} model that pvtctl does not have, and does not fit {here}"
    else:
        some = ", ".join(list(state)[:3])
        why, _ = explain_unknown(state, report.format)
        why = why.removesuffix(" (unknown layout)")
        what = f"{report.source} {why} ({plural(len(state), 'tensor')}: {some}, ...)"
    if report.backbone_share >= LEAST_SHARE and report.unexpected:
        message = f"{what}: {len(report.unexpected)} of its tensors have no place here"
    else:
        message = f"{what}: {percent_loaded(report.backbone_share)} of the backbone's parameters would be loaded"
    tensors = {**state, **targets}
    for word, pairs in report.misfits:
        if pairs:
            largest = sorted(pairs, key=lambda pair: -tensors[pair[0]].numel())
            message += f"; {word}: {listed(largest)}"
    known = f"build {identify(state)[0]}, or " if identify(state) else ""
    hint = f"{known}pass --partial (partial=True) to load what fits" if report.backbone_loaded else None
    raise UsageError(message, hint or f"{known or 'give '}a file of {here}")
