"""Load class outputs when the classes differ: rows are matched by class name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.io.names import plural
from pvtctl.models.registry import ClassRows, HeadSpec
from pvtctl.weights.report import LoadReport

Names = tuple[Sequence[str] | None, Sequence[str] | None]
"""Class names of the module and of the file."""


def load_head(
    head: nn.Linear, state: Mapping[str, Tensor], names: Names, report: LoadReport
) -> list[tuple[Tensor, Tensor]]:
    """`load_class_rows` for a classifier's linear layer, `head.weight` and `head.bias` of `state`.

    Raises UsageError when the number of class names differs from that of the head's rows.
    """
    rows = head.out_features
    check_number_of_names(names[0], rows)
    weight, bias = state.get("head.weight"), state.get("head.bias")
    report.head_new = rows
    if weight is None:
        report.head_note = "the file has no head"
        report.missing += [(name, "the file has no head") for name in ("head.weight", "head.bias")]
        return []
    rows_there = report.head_dropped = weight.shape[0] if weight.ndim else 0
    if weight.ndim != 2 or weight.shape[1] != head.in_features or (bias is not None and bias.shape != (rows_there,)):
        shapes = " and ".join("x".join(map(str, each.shape)) for each in (weight, bias) if each is not None)
        report.head_note = f"the file's head is {shapes}, this one takes {head.in_features} features"
        report.mismatched.append(("head.weight", report.head_note))
        return []
    targets = {"head.weight": head.weight} | ({} if head.bias is None or bias is None else {"head.bias": head.bias})
    tables: dict[str, ClassRows] = dict.fromkeys(targets, "plain")
    return load_class_rows(tables, targets, state, (rows, rows_there), names, report)


def check_number_of_names(names: Sequence[str] | None, classes: int) -> None:
    """Raise UsageError unless there is a name for each class, or none at all."""
    if names is not None and len(names) != classes:
        raise UsageError(f"{len(names)} class names were given for a head of {plural(classes, 'class')}")


def _row_pairs(rows: int, source_rows: int, names: Names, report: LoadReport) -> list[tuple[int, int]]:
    """(row here, row in the file) for each class in both."""
    here, there = names
    if here is not None and there is not None and len(there) == source_rows:
        where = {name: row for row, name in enumerate(there)}
        report.head_note = "by class name"
        return [(row, where[name]) for row, name in enumerate(here) if name in where]
    if rows == source_rows:
        report.head_note = "as a whole"
        return [(row, row) for row in range(rows)]
    report.head_note = f"the file has {plural(source_rows, 'class')} and no names to match them by"
    return []


def class_tables(spec: HeadSpec) -> dict[str, ClassRows]:
    """The parameters of a head that have rows for classes, and their row layout."""
    return {
        f"{name}{kind}": layout
        for name, layout in spec.class_tables.items()
        for kind in (("",) if layout == "tokens" else (".weight", ".bias"))
    }


def load_class_rows(
    tables: Mapping[str, ClassRows],
    targets: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    counts: tuple[int, int],
    names: Names,
    report: LoadReport,
) -> list[tuple[Tensor, Tensor]]:
    """Pairs (tensor of the module, value to copy); fills the report's `head_*` fields.

    `counts` and `names` are those of the module and of the file. With names on both sides the rows of shared classes are
    loaded and the others keep their initial values; without, equal counts are loaded completely and others not at all. The
    background's row is loaded whenever a class is.
    """
    here, there = counts
    pairs = _row_pairs(here, there, names, report)
    report.head_kept, report.head_new, report.head_dropped = len(pairs), here - len(pairs), there - len(pairs)
    plan = []
    for name, layout in tables.items():
        target, source = targets.get(name), state.get(name)
        if target is None or source is None:
            if target is not None:
                report.missing.append((name, "the file has none"))
            continue
        if not _fits(target, source, layout, here, there):
            shapes = ("x".join(map(str, each.shape)) for each in (source, target))
            report.mismatched.append((name, "file {}, here {}".format(*shapes)))
            continue
        if pairs:
            plan.append((target, _with_rows(target, source, layout, counts, pairs)))
            report.loaded.append(name)
    return plan


def _fits(target: Tensor, source: Tensor, layout: ClassRows, here: int, there: int) -> bool:
    match layout:
        case "anchors":
            same = target.shape[0] * there == source.shape[0] * here
        case "background":
            same = source.shape[0] == there + 1
        case "boxes":
            same = source.shape[0] == 4 * there
        case "plain":
            same = source.shape[0] == there
        case "tokens":
            return source.shape[:2] == (1, there) and source.shape[2:] == target.shape[2:]
    return same and target.shape[1:] == source.shape[1:]


def _with_rows(
    target: Tensor, source: Tensor, layout: ClassRows, counts: tuple[int, int], pairs: list[tuple[int, int]]
) -> Tensor:
    value = target.detach().clone(memory_format=torch.contiguous_format)
    source = source.to(value).contiguous()
    here, there = (torch.tensor(rows, dtype=torch.long, device=value.device) for rows in zip(*pairs, strict=True))
    _by_class(value, layout, counts[0])[:, here] = _by_class(source, layout, counts[1])[:, there]
    if layout == "background":
        value[-1] = source[-1]
    return value


def _by_class(value: Tensor, layout: ClassRows, classes: int) -> Tensor:
    """A view (groups, K, rest) of a contiguous table."""
    match layout:
        case "anchors":
            return value.view(value.shape[0] // classes, classes, -1)
        case "background":
            return value[:-1].view(1, classes, -1)
        case _:
            return value.view(1, classes, -1)
