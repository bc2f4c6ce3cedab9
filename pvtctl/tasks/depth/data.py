"""Splits of depth data: NYUv2, KITTI, any folder of images and depth, mixes of several, the built-in scenes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.images import AS_SHOWN, BadImage, Reading, image_bytes, read_beside
from pvtctl.data.randomness import generator_for
from pvtctl.data.samplers import Draw
from pvtctl.data.scenes.scene import Materials, Scene, digest_name
from pvtctl.errors import UsageError, nearest
from pvtctl.models.structures import ImageSize
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.dense.data import DenseDataset, DenseSource, DenseTransform
from pvtctl.tasks.depth.files import DepthCoding, decode_depth, raw_depth
from pvtctl.tasks.depth.layouts import (
    INTEGER_SCALES,
    LAYOUTS,
    DepthPairs,
    NoSplitError,
    find_depth_pairs,
    read_depth_json,
)
from pvtctl.tasks.depth.settings import DepthData
from pvtctl.tasks.depth.transforms import DepthTransform
from pvtctl.tasks.predict import read_pixels
from pvtctl.tasks.reading import reading_of
from pvtctl.tasks.scenes import RenderedScenes

DEPTH_NAMES = (*LAYOUTS, "mix", "scenes")

KB_SIZE: ImageSize = (352, 1216)
"""Crop of KITTI's depth benchmark, bottom centre."""

Array = TypeVar("Array", Tensor, NDArray[Any])

_PROBES = 8


class DepthFiles:
    """The pairs of a folder, a source of `pvtctl.tasks.dense.data.DenseDataset`.

    With `kb_crop` images are cropped before everything else. Raises UsageError if
    the first depth files are all unusable, with the reason.
    """

    def __init__(
        self, pairs: DepthPairs, coding: DepthCoding, *, kb_crop: bool = False, reading: Reading = AS_SHOWN
    ) -> None:
        self.reading = reading
        self.class_names: list[str] = []
        self.palette: list[tuple[int, int, int]] | None = None
        self.pairs, self.coding, self.kb_crop = pairs, coding, kb_crop
        self._probe()

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs.names[index]

    def read(self, index: int) -> bytes:
        """The image file's bytes. Raises BadImage."""
        return image_bytes(Path(self.pairs.images[index]))

    def pixels(self, index: int) -> Tensor:
        """In the frame of its depth. Raises BadImage, OSError."""
        depth = Path(self.pairs.depths[index])
        pixels = read_beside(self.read(index), self.reading, lambda: raw_depth(depth).shape)
        return kb_cropped(pixels) if self.kb_crop else pixels

    def target(self, index: int) -> Tensor:
        """Raises BadImage, OSError; UsageError for integers without a scale."""
        values = raw_depth(Path(self.pairs.depths[index]))
        if self.kb_crop:
            values = kb_cropped(values)
        return decode_depth(values, self.coding)

    def digest(self, indices: NDArray[np.int64]) -> str:
        return self.pairs.digest(indices, f"{self.coding}{self.kb_crop}")

    def _probe(self) -> None:
        faults = []
        for index in np.linspace(0, len(self) - 1, min(_PROBES, len(self))).round().astype(int).tolist():
            try:
                self.target(index)
            except (BadImage, OSError) as error:
                faults.append(f"{Path(self.pairs.depths[index]).name}: {error}")
            else:
                return
        raise UsageError(
            f"none of the {len(faults)} examined depth files can be used; {faults[0]}",
            "`pvtctl data check FOLDER` describes them",
        )


def kb_cropped(image: Array) -> Array:
    """(..., H, W) -> (..., 352, 1216), bottom centre. Raises BadImage for smaller images."""
    height, width = image.shape[-2:]
    if height < KB_SIZE[0] or width < KB_SIZE[1]:
        raise BadImage(f"{width}x{height} pixels: too small for KITTI's crop of {KB_SIZE[1]}x{KB_SIZE[0]}")
    left = (width - KB_SIZE[1]) // 2
    return image[..., height - KB_SIZE[0] :, left : left + KB_SIZE[1]]


class ScenesDepth(RenderedScenes):
    """The built-in scenes with depth in metres, none for the sky."""

    class_names: list[str] = []
    palette: list[tuple[int, int, int]] | None = None
    bytes_per_pixel = 7

    def __init__(self, split: str, coding: DepthCoding, **options: Any) -> None:
        super().__init__(split, **options)
        self.coding = coding

    def truth_of(self, scene: Scene) -> Tensor:
        return decode_depth(scene.depth, self.coding)

    def target(self, index: int) -> Tensor:
        metres: Tensor = self.rendered(index)[1]
        return metres

    def digest(self, indices: NDArray[np.int64]) -> str:
        """Changes with the renderer, the size, the split, the choice of scenes and the depth limits."""
        limits = f"{self.coding.min_depth}-{self.coding.max_depth}"
        return f"{digest_name(self.materials)}-{self.split}-{self.size}-{len(indices)}-{limits}"


class MixedSource:
    """Concatenation of several sets; names start with a set's name."""

    def __init__(self, parts: Mapping[str, DenseSource], weights: Mapping[str, float]) -> None:
        self.class_names: list[str] = []
        self.palette: list[tuple[int, int, int]] | None = None
        self.parts, self.weights = dict(parts), dict(weights)
        self.starts = [0, *accumulate(len(part) for part in self.parts.values())]
        """Position of each part's first image, then the number of all."""

    def __len__(self) -> int:
        return self.starts[-1]

    def name(self, index: int) -> str:
        key, place = self._at(index)
        return f"{key}/{self.parts[key].name(place)}"

    def pixels(self, index: int) -> Tensor:
        key, place = self._at(index)
        return self.parts[key].pixels(place)

    def target(self, index: int) -> Tensor:
        key, place = self._at(index)
        return self.parts[key].target(place)

    def digest(self, indices: NDArray[np.int64]) -> str:
        digests = []
        for (key, part), (start, end) in zip(self.parts.items(), pairwise(self.starts), strict=True):
            own = indices[(indices >= start) & (indices < end)] - start
            digests.append(f"{key}*{self.weights[key]:g}:{part.digest(own)}")
        return "+".join(digests)

    def _at(self, index: int) -> tuple[str, int]:
        number = bisect_right(self.starts, index) - 1
        return list(self.parts)[number], index - self.starts[number]


class MixedDataset(DenseDataset):
    """A `MixedSource` whose training epochs sample each set by its weight.

    An epoch has as many draws as the sets have images. A set's draws go through its images in a shuffled order
    that continues over epochs, so that all images are seen equally often, however large the set. The image of a draw
    depends only on (seed, epoch, index). Evaluation shows every image once.
    """

    def __init__(self, source: MixedSource, transform: DenseTransform, **settings: Any) -> None:
        super().__init__(source, transform, **settings)
        bounds = np.searchsorted(self.kept, source.starts)
        self._orders = [
            start + torch.randperm(end - start, generator=generator_for(self.seed, "mix", key)).numpy()
            for key, (start, end) in zip(source.parts, pairwise(bounds.tolist()), strict=True)
        ]
        """Of each set, the positions in `kept`, shuffled."""
        weights = np.array(
            [source.weights[key] * (len(order) > 0) for key, order in zip(source.parts, self._orders, strict=True)]
        )
        self._ends = np.round(np.cumsum(weights) / weights.sum() * len(self)).astype(np.int64)
        """(sets,): end of each set's draws in an epoch."""

    def chosen(self, draw: Draw, step: int) -> int:
        if not self.training:
            return super().chosen(draw, step)
        number = int(np.searchsorted(self._ends, draw.index, "right"))
        start = int(self._ends[number - 1]) if number else 0
        order = self._orders[number]
        return int(order[(draw.epoch * (int(self._ends[number]) - start) + draw.index - start + step) % len(order)])


def open_depth_split(
    name: str,
    root: Path | str | None,
    split: str,
    *,
    settings: DepthData,
    samples: int | None = None,
    image_size: int = 224,
    materials: Materials = "any",
    reading: Reading = AS_SHOWN,
    **options: Any,
) -> DenseDataset:
    """A split, train or val, of `nyu`, `kitti` or `depth` (folders at `root`, `pvtctl.tasks.depth.layouts`), of `mix` or
    `scenes`.

    `settings` are a recipe's `data.depth`; depth.json at the top of a set fills in a scale that it leaves open.
    Targets are float32 metres, 0 for no value or one outside `min_depth` and `max_depth`. `mix` takes its
    sets from `settings.mix` (`MixedDataset`); those of inverse depth give targets up to a factor of each image
    (`pvtctl.tasks.depth.files.decode_depth`), for losses that fit scale and shift of the inverse only.
    `samples` limits the number of images, spread evenly; `scenes` renders that many, square at `image_size`, in these
    `materials`; further `options` are those of `DenseDataset`. `problems` of the result counts the images left out. Raises UsageError.
    """
    if name not in DEPTH_NAMES:
        raise UsageError(f"unknown depth data {name!r}", nearest(name, DEPTH_NAMES))
    transform = DepthTransform(settings)
    options |= {"samples": samples}
    if name == "mix":
        mixed, problems = _open_mix(split, settings, reading)
        return MixedDataset(mixed, transform, problems=problems, **options)
    if name == "scenes":
        coding = replace(coding_of("depth", settings), scale=1.0)
        scenes = ScenesDepth(split, coding, size=image_size, num_samples=samples, materials=materials)
        return DenseDataset(scenes, transform, **options)
    if root is None:
        raise UsageError(f"no folder for {name!r}", LAYOUTS[name])
    source = open_depth_files(name, root, split, settings, reading=reading)
    return DenseDataset(source, transform, problems=source.pairs.problems, **options)


def open_depth_files(
    name: str,
    root: Path | str,
    split: str,
    settings: DepthData,
    *,
    inverse: bool = False,
    reading: Reading = AS_SHOWN,
) -> DepthFiles:
    """The data source of a split of `nyu`, `kitti` or `depth`. Raises UsageError."""
    pairs = find_depth_pairs(name, root, split, settings)
    coding = coding_of(name, settings, root, inverse=inverse)
    return DepthFiles(pairs, coding, kb_crop=settings.crop == "kb", reading=reading)


def coding_of(name: str, settings: DepthData, root: Path | str | None = None, *, inverse: bool = False) -> DepthCoding:
    """Encoding of a set's depth files: the recipe takes precedence over depth.json at `root`; `invalid` values of
    both are combined. Raises UsageError."""
    if name not in INTEGER_SCALES:
        raise UsageError(f"unknown depth data {name!r}", nearest(name, tuple(INTEGER_SCALES)))
    told = {} if root is None else read_depth_json(root)
    return DepthCoding(
        scale=told.get("scale") if settings.scale is None else settings.scale,
        integer_scale=INTEGER_SCALES[name],
        invalid=tuple(dict.fromkeys((*settings.invalid, *told.get("invalid", ())))),
        min_depth=settings.min_depth,
        max_depth=settings.max_depth,
        inverse=inverse,
    )


def augment_depth_file(recipe: Recipe, file: Path, generator: torch.Generator) -> Tensor:
    """An image file without depth as augmented in training, uint8 (3, h, w). Raises BadImage, OSError."""
    pixels = read_pixels(file, reading_of(recipe))[0]
    transform = DepthTransform(recipe.data.depth)
    return transform.train(pixels, torch.zeros(pixels.shape[-2:]), generator)[0]


def _open_mix(split: str, settings: DepthData, reading: Reading) -> tuple[MixedSource, dict[str, int]]:
    """Training needs every set, val uses those that have it. Scale and name are the set's; KB crop: `kitti` only."""
    if not settings.mix:
        raise UsageError("data.depth.mix names no set", "mix: {indoor: {name: nyu, path: data/nyu, weight: 2}, ...}")
    parts: dict[str, DenseSource] = {}
    problems: dict[str, int] = {}
    for key, one in settings.mix.items():
        own: dict[str, Any] = {"scale": one.scale}
        if one.name != "kitti":
            own |= {"crop": "none", "split_file": None, "train_split_file": None}
        try:
            own_settings = settings.model_copy(update=own)
            files = open_depth_files(one.name, one.path, split, own_settings, inverse=one.inverse, reading=reading)
        except NoSplitError as error:
            if split == "train":
                raise UsageError(f"data.depth.mix.{key}: {error.message}", error.hint) from error
            continue
        except UsageError as error:
            raise UsageError(f"data.depth.mix.{key}: {error.message}", error.hint) from error
        parts[key] = files
        problems |= {what: problems.get(what, 0) + count for what, count in files.pairs.problems.items()}
    if not parts:
        raise UsageError(f"no set of data.depth.mix has a {split} split", "one with val/rgb and val/depth is enough")
    weights = {key: float(settings.mix[key].weight) for key in parts}
    return MixedSource(parts, weights), problems
