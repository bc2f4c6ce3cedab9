"""The class outputs of detectors and segmentation models when the classes differ: rows are matched by class name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pvtctl.models.registry import ClassRows, HeadSpec
from pvtctl.weights.classifier_rows import row_pairs
from pvtctl.weights.report import LoadReport


def class_tables(spec: HeadSpec) -> dict[str, ClassRows]:
    """The parameters of a head that have rows for classes, and how they lie."""
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
    names: tuple[Sequence[str] | None, Sequence[str] | None],
    report: LoadReport,
) -> list[tuple[Tensor, Tensor]]:
    """Pairs (tensor of the module, value to copy), and the report's `head_*` fields filled.

    `counts` and `names` are those of the module and of the file. With names on both sides the rows of shared classes are
    taken and the others keep their fresh values; without, equal counts are taken whole and others not at all. The
    background's row comes along with the first class that is kept.
    """
    here, there = counts
    pairs = row_pairs(here, there, *names, report)
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
