"""The built-in data: rendered images of a dozen classes of objects, with ground truth for five tasks.

Every scene depends on (seed, split, index) alone. One main object, standing nearest to the middle and larger than the
others, gives the image its class; shapes tell the classes apart, colours and textures do not, unless `materials` are
"typical" (`pvtctl.data.scenes.typical`). It needs no download and does
not replace a real data set: it is used only where `scenes` is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pvtctl.data.images import TensorPicture
from pvtctl.data.scenes.objects import SCENE_CLASSES as SCENE_CLASSES
from pvtctl.data.scenes.objects import Draws
from pvtctl.data.scenes.render import FLOOR, SKY, WALL, Thing, draw
from pvtctl.data.scenes.typical import dress
from pvtctl.errors import UsageError, nearest

SEMANTIC_CLASSES = ("floor", "wall", "sky", *SCENE_CLASSES)
"""Names of the values of `Scene.semantic`."""

IGNORE = 255
"""Semantic value of stones, which belong to no class, and of objects that are mostly hidden."""

SPLITS = ("train", "val")
DEFAULT_SAMPLES = {"train": 6000, "val": 1200}
MIN_VISIBLE_PIXELS = 8
"""Objects with fewer visible pixels are not annotated."""

VERSION = 1
"""Increased whenever any scene changes, so that fingerprints of runs differ."""

Materials = Literal["any", "typical"]
"""`any`: drawn alike for all classes; `typical`: most have their class's colour (`pvtctl.data.scenes.typical`)."""

_CACHE_BYTES = 256 * 2**20


def digest_name(materials: Materials) -> str:
    """Prefix of the digests of splits; changes with the renderer and the materials."""
    return f"scenes{VERSION}" if materials == "any" else f"scenes{VERSION}-{materials}"


@dataclass(frozen=True, slots=True)
class Scene:
    """One rendered image and its ground truth; N objects are annotated, the main one first."""

    image: NDArray[np.uint8]
    """(H, W, 3), RGB."""
    label: int
    """Class of the main object: a position in `SCENE_CLASSES`."""
    boxes: NDArray[np.float32]
    """(N, 4): x0, y0, x1, y1 in pixels, tight around the visible part; x1 and y1 lie one past the last pixel."""
    labels: NDArray[np.int64]
    """(N,): positions in `SCENE_CLASSES`."""
    masks: NDArray[np.bool_]
    """(N, H, W): the visible pixels of each object; no pixel belongs to two."""
    semantic: NDArray[np.int64]
    """(H, W): positions in `SEMANTIC_CLASSES`, 255 where there is no label."""
    depth: NDArray[np.float32]
    """(H, W): distance from the plane of the camera in metres, 0 for no depth (the sky)."""


def scene_label(seed: int, split: str, index: int) -> int:
    """Class of an image, without rendering it. Each block of twelve images holds every class once."""
    block, place = divmod(index, len(SCENE_CLASSES))
    draws = Draws(seed, split, "labels", block)
    order = list(range(len(SCENE_CLASSES)))
    for last in range(len(order) - 1, place - 1, -1):
        other = draws.below(last + 1)
        order[last], order[other] = order[other], order[last]
    return order[place]


def render_scene(seed: int, split: str, index: int, size: int | tuple[int, int], materials: Materials = "any") -> Scene:
    """Render image `index` of a split at `size` (H, W), or a square.

    The same scene at another size shows the same objects. Raises UsageError for an unknown split or a size below 8.
    """
    height, width = (size, size) if isinstance(size, int) else size
    check_split(split)
    if min(height, width) < 8:
        raise UsageError(f"scenes cannot be drawn at {height}x{width} pixels", "the smallest side is 8")
    label = scene_label(seed, split, index)
    own = _dresser(materials, seed, split, index)
    image, ids, depth, kinds = draw(Draws(seed, split, index), label, (height, width), own)
    semantic = np.full(ids.shape, IGNORE, np.int64)
    for value, place in ((FLOOR, "floor"), (WALL, "wall"), (SKY, "sky")):
        semantic[ids == value] = SEMANTIC_CLASSES.index(place)
    first_class = SEMANTIC_CLASSES.index(SCENE_CLASSES[0])
    masks, labels, boxes = [], [], []
    for number, kind in enumerate(kinds):
        if kind is None:
            continue
        mask = ids == number
        if int(mask.sum()) < MIN_VISIBLE_PIXELS:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        masks.append(mask)
        labels.append(kind)
        semantic[mask] = first_class + kind
    return Scene(
        image=image,
        label=label,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        masks=np.stack(masks) if masks else np.zeros((0, height, width), np.bool_),
        semantic=semantic,
        depth=depth,
    )


def _dresser(materials: Materials, seed: int, split: str, index: int) -> Callable[[list[Thing]], list[Thing]] | None:
    return None if materials == "any" else partial(dress, draws=Draws(seed, split, index, "materials"))


def check_split(split: str) -> None:
    """Raises UsageError unless `scenes` has this split."""
    if split not in SPLITS:
        raise UsageError(f"scenes has no split {split!r}", nearest(split, SPLITS))


class ScenesSource:
    """The images of a split for classification, a source of `pvtctl.tasks.classification.data.ClassificationDataset`.

    `num_samples` defaults to 6000 (train) and 1200 (val). Rendered images are kept in memory, up to 256 MiB a process,
    because training visits them many times. Raises UsageError for an unknown split, no samples, or a size below 8.
    """

    def __init__(
        self,
        split: str,
        *,
        size: int | tuple[int, int] = 224,
        num_samples: int | None = None,
        seed: int = 0,
        materials: Materials = "any",
    ) -> None:
        check_split(split)
        count = DEFAULT_SAMPLES[split] if num_samples is None else num_samples
        if count < 1:
            raise UsageError(f"scenes cannot render {count} images", "ask for at least one")
        self.split, self.seed, self.materials = split, seed, materials
        self.size = (size, size) if isinstance(size, int) else size
        self.class_names = list(SCENE_CLASSES)
        self.ids = [f"{split}_{index:06d}" for index in range(count)]
        self.labels = np.array([scene_label(seed, split, index) for index in range(count)], dtype=np.int64)
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._cache_limit = _CACHE_BYTES // (3 * self.size[0] * self.size[1])

    def scene(self, index: int) -> Scene:
        """Image and all ground truth."""
        return render_scene(self.seed, self.split, index, self.size, self.materials)

    def picture(self, index: int) -> TensorPicture:
        """The image alone."""
        image = self._cache.get(index)
        if image is None:
            own = _dresser(self.materials, self.seed, self.split, index)
            image, *_ = draw(Draws(self.seed, self.split, index), int(self.labels[index]), self.size, own)
            if len(self._cache) < self._cache_limit:
                self._cache[index] = image
        return TensorPicture(torch.from_numpy(image).permute(2, 0, 1))

    def sizes(self) -> Iterator[int]:
        """For fingerprints: one number for each image, which changes with the renderer, the materials, the seed and the size."""
        height, width = self.size
        version = VERSION if self.materials == "any" else VERSION + 1000
        key = ((version * 1_000_003 + self.seed) * 1_000_003 + height) * 1_000_003 + width
        return (key for _ in self.ids)
