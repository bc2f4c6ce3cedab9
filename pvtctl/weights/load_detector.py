"""Neck and head of a detector from a checkpoint: taken, left fresh, or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from pvtctl.detectors import Detector
from pvtctl.errors import UsageError
from pvtctl.weights.class_rows import class_tables, load_class_rows
from pvtctl.weights.detectors import TITLES, Identified, class_count, head_of, names_without_meta, other_detector
from pvtctl.weights.plan import Plan, shape_of
from pvtctl.weights.read import Checkpoint
from pvtctl.weights.report import LEAST_SHARE, LoadReport, listed, percent

Names = tuple[Sequence[str] | None, Sequence[str] | None]
"""Class names of the module and of the file."""


def check_detector(
    module: Detector,
    targets: Mapping[str, Tensor],
    found: Identified | None,
    checkpoint: Checkpoint,
    report: LoadReport,
    partial: bool,
) -> Identified | None:
    """Whose neck and head are taken from the file: `found`, or None where they start fresh, with the report's reason.

    Raises UsageError, unless `partial`, for a detector with another head or other conventions, or none of ours.
    """
    head = head_of(targets)
    assert head is not None  # every head has class outputs
    if found is None:
        other = other_detector(checkpoint.raw)
        if other is None:
            report.above_note = "the file holds no detector"
            return None
        what, build = f"holds {other}, which is none of pvtctl's detectors", ""
    else:
        theirs = checkpoint.meta.get("conventions") or found.conventions
        if found.head != head:
            what = f"holds a {found.title} ({checkpoint.format} layout), and this is a {TITLES[head]}"
            build = f"build that (--head {found.head}), or "
        elif theirs != module.conventions:
            what = f"holds a {found.title} with the conventions of {theirs}, and this one has those of {module.conventions}"
            build = f"build it with conventions={theirs!r}, or "
        else:
            return found
    if not partial:
        raise UsageError(f"{report.source} {what}", f"{build}pass --partial (partial=True) to take its backbone alone")
    report.above_note = f"the file {what}"
    return None


def plan_above_backbone(
    targets: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    found: Identified | None,
    checkpoint: Checkpoint,
    names: Names,
    report: LoadReport,
    partial: bool,
) -> Plan:
    """Pair the tensors of neck and head with the file's, rows of classes by name; fills the report.

    Raises UsageError when the class names do not number the rows, and, unless `partial`, when a shape differs, a part has
    no place, or less than 95 % would be loaded.
    """
    head = head_of(targets)
    assert head is not None
    classes = class_count(targets, head)
    if names[0] is not None and len(names[0]) != classes:
        raise UsageError(f"{len(names[0])} class names were given for a head of {classes} classes")
    rest = {name: value for name, value in targets.items() if not name.startswith("backbone.")}
    tables = class_tables(head)
    report.above_total = sum(value.numel() for name, value in rest.items() if name not in tables)
    report.head_new = classes
    above = {name: value for name, value in state.items() if name.startswith(("neck.", "head."))}
    if found is None:
        report.dropped += [(name, "of another head") for name in above if name not in ("head.weight", "head.bias")]
        return []
    plan = _plan_rest(rest, above, tables, report)
    theirs = names[1] or names_without_meta(found, checkpoint.format)
    if theirs is not None and len(theirs) != found.num_classes:
        theirs = None  # names of other classes than the file's head has
    plan += load_class_rows(head, rest, above, (classes, found.num_classes), (names[0], theirs), report)
    _refuse_misfit(found, report, partial)
    return plan


def _plan_rest(
    rest: Mapping[str, Tensor], above: Mapping[str, Tensor], tables: Mapping[str, object], report: LoadReport
) -> Plan:
    """All but the rows of classes."""
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


def _refuse_misfit(found: Identified, report: LoadReport, partial: bool) -> None:
    """Raise unless nearly all of neck and head is filled. A shape that differs is refused however small it is: that is a
    variant of the head, and its outputs would be noise."""
    faults = [
        (word, [pair for pair in pairs if not pair[0].startswith("backbone.")])
        for word, pairs in (
            ("not in the file", report.missing),
            ("of another shape", report.mismatched),
            ("without a place here", report.unexpected),
        )
    ]
    foreign = faults[1][1] or faults[2][1]
    if partial or (report.above_share >= LEAST_SHARE and not foreign):
        return
    message = f"{report.source} holds a {found.title} ({report.format} layout) of another make: "
    message += f"{percent(report.above_share)} of neck and head would be loaded"
    message += "".join(f"; {word}: {listed(pairs)}" for word, pairs in faults if pairs)
    queries = any(name == "head.query_embed.weight" for name, _ in report.mismatched)
    build = f"build it with num_queries={found.num_queries}, or " if queries else ""
    raise UsageError(message, f"{build}pass --partial (partial=True) to load what fits")
