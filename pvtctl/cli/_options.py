"""Options that several commands share, and commands that take their options as one object."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from pvtctl.cli._console import parse_ratios, parse_scale_shift, parse_size, parse_step
from pvtctl.models.registry import DEPTH, DETECTION, SEGMENTATION, heads_of

DataFolder = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder of the data. Default: $PVTCTL_DATA/NAME, then data/NAME."),
]
Head = Annotated[
    str | None,
    typer.Option(
        help=f"Dense head on the backbone: {', '.join(heads_of(DETECTION))} (boxes); {', '.join(heads_of(SEGMENTATION))} "
        f"(label maps); {', '.join(heads_of(DEPTH))} (depth). Default: the first for the data's task."
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="classification, detection, segmentation or depth, if data and head do not determine it.",
    ),
]
Partial = Annotated[bool, typer.Option("--partial", help="Accept weights that fill less than 95 % of the backbone.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; may be repeated.")
]
Gpus = Annotated[int | None, typer.Option(help="Processes to train with, one per GPU. Default: 1.")]
Device = Annotated[str | None, typer.Option(help="cuda or cpu. Default: cuda if available.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@dataclass(frozen=True, kw_only=True)
class TestingOptions:
    """Options of `eval` and `predict`; None if not given."""

    nms_iou: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Detectors: IoU above which NMS drops the lower-scored box. Default: 0.5."),
    ] = None
    max_detections: Annotated[int | None, typer.Option(min=1, help="Detectors: at most, per image. Default: 100.")] = (
        None
    )
    ratios: Annotated[
        tuple[float, ...] | None,
        typer.Option(help="Segmentation, depth: factors on the test size, whose predictions are merged: 0.75,1,1.25."),
        parse_ratios,
    ] = None
    window: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="HxW", help="Segmentation: size of a sliding window. Default: whole images."),
        parse_size,
    ] = None
    stride: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="HxW", help="Step of the window. Default: two thirds of it."),
        parse_step,
    ] = None
    scale_shift: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="SCALE,SHIFT",
            help="For depth weights without it: metres = 1 / (SCALE x + SHIFT). DPT: 3.05e-4,0.1378 (NYUv2).",
        ),
        parse_scale_shift,
    ] = None
    device: Device = None


def bundled(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take dataclasses: typer gets their fields as parameters in their place.

    Fields are annotated as parameters of typer are. A function that follows the `typer.Option` parses the text, of a
    parameter too. The fields that a class declares itself come before those that it inherits.
    """
    hints = get_type_hints(command, include_extras=True)
    hints.pop("return")
    bundles: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    flat: dict[str, tuple[Any, Any]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if kind := bundles.get(name):
            declared = kind.__annotations__ | get_type_hints(kind, include_extras=True)
            flat |= {field: (hint, getattr(kind, field, parameter.empty)) for field, hint in declared.items()}
        else:
            flat[name] = hints[name], parameter.default
    parsers: dict[str, Callable[[str], Any]] = {}
    parameters = []
    for name, (hint, default) in flat.items():
        if len(said := get_args(hint)) > 2 and get_origin(hint) is Annotated:
            hint, parsers[name] = Annotated[str | None, said[1]], said[2]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint))

    @wraps(command)
    def called(**values: Any) -> None:
        values |= {name: parse(values[name]) for name, parse in parsers.items() if values[name] is not None}
        made = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in bundles.items()
        }
        command(**values, **made)

    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called
