"""A finished run, or any checkpoint, ready to be asked about images: `pvtctl.load_run`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.engine import single
from pvtctl.errors import UsageError, nearest
from pvtctl.models.backbones import Classifier
from pvtctl.models.dense import DenseModel
from pvtctl.models.detector import Detector
from pvtctl.models.structures import Detections, DetectOptions, ImageSize
from pvtctl.recipe.schema import Recipe
from pvtctl.runs.read_run import read_run
from pvtctl.tasks.classification.predict import TOP, ClassifierUse, likeliest
from pvtctl.tasks.dense.inference import DenseTesting
from pvtctl.tasks.dense.predict import DenseUse, asked_sides
from pvtctl.tasks.dense.windows import sliding_window
from pvtctl.tasks.detection.predict import DetectorUse
from pvtctl.tasks.predict import READ_BY, ImageLike, to_pixels
from pvtctl.weights.describe import Inspected, inspect_checkpoint


@dataclass(frozen=True)
class ClassScores:
    """What a classifier says of one image."""

    probabilities: Tensor
    """float32 (K,), by class."""
    class_names: list[str]

    def top(self, count: int = TOP) -> list[tuple[str, float]]:
        """The likeliest classes with their probabilities, best first."""
        return likeliest(self.probabilities, self.class_names, count)


@dataclass(frozen=True)
class LabelMap:
    """What a segmentation model says of one image."""

    labels: NDArray[Any]
    """uint8 (H, W), at the image's own size: indices of `class_names`."""
    class_names: list[str]


@dataclass(frozen=True)
class DepthMap:
    """What a depth model says of one image."""

    depth: NDArray[Any]
    """float32 (H, W), at the image's own size, in `space`."""
    space: Literal["metres", "inverse"]
    """`inverse`: larger for what is nearer, without a unit, of weights that have no scale."""


class PredictOptions(TypedDict, total=False):
    """How a prediction is made, as the options of `pvtctl predict` say it; what is left out is the weights' and the head's
    own (all that a detector's head gives is answered: the command draws from a score of 0.3 on)."""

    score_threshold: float | None
    """Detection: the lowest score."""
    nms_iou: float | None
    """Detection: overlap above which the lower of two boxes goes."""
    max_detections: int | None
    """Detection: an image at most."""
    short_side: int | None
    """Detection, segmentation: images are resized to this short side."""
    long_side: int | None
    """Or less, where the long side would exceed this."""
    size: ImageSize | None
    """Depth: (height, width) that images are brought to."""
    ratios: Sequence[float]
    """Segmentation, depth: factors on the size, whose answers are averaged."""
    flip: bool
    """Segmentation, depth: look at the mirrored image too."""
    window: ImageSize | None
    """Segmentation: (height, width) of a window that slides over the image."""
    stride: ImageSize | None
    """How far, (down, across); two thirds of the window unless said."""


Answer = ClassScores | Detections | LabelMap | DepthMap
_Use = ClassifierUse | DetectorUse | DenseUse


class LoadedRun:
    """A trained model and what is known of it. Made by `load_run`.

    Attributes: `path` (the weights' file), `task`, `recipe` (flat; None of a checkpoint that lies in no run folder), `score`
    (of the weights, fractions; empty where the file says none), `class_names` (K; empty for depth), `palette` (RGB of each
    class of a segmentation model, where its data said so), `model` (in evaluation
    mode, on `device`).
    """

    def __init__(
        self,
        checkpoint: Inspected,
        device: torch.device,
        recipe: Recipe | None,
        score: dict[str, float],
        scale_shift: tuple[float, float] | None,
    ) -> None:
        task = checkpoint.task
        assert task is not None
        self.path, self.task, self.recipe, self.score, self.device = checkpoint.path, task, recipe, score, device
        self._checkpoint, self._scale_shift = checkpoint, scale_shift
        self._refuse_foreign({"scale_shift": scale_shift})
        use = self._use({}, None)
        self.class_names = [] if task == "depth" else list(use.class_names)
        self.palette = use.palette if isinstance(use, DenseUse) else None
        self.model: Classifier | Detector | DenseModel = use.model

    @overload
    def predict(self, images: ImageLike, **options: Unpack[PredictOptions]) -> Answer: ...
    @overload
    def predict(self, images: list[Any] | tuple[Any, ...], **options: Unpack[PredictOptions]) -> list[Answer]: ...
    def predict(
        self, images: ImageLike | list[Any] | tuple[Any, ...], **options: Unpack[PredictOptions]
    ) -> Answer | list[Answer]:
        """What the model sees in an image, or in each of a list: the answers that `pvtctl predict` writes.

        An image is a path, a PIL image, a tensor (3, H, W) or an array (H, W, 3) of uint8, or of floats from 0 to 1 that
        are not normalised; each may have a size of its own. The answer is `ClassScores` of a classifier; `Detections`, with
        boxes and masks in pixels of the image and labels that are indices of `class_names`; `LabelMap`; or `DepthMap`.

        Raises UsageError for what is no image and for options that the task does not read.
        """
        if wrong := options.keys() - PredictOptions.__annotations__.keys():
            raise UsageError(
                f"no option {min(wrong)!r} of predict", nearest(min(wrong), list(PredictOptions.__annotations__))
            )
        self._refuse_foreign(dict(options))
        use = self._use(dict(options), self.model)
        if isinstance(images, list | tuple):
            return [_answer(use, to_pixels(image)) for image in images]
        return _answer(use, to_pixels(images))

    def _refuse_foreign(self, options: dict[str, Any]) -> None:
        """Raise UsageError for an option that the task does not read."""
        for name, value in options.items():
            if self.task not in READ_BY[name] and value:
                raise UsageError(
                    f"{name} is for {' and '.join(READ_BY[name])}, and {self.path} is for {self.task}", "leave it out"
                )

    def _use(self, options: dict[str, Any], model: Any) -> _Use:
        """The model with these options; built and filled where it is None."""
        get = options.get
        if self.task == "classification":
            return ClassifierUse(self._checkpoint, self.device, model=model)
        if self.task == "detection":
            chosen = DetectOptions(get("score_threshold"), get("nms_iou"), get("max_detections"))
            sides = {"short_side": get("short_side"), "long_side": get("long_side")}
            return DetectorUse(self._checkpoint, self.device, options=chosen, **sides, model=model)
        return DenseUse(
            self._checkpoint,
            self.device,
            testing=DenseTesting(
                tuple(get("ratios") or ()), bool(get("flip")), sliding_window(get("window"), get("stride"))
            ),
            size=get("size") or asked_sides(get("short_side"), get("long_side")),
            scale_shift=self._scale_shift,
            model=model,
        )


def _answer(use: _Use, pixels: Tensor) -> Answer:
    if isinstance(use, ClassifierUse):
        return ClassScores(use(pixels), use.class_names)
    if isinstance(use, DetectorUse):
        return use(pixels)
    if use.task == "segmentation":
        return LabelMap(use(pixels), use.class_names)
    return DepthMap(use(pixels), "inverse" if use.scale_shift is None else "metres")


def load_run(
    source: str | Path,
    *,
    device: str | None = None,
    backbone: str | None = None,
    scale_shift: tuple[float, float] | None = None,
) -> LoadedRun:
    """A run's best weights, ready for `LoadedRun.predict`.

    `source` is what `--weights` takes: a run folder (one that is still running has its best weights so far), a checkpoint
    file of ours or of another project, or a published name that was fetched. `device` unset: CUDA where there is one, else
    the CPU. `backbone` is for files that do not say their own (`timm:NAME`), `scale_shift` for metric depth (see
    `create_depth_model`).

    Raises UsageError for what is no checkpoint, damaged run folders, and weights without a head.
    """
    checkpoint = inspect_checkpoint(source, backbone)
    if checkpoint.task is None:
        what = checkpoint.foreign or "no head"
        raise UsageError(f"{checkpoint.path} holds {what}, so it cannot predict", "docs/checkpoints.md: what is read")
    recipe, score = None, _numbers(checkpoint.meta.get("score"))
    if (Path(source).expanduser() / "run.json").is_file():
        run = read_run(Path(source).expanduser(), finished=False)
        recipe, score = run.recipe, run.score
    return LoadedRun(checkpoint, single(device).device, recipe, score, scale_shift)


def _numbers(score: Any) -> dict[str, float]:
    """What a checkpoint's metadata says of its score."""
    items: Iterable[tuple[Any, Any]] = score.items() if isinstance(score, dict) else ()
    return {str(name): float(value) for name, value in items if isinstance(value, int | float)}
