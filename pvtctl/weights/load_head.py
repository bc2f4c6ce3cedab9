"""Load neck and head weights of a detector or dense model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.models.dense import DenseModel
from pvtctl.models.detector import Detector
from pvtctl.models.registry import DETECTION
from pvtctl.weights.identify import AUXILIARY, HeadInfo, describe_head, identify_head, plain
from pvtctl.weights.layouts.unsupported import unsupported_model
from pvtctl.weights.plan import Plan, shape_of
from pvtctl.weights.read import Checkpoint
from pvtctl.weights.remap_classes import Names, check_number_of_names, load_class_rows
from pvtctl.weights.report import LEAST_SHARE, LoadReport, listed, percent_loaded


def head_of_module(module: Detector | DenseModel, targets: Mapping[str, Tensor]) -> HeadInfo:
    """Describe a module's head; `targets`: its tensors under checkpoint names. Raises UsageError."""
    if module.spec is not None:
        task = DETECTION if isinstance(module, Detector) else module.task
        return describe_head(targets, module.spec, task, module.num_classes)
    if (found := identify_head(targets)) is None:
        raise UsageError(
            f"{type(module.head).__name__} is no head that pvtctl knows", "build the model with its HeadSpec"
        )
    return found


def check_above(
    module: Detector | DenseModel,
    here: HeadInfo,
    found: HeadInfo | None,
    checkpoint: Checkpoint,
    report: LoadReport,
    partial: bool,
) -> HeadInfo | None:
    """Decide whether neck and head are loaded: `found`, or None if they keep their initial values (reason in the report).

    `here` describes `module`. Raises UsageError, unless `partial`, for a model of another task, with another head or
    other conventions, or unknown to pvtctl.
    """
    if found is None:
        other = unsupported_model(checkpoint.names)
        if other is None:
            report.above_note = f"the file holds no {here.kind}"
            return None
        what, build = f"holds {other}, which is not a pvtctl {here.kind}", ""
    elif (found.kind, found.head) != (here.kind, here.head):
        what = f"holds a {found.title} ({checkpoint.format} layout), and this is a {here.name}"
        build = f"build that (--head {found.head}), or "
    elif (unlike := _convention(module, found, checkpoint)) is not None:
        what, build = unlike
    else:
        return found
    if not partial:
        raise UsageError(f"{report.source} {what}", f"{build}pass --partial (partial=True) to take its backbone alone")
    report.above_note = f"the file {what}"
    return None


def _convention(module: Detector | DenseModel, found: HeadInfo, checkpoint: Checkpoint) -> tuple[str, str] | None:
    """A difference between file and module that affects outputs but not shapes: what the file holds, and the beginning of
    a hint. None where they agree or the file does not state it.
    """
    if isinstance(module, Detector) and found.conventions != module.conventions:
        theirs, ours = found.conventions, module.conventions
        what = f"holds a {found.title} with the conventions of {theirs}, and this one has those of {ours}"
        return what, f"build it with conventions={theirs!r}, or "
    unlike = found.spec.unlike(module.head, found.options, checkpoint.state)
    if unlike is None:
        return None
    option, stated, own = unlike
    what = f"holds a {found.title} with the {option} {stated}, and this one has {own}"
    return what, f"build it with {option}={stated}, or "


def plan_above_backbone(
    targets: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    here: HeadInfo,
    found: HeadInfo | None,
    names: Names,
    report: LoadReport,
    partial: bool,
) -> Plan:
    """Pair the tensors of neck and head with the file's, rows of classes by name; fills the report.

    Raises UsageError when the number of class names differs from that of the rows, and, unless `partial`, when a shape
    differs, a part is unexpected, or less than 95 % would be loaded.
    """
    classes = here.num_classes
    check_number_of_names(names[0], classes)
    rest = {name: value for name, value in targets.items() if not name.startswith("backbone.")}
    above = {name: value for name, value in state.items() if name.startswith(("neck.", "head."))}
    if found is not None:
        _set_auxiliary_apart(rest, above, report)
    report.above_total = sum(value.numel() for name, value in rest.items() if name not in here.tables)
    report.head_new = classes if here.tables else 0
    if found is None:
        report.dropped += [(name, "of another head") for name in above if name not in ("head.weight", "head.bias")]
        return []
    plan = _plan_rest(rest, above, here.tables, report)
    if here.tables:
        plan += load_class_rows(here.tables, rest, above, (classes, found.num_classes), names, report)
    _refuse_misfit(here, found, report, partial)
    return plan


def _set_auxiliary_apart(rest: dict[str, Tensor], above: dict[str, Tensor], report: LoadReport) -> None:
    """Remove the auxiliary head from both where only one has it: it is used in training only."""
    ours, theirs = ([name for name in each if name.startswith(AUXILIARY)] for each in (rest, above))
    if ours and not theirs:
        report.missing += [(name, "for training only, starts fresh") for name in ours]
        for name in ours:
            del rest[name]
    if theirs and not ours:
        report.dropped += [(name, "for training only") for name in theirs]
        for name in theirs:
            del above[name]


def _plan_rest(
    rest: Mapping[str, Tensor], above: Mapping[str, Tensor], tables: Mapping[str, object], report: LoadReport
) -> Plan:
    """Pair all tensors but the rows of classes."""
    plan: Plan = []
    for name, target in rest.items():
        value = above.get(name)
        if name in tables:
            continue
        if value is None:
            report.missing.append((name, shape_of(target)))
        elif value.shape != target.shape:
            report.mismatched.append((name, f"file {shape_of(value)}, here {shape_of(target)}"))
        else:
            plan.append((target, value))
            report.loaded.append(name)
            report.above_loaded += target.numel()
    report.unexpected += [(name, shape_of(value)) for name, value in above.items() if name not in rest]
    return plan


def _refuse_misfit(here: HeadInfo, found: HeadInfo, report: LoadReport, partial: bool) -> None:
    """Raise unless nearly all of neck and head is loaded. Any difference in shape is refused: it is a variant of the head,
    and its outputs would be noise.
    """
    faults = [(word, [pair for pair in pairs if not pair[0].startswith("backbone.")]) for word, pairs in report.misfits]
    foreign = faults[1][1] or faults[2][1]
    if partial or (report.above_share >= LEAST_SHARE and not foreign):
        return
    message = f"{report.source} holds a {found.title} ({report.format} layout) of another make: "
    message += f"{percent_loaded(report.above_share)} of neck and head would be loaded"
    message += "".join(f"; {word}: {listed(pairs)}" for word, pairs in faults if pairs)
    other = {name: value for name, value in found.options.items() if name in here.options}
    options = [f"{name}={plain(value)}" for name, value in other.items() if value != here.options[name]]
    if here.output_stride is not None and found.output_stride != here.output_stride:
        options.append(f"output_stride={found.output_stride}")
    build = f"build it with {', '.join(options)}, or " if options else ""
    raise UsageError(message, f"{build}pass --partial (partial=True) to load what fits")
