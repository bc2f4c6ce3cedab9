"""Options that several commands share, and commands that take their options as one object."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar, dataclass_transform, get_type_hints

import typer

from pvtctl.cli._console import parse_ratios, parse_scale_shift, parse_size, parse_step
from pvtctl.errors import UsageError
from pvtctl.inference import EngineName
from pvtctl.io.normalization import Normalization
from pvtctl.models.registry import DEPTH, DETECTION, SEGMENTATION, heads_of
from pvtctl.weights.resolve import with_inside

T = TypeVar("T")

FOLDER = typer.Option(
    None,
    "--data",
    metavar="DIR|URL",
    help="Folder of the data, or the URL of tar shards. Default: $PVTCTL_DATA/NAME, then data/NAME.",
)
HEAD = typer.Option(
    None,
    help=f"Dense head on the backbone: {', '.join(heads_of(DETECTION))} (boxes); {', '.join(heads_of(SEGMENTATION))} "
    f"(label maps); {', '.join(heads_of(DEPTH))} (depth). Default: the first for the data's task.",
)
TASK = typer.Option(
    None,
    "--task",
    metavar="TASK",
    help="classification, detection, segmentation or depth, if data and head do not determine it.",
)
PARTIAL = typer.Option(False, "--partial", help="Accept weights that fill less than 95 % of the backbone.")
OVERRIDES = typer.Option([], "--set", metavar="KEY=VALUE", help="Change a value of the recipe; may be repeated.")
GPUS = typer.Option(None, help="Processes to train with, one per GPU. Default: 1.")
DEVICE = typer.Option(None, help="cuda or cpu. Default: cuda if available.")
INSIDE = typer.Option(
    None,
    metavar="KEY",
    help="The part of the weights' file to take: a key of its dicts, the beginning of its names, or both: state_dict_ema, "
    "teacher, state_dict.model. The same as --weights FILE#KEY.",
)
ENGINE = typer.Option(
    None,
    help="What computes the network: torch; compile (torch.compile); onnxruntime, often the fastest on a CPU, in fp32 "
    "(needs the extra export); auto, the faster of torch and onnxruntime for the first images. compile and onnxruntime "
    "need minutes to start; onnxruntime once for the same weights. Default: torch.",
)
AS_JSON = typer.Option(False, "--json", help="Print one JSON document.")
_FILES_OF_WEIGHTS = {"weights": "--weights", "source": "SOURCE"}
"""Parameters that name the file that `--inside` is about, as users give them."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def bundle(kind: type[T]) -> type[T]:
    """A frozen dataclass of options, which a command takes as one object."""
    return dataclass(frozen=True, kw_only=True)(kind)


def argument(**said: Any) -> Any:
    """A field of a bundle that is an argument of the command; `said` is for `typer.Argument`."""
    return shared(typer.Argument(said.pop("default", ...), **said))


def option(*flags: str, default: Any = None, parse: Callable[[str], Any] | None = None, **said: Any) -> Any:
    """A field of a bundle that is an option; `parse` makes its value of the text, `said` is for `typer.Option`."""
    return shared(typer.Option(default, *flags, **said), parse)


def shared(parameter: Any, parse: Callable[[str], Any] | None = None) -> Any:
    """A field of a bundle that is a parameter which several commands have."""
    said: dict[str, Any] = {} if parameter.default is ... else {"default": parameter.default}
    if isinstance(parameter.default, list):
        said = {"default_factory": list}
    return field(metadata={"parameter": parameter, "parse": parse}, **said)


@bundle
class TestingOptions:
    """Options of `eval` and `predict`; None if not given."""

    nms_iou: float | None = option(
        min=0, max=1, help="Detectors: IoU above which NMS drops the lower-scored box. Default: 0.5."
    )
    max_detections: int | None = option(min=1, help="Detectors: at most, per image. Default: 100.")
    ratios: tuple[float, ...] | None = option(
        parse=parse_ratios,
        help="Segmentation, depth: factors on the test size, whose predictions are merged: 0.75,1,1.25.",
    )
    window: tuple[int, int] | None = option(
        parse=parse_size, metavar="HxW", help="Segmentation: size of a sliding window. Default: whole images."
    )
    stride: tuple[int, int] | None = option(
        parse=parse_step, metavar="HxW", help="Step of the window. Default: two thirds of it."
    )
    scale_shift: tuple[float, float] | None = option(
        parse=parse_scale_shift,
        metavar="SCALE,SHIFT",
        help="For depth weights without it: metres = 1 / (SCALE x + SHIFT). DPT: 3.05e-4,0.1378 (NYUv2).",
    )
    normalization: str | None = option(
        parse=lambda text: str(Normalization.stated(text)),
        metavar="PIXELS",
        help="Mean and deviation of the pixels: imagenet, half, clip, unit, caffe or 'mean=A,B,C std=A,B,C'. Default: that "
        "of the weights.",
    )
    engine: EngineName | None = shared(ENGINE)
    device: str | None = shared(DEVICE)


def examples(*commands: str) -> str:
    """The end of a command's help."""
    return "\n\n".join(["Examples:", *commands])


class App(typer.Typer):
    """A typer app whose commands may take bundles."""

    def __init__(self, **said: Any) -> None:
        """`said` is for `typer.Typer`."""
        super().__init__(add_completion=False, **said)

    def command(self, *names: Any, **said: Any) -> Callable[[Callable[..., None]], Any]:
        """As `typer.Typer.command`."""
        register = super().command(*names, **said)
        return lambda function: register(bundled(function))


def bundled(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take bundles, dataclasses of options: typer gets their fields as parameters in their place.

    The fields that a class declares itself come before those that it inherits.
    """
    hints = get_type_hints(command)
    bundles: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    parsers: dict[str, Callable[[str], Any]] = {}
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in bundles:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY))
            continue
        taken = bundles[parameter.name]
        types, own = get_type_hints(taken), list(taken.__annotations__)
        for each in sorted(fields(taken), key=lambda each: own.index(each.name) if each.name in own else len(own)):
            kind = types[each.name]
            if parse := each.metadata["parse"]:
                parsers[each.name], kind = parse, str | None
            default = each.metadata["parameter"]
            parameters.append(inspect.Parameter(each.name, parameter.KEYWORD_ONLY, default=default, annotation=kind))

    @wraps(command)
    def called(**values: Any) -> None:
        for name, value in values.items():
            # no limits of an option refuse both NaN and infinity, and torch takes whole numbers of 64 bits
            if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and abs(value) >> 63):
                raise UsageError(f"--{name.replace('_', '-')} {value} is not a number to use", "give a finite one")
        values |= {name: parse(values[name]) for name, parse in parsers.items() if values[name] is not None}
        of = next((name for name in _FILES_OF_WEIGHTS if name in values), None)
        if of is not None and "inside" in values:
            values[of] = with_inside(values[of], values["inside"], _FILES_OF_WEIGHTS[of])
        made = {
            name: kind(**{each.name: values.pop(each.name) for each in fields(kind)}) for name, kind in bundles.items()
        }
        command(**values, **made)

    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called
