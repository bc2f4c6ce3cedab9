"""Maps classes of the data to those of a head: by name wherever names are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pvtctl.data.class_names import imagenet_classes, imagenet_indices
from pvtctl.errors import UsageError
from pvtctl.io.names import plural


def match_classes(data_names: Sequence[str], head_names: Sequence[str] | None, num_classes: int) -> Tensor:
    """int64 (C,): the head's class for each of the data's C classes.

    If the head has no class names, an equal number of classes is matched in order. Raises UsageError if the head lacks
    a class of the data.
    """
    if head_names is None:
        if len(data_names) != num_classes:
            raise UsageError(
                f"the checkpoint has {plural(num_classes, 'class')} without names, the data has {len(data_names)}",
                "evaluate it on data of its own classes, or `pvtctl finetune` it on these",
            )
        return torch.arange(num_classes)
    where = {name: at for at, name in enumerate(head_names)}
    unknown = [name for name in data_names if name not in where]
    if unknown:
        raise UsageError(
            f"{len(unknown)} of the data's {plural(len(data_names), 'class')} are not among the model's {num_classes}: "
            f"{', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}; the model has "
            f"{', '.join(list(head_names)[:5])}{' ...' if num_classes > 5 else ''}",
            "evaluate on data of the model's classes, or `pvtctl finetune` the model on these",
        )
    return torch.tensor([where[name] for name in data_names])


def match_predicted_classes(data_names: Sequence[str], model_names: Sequence[str]) -> Tensor:
    """int64 (C,): the model's class for each of the data's; in order if it has no names ("class 3"). Raises as
    `match_classes`."""
    unnamed = all(name == f"class {label}" for label, name in enumerate(model_names))
    named = None if unnamed and len(model_names) == len(data_names) else model_names
    return match_classes(data_names, named, len(model_names))


def training_classes(data_names: Sequence[str], num_classes: int | None) -> list[str]:
    """The class names of a head that is trained on the data; `num_classes` (unset: the data's) may be larger.

    More classes than the data has are possible for ImageNet only, whose 1000 names are known.
    """
    if num_classes is None or num_classes == len(data_names):
        return list(data_names)
    if num_classes == 1000 and imagenet_indices(data_names) is not None:
        return list(imagenet_classes())
    raise UsageError(
        f"model.num_classes is {num_classes}, but the data has {plural(len(data_names), 'class')}",
        "leave model.num_classes out",
    )
