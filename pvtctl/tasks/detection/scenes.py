"""The built-in scenes as detection data: boxes and masks of a dozen classes, rendered on the fly."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from pvtctl.data.scenes.scene import SCENE_CLASSES, Scene
from pvtctl.models.structures import Objects
from pvtctl.tasks.detection.coco import CocoAnnotations
from pvtctl.tasks.detection.segments import decode_rle
from pvtctl.tasks.scenes import RenderedScenes


class ScenesDetection(RenderedScenes):
    """The scenes of a split, a source of `pvtctl.tasks.detection.data.DetectionDataset`.

    Every object with at least 8 visible pixels is annotated; COCO ids of images and classes start at 1.
    """

    class_names = list(SCENE_CLASSES)
    category_ids = list(range(1, len(SCENE_CLASSES) + 1))
    has_masks = True
    bytes_per_pixel = 3

    def __init__(self, split: str, **options: Any) -> None:
        super().__init__(split, **options)
        self.image_ids = np.arange(1, self.count + 1)
        self.sizes = np.full((self.count, 2), self.size, np.int32)

    def num_objects(self, *, with_masks: bool = False) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(I,): each scene has a main object; the others are not counted."""
        return np.ones(self.count, np.int64)

    def truth_of(self, scene: Scene) -> tuple[Tensor, Tensor, list[dict[str, Any]]]:
        """Boxes, labels and RLEs of the objects."""
        drawn = np.asfortranarray(scene.masks.transpose(1, 2, 0).view(np.uint8))
        return torch.from_numpy(scene.boxes), torch.from_numpy(scene.labels), coco_mask.encode(drawn)

    def objects(self, index: int, *, with_masks: bool) -> Objects:
        """The ground truth of a scene."""
        boxes, labels, rles = self.rendered(index)[1]
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
            boxes, labels, rles = self.rendered(index)[1]
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
