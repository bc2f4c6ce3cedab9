"""The classification head when the classes differ: rows are matched by class name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.weights.report import LoadReport


def load_head(
    head: nn.Linear,
    state: Mapping[str, Tensor],
    class_names: Sequence[str] | None,
    source_names: Sequence[str] | None,
    report: LoadReport,
) -> list[tuple[Tensor, Tensor]]:
    """Pairs (tensor of the head, value to copy), and the report's `head_*` fields filled.

    With names on both sides rows go by name and the others keep their fresh values. Without names a head of equal size
    is taken whole, one of another size is left out. Raises UsageError when `class_names` do not number the head's rows.
    """
    rows = head.out_features
    if class_names is not None and len(class_names) != rows:
        raise UsageError(f"{len(class_names)} class names were given for a head of {rows} classes")
    weight, bias = state.get("head.weight"), state.get("head.bias")
    report.head_new = rows
    if weight is None:
        report.head_note = "the file has no head"
        report.missing += [(name, "the file has no head") for name in ("head.weight", "head.bias")]
        return []
    rows_there = weight.shape[0] if weight.ndim else 0
    report.head_dropped = rows_there
    if weight.ndim != 2 or weight.shape[1] != head.in_features or (bias is not None and bias.shape != (rows_there,)):
        shapes = " and ".join("x".join(map(str, each.shape)) for each in (weight, bias) if each is not None)
        report.head_note = f"the file's head is {shapes}, this one takes {head.in_features} features"
        report.mismatched.append(("head.weight", report.head_note))
        return []
    if source_names is not None and len(source_names) != weight.shape[0]:
        source_names = None  # names of other classes than the file's head has
    pairs = row_pairs(rows, weight.shape[0], class_names, source_names, report)
    here = torch.tensor([pair[0] for pair in pairs], dtype=torch.long)
    there = torch.tensor([pair[1] for pair in pairs], dtype=torch.long)
    report.head_kept, report.head_new = len(pairs), rows - len(pairs)
    report.head_dropped = weight.shape[0] - len(pairs)
    if not pairs:
        return []
    plan = [_rows(head.weight, weight, here, there)]
    report.loaded.append("head.weight")
    if bias is not None and head.bias is not None:
        plan.append(_rows(head.bias, bias, here, there))
        report.loaded.append("head.bias")
    return plan


def row_pairs(
    rows: int,
    source_rows: int,
    class_names: Sequence[str] | None,
    source_names: Sequence[str] | None,
    report: LoadReport,
) -> list[tuple[int, int]]:
    """(row here, row in the file) for each class that both have."""
    if class_names is not None and source_names is not None:
        where = {name: row for row, name in enumerate(source_names)}
        report.head_note = "by class name"
        return [(row, where[name]) for row, name in enumerate(class_names) if name in where]
    if rows == source_rows:
        report.head_note = "as a whole"
        return [(row, row) for row in range(rows)]
    report.head_note = f"the file has {source_rows} classes and no names to match them by"
    return []


def _rows(target: Tensor, source: Tensor, here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    value = target.detach().clone()
    value[here.to(value.device)] = source[there].to(value)
    return target, value
