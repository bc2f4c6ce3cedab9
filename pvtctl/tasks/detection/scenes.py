"""The built-in scenes as detection data: boxes and masks of a dozen classes, rendered on the fly."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from pvtctl.data.scenes.scene import DEFAULT_SAMPLES, SCENE_CLASSES, Materials, check_split, digest_name, render_scene
from pvtctl.errors import UsageError
from pvtctl.models.structures import Objects
from pvtctl.tasks.detection.coco import CocoAnnotations
from pvtctl.tasks.detection.segments import decode_rle

_CACHE_BYTES = 256 * 2**20


class ScenesDetection:
    """The scenes of a split, square at `size`, a source of `pvtctl.tasks.detection.data.DetectionDataset`.

    Every object with at least 8 visible pixels is annotated; COCO ids of images and classes start at 1. Rendered
    scenes are kept in memory, up to 256 MiB a process. Raises UsageError for an unknown split or no samples.
    """

    def __init__(
        self,
        split: str,
        *,
        size: int = 224,
        num_samples: int | None = None,
        seed: int = 0,
        materials: Materials = "any",
    ) -> None:
        check_split(split)
        count = DEFAULT_SAMPLES[split] if num_samples is None else num_samples
        if count < 1:
            raise UsageError(f"scenes cannot render {count} images", "ask for at least one")
        self.split, self.size, self.seed, self.count, self.materials = split, size, seed, count, materials
        self.class_names = list(SCENE_CLASSES)
        self.category_ids = list(range(1, len(SCENE_CLASSES) + 1))
        self.image_ids = np.arange(1, count + 1)
        self.sizes = np.full((count, 2), size, np.int32)
        self.has_masks = True
        self._cache: dict[int, tuple[Tensor, Tensor, Tensor, list[dict[str, Any]]]] = {}
        self._cache_limit = _CACHE_BYTES // (3 * size * size)

    def name(self, index: int) -> str:
        """The same name as in the classification data."""
        return f"{self.split}_{index:06d}"

    def num_objects(self, *, with_masks: bool = False) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(I,): each scene has a main object; the others are not counted."""
        return np.ones(self.count, np.int64)

    def pixels(self, index: int) -> Tensor:
        """uint8 (3, H, W)."""
        return self._scene(index)[0]

    def objects(self, index: int, *, with_masks: bool) -> Objects:
        """The ground truth of a scene."""
        _, boxes, labels, rles = self._scene(index)
        masks = None
        if with_masks:
            masks = torch.zeros(len(rles), self.size, self.size, dtype=torch.bool)
            for mask, rle in zip(masks, rles, strict=True):
                mask.copy_(torch.from_numpy(decode_rle(rle)))
        return Objects(boxes.clone(), labels.clone(), masks)

    @cached_property
    def annotations(self) -> CocoAnnotations:
        """All ground truth in COCO's format. Renders every scene at the first call."""
        entries: list[dict[str, Any]] = []
        for index in range(self.count):
            _, boxes, labels, rles = self._scene(index)
            for box, label, rle in zip(boxes.tolist(), labels.tolist(), rles, strict=True):
                segmentation = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
                entries.append(
                    {
                        "id": len(entries) + 1,
                        "image_id": index + 1,
                        "category_id": label + 1,
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "area": int(coco_mask.area(rle)),
                        "iscrowd": 0,
                        "segmentation": segmentation,
                    }
                )
        images = [
            {"id": index + 1, "file_name": self.name(index), "height": self.size, "width": self.size}
            for index in range(self.count)
        ]
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(self.class_names)]
        return CocoAnnotations({"images": images, "annotations": entries, "categories": categories})

    def digest(self, indices: np.ndarray[Any, np.dtype[np.int64]]) -> str:
        """Changes with the renderer, the seed, the size, the split and the choice of scenes; renders nothing."""
        return f"{digest_name(self.materials)}-{self.split}-{self.seed}-{self.size}-{len(indices)}"

    def _scene(self, index: int) -> tuple[Tensor, Tensor, Tensor, list[dict[str, Any]]]:
        found = self._cache.get(index)
        if found is None:
            scene = render_scene(self.seed, self.split, index, self.size, self.materials)
            drawn = np.asfortranarray(scene.masks.transpose(1, 2, 0).view(np.uint8))
            pixels = torch.from_numpy(scene.image).permute(2, 0, 1)
            found = pixels, torch.from_numpy(scene.boxes), torch.from_numpy(scene.labels), coco_mask.encode(drawn)
            if len(self._cache) < self._cache_limit:
                self._cache[index] = found
        return found
