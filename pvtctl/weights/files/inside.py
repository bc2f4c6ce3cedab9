"""Where in a file the weights lie: the key of a training script's dict, the prefix of a framework's names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.io.names import plural, shown
from pvtctl.weights.files.pixels import of_mm_config
from pvtctl.weights.recognise import convert_state, identify

# Where training scripts put the weights in their files; averaged weights are taken only if there is nothing else.
_INSIDE = ("model", "state_dict", "model_state_dict", "module")
_AVERAGED = ("model_ema", "state_dict_ema", "ema", "ema_state_dict")
_EMA = re.compile(r"(^|[._])(ema|averaged)[._]")
_DEEPEST = 3
"""Dicts within dicts that are looked into."""
_MOST_PARTS = 3
"""Words of a prefix, as in `model.student.backbone.`."""
_MOST_PREFIXES = 12
_MOST_SHOWN = 6

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class StatePart:
    """The tensors under one prefix of a file's names."""

    state: dict[str, Tensor]
    """Without the prefix."""
    prefix: str
    """`model.`; empty for all of the file."""
    left_out: tuple[str, ...] = ()
    """Names outside the prefix."""
    averaged: tuple[str, ...] = ()
    """Other prefixes, of averaged weights of the model."""


def find_state(source: str, content: Any, inside: str | None = None) -> tuple[dict[str, Tensor], CheckpointMeta, str]:
    """The tensors of a saved object (a state dict, or one inside a training script's dict), its metadata, and what is left
    of `inside` once the keys that it names are followed: the prefix of names to take.

    Without `inside`: `model`, `state_dict` and the like, then averaged weights, then the only dict that holds a known model.
    Raises UsageError, naming `source`, when there are none, or several without a choice.
    """
    if not isinstance(content, Mapping):
        raise no_weights(source)
    if inside is not None:
        taken, rest = _followed(content, inside.strip(".").split("."))
        if taken and (inner := _tensors(_value_at(content, taken))):
            return inner, _meta(content, ".".join(taken)), rest
        _check_inside(source, content, inside)
    averaged = [key for key in _AVERAGED if _tensors(content.get(key))]
    for key in (*_INSIDE, *averaged):
        if inner := _tensors(content.get(key)):
            also = [name for name in averaged if name != key]
            meta = _meta(content, key)
            return inner, meta.updated(also_averaged=also) if also else meta, inside or ""
    if state := _tensors(content):
        return state, CheckpointMeta(), inside or ""
    key, inner = _only_one(source, _places(content))
    return inner, _meta(content, key), inside or ""


def no_weights(source: object) -> UsageError:
    """The error for an object without tensors."""
    return UsageError(
        f"{source} holds no weights", "expected a state dict, or a dict with one under 'model' or 'state_dict'"
    )


def chosen_part(source: str, state: State, prefix: str) -> StatePart:
    """The tensors of `state` whose names begin with `prefix`. Raises UsageError, with those that there are, for none."""
    prefix = prefix.rstrip(".") + "."
    part = under(state, prefix)
    if part.state:
        return part
    raise _nothing_inside(source, prefix.rstrip("."), prefixes(state))


def _check_inside(source: str, content: Mapping[Any, Any], inside: str) -> None:
    """Raise UsageError, with the keys that there are, if no name in a dict of tensors begins with `inside`."""
    places = _places(content)
    prefix = inside.rstrip(".") + "."
    if places and not any(name.startswith(prefix) for state in places.values() for name in state):
        raise _nothing_inside(source, inside, [*places, *prefixes(next(iter(places.values())))])


def _nothing_inside(source: str, inside: str, there: Iterable[str]) -> UsageError:
    names = [name.rstrip(".") for name in there][:_MOST_SHOWN]
    return UsageError(
        f"{source} has nothing inside {shown(inside, most=60)!r}",
        f"--inside takes a key of the file or the beginning of its names: {', '.join(names) or 'it has none'}",
    )


def known_part(source: str, state: State) -> StatePart | None:
    """The tensors under the only prefix, whatever it is, under which they are a known model; None if there is no such prefix.

    Of plain and averaged weights it is the plain ones. Raises UsageError for several others.
    """
    if any(name.startswith("backbone.net.") for name in state):
        return None  # pvtctl's own `timm:NAME` backbone, below which timm's names may be those of a known ResNet
    found: dict[str, str] = {}
    for prefix in prefixes(state):
        if not prefix.startswith(tuple(found)) and (model := _model_in(under(state, prefix).state)):
            found[prefix] = model
    averaged = [prefix for prefix in found if _EMA.search(prefix)]
    plain = [prefix for prefix in found if prefix not in averaged] or averaged
    if len(plain) > 1:
        raise _several(source, found)
    if not found:
        return None
    also = tuple(prefix.rstrip(".") for prefix in averaged if prefix not in plain)
    return replace(under(state, plain[0]), averaged=also)


def meta_of_part(meta: CheckpointMeta, part: StatePart) -> CheckpointMeta:
    """Metadata that says from which prefix the weights are."""
    place = ".".join(filter(None, (meta.inside, part.prefix.rstrip("."))))
    also = [".".join(filter(None, (meta.inside, name))) for name in part.averaged]
    return meta.updated(inside=place, **({"also_averaged": [*(meta.also_averaged or []), *also]} if also else {}))


def under(state: State, prefix: str) -> StatePart:
    """The tensors whose names begin with `prefix`, which may be none."""
    inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return StatePart(inner, prefix, tuple(name for name in state if not name.startswith(prefix)))


def prefixes(state: State) -> list[str]:
    """The most frequent beginnings of names, the shorter of equally frequent ones first."""
    counts: Counter[str] = Counter()
    for name in state:
        words = name.split(".")
        counts.update(".".join(words[:length]) + "." for length in range(1, min(len(words), _MOST_PARTS + 1)))
    return [prefix for prefix, _ in counts.most_common(_MOST_PREFIXES)]


def _model_in(state: State) -> str:
    """The known model in a state dict, in words; empty without one."""
    converted = convert_state(state)
    of_many = converted.format in ("unknown", "pvtctl", "torchvision ResNet", "timm ViT / DeiT")
    return " or ".join(identify(converted.state)) or ("" if of_many else f"a model in the layout {converted.format}")


def _several(source: str, found: Mapping[str, str]) -> UsageError:
    names = [name.rstrip(".") for name in found][:_MOST_SHOWN]
    held = ", ".join(f"{found_at} ({model})" for found_at, model in list(found.items())[:_MOST_SHOWN])
    return UsageError(f"{source} holds several models: {held}", f"choose one: --inside {' | '.join(names)}")


def _followed(content: Mapping[Any, Any], words: list[str]) -> tuple[list[str], str]:
    """Keys of nested dicts that `words` name, which may hold dots, and the words that are left."""
    for length in range(len(words), 0, -1):
        key = ".".join(words[:length])
        if isinstance(value := content.get(key), Mapping):
            further, rest = _followed(value, words[length:])
            return [key, *further], rest
    return [], ".".join(words)


def _value_at(content: Mapping[Any, Any], keys: list[str]) -> Any:
    for key in keys:
        content = content[key]
    return content


def _places(content: Mapping[Any, Any], depth: int = 1) -> dict[str, dict[str, Tensor]]:
    """Dotted key -> tensors of each dict of named tensors within."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Mapping):
            continue
        if inner := _tensors(value):
            found[key] = inner
        elif depth < _DEEPEST:
            found |= {f"{key}.{name}": state for name, state in _places(value, depth + 1).items()}
    return found


def _only_one(source: str, places: Mapping[str, dict[str, Tensor]]) -> tuple[str, dict[str, Tensor]]:
    """The only place, or the only one that holds a known model."""
    if not places:
        raise no_weights(source)
    if len(places) == 1:
        return next(iter(places.items()))
    known = {key: model for key, state in places.items() if (model := _model_in(state))}
    if len(known) == 1:
        return next((key, state) for key, state in places.items() if key in known)
    raise _several(source, known or {key: plural(len(state), "tensor") for key, state in places.items()})


def _tensors(content: Any) -> dict[str, Tensor]:
    """The named tensors of a dict, or of the `module` in it (as in averaged models); else an empty dict."""
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            return {}
        if found := {key: one for key, one in content.items() if isinstance(key, str) and isinstance(one, Tensor)}:
            return found
        content = content.get("module")
    return {}


def _meta(content: Mapping[str, Any], key: str) -> CheckpointMeta:
    meta = CheckpointMeta(inside=key, **_stated(content))
    epoch = content.get("epoch")
    return meta.updated(epoch=epoch) if isinstance(epoch, int) else meta


def _stated(content: Mapping[str, Any]) -> dict[str, Any]:
    """Facts saved with the weights that names and shapes do not show: mmdetection's (2.x, 3.x) class names, and from its
    configuration text the pixels and whether the ResNet is caffe-style; from DETR's arguments whether it is dilated.
    """
    if getattr(content.get("args"), "dilation", False):
        return {"style": "dilated"}
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        return {}
    found: dict[str, Any] = {}
    for place in (meta, meta.get("dataset_meta")):
        for key in ("CLASSES", "classes"):
            names = place.get(key) if isinstance(place, Mapping) else None
            if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                found["class_names"] = [name.strip() for name in names]  # mmsegmentation's ADE20K has a "bed "
    config = str(meta.get("config") or meta.get("cfg") or "")
    if re.search(r"""style\s*=\s*['"]caffe['"]""", config):
        found["style"] = "caffe"
    if (pixels := of_mm_config(config)) is not None:
        found |= {"mean": list(pixels.mean), "std": list(pixels.std), "channel_order": pixels.order}
    return found
