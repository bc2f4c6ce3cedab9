"""Load a run or any checkpoint for prediction: `pvtctl.load_run`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Unpack, overload

import torch

from pvtctl.data.images import Reading
from pvtctl.engine import single
from pvtctl.errors import UsageError, nearest
from pvtctl.inference import EngineName
from pvtctl.inference.engines import make_engine
from pvtctl.models.backbones import Classifier
from pvtctl.models.dense import DenseModel
from pvtctl.models.detector import Detector
from pvtctl.models.structures import Detections
from pvtctl.recipe.schema import Recipe
from pvtctl.runs.read_run import read_run
from pvtctl.tasks.base import PredictionRequest, PredictOptions
from pvtctl.tasks.classification.predict import ClassScores
from pvtctl.tasks.depth.predict import DepthMap
from pvtctl.tasks.predict import ImageLike, to_pixels
from pvtctl.tasks.reading import reading_of_meta
from pvtctl.tasks.registry import task_spec, tasks_taking
from pvtctl.tasks.segmentation.predict import LabelMap
from pvtctl.weights.describe import Inspected, inspect_checkpoint

Answer = ClassScores | Detections | LabelMap | DepthMap
__all__ = ["ClassScores", "DepthMap", "LabelMap", "LoadedRun", "PredictOptions", "load_run"]


class LoadedRun:
    """A trained model with its metadata, as returned by `load_run`.

    Attributes: `path` (file of the weights), `task`, `recipe` (flat; None for a checkpoint outside a run directory),
    `score` (of the weights, fractions; empty if the file has none), `class_names` (K; empty for depth), `palette` (RGB
    of each class of a segmentation model, if its data has one), `model` (in evaluation mode, on `device`) and
    `predictor` (the model for images of any size).
    """

    def __init__(
        self,
        checkpoint: Inspected,
        device: torch.device,
        recipe: Recipe | None,
        score: dict[str, float],
        scale_shift: tuple[float, float] | None,
        engine: str = EngineName.torch,
    ) -> None:
        task = checkpoint.task
        assert task is not None
        self.path, self.task, self.recipe, self.score, self.device = checkpoint.path, task, recipe, score, device
        self._checkpoint, self._scale_shift = checkpoint, scale_shift
        self._refuse_foreign({"scale_shift": scale_shift})
        self._engine = make_engine(engine, device)
        self.predictor = task_spec(task).predictor(self._request({}))
        self.class_names = list(self.predictor.class_names)
        self.palette = self.predictor.palette
        self.model: Classifier | Detector | DenseModel = self.predictor.model

    @overload
    def predict(self, images: ImageLike, **options: Unpack[PredictOptions]) -> Answer: ...
    @overload
    def predict(self, images: list[Any] | tuple[Any, ...], **options: Unpack[PredictOptions]) -> list[Answer]: ...
    def predict(
        self, images: ImageLike | list[Any] | tuple[Any, ...], **options: Unpack[PredictOptions]
    ) -> Answer | list[Answer]:
        """Predict an image, or each of a list: the same predictions as `pvtctl predict`.

        An image is a path, a PIL image, a tensor (3, H, W) or an array (H, W, 3) of uint8, or of unnormalised floats in
        [0, 1]; sizes may differ. Returns `ClassScores`; `Detections`, with boxes and masks in pixels of the image and
        labels as indices of `class_names`; `LabelMap`; or `DepthMap`.

        Raises UsageError for invalid images and for options that the task does not have.
        """
        if wrong := options.keys() - PredictOptions.__annotations__.keys():
            raise UsageError(
                f"no option {min(wrong)!r} of predict", nearest(min(wrong), list(PredictOptions.__annotations__))
            )
        self._refuse_foreign(dict(options))
        predictor = task_spec(self.task).predictor(self._request(options), self.model)
        reading = self.reading
        if isinstance(images, list | tuple):
            return [predictor(to_pixels(image, reading)) for image in images]
        answer: Answer = predictor(to_pixels(images, reading))
        return answer

    def _request(self, options: PredictOptions) -> PredictionRequest:
        return PredictionRequest(self._checkpoint, self.device, options, self._scale_shift, self._engine)

    @property
    def reading(self) -> Reading:
        """How image files are read for its predictions."""
        return reading_of_meta(self._checkpoint.meta)

    def _refuse_foreign(self, options: dict[str, Any]) -> None:
        """Raise UsageError for an option that the task does not have."""
        for name, value in options.items():
            if self.task not in (tasks := tasks_taking(name)) and value:
                raise UsageError(
                    f"{name} is for {' and '.join(tasks)}, and {self.path} is for {self.task}", "leave it out"
                )


def load_run(
    source: str | Path,
    *,
    device: str | None = None,
    backbone: str | None = None,
    scale_shift: tuple[float, float] | None = None,
    engine: str = EngineName.torch,
) -> LoadedRun:
    """Load a run's best weights, or a checkpoint, for `LoadedRun.predict`.

    Args:
        source: as for `--weights`: a run directory (of an unfinished run, its best weights so far), a checkpoint file
            of pvtctl or another project, or the name of a fetched published checkpoint.
        device: default: CUDA if available, else the CPU.
        backbone: for files that do not name their backbone (`timm:NAME`).
        scale_shift: for metric depth: see `create_depth_model`.
        engine: what computes the network: `torch`, `compile`, `onnxruntime`, or `auto`, the faster of torch and onnxruntime.
            All but torch take the weights as they are at the first prediction.

    Raises:
        UsageError: for invalid checkpoints, damaged run directories, and weights without a head.
    """
    checkpoint = inspect_checkpoint(source, backbone)
    if checkpoint.task is None:
        what = checkpoint.foreign or "no head"
        raise UsageError(f"{checkpoint.path} holds {what}, so it cannot predict", "docs/checkpoints.md: what is read")
    recipe, score = None, _numbers(checkpoint.meta.score)
    if (Path(source).expanduser() / "run.json").is_file():
        run = read_run(Path(source).expanduser(), finished=False)
        recipe, score = run.recipe, run.score
    return LoadedRun(checkpoint, single(device).device, recipe, score, scale_shift, engine)


def _numbers(score: Any) -> dict[str, float]:
    """The score in a checkpoint's metadata."""
    items: Iterable[tuple[Any, Any]] = score.items() if isinstance(score, dict) else ()
    return {str(name): float(value) for name, value in items if isinstance(value, int | float)}
