"""Prediction with a trained detector on images outside a data set."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pvtctl.data.images import RgbImage, to_rgb
from pvtctl.data.transforms import normalize, pad_images
from pvtctl.errors import UsageError
from pvtctl.io.files import write_text
from pvtctl.io.names import plural
from pvtctl.models.detector import Detector
from pvtctl.models.structures import Detections, DetectOptions
from pvtctl.tasks.base import PredictionRequest, PredictOptions
from pvtctl.tasks.detection.pictures import draw_detections
from pvtctl.tasks.detection.scoring.columns import Columns, columns_of, join
from pvtctl.tasks.detection.scoring.results import write_results
from pvtctl.tasks.detection.settings import DetectionData
from pvtctl.tasks.detection.transforms import DetectionTransform
from pvtctl.tasks.predict import Images, save_picture
from pvtctl.views.sheet import captioned, write_picture
from pvtctl.weights.build import model_from_checkpoint

DRAW_FROM = 0.3
"""Minimum score of detections that are drawn and counted."""
HEADS_OWN = 0.05
"""Default minimum score of heads, to be lowered for lower thresholds."""


class DetectorPredictor:
    """A checkpoint's detector, ready for images of any size.

    Attributes: `class_names` (K), `category_ids` (K; COCO's for COCO's classes, else those of the training data, else from
    1 on), `head`, `has_masks`, and `sizes`, the short and long side that images are resized within.
    """

    palette: list[tuple[int, int, int]] | None = None

    def __init__(self, request: PredictionRequest, model: Detector | None = None) -> None:
        """Sizes missing in `options` are the checkpoint's test sizes; `model`: the checkpoint's, if
        it is built already. Raises UsageError for weights that do not fit, and for options that the head does not have."""
        checkpoint, options = request.checkpoint, request.options
        found = checkpoint.detector
        assert found is not None
        self.device = request.device
        self.options = DetectOptions(
            options.get("score_threshold"), options.get("nms_iou"), options.get("max_detections")
        )
        self.head = found.head
        self.has_masks = found.spec.needs_masks
        names, meta = found.class_names, checkpoint.meta
        self.class_names = names or [f"class {label}" for label in range(found.num_classes)]
        self.category_ids = found.category_ids or list(range(1, found.num_classes + 1))
        tested = DetectionData.from_meta(meta.detection)
        asked = options.get("short_side"), options.get("long_side")
        self.sizes = _sides(tested.test_short_side, tested.test_long_side, *asked)
        self.transform, self.pad = DetectionTransform(tested), tested.pad
        self.normalization = request.normalization
        self.model = model or cast("Detector", model_from_checkpoint(checkpoint))
        self.runnable = request.runnable(self.model)

    def __call__(self, pixels: Tensor) -> Detections:
        """uint8 (3, H, W) -> its detections, in its pixels, on the CPU."""
        image = normalize(self.transform.evaluate(pixels, *self.sizes), self.normalization)
        batch = pad_images([image], self.pad)
        size, original = ((int(each.shape[1]), int(each.shape[2])) for each in (image, pixels))
        with torch.inference_mode():
            (found,) = self.runnable(batch.to(self.device), [size], None, self.options, [original])
        return Detections(found.boxes.cpu(), found.scores.cpu(), found.labels.cpu(), found.masks)

    def in_words(self, prediction: Detections, threshold: float) -> str:
        """The number of detections."""
        return f"{int((prediction.scores >= threshold).sum())} found with a score of {threshold:g} or more"

    def draw(self, path: Path, image: RgbImage, prediction: Detections, title: str, threshold: float) -> None:
        """The image with boxes and masks."""
        drawn = draw_detections(image, prediction.chosen(prediction.scores >= threshold), self.class_names)
        write_picture(path, captioned(drawn, f"{title}: {self.in_words(prediction, threshold)}"))


def _sides(tested_short: int, tested_long: int, short: int | None, long: int | None) -> tuple[int, int]:
    """Short and long side; if only the short side is given, the long one keeps the proportion of the tested ones."""
    if short is None:
        short = tested_short if long is None else min(tested_short, long)
    if long is None:
        long = max(short, round(short * tested_long / tested_short))
    if long < short:
        raise UsageError(f"a long side of {long} is shorter than the short side of {short}", "swap them")
    return short, long


class DetectionsWriter:
    """`pvtctl predict` with a detector: a picture per image, and one results file."""

    def __init__(self, request: PredictionRequest, images: Images, out: Path | None) -> None:
        score = request.options.get("score_threshold")
        self.threshold = DRAW_FROM if score is None else score
        own: PredictOptions = {**request.options, "score_threshold": None}
        if self.threshold < HEADS_OWN:
            own["score_threshold"] = self.threshold
        self.predictor = DetectorPredictor(replace(request, options=own))
        self.checkpoint, self.images, self.out = request.checkpoint, images, out
        self.entries: dict[str, dict[str, Any]] = {}
        """COCO's entry of each image: id, file name, height and width."""
        self.found: list[Columns] = []
        """All detections of each image."""
        self.shown: dict[str, Detections] = {}
        """Those of at least the threshold."""

    @property
    def description(self) -> str:
        count, (short, long) = len(self.images.names), self.predictor.sizes
        return (
            f"{self.checkpoint.backbone} + {self.predictor.head}, {plural(len(self.predictor.class_names), 'class')}; "
            f"{plural(count, 'image')} at a short side of {short} (long side up to {long})"
        )

    def add(self, name: str, number: int, pixels: Tensor) -> None:
        found = self.predictor(pixels)
        self.found.append(columns_of(number, found, masks=True)[0])
        self.shown[name] = shown = found.chosen(found.scores >= self.threshold)
        if self.out is not None:
            path = self.out / "images" / name
            if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
                path = path.with_name(f"{path.name}.png")
            save_picture(draw_detections(to_rgb(pixels), shown, self.predictor.class_names), path)
        height, width = pixels.shape[1:]
        self.entries[name] = {"id": number, "file_name": name, "height": height, "width": width}

    def __len__(self) -> int:
        return len(self.entries)

    def finish(self) -> dict[str, Path]:
        """Write the results file and the images and categories of its ids."""
        if self.out is None:
            return {}
        out, ids, names = self.out, self.predictor.category_ids, self.predictor.class_names
        files = {"pictures": out / "images", "detections": out / "detections.json", "ids": out / "images.json"}
        categories = [{"id": number, "name": name} for number, name in zip(ids, names, strict=True)]
        truth = {"images": list(self.entries.values()), "annotations": [], "categories": categories}
        write_results(files["detections"], join(self.found, masks=self.predictor.has_masks), ids, truth)
        write_text(files["ids"], json.dumps(truth, indent=1))
        return files

    def table(self) -> tuple[str, list[str], list[list[Any]]]:
        counts, images, best = self._per_class()
        rows: list[list[Any]] = [
            [name, counts[name], images[name], f"{best[name]:.2f}"] for name, _ in counts.most_common()
        ]
        objects, classes = plural(sum(counts.values()), "object"), plural(len(counts), "class")
        title = f"{objects} of {classes} in {plural(len(self), 'image')}"
        return f"{title} (score {self.threshold:g} or more)", ["class", "objects", "images", "best score"], rows

    def remark(self) -> str | None:
        if any(len(shown) for shown in self.shown.values()):
            return None
        top = max((float(each.scores.max()) for each in self.found if len(each)), default=None)
        return "nothing was detected at all" if top is None else f"the best score is {top:.2f}; see --score-threshold"

    def _per_class(self) -> tuple[Counter[str], Counter[str], dict[str, float]]:
        """Objects, images and the best score of each shown class."""
        counts: Counter[str] = Counter()
        images: Counter[str] = Counter()
        best: dict[str, float] = {}
        for shown in self.shown.values():
            names = [self.predictor.class_names[label] for label in shown.labels.tolist()]
            counts.update(names)
            images.update(set(names))
            for name, score in zip(names, shown.scores.tolist(), strict=True):
                best[name] = max(score, best.get(name, 0.0))
        return counts, images, best

    def document(self) -> dict[str, Any]:
        counts, _, _ = self._per_class()
        return {
            "head": self.predictor.head,
            "score_threshold": self.threshold,
            "counts": dict(counts.most_common()),
            "images": [
                {
                    "id": entry["id"],
                    "file": str(self.images.folder / name),
                    "height": entry["height"],
                    "width": entry["width"],
                    "detections": self._listed(self.shown[name]),
                }
                for name, entry in self.entries.items()
            ],
        }

    def _listed(self, found: Detections) -> list[dict[str, Any]]:
        """Boxes are left, top, right, bottom in pixels of the image."""
        names = self.predictor.class_names
        rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
        return [
            {"class": names[label], "score": round(score, 5), "box": [round(side, 2) for side in box]}
            for label, score, box in rows
        ]

    def places(self, files: Mapping[str, Path]) -> dict[str, Any]:
        return {"files": {name: str(path) for name, path in files.items()}}
