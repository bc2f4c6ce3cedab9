"""Interface between a task and the rest of pvtctl: `TaskSpec`, one object per task, and its protocols. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypedDict

from pvtctl.errors import PvtctlError
from pvtctl.io.foreign import reason_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pvtctl.data.base import SplitDataset
    from pvtctl.data.check import DatasetVerdict
    from pvtctl.data.images import RgbImage
    from pvtctl.inference.engines import Engine
    from pvtctl.recipe.schema import Data, Recipe, Train
    from pvtctl.tasks.data_task import DataTask
    from pvtctl.tasks.predict import Images
    from pvtctl.views.labels import CurveLabels
    from pvtctl.views.report import ReportTable
    from pvtctl.weights.describe import HeadClasses, Inspected

from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.io.normalization import Normalization

SPLITS = ("train", "val")
Role = Literal["train", "evaluate"]
"""Whether a split is opened with training augmentation or with the evaluation transform."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class ReportedFigure:
    """A number that a task or its papers report."""

    name: str
    label: str
    """With its unit: `top-1, %`."""
    percent: bool = False
    """The metric gives a fraction, tables show percent."""
    lower_is_better: bool = False
    digits: int = 2
    measured: bool = True
    """False: only papers have it."""


@dataclass(frozen=True)
class EvaluationRequest:
    """Options of `pvtctl eval` besides weights and data; None: not given."""

    size: tuple[int, int] | None = None
    """(height, width)."""
    resize: int | None = None
    batch_size: int | None = None
    scale_shift: tuple[float, float] | None = None
    alignment: str | None = None
    asked: Collection[str] = ()
    """Dotted keys set with `--set`."""


@dataclass(frozen=True)
class BuildRequest:
    """What `TaskSpec.build` builds a task from."""

    recipe: Recipe
    device: torch.device
    world_size: int = 1
    head: HeadClasses | None = None
    """The classes of a checkpoint's head: evaluation only, without training data."""
    partial: bool = False
    """Accept weights that fill less than 95 % of the backbone."""
    say: Say = print


class PredictOptions(TypedDict, total=False):
    """Options of `pvtctl predict`; missing ones default to those of the weights and the head
    (all detections are returned; the command draws those with a score of at least 0.3)."""

    score_threshold: float | None
    """Detection: minimum score."""
    nms_iou: float | None
    """Detection: IoU above which the lower-scored of two boxes is removed."""
    max_detections: int | None
    """Detection: maximum per image."""
    short_side: int | None
    """Detection, segmentation: images are resized to this short side."""
    long_side: int | None
    """Limit of the long side, which takes precedence."""
    size: tuple[int, int] | None
    """Depth: (height, width) that images are resized to."""
    ratios: Sequence[float] | None
    """Segmentation, depth: scale factors; their predictions are averaged."""
    flip: bool
    """Segmentation, depth: also predict the mirrored image."""
    window: tuple[int, int] | None
    """Segmentation: (height, width) of a window that slides over the image."""
    stride: tuple[int, int] | None
    """Step of the window, (down, across); default: two thirds of the window."""
    normalization: str | None
    """Mean and standard deviation of the pixels (`data.normalization` of recipes)."""


@dataclass(frozen=True)
class PredictionRequest:
    """Weights and options of a prediction."""

    checkpoint: Inspected
    device: torch.device
    options: PredictOptions = field(default_factory=PredictOptions)
    scale_shift: tuple[float, float] | None = None
    """For metric depth, if the checkpoint has no scale and shift."""
    engine: Engine | None = None
    """What computes the network; None: torch."""

    def runnable(self, model: Any) -> Any:
        """`model` on the device, in eval mode, with its network computed by the engine."""
        from pvtctl.models.fast_cpu.levers import lay_out

        model = lay_out(model.to(self.device).eval(), self.device)
        return model if self.engine is None else self.engine(model)

    @property
    def normalization(self) -> Normalization:
        """Of the network's inputs. Raises UsageError."""
        stated = self.options.get("normalization")
        return self.checkpoint.pixels.normalization if stated is None else Normalization.read(stated)


@dataclass(frozen=True)
class PreviewRequest:
    """Options of `pvtctl data preview`."""

    name: str
    root: Path
    output: Path
    data: Data
    """Settings and augmentation."""
    split: str
    count: int
    copies: int | None
    """Training views of each; None: the task's default."""
    size: int | None
    seed: int


@dataclass(frozen=True)
class TaskSizes:
    """Image sizes of a recipe, (height, width)."""

    training: tuple[int, int]
    """Largest size in training."""
    testing: tuple[int, int]
    """Network input size in testing; a typical one if images differ in size."""
    counted: tuple[int, int]
    """Size at which the papers count operations."""
    counted_here: tuple[int, int]
    """Size at which the operations of the trained model are counted."""
    scored: dict[str, Any]
    """For `--json`: size at which images are scored."""
    scored_label: str
    """The same in words."""
    label: str
    """Sizes of training and testing in words."""


class Predictor(Protocol):
    """A trained model for images of any size. Made by `TaskSpec.predictor`."""

    model: Any
    class_names: list[str]
    """Empty for depth."""
    palette: list[tuple[int, int, int]] | None
    """RGB of each class of label maps, if the data defines them."""

    def __call__(self, pixels: Tensor) -> Any:
        """The prediction for an image, uint8 (3, H, W), at its own size."""

    def in_words(self, prediction: Any, threshold: float) -> str:
        """A prediction in one line; detections below the score `threshold` are not counted."""

    def draw(self, path: Path, image: RgbImage, prediction: Any, title: str, threshold: float) -> None:
        """Write a picture of a prediction under `title`."""


class PredictionWriter(Protocol):
    """Writes the predictions of a task for `pvtctl predict`. Made by `TaskSpec.prediction_writer`."""

    @property
    def description(self) -> str:
        """Model, classes and size in words."""

    def add(self, name: str, number: int, pixels: Tensor) -> None:
        """Predict an image, uint8 (3, H, W), and write its own files."""

    def __len__(self) -> int:
        """Images so far."""

    def finish(self) -> dict[str, Path]:
        """Write files about all images; returns name -> file."""

    def table(self) -> tuple[str, list[str], list[list[Any]]]:
        """For the terminal: title, columns, rows."""

    def remark(self) -> str | None:
        """Text after the table."""

    def document(self) -> dict[str, Any]:
        """For `--json`."""

    def places(self, files: Mapping[str, Path]) -> dict[str, Any]:
        """For `--json`: paths of the written files."""


@dataclass(frozen=True)
class ComparedImage:
    """A prediction next to the ground truth."""

    id: str
    goodness: float
    """Higher is better, to choose the worst and best; NaN without ground truth."""
    verdict: str
    """The same as text: `AbsRel 0.123`."""
    draw: Callable[[Path], object]
    """Write a picture."""


class Comparer(Protocol):
    """Predictions for the images of a split next to their ground truth. Made by `TaskSpec.comparer`."""

    def __call__(self, index: int) -> ComparedImage:
        """The image at a position of the split. Raises BadImage, OSError."""


class EvaluationReport(Protocol):
    """Tables, pictures and files made from a task's metric."""

    score: str
    """The number that cannot be compared with the paper's if settings differ: `accuracy`, `AP`."""

    def pictures(self, folder: Path) -> dict[str, Path]:
        """Draw them into `folder`; title -> PNG file."""

    def tables(self) -> list[ReportTable]:
        """For the report."""

    def terminal(self) -> tuple[str, list[str], list[list[Any]]]:
        """A short table for the terminal: title, columns, rows."""

    def document(self) -> dict[str, Any]:
        """For `--json`."""

    def notes(self) -> list[str]:
        """Caveats about the numbers, one sentence each."""

    def files(self, folder: Path) -> dict[str, Path]:
        """Write files for other tools; title -> file."""


def imported(path: str) -> Any:
    """A method that is the function or class `MODULE:NAME`, imported at the first call: most need torch."""
    module, name = path.split(":")

    def method(spec: TaskSpec, *arguments: Any, **options: Any) -> Any:
        return getattr(import_module(module), name)(*arguments, **options)

    return method


class TaskSpec(ABC):
    """All that pvtctl needs to know of a task. Class attributes are data; methods import torch when called."""

    name: ClassVar[str]
    data_names: ClassVar[tuple[str, ...]]
    """The data sets that it reads."""
    usual_data: ClassVar[str]
    """The data set that the papers train on."""
    needs: ClassVar[str]
    """Required ground truth, in words: `boxes`."""
    convert_hint: ClassVar[str] = ""
    """How to convert other layouts."""
    reads: ClassVar[tuple[str, ...]]
    """Recipe keys that this task reads and not every task does."""
    predict_options: ClassVar[tuple[str, ...]] = ()
    """The options of a prediction (`PredictOptions`) that it reads."""
    figures: ClassVar[tuple[ReportedFigure, ...]]
    main_score: ClassVar[str]
    """Metric by which the best weights are chosen; higher is better."""
    main_figure: ClassVar[str]
    """The same among `figures`."""
    headline: ClassVar[tuple[str, ...]]
    """Metrics that are logged after each epoch."""
    curves: ClassVar[CurveLabels]
    """Labels of a run's curves."""
    compared_curves: ClassVar[tuple[tuple[str, str], ...]]
    """Validation scores, fractions, that curves of several runs show; those that no run has are left out."""
    eval_batch_size: ClassVar[int | None] = None
    """Default batch size of evaluation."""
    finetune_recipe: ClassVar[str | None] = None
    """The recipe of `pvtctl finetune`; None: the table of a paper that has backbone and head."""
    turns_images: ClassVar[bool] = True
    """Whether images are turned by their EXIF orientation unless `data.exif` says otherwise."""
    has_classes: ClassVar[bool] = True
    """Whether its models distinguish classes."""
    writes_predictions: ClassVar[bool] = True
    """Whether `pvtctl predict` writes files."""
    picture_width: ClassVar[int] = 400
    """Width in pixels of an augmented image drawn with its ground truth."""

    def figure(self, name: str) -> ReportedFigure:
        """The figure of that name; for an unknown one, the name is its label."""
        return next((each for each in self.figures if each.name == name), ReportedFigure(name, name))

    def shown_figures(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """A metric's numbers as shown in tables, in the papers' units."""
        measured = [each for each in self.figures if each.measured and each.name in numbers]
        return {each.name: 100 * numbers[each.name] if each.percent else numbers[each.name] for each in measured}

    def digits_of(self, figure: str) -> int:
        """Decimals of a figure in tables."""
        return self.figure(figure).digits

    @abstractmethod
    def open_split(self, recipe: Recipe, split: str, role: Role) -> SplitDataset:
        """A split, `train` or `val`, of a recipe's data. Raises UsageError for missing or unsuitable data."""

    @abstractmethod
    def check_data(self, name: str, root: Path | None, data: Data, **options: Any) -> DatasetVerdict:
        """`pvtctl data check` of a data set."""

    @abstractmethod
    def preview(self, request: PreviewRequest) -> str:
        """`pvtctl data preview`: draw samples to a PNG; returns a description."""

    def list_data(self, name: str, place: Path) -> dict[str, Any]:
        """For `pvtctl data ls`: number of `classes`, of images by split, and as `state` any problem."""
        row: dict[str, Any] = {}
        for split in SPLITS:
            try:
                row |= self.count_data(name, place, split)
            except PvtctlError as error:
                row["state"] = error.message
            except OSError as error:
                row["state"] = f"{error.filename or place} {reason_of(error)}"
        return row

    def count_data(self, name: str, place: Path, split: str) -> dict[str, int]:
        """The columns of `list_data` for a split. Raises PvtctlError, OSError."""
        raise NotImplementedError

    @abstractmethod
    def new_model(self, recipe: Recipe, head: HeadClasses) -> nn.Module:
        """The model of a recipe with starting weights, for the classes of `head`."""

    @abstractmethod
    def build(self, request: BuildRequest) -> DataTask:
        """Model and data of a recipe. Raises UsageError."""

    @abstractmethod
    def predictor(self, request: PredictionRequest, model: Any = None) -> Predictor:
        """A checkpoint's model for images of any size; `model` is the checkpoint's if it is built already.

        Raises UsageError for weights that do not fit, and for options that the head does not have.
        """

    @abstractmethod
    def prediction_writer(self, request: PredictionRequest, images: Images, out: Path | None) -> PredictionWriter:
        """Writer of predictions for `images` for `pvtctl predict`; with `out` None, nothing is written."""

    @abstractmethod
    def comparer(self, predictor: Predictor, recipe: Recipe, split: Any, *, threshold: float) -> Comparer:
        """Predictions next to the ground truth of a split, whose classes are matched by name.

        `recipe` defines how depth is scored, `threshold` the minimum score of detections. Raises UsageError for data
        with classes that the model does not have.
        """

    @abstractmethod
    def as_scored(self, recipe: Recipe, checkpoint: Inspected, request: EvaluationRequest) -> Recipe:
        """The recipe with the checkpoint's own model, at the requested size, else at its test size."""

    @abstractmethod
    def sizes(self, recipe: Recipe) -> TaskSizes:
        """Image sizes of a recipe."""

    @abstractmethod
    def tested_side(self, meta: CheckpointMeta) -> int | None:
        """The short side in pixels that a checkpoint was tested at, from its metadata; None if unknown."""

    @abstractmethod
    def model_cost(self, recipe: Recipe, classes: int) -> dict[str, float]:
        """`params_m` and `gmacs` of the model that the papers count; see `pvtctl.runs.paper_table.model_cost`."""

    @abstractmethod
    def case_options(self, recipe: Recipe, conventions: str) -> dict[str, Any]:
        """Options of a recipe's model as `pvtctl.cost.build.build_own` takes them."""

    @abstractmethod
    def draw_target(self, split: Any, pixels: Tensor, target: Any, side: int) -> RgbImage:
        """Draw an image of a split, uint8 (3, H, W), with its ground truth; `side` pixels wide, or long."""

    @abstractmethod
    def augment_file(self, recipe: Recipe, file: Path, generator: torch.Generator) -> Tensor:
        """An image file without ground truth after training augmentation, uint8 (3, h, w). Raises BadImage, OSError."""

    def mixes(self, recipe: Recipe) -> bool:
        """Whether training mixes the images of a batch."""
        return False

    def mix(
        self, recipe: Recipe, images: Tensor, labels: Tensor, names: Sequence[str], key: int
    ) -> tuple[Tensor, list[str]]:
        """Images (B, 3, H, W) mixed as a batch with this key, and a description of their soft labels."""
        raise NotImplementedError(f"{self.name} mixes no images")


def views_label(recipe: Recipe) -> str:
    """Description of the test-time views in a recipe's `eval` block, to follow a size."""
    ratios = ", ".join(f"x {ratio:g}" for ratio in recipe.eval.ratios)
    window = recipe.eval.window
    return (
        (f" ({ratios})" if ratios else "")
        + (f" in windows of {window[0]}x{window[1]}" if window else "")
        + (", mirrored too" if recipe.eval.flip else "")
    )


def untrained(train: Train) -> Train:
    """A recipe's `train` block for scoring: batch size 1, as processes need not divide its total batch."""
    from pvtctl.tasks.depth.settings import Loss

    return train.model_copy(update={"activation_checkpointing": False, "batch_size": 1, "loss": Loss(), "freeze": ()})


def scored_model(recipe: Recipe, checkpoint: Inspected) -> dict[str, Any]:
    """A recipe's `model.weights` and `model.backbone` with those of a checkpoint."""
    from pvtctl.models.backbone_names import split_name
    from pvtctl.models.registry import OwnOptions

    name, width, options = split_name(checkpoint.backbone)
    own = {"name": name, "width": width, "options": OwnOptions.model_validate(options)}
    backbone = recipe.model.backbone.model_copy(update=own)
    return {"weights": checkpoint.source, "backbone": backbone}


def scored_recipe(
    recipe: Recipe, *, data: Mapping[str, Any], model: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> Recipe:
    """A recipe with other values in its blocks, for scoring only."""
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update=data),
            "model": recipe.model.model_copy(update=model),
            "train": untrained(recipe.train),
            "eval": recipe.eval.model_copy(update=evaluation),
        }
    )
