"""The registry of heads and backbones. No torch.

A spec holds everything about one head or backbone except its network: options, builder, tasks, how its checkpoints are
recognised, how the papers count it. `register` adds one; commands look names up when they run, so that names registered
by a user's file work everywhere.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import to_jsonable_python

from pvtctl.errors import UsageError, nearest
from pvtctl.models.backbone_names import TIMM_PREFIX, join_name, split_name
from pvtctl.models.parts import Parts, parts_of_stages
from pvtctl.models.variants import MIN_SIDE, Four

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pvtctl.models.backbones.base import Backbone

DETECTION, SEGMENTATION, DEPTH = "detection", "segmentation", "depth"
"""The tasks of heads."""
Conventions = Literal["papers", "torchvision"]
"""Detectors. `papers`: anchors, extra levels and RoI sampling of the papers' configurations; `torchvision`: those of
torchvision's first detectors, for their published weights.
"""
ClassRows = Literal["anchors", "background", "boxes", "plain", "tokens"]
"""How the first dimension of a parameter holds K classes: anchors x K, K and the background's row, K x 4, K; tokens:
(1, K, C)."""
State = Mapping[str, "Tensor"]
"""A state dict in pvtctl's names: `backbone.*`, `neck.*`, `head.*`."""


OptionsT = TypeVar("OptionsT", bound=BaseModel)


class HeadOptions(BaseModel):
    """Options of a head: the keys of a recipe's `model.head`. Each head derives its own; None means its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str

    @property
    def metric_scale(self) -> tuple[float, float] | None:
        """`scale_shift` of a metric depth model; None for all others."""
        return getattr(self, "scale_shift", None)

    def said(self) -> dict[str, Any]:
        """The options that are not None, without the name and `scale_shift`, which belongs to the whole model."""
        said = {key: value for key, value in self if value is not None and key not in ("name", "scale_shift")}
        return {key: dict(value) if isinstance(value, BaseModel) else value for key, value in said.items()}


Levels = tuple[int, int]
"""First and last level of a feature pyramid; level l has stride 2^l."""
FINEST, COARSEST = 2, 5
"""Levels of a backbone's first and last map."""


class NeckOptions(BaseModel):
    """The neck of a head that reads a feature pyramid: `model.head.neck` of a recipe. A user's own head may have it too: see
    `pvtctl.models.necks.build.build_neck`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Literal["fpn", "simple_pyramid"] = "fpn"
    """`simple_pyramid`: ViTDet's, from the last block of a plain ViT."""
    levels: tuple[Annotated[int, Field(ge=2, le=5)], Annotated[int, Field(ge=3, le=7)]] | None = None
    """First and last level, of stride 2^level; unset: those of the head (RetinaNet 3 to 7, Mask R-CNN 2 to 6, Semantic FPN
    2 to 5)."""

    @field_validator("levels")
    @classmethod
    def _in_order(cls, levels: Levels | None) -> Levels | None:
        if levels is not None and levels[0] >= levels[1]:
            raise ValueError(f"from {levels[0]} to {levels[1]} are not several levels, finest first")
        return levels


ScaleShift = tuple[Annotated[float, Field(gt=0.0)], float]
"""Of a depth head's option `scale_shift`: metres = 1 / (scale x + shift) of the network's output."""


@dataclass(frozen=True)
class Target:
    """Task, classes and conventions to build a head for."""

    task: str
    num_classes: int
    """1 for depth."""
    conventions: Conventions = "papers"
    """Of detectors."""


@dataclass(frozen=True)
class HeadMark:
    """Parameters that identify a head in a pvtctl state dict."""

    task: str
    names: frozenset[str]
    count_classes: Callable[[State], int]
    """K, from shapes; 0 if they are not plausible."""
    beside: frozenset[str] = frozenset()
    """Further parameters in pvtctl's files, if other projects use the same marks."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """One head, with the papers' neck for it. All but the first five fields are optional."""

    name: str
    tasks: tuple[str, ...]
    """`detection`, `segmentation`, `depth`. A head of the last two is for depth unless a number of classes is given."""
    title: str
    """As written in the papers: `Mask R-CNN`."""
    Options: type[HeadOptions]
    build: Callable[[Backbone, Any, Target], tuple[nn.Module | None, nn.Module]]
    """(backbone, options, target) -> neck (or None) and head, a `DetectionHead` or `DenseHead`."""

    # checkpoints
    marks: tuple[HeadMark, ...] = ()
    """Without any, only files that name the head in their header are recognised."""
    class_tables: Mapping[str, ClassRows] = field(default_factory=dict)
    """Layers with a row per class, without `.weight` and `.bias`: rows are matched by class name when classes change."""
    options_of: Callable[[State], dict[str, Any]] = lambda state: {}
    """The options that can be inferred from a state dict's shapes."""
    stride_of: Callable[[State], int | None] = lambda state: None
    """The output stride of its ResNet, if shapes determine it."""
    unlike: Callable[[Any, Mapping[str, Any], State], tuple[str, str, str] | None] = lambda head, options, state: None
    """(head, options of a file, its state dict) -> (option, the file's value, this head's) for the first differing option
    that does not affect shapes.
    """
    publisher: Literal["mmdetection", "DETR", "mmsegmentation"] | None = None
    """The project whose parameter names `--to official` writes."""
    unpublished: str = "is a model with a head of its own, which no other project has"
    """Why not, without a publisher."""

    # detection
    needs_masks: bool = False
    """It is trained on masks of objects and predicts them."""
    has_nms: bool = True
    """Detections are filtered by non-maximum suppression, so that views can be merged and the IoU chosen."""
    candidates: str | None = None
    """Description of the boxes per image in `latency`; unset: those above the score threshold, before NMS."""

    # segmentation and depth
    token_options: tuple[str, ...] = ()
    """Options for token backbones only; a head with such options uses a backbone's tokens if it has them."""
    map_per_class: bool = False
    """Memory grows with classes times pixels."""
    only_for: Mapping[str, str] = field(default_factory=dict)
    """Option -> the one of `tasks` that reads it."""

    # export
    unexportable: str | None = None
    """Why its outputs cannot be exported."""

    # recipes and costs
    recipes: Mapping[str, str] = field(default_factory=dict)
    """Task -> the shipped recipe for backbones without a row in a paper's table."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Task -> side of the papers' images; unset: 224."""
    bottleneck_stride: int | None = None
    """Output stride of the papers' bottleneck ResNets with it; unset: 32."""
    counted: frozenset[str] | None = None
    """Terms that the papers' counter counted: `bias`, `batch_norm`, `layer_norm`, `activation`, `attention`; unset: those
    of the backbone.
    """
    counts_batch_norm: bool = True
    """False: its batch norm is synchronised, which the counter used for PVT v1 ignores."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Prefix of a parameter's name within the head -> part under which `flops --stages` lists it."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies of models hold the name; the spec is looked up where they are loaded."""
        return head_spec, (self.name,)

    @property
    def detects(self) -> bool:
        return DETECTION in self.tasks

    def task_of(self, num_classes: int | None) -> str:
        """The task of a model with this number of classes; None: unknown."""
        if DEPTH in self.tasks and (num_classes is None or len(self.tasks) == 1):
            return DEPTH
        return next(task for task in self.tasks if task != DEPTH)

    def header_options(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """What a detector's checkpoint states of its options: the neck, which shapes do not show, and without `marks` all."""
        return {key: value for key, value in said.items() if key == "neck" or not self.marks}

    def option_names(self, task: str | None = None) -> list[str]:
        """The keys of its options except the name; with `task` only those used for it."""
        own = [key for key in self.Options.model_fields if key != "name"]
        return [key for key in own if task is None or self.only_for.get(key, task) == task]

    def options(self, given: Mapping[str, Any] | None = None) -> HeadOptions:
        """Validate `given` as options; None values are left at their defaults. Raises UsageError."""
        said = {key: value for key, value in (given or {}).items() if value is not None and key != "name"}
        names = self.option_names()
        if unknown := next((key for key in said if key not in names), None):
            hint = nearest(unknown, names) if names else "leave it out"
            others = [spec.name for spec in head_specs() if unknown in spec.option_names()]
            raise UsageError(
                f"{self.name} has no {unknown}", f"{hint}; it is for {' and '.join(others)}" if others else hint
            )
        return _validated(self.Options, self.name, {"name": self.name, **said})


class BackboneOptions(BaseModel):
    """Options of every backbone; families add theirs. A custom `BackboneSpec` may derive its own: they are keys of recipes'
    `model.backbone.options` and parts of names (`NAME+option=value`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    image_size: int = 224
    """Side of the square images for the position tables, if any; changes nothing else."""


ASKS_NOTHING: dict[str, Any] = {
    "class_token": False,
    "classifier": False,
    "drop_path_rate": 0.0,
    "frozen_stages": 0,
    "freeze_norm": False,
    "output_stride": 32,
}
"""Values of recipes' `model.backbone` accepted by any backbone, as they change nothing."""


USE_OPTIONS = ("image_size", *ASKS_NOTHING)
"""Options of a backbone's use; all others make another model of it."""


class OwnOptions(BaseModel):
    """A recipe's `model.backbone.options`: its keys are those of the named backbone."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def said(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        return dict(self.model_extra or {})


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One backbone. All but the first four fields are optional."""

    name: str
    family: str
    Options: type[BackboneOptions]
    build: Callable[[Any], Backbone]
    """Options -> a backbone with initial weights."""

    family_title: str = ""
    source: str = "registered by the user"
    channels: Four | None = None
    """Of its four maps; None: known after building."""
    params: int | None = None
    """Of the classifier with 1000 classes at 224."""
    at_width: Callable[[float], BackboneSpec] | None = None
    """The spec of `NAME@F`, F times as wide; None: only one width."""
    vary: Callable[[Mapping[str, Any]], BackboneSpec] | None = None
    """The spec with these values of `option_names`, if they change its other fields; None: they only reach `build`."""
    own_options: Mapping[str, Any] = field(default_factory=dict)
    """With `vary`: the values of `option_names` in its absence, as plain JSON values."""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """Those of `option_names` that its name sets, as plain JSON values."""
    min_side: int = MIN_SIDE
    """Pixels of the smallest images that it takes."""
    patch_size: int | None = None
    """Of a ViT, which has one grid of tokens; None for all others."""
    one_grid: bool = False
    """All tokens are on one fine grid, so that large images need much memory."""
    counts_layer_norm: bool = False
    """The papers' counter counts its LayerNorm (PVT v2's)."""
    under: Callable[[HeadSpec], dict[str, Any]] = lambda head: {}
    """The papers' options with a head."""
    blocks: int | None = None
    """In all stages; used with parameter names to identify checkpoints."""
    stages: tuple[Mapping[str, Any], ...] = ()
    """Table of stages printed by `models show`."""
    stage_names: tuple[tuple[str, ...], ...] = ()
    """Prefixes of the names of each stage's parameters."""
    stem_names: tuple[str, ...] = ()
    """Prefixes of the names of the parameters before the first stage; may be longer ones than a stage's."""
    outside: str = ""
    """Parts of its classifier outside stages and head."""

    @property
    def parts(self) -> Parts:
        """Stem and stages as `train.freeze` names them; timm's are known once built."""
        return parts_of_stages(self.stem_names, self.stage_names)

    @property
    def is_foreign(self) -> bool:
        """Whether it is not built in; only the maps of built-in ones are covered by tests."""
        return not self.stages and self.family != "timm"

    @property
    def for_classifier(self) -> dict[str, Any]:
        """Options that add what only its classifier needs: PVT v1's and ViT's class token, timm's last layers."""
        return {key: True for key in ("class_token", "classifier") if key in self.Options.model_fields}

    @property
    def option_names(self) -> list[str]:
        """The options that make another model of it: all but those of its use (`image_size`, `drop_path_rate` ...)."""
        return [key for key in self.Options.model_fields if key not in USE_OPTIONS]

    @property
    def stated_options(self) -> dict[str, Any]:
        """Every option of `option_names` that has a value, as plain JSON values: its own, and those that its name sets."""
        own = self.own_options or to_jsonable_python(dict(self.Options.model_construct()))
        return {key: own[key] for key in self.option_names if key in own} | dict(self.chosen)

    def with_options(self, given: Mapping[str, Any]) -> BackboneSpec:
        """The spec of this backbone with other options (of `option_names`); None values and those that it has already
        change nothing. Raises UsageError for options that it does not have or that do not fit together.
        """
        names = self.option_names
        said = {key: value for key, value in given.items() if value is not None}
        if unknown := [key for key in given if key not in names]:
            raise UsageError(
                f"{self.name} has no option {unknown[0]}", nearest(unknown[0], names) if names else "leave it out"
            )
        values = _validated_json(self.Options, self.name, {**self.chosen, **said})
        own = replace(self, chosen={}).stated_options
        chosen = {
            key: values[key] for key in names if (key in self.chosen or key in said) and values[key] != own.get(key)
        }
        if chosen == self.chosen:
            return self
        if self.vary is not None:
            return self.vary(chosen)
        name = split_name(self.name)
        return replace(self, name=join_name(name.name, name.width, chosen), chosen=chosen, channels=None, params=None)

    def options(self, given: Mapping[str, Any]) -> BackboneOptions:
        """Validate `given` as options; values that change nothing are ignored. Raises UsageError."""
        own = self.Options.model_fields
        for key, value in given.items():
            if key not in own and (key not in ASKS_NOTHING or value != ASKS_NOTHING[key]):
                raise UsageError(f"{self.name} has no {key}", f"leave {key} out for this backbone")
        said = {key: value for key, value in given.items() if key in own}
        chosen = _validated_json(self.Options, self.name, self.chosen) if self.chosen else {}
        return _validated(self.Options, self.name, {**{key: chosen[key] for key in self.chosen}, **said})


def _validated(Options: type[OptionsT], name: str, given: Mapping[str, Any]) -> OptionsT:
    try:
        return Options(**given)
    except ValidationError as error:
        raise _misfit(error, name) from error


def _validated_json(Options: type[BaseModel], name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options in `given`, as recipes and names state them, as plain JSON values."""
    try:
        values: dict[str, Any] = to_jsonable_python(dict(Options.model_validate_json(json.dumps(given), strict=True)))
        return values
    except ValidationError as error:
        raise _misfit(error, name) from error
    except TypeError as error:  # of a Python caller
        raise UsageError(f"{name}: {error}", "options are numbers, texts, and lists of them") from error


def _misfit(error: ValidationError, name: str) -> UsageError:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    given = repr(first["input"])
    given = given if len(given) <= 60 else f"{given[:57]}..."
    return UsageError(f"{name}: {place} {first['msg'].removeprefix('Input ').lower()}, not {given}")


_heads: dict[str, HeadSpec] = {}
_backbones: dict[str, BackboneSpec] = {}


def _table(kind: str) -> dict[str, Any]:
    return _heads if kind == "head" else _backbones


@cache
def _fill() -> None:
    """Register the built-in ones, once; they import this module, hence not at import time."""
    from pvtctl.models.backbone_specs import BACKBONES
    from pvtctl.models.head_specs import HEADS

    _heads.update({spec.name: spec for spec in HEADS})
    _backbones.update({spec.name: spec for spec in BACKBONES})


PLAIN_HEADS = ("classifier", "none")
"""Values of `--head` besides registered heads: ImageNet's classifier, and the bare pyramid."""
_plugin_faults: list[str] | None = None
"""Errors of the installed plugins; None before loading."""


def _load_plugins() -> None:
    """Load the installed entry points once; each is a module, or a function without arguments to call.

    A plugin that fails affects no other; its error is shown when a name is not found.
    """
    global _plugin_faults
    if _plugin_faults is not None:
        return
    _plugin_faults = []
    for entry in importlib.metadata.entry_points(group="pvtctl.plugins"):
        try:
            loaded = entry.load()
            if callable(loaded):
                loaded()
        except Exception as error:
            what = f"the installed plugin {entry.name} ({entry.value}) failed"
            _plugin_faults.append(f"{what}: {type(error).__name__}: {error}")


def registered() -> frozenset[tuple[str, str]]:
    """(`head` or `backbone`, name) of everything registered so far, without loading plugins."""
    _fill()
    return frozenset((kind, name) for kind in ("head", "backbone") for name in _table(kind))


def unregister(entries: Iterable[tuple[str, str]]) -> None:
    """Unregister the entries of a file that failed midway."""
    for kind, name in entries:
        del _table(kind)[name]


def _not_found(message: str, hint: str) -> UsageError:
    """The error of an unknown name, with the failed plugins that may have registered it."""
    return UsageError(message, "; ".join([hint, *(_plugin_faults or ())]))


def register(spec: HeadSpec | BackboneSpec) -> None:
    """Add a head or backbone, whose name every command then accepts. Raises UsageError for a name that is taken."""
    _fill()
    kind = "head" if isinstance(spec, HeadSpec) else "backbone"
    table = _table(kind)
    if spec.name in table or spec.name in PLAIN_HEADS:
        raise UsageError(f"there is a {kind} called {spec.name!r} already", "register it under another name")
    if not spec.name.isidentifier():  # `@` and `:` have a meaning in names, and names are parts of file names
        raise UsageError(f"{spec.name!r} is no name for a {kind}", "letters, digits and _, such as my_head")
    if isinstance(spec, HeadSpec) and not (spec.tasks and set(spec.tasks) <= {DETECTION, SEGMENTATION, DEPTH}):
        raise UsageError(
            f"head {spec.name} serves {', '.join(spec.tasks) or 'no task'}", "detection, segmentation, depth"
        )
    table[spec.name] = spec


def head_specs() -> list[HeadSpec]:
    """All heads, in order of registration, including installed plugins'."""
    _fill()
    _load_plugins()
    return list(_heads.values())


def heads_of(task: str) -> tuple[str, ...]:
    """The names of a task's heads; the first is the default."""
    return tuple(spec.name for spec in head_specs() if task in spec.tasks)


def find_head(name: str) -> HeadSpec | None:
    """The head of this name, or None."""
    _fill()
    if name not in _heads and name not in PLAIN_HEADS:
        _load_plugins()
    return _heads.get(name)


def head_names() -> list[str]:
    """Valid names of heads: the plain ones, then the registered heads."""
    return [*PLAIN_HEADS, *(spec.name for spec in head_specs())]


def counted_head(head: str | HeadSpec) -> HeadSpec:
    """A registered head. Raises UsageError with the nearest names, including `classifier` and `none`."""
    if isinstance(head, str) and find_head(head) is None:
        raise UsageError(f"no head {head!r}", nearest(head, head_names()))
    return head_spec(head)


def head_spec(head: str | HeadSpec, *, task: str | None = None) -> HeadSpec:
    """The head of this name; with `task` it must support that task. Raises UsageError with the nearest names."""
    if isinstance(head, HeadSpec):
        return head
    found = find_head(head) if isinstance(head, str) else None
    if found is not None and (task is None or task in found.tasks):
        return found
    names = list(heads_of(task)) if task is not None else [spec.name for spec in head_specs()]
    what = f"{task} head" if task in (SEGMENTATION, DEPTH) else "head"
    raise _not_found(f"no {what} {head!r}", nearest(str(head), names))


def backbone_specs() -> list[BackboneSpec]:
    """All backbones, in order of registration, including installed plugins'; `timm:NAME` works besides."""
    _fill()
    _load_plugins()
    return list(_backbones.values())


def find_backbone(name: str) -> BackboneSpec | None:
    """The backbone `NAME`, `NAME@F`, `NAME+option=value`; None for unknown names and for `timm:NAME`. Raises UsageError for
    an impossible width or option.
    """
    _fill()
    plain = split_name(name)
    if plain.name not in _backbones and not name.startswith(TIMM_PREFIX):
        _load_plugins()
    spec = _backbones.get(plain.name)
    if spec is not None and plain.width != 1:
        if spec.at_width is None:
            raise UsageError(f"{plain.name} has one width", f"write {plain.name}")
        spec = spec.at_width(plain.width)
    return spec.with_options(plain.options) if spec is not None and plain.options else spec


def backbone_spec(name: str) -> BackboneSpec:
    """The backbone `NAME`, `NAME@F` (F times as wide), `NAME+option=value` or `timm:NAME`; its `name` leaves out what changes
    nothing. Raises UsageError with the nearest names.
    """
    if not isinstance(name, str):  # callers may not use a type checker
        raise UsageError(f"a backbone is named by a word, not by a {type(name).__name__}", "such as 'pvt_small'")
    if name.startswith(TIMM_PREFIX):
        from pvtctl.models.backbone_specs import timm_spec

        plain = split_name(name)
        return timm_spec(plain.name).with_options(plain.options)
    if (found := find_backbone(name)) is not None:
        return found
    unknown = split_name(name).name
    if find_backbone(model := unknown.partition("+")[0].strip()) is not None:
        raise UsageError(
            f"{name}: an option is written +OPTION=VALUE", f"`pvtctl models show {model}` prints its options"
        )
    raise _not_found(
        f"no backbone is called {unknown!r}", f"{nearest(unknown, list(_backbones))} (pvtctl models ls; or timm:NAME)"
    )
