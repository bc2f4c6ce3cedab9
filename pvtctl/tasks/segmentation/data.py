"""Semantic segmentation data: splits by name, as sources for `pvtctl.tasks.dense.data`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.image_files import Names
from pvtctl.data.images import AS_SHOWN, BadImage, Reading, file_size, image_bytes, read_beside
from pvtctl.data.scenes.scene import SEMANTIC_CLASSES, Materials, Scene
from pvtctl.errors import UsageError, nearest
from pvtctl.io.names import name_bytes
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.models.structures import IGNORE_LABEL
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.predict import read_pixels
from pvtctl.tasks.reading import reading_of
from pvtctl.tasks.scenes import RenderedScenes
from pvtctl.tasks.segmentation.class_lists import (
    CLASS_LIST_HINT,
    KNOWN,
    ClassList,
    Colour,
    cityscapes_classes,
    class_list,
    read_class_list,
)
from pvtctl.tasks.segmentation.layouts import SEGMENTATION_SETS, MaskPairs, find_mask_pairs, require_pairs
from pvtctl.tasks.segmentation.masks import BINARY_ADVICE, read_values, to_labels
from pvtctl.tasks.segmentation.settings import SegmentationData
from pvtctl.tasks.segmentation.transforms import SegmentationTransform

SEGMENTATION_NAMES = (*SEGMENTATION_SETS, "scenes")
"""Data sets with label maps."""

CLASSES_FILE = "classes.txt"

_OTHER_LISTS = ("labelmap.txt", "label_colors.txt", "class_names.txt", "_classes.csv")
"""Class lists of other tools: CVAT, CamVid, labelme, Roboflow."""

_LOOKED_AT = 3
"""Masks that are read when a split is opened, to detect a wrong setting before training."""
_DOUBTED = 64
"""Masks that are read if the first few have no labelled pixel."""


class MaskFolder:
    """Image files and their label maps. Raises UsageError if an image has no mask."""

    def __init__(self, pairs: MaskPairs, classes: ClassList, reading: Reading = AS_SHOWN) -> None:
        require_pairs(pairs)
        self.reading = reading
        self.image_folder, self.mask_folder = pairs.image_folder, pairs.mask_folder
        self.images, self.masks = Names(pairs.images), Names(pairs.masks)
        self.classes = classes
        self.class_names = classes.names
        self.palette = classes.palette
        self._table = classes.table()
        self._seen_values: set[int] = set()
        self.cautions: list[str] = []
        """What `look` has found doubtful."""

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """Path relative to the image folder."""
        return str(self.images[index])

    def mask_path(self, index: int) -> Path:
        """Path of the label map."""
        return self.mask_folder / self.masks[index]

    def read(self, index: int) -> bytes:
        """The image file's bytes. Raises BadImage."""
        return image_bytes(self.image_folder / self.images[index])

    def pixels(self, index: int) -> Tensor:
        """uint8 (3, H, W), in the frame of its mask. Raises BadImage, OSError."""
        return read_beside(self.read(index), self.reading, lambda: file_size(self.mask_path(index)))

    def target(self, index: int) -> Tensor:
        """uint8 (H, W). Raises BadImage, OSError; UsageError for a value or colour that the class list does not have."""
        path = self.mask_path(index)
        return to_labels(read_values(path, self.classes), self.classes, self._table, path)

    def look(self) -> None:
        """Read a few masks. Raises UsageError as `target` does, and if many have no labelled pixel; broken files
        are reported later."""
        usual = np.linspace(0, len(self) - 1, _LOOKED_AT).round().astype(int).tolist()
        empty = [self._is_empty(index) for index in dict.fromkeys(usual)]
        nothing = False not in empty and True in empty
        if not nothing and not self._looks_binary():
            return
        more = np.linspace(0, len(self) - 1, _DOUBTED).round().astype(int).tolist()
        empty = [self._is_empty(index) for index in dict.fromkeys(more)]
        if self._looks_binary():
            self.cautions.append(f"the masks hold 0 and 255 alone, and 255 is no class: it is ignored. {BINARY_ADVICE}")
        if nothing and False not in empty:
            raise UsageError(
                f"no pixel of the masks in {self.mask_folder} has a class: all are ignored or 255",
                "data.segmentation.labels and .ignore set the values without a class; `pvtctl data check` counts them",
            )

    def _is_empty(self, index: int) -> bool | None:
        """Whether a mask has no labelled pixel; None if it cannot be read. Its values are kept."""
        path = self.mask_path(index)
        try:
            values = read_values(path, self.classes)
            self._seen_values.update(np.unique(values).tolist())
            return not bool((to_labels(values, self.classes, self._table, path) != IGNORE_LABEL).any())
        except (BadImage, OSError):
            return None

    def _looks_binary(self) -> bool:
        """Whether the masks that were looked at hold nothing but 0 and 255, and 255 is no class."""
        return self._seen_values == {0, IGNORE_LABEL} and IGNORE_LABEL not in self.classes.values

    def digest(self, indices: NDArray[np.int64]) -> str:
        """Hash of the classes and of names and file sizes of some images and masks."""
        digest = hashlib.sha256(repr((self.classes.names, self.classes.values, self.classes.ignored)).encode())
        for index in indices.tolist():
            sizes = [
                path.stat().st_size if path.is_file() else 0
                for path in (self.image_folder / self.images[index], self.mask_path(index))
            ]
            digest.update(name_bytes(f"{self.images[index]}\0{sizes}\n"))
        return digest.hexdigest()[:16]


class ScenesSegmentation(RenderedScenes):
    """The built-in scenes with their 15 classes; stones have no class."""

    class_names = list(SEMANTIC_CLASSES)
    palette: list[Colour] | None = None
    bytes_per_pixel = 4

    def truth_of(self, scene: Scene) -> Tensor:
        return torch.from_numpy(scene.semantic.astype(np.uint8))

    def target(self, index: int) -> Tensor:
        """uint8 (H, W)."""
        labels: Tensor = self.rendered(index)[1]
        return labels


def open_segmentation_split(
    name: str,
    root: Path | str | None,
    split: str,
    *,
    settings: SegmentationData,
    training: bool,
    normalization: Normalization = IMAGENET,
    seed: int = 0,
    samples: int | None = None,
    image_size: int = 224,
    materials: Materials = "any",
    reading: Reading = AS_SHOWN,
) -> DenseDataset:
    """A split of `ade20k`, `pascal_context`, `cityscapes`, `masks` (under `root`, in the layout of
    `pvtctl.data.layouts.EXPECTED`) or `scenes`.

    `settings` are a recipe's `data.segmentation`. `samples` limits the number of images, spread evenly; `scenes`
    renders that many, square at `image_size`, in these `materials`. Masks are checked: a few now, others on loading.
    Raises UsageError.
    """
    source: MaskFolder | ScenesSegmentation
    if name == "scenes":
        source = ScenesSegmentation(split, size=image_size, num_samples=samples, materials=materials)
    else:
        source = open_masks(name, root, split, settings, reading)
        source.look()
    transform = SegmentationTransform(settings, normalization)
    options: dict[str, Any] = {"normalization": normalization, "seed": seed, "samples": samples}
    dataset = DenseDataset(source, transform, training=training, **options)
    dataset.cautions = getattr(source, "cautions", ())
    return dataset


def open_masks(
    name: str, root: Path | str | None, split: str, settings: SegmentationData, reading: Reading = AS_SHOWN
) -> MaskFolder:
    """The files of a split, before any transform. Raises UsageError."""
    if name not in SEGMENTATION_SETS:
        raise UsageError(f"unknown segmentation data {name!r}", nearest(name, SEGMENTATION_NAMES))
    pairs = find_mask_pairs(name, root, split)
    return MaskFolder(pairs, find_classes(name, root, settings, train_ids=pairs.train_ids), reading)


def count_masks(name: str, root: Path, split: str) -> dict[str, int]:
    """Classes and images of a split, for `pvtctl data ls`. Raises UsageError."""
    masks = open_masks(name, root, split, SegmentationData())
    return {"classes": len(masks.class_names), split: len(masks)}


def augment_photo(recipe: Recipe, file: Path, generator: torch.Generator) -> Tensor:
    """An image file without labels as augmented in training, uint8 (3, h, w). Raises BadImage, OSError."""
    pixels = read_pixels(file, reading_of(recipe))[0]
    transform = SegmentationTransform(recipe.data.segmentation, recipe.data.pixels)
    return transform.train(pixels, torch.full(pixels.shape[-2:], IGNORE_LABEL, dtype=torch.uint8), generator)[0]


def find_classes(
    name: str, root: Path | str | None, settings: SegmentationData, *, train_ids: bool = True
) -> ClassList:
    """The class list of a set: the file that `settings.classes` names, else the one in its folder, else the layout's.

    ADE20K's masks count from 1, unless `settings.labels` is set; those of a list of other classes in its layout do not.
    Pascal Context's count from 0, and when `shifted` its 59 classes without the background. Raises UsageError.
    """
    labels, ignore = settings.labels, settings.ignore
    file: str | Path | None = settings.classes
    if name == "cityscapes" and labels == "shifted":
        raise UsageError("Cityscapes's labels count from 0", "leave data.segmentation.labels at auto")
    shifted = name == "ade20k" if labels == "auto" else labels == "shifted"
    if file is None and name in ("ade20k", "masks"):
        places = [Path(root or ".") / each for each in (CLASSES_FILE, "objectInfo150.txt")]
        file = next((place for place in places if place.is_file()), None)
    if file is not None:
        open_to_both = labels == "auto" and name in ("ade20k", "masks")
        path = Path(file).expanduser()
        found = read_class_list(path, shifted=None if open_to_both else shifted, ignore=ignore)
        of_ade20k = open_to_both and shifted and found.names == list(KNOWN[name])
        return read_class_list(path, shifted=True, ignore=ignore) if of_ade20k else found
    if name == "cityscapes":
        return cityscapes_classes(train_ids=train_ids, ignore=ignore)
    if name not in KNOWN:
        here = Path(root or ".")
        other = next((each for each in _OTHER_LISTS if (here / each).is_file()), None)
        also = f" from {other}, which is not read" if other is not None else ""
        raise UsageError(f"no class list: there is no {here / CLASSES_FILE}", f"write one{also}: {CLASS_LIST_HINT}")
    names = KNOWN[name]
    without_background = name == "pascal_context" and shifted
    return class_list(names[1:] if without_background else names, shifted=shifted, ignore=ignore)
