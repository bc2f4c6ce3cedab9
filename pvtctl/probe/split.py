"""A split of data whose images are replaced by the features of a frozen backbone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils import _pytree as tree

from pvtctl.data.base import MAX_SUBSTITUTES, Sample, Skipped, SplitDataset, Unusable
from pvtctl.data.randomness import key_of
from pvtctl.data.samplers import Draw
from pvtctl.errors import UsageError
from pvtctl.models.detector import Detector
from pvtctl.models.features import Features, batched
from pvtctl.models.structures import Objects
from pvtctl.probe.cache import FACTS, Entry

SHARD_BYTES = 32 << 20
LARGEST_SHARD = 256
"""Images in a shard at most."""
Told = Callable[[int], None]
"""Called with a number of images."""


@dataclass(frozen=True)
class FeatureSample(Sample):
    """A sample without pixels: `image` has the size of the image alone."""

    parts: tuple[Tensor, ...] = ()
    """The tensors among its features, each (1, ...), float16 where that holds their values."""


@dataclass(frozen=True)
class Nesting:
    """How the tensors of features are nested, with None where there is no tensor."""

    spec: tree.TreeSpec
    present: tuple[bool, ...]

    def join(self, parts: Sequence[Tensor]) -> Any:
        """The features from their tensors."""
        rest = iter(parts)
        return tree.tree_unflatten([next(rest) if there else None for there in self.present], self.spec)


class FeatureSplit:
    """A split as its features: `views` of each image, as in the first epochs of training, or its one view in evaluation.

    Whatever is not about loading images is the split's own. `used` is called for every batch.
    """

    def __init__(self, split: SplitDataset, shards: Sequence[Sequence[Path]], nesting: Nesting, used: Told) -> None:
        self._split, self._used, self._nesting = split, used, nesting
        self._views = [[_Shard(path) for path in view] for view in shards]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._split, name)

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, draw: Draw | int) -> Sample | Unusable:
        draw = Draw(0, draw) if isinstance(draw, int) else draw
        view = self._views[draw.epoch % len(self._views)]
        number, place = divmod(draw.index, len(view[0]))
        return view[number].sample(place)

    def __getitems__(self, draws: list[Draw]) -> list[Any]:
        flat = [part for draw in draws for part in draw]
        return [*(self[draw] for draw in draws), key_of(self._split.seed, "batch", *flat)]

    def collate(self, items: list[Any]) -> Any:
        """A batch whose images are `Features`."""
        batch = self._split.collate(items)
        self._used(len(batch))
        samples = [item for item in items if isinstance(item, FeatureSample)]
        if not samples:
            return batch
        parts = [batched([part.float() for part in same]) for same in zip(*(one.parts for one in samples), strict=True)]
        height, width = batch.images.shape[2:]
        return replace(batch, images=Features(self._nesting.join(parts), (len(samples), 3, height, width)))


class _Shard:
    """The samples of a file; tensors are read when they are needed."""

    def __init__(self, path: Path) -> None:
        self._file: Any = safe_open(path, "pt")
        self._samples: list[dict[str, Any]] = json.loads(self._file.metadata()[FACTS])  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, place: int) -> FeatureSample | Unusable:
        facts = self._samples[place]
        skipped = tuple(Skipped(*each) for each in facts["skipped"])
        if "id" not in facts:
            return Unusable(skipped)
        tensors = {name: self._file.get_tensor(f"{place}.{name}") for name in facts["tensors"]}
        original = facts["original"]
        return FeatureSample(
            image=torch.zeros(()).expand(3, *facts["size"]),
            target=_target(facts["target"], tensors),
            original_size=None if original is None else (original[0], original[1]),
            id=facts["id"],
            index=facts["index"],
            skipped=skipped,
            parts=tuple(each for name, each in tensors.items() if name.isdecimal()),
        )


def feature_split(
    entry: Entry, name: str, split: SplitDataset, model: Any, *, views: int, computed: Told, used: Told
) -> FeatureSplit:
    """The features of a split as `model` reads them of its backbone, from the cache or computed now.

    Args:
        entry: Where they are kept.
        name: `train` or `val`.
        split: Its images and ground truth.
        model: In evaluation mode.
        views: Of each image: those of the first epochs, for a split that augments.
        computed: Called with the number of images of a shard once it is there; may raise to stop.
        used: Called with the number of images of every batch that is drawn from the result.

    Raises:
        UsageError: The features are no tensors, too large for the cache, or no image could be read.
    """
    nesting, size = _first(split, model)
    of_shard = min(LARGEST_SHARD, max(1, SHARD_BYTES // size))
    shards = []
    for view in range(views):
        paths = []
        for number, begin in enumerate(range(0, len(split), of_shard)):
            draws = [Draw(view, index) for index in range(begin, min(begin + of_shard, len(split)))]
            place = f"{name}{view}"
            paths.append(entry.find(place, number) or _write(entry, place, number, split, model, draws))
            computed(len(draws))
        shards.append(paths)
    return FeatureSplit(split, shards, nesting, used)


def _first(split: SplitDataset, model: Any) -> tuple[Nesting, int]:
    """How features are nested, and their bytes for an image."""
    for index in range(min(len(split), MAX_SUBSTITUTES)):
        if isinstance(sample := split[Draw(0, index)], Sample):
            leaves, spec = tree.tree_flatten(_read(split, model, sample))
            if not all(isinstance(leaf, Tensor) or leaf is None for leaf in leaves):
                raise UsageError(
                    "this head reads something of the backbone that cannot be kept as tensors", "probe another --head"
                )
            size = sum(2 * leaf.numel() for leaf in leaves if leaf is not None)
            return Nesting(spec, tuple(leaf is not None for leaf in leaves)), max(1, size)
    raise UsageError("no image could be read", "`pvtctl data check FOLDER` lists every fault")


def _read(split: SplitDataset, model: Any, sample: Sample) -> Any:
    """What the model reads of its backbone for one image, which is padded as if alone in its batch."""
    batch = split.collate([sample, 0])
    sizes = (batch.sizes,) if isinstance(model, Detector) else ()
    with torch.inference_mode():
        return model.read(batch.images.to(next(model.parameters()).device), *sizes)


def _write(entry: Entry, place: str, number: int, split: SplitDataset, model: Any, draws: Sequence[Draw]) -> Path:
    """Compute a shard."""
    tensors: dict[str, Tensor] = {}
    facts: list[dict[str, Any]] = []
    for at, draw in enumerate(draws):
        sample = split[draw]
        skipped = [[each.id, each.reason] for each in sample.skipped]
        if isinstance(sample, Unusable):
            facts.append({"skipped": skipped})
            continue
        leaves = [leaf for leaf in tree.tree_leaves(_read(split, model, sample)) if leaf is not None]
        kind, own = _plain_target(sample.target)
        own |= {str(part): _half(leaf.cpu()) for part, leaf in enumerate(leaves)}
        tensors |= {f"{at}.{key}": each.contiguous() for key, each in own.items()}
        facts.append(
            {
                "id": sample.id,
                "index": sample.index,
                "size": list(sample.image.shape[1:]),
                "original": sample.original_size,
                "target": kind,
                "tensors": list(own),
                "skipped": skipped,
            }
        )
    return entry.write(place, number, tensors, json.dumps(facts))


def _half(part: Tensor) -> Tensor:
    """As float16, unless a value is too large for it."""
    half = part.half()
    return half if half.isfinite().all() else part.float().clone()


def _plain_target(target: Any) -> tuple[Any, dict[str, Tensor]]:
    """A sample's ground truth as JSON and tensors."""
    if isinstance(target, Objects):
        masks = {} if target.masks is None else {"masks": target.masks}
        return "objects", {"boxes": target.boxes, "labels": target.labels, **masks}
    return ("map", {"map": target}) if isinstance(target, Tensor) else (int(target), {})


def _target(kind: Any, tensors: dict[str, Tensor]) -> Any:
    """The reverse of `_plain_target`."""
    if kind == "objects":
        return Objects(tensors["boxes"], tensors["labels"], tensors.get("masks"))
    return tensors["map"] if kind == "map" else kind
