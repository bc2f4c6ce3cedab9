"""Prediction on images outside a data set, shared by segmentation and depth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pvtctl.data.images import RgbImage
from pvtctl.data.transforms import normalize
from pvtctl.io.names import plural
from pvtctl.models.dense import DenseModel
from pvtctl.tasks.base import PredictionRequest
from pvtctl.tasks.dense.data import DenseTransform
from pvtctl.tasks.dense.inference import DenseInference, DenseTesting, sliding_window
from pvtctl.tasks.predict import Images
from pvtctl.tasks.registry import task_spec


class DensePredictor:
    """A checkpoint's model for images of any size. Attributes: `head`, `class_names`, `palette`, `model`."""

    class_names: list[str]
    palette: list[tuple[int, int, int]] | None = None
    transform: DenseTransform
    inference: DenseInference
    model: DenseModel
    runnable: nn.Module
    """The model with its network computed by the request's engine."""

    def __init__(self, request: PredictionRequest) -> None:
        found, options = request.checkpoint.dense, request.options
        assert found is not None
        self.device = request.device
        self.head = found.head
        self.normalization = request.normalization
        window = sliding_window(options.get("window"), options.get("stride"))
        self.testing = DenseTesting(tuple(options.get("ratios") or ()), bool(options.get("flip")), window)

    @property
    def tested_at(self) -> str:
        """The size in words."""
        raise NotImplementedError

    def predict_map(self, pixels: Tensor) -> NDArray[Any]:
        """uint8 (3, H, W) -> a map (H, W)."""
        original = (int(pixels.shape[1]), int(pixels.shape[2]))
        with torch.inference_mode():
            views = ((self._view(pixels, ratio, mirrored), mirrored) for ratio, mirrored in self.testing.views)
            if len(self.testing.views) > 1:
                found = self.inference.predict_tta(self.runnable, views, original)
            else:
                (found,) = self.inference.predict_batch(self.runnable, next(views)[0][None], [original])
        answer: NDArray[Any] = found.cpu().numpy()
        return answer

    def _view(self, pixels: Tensor, ratio: float, mirrored: bool) -> Tensor:
        resized = self.transform.evaluate(pixels, ratio)
        return normalize(resized.flip(-1) if mirrored else resized, self.normalization).to(self.device)

    def in_words(self, prediction: Any, threshold: float) -> str:
        """One-line description of a prediction."""
        raise NotImplementedError

    def picture(self, image: RgbImage, prediction: Any) -> RgbImage:
        """A prediction as a picture."""
        raise NotImplementedError

    def draw(self, path: Path, image: RgbImage, prediction: Any, title: str, threshold: float) -> None:
        """Write a picture of a prediction under `title`."""
        from pvtctl.views.sheet import captioned, write_picture

        drawn = self.picture(image, prediction)
        write_picture(path, captioned(drawn, f"{title}: {self.in_words(prediction, threshold)}"))


def asked_sides(short_side: int | None, long_side: int | None) -> tuple[int, int] | None:
    """The short and long side that images are resized within, if one of them is given."""
    if not (short_side or long_side):
        return None
    short = short_side or 512
    return short, max(short, long_side or 4 * short)


class MapsWriter:
    """`pvtctl predict` with a segmentation or depth model: maps and pictures of every image."""

    task: ClassVar[str]
    predictor: Any

    def __init__(self, request: PredictionRequest, images: Images, out: Path | None) -> None:
        self.checkpoint, self.images, self.out = request.checkpoint, images, out
        self.predictor = task_spec(self.task).predictor(request)
        self.entries: dict[str, dict[str, Any]] = {}
        """File -> printed summary."""

    @property
    def what(self) -> str:
        """Classes or unit, in words."""
        raise NotImplementedError

    @property
    def description(self) -> str:
        count = len(self.images.names)
        where = f"{plural(count, 'image')} at {self.predictor.tested_at}"
        return f"{self.checkpoint.what}, {self.what}; {where}"

    def add(self, name: str, number: int, pixels: Tensor) -> None:
        found = self.predictor.predict_map(pixels)
        entry: dict[str, Any] = {"height": int(pixels.shape[1]), "width": int(pixels.shape[2])}
        if self.out is not None:
            stem = (self.out / name).with_suffix("")
            stem.parent.mkdir(parents=True, exist_ok=True)
            entry["files"] = {kind: str(path) for kind, path in self.write(pixels, found, stem).items()}
        self.entries[name] = entry | self.summary(found)

    def write(self, pixels: Tensor, found: NDArray[Any], stem: Path) -> dict[str, Path]:
        """Write the files of an image, whose names start with `stem`."""
        raise NotImplementedError

    def summary(self, found: NDArray[Any]) -> dict[str, Any]:
        """Summary of one image."""
        raise NotImplementedError

    def about(self) -> dict[str, Any]:
        """Summary of all images, for `--json`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.entries)

    def finish(self) -> dict[str, Path]:
        return {} if self.out is None else {"maps": self.out}

    def remark(self) -> str | None:
        return None

    def document(self) -> dict[str, Any]:
        return {
            "head": self.predictor.head,
            "task": self.task,
            **self.about(),
            "images": [{"file": str(self.images.folder / name), **entry} for name, entry in self.entries.items()],
        }

    def places(self, files: Mapping[str, Path]) -> dict[str, Any]:
        return {"folder": self.out and str(self.out)}
