"""What a task is to the rest of pvtctl: `TaskSpec`, one object a task, and the protocols of what it makes. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypedDict

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pvtctl.data.check import DatasetVerdict
    from pvtctl.data.images import RgbImage
    from pvtctl.data.transforms import Normalization
    from pvtctl.recipe.schema import Data, Recipe, Train
    from pvtctl.tasks.data_task import DataTask
    from pvtctl.tasks.predict import Images
    from pvtctl.views.labels import CurveLabels
    from pvtctl.views.report import ReportTable
    from pvtctl.weights.describe import HeadClasses, Inspected

SPLITS = ("train", "val")
Role = Literal["train", "evaluate"]
"""What a split is opened for: with the augmentation of training, or as it is tested."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class ReportedFigure:
    """A number that a task reports or that the papers print for it."""

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
    """What `pvtctl eval` asks besides the weights and the data; None where it is left open."""

    size: tuple[int, int] | None = None
    """(height, width)."""
    resize: int | None = None
    batch_size: int | None = None
    scale_shift: tuple[float, float] | None = None
    alignment: str | None = None
    asked: Collection[str] = ()
    """The dotted keys that `--set` gives a value."""


@dataclass(frozen=True)
class BuildRequest:
    """What a task is built for."""

    recipe: Recipe
    device: torch.device
    world_size: int = 1
    head: HeadClasses | None = None
    """The classes of a checkpoint's head: evaluation only, without training data."""
    partial: bool = False
    """Take weights that fill less than 95 % of the backbone."""
    say: Say = print


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
    size: tuple[int, int] | None
    """Depth: (height, width) that images are brought to."""
    ratios: Sequence[float] | None
    """Segmentation, depth: factors on the size, whose answers are averaged."""
    flip: bool
    """Segmentation, depth: look at the mirrored image too."""
    window: tuple[int, int] | None
    """Segmentation: (height, width) of a window that slides over the image."""
    stride: tuple[int, int] | None
    """How far, (down, across); two thirds of the window unless said."""


@dataclass(frozen=True)
class PredictionRequest:
    """What predicts, and how."""

    checkpoint: Inspected
    device: torch.device
    options: PredictOptions = field(default_factory=PredictOptions)
    scale_shift: tuple[float, float] | None = None
    """Of metric depth, where the checkpoint does not say its own."""


@dataclass(frozen=True)
class PreviewRequest:
    """What `pvtctl data preview` draws."""

    name: str
    root: Path
    output: Path
    data: Data
    """Settings and augmentation."""
    split: str
    count: int
    copies: int | None
    """Training views of each; None: as many as is usual for the task."""
    size: int | None
    seed: int


@dataclass(frozen=True)
class TaskSizes:
    """The sizes of a recipe's images, (height, width)."""

    training: tuple[int, int]
    """The largest that the network is trained at."""
    testing: tuple[int, int]
    """What the network sees in testing; of photos, which differ, a usual one."""
    counted: tuple[int, int]
    """What the papers state a model's operations at."""
    counted_here: tuple[int, int]
    """The same of a model as it was trained."""
    scored: dict[str, Any]
    """For `--json`: at which size images are scored."""
    scored_label: str
    """The same in words."""
    label: str
    """Sizes of training and testing in words."""


class DataSplit(Protocol):
    """The images of a split with their ground truth, under the transform of training or evaluation."""

    class_names: list[str]
    """Empty for depth."""
    normalization: Normalization

    @property
    def training(self) -> bool: ...

    @property
    def ids(self) -> list[str]:
        """File names of all samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, draw: Any) -> Any: ...

    def read(self, index: int) -> tuple[Tensor, Any]:
        """An image as it lies, uint8 (3, H, W), and its ground truth. Raises BadImage, OSError."""


class Predictor(Protocol):
    """A trained model for images of any size. Made by `TaskSpec.predictor`."""

    model: Any
    class_names: list[str]
    """Empty for depth."""
    palette: list[tuple[int, int, int]] | None
    """RGB of each class of label maps, where the data said so."""

    def __call__(self, pixels: Tensor) -> Any:
        """The prediction for an image, uint8 (3, H, W), at its own size."""

    def in_words(self, prediction: Any, threshold: float) -> str:
        """A prediction in a line; `threshold` is the score from which on detections count."""

    def draw(self, path: Path, image: RgbImage, prediction: Any, title: str, threshold: float) -> None:
        """Write a picture of a prediction under `title`."""


class PredictionWriter(Protocol):
    """What `pvtctl predict` does with the predictions of a task. Made by `TaskSpec.prediction_writer`."""

    tells_turned: bool
    """Whether images are counted that ask to be turned (EXIF)."""

    @property
    def description(self) -> str:
        """Model, classes and size in words."""

    def add(self, name: str, number: int, pixels: Tensor) -> None:
        """Predict an image, uint8 (3, H, W), and write what belongs to it alone."""

    def __len__(self) -> int:
        """Images so far."""

    def finish(self) -> dict[str, Path]:
        """Write what belongs to all images; what was written, by name."""

    def table(self) -> tuple[str, list[str], list[list[Any]]]:
        """For the terminal: title, columns, rows."""

    def remark(self) -> str | None:
        """What is said after the table."""

    def document(self) -> dict[str, Any]:
        """For `--json`."""

    def places(self, files: Mapping[str, Path]) -> dict[str, Any]:
        """For `--json`: where it was written."""


@dataclass(frozen=True)
class ComparedImage:
    """A prediction next to the ground truth."""

    id: str
    goodness: float
    """More is better, for the choice of the worst and best; NaN where there is no ground truth."""
    verdict: str
    """The same for people: `AbsRel 0.123`."""
    draw: Callable[[Path], object]
    """Write a picture."""


class Comparer(Protocol):
    """Predictions for the images of a split next to their ground truth. Made by `TaskSpec.comparer`."""

    def __call__(self, index: int) -> ComparedImage:
        """The image at a position of the split. Raises BadImage, OSError."""


class EvaluationReport(Protocol):
    """What a task makes of its metric, for people."""

    score: str
    """What may not be compared with the paper's where settings differ: `accuracy`, `AP`."""

    def pictures(self, folder: Path) -> dict[str, Path]:
        """Draw them into `folder`; title -> PNG file."""

    def tables(self) -> list[ReportTable]:
        """For the report."""

    def terminal(self) -> tuple[str, list[str], list[list[Any]]]:
        """A short table for the terminal: title, columns, rows."""

    def document(self) -> dict[str, Any]:
        """For `--json`."""

    def notes(self) -> list[str]:
        """What a reader of the numbers must know, one sentence each."""

    def files(self, folder: Path) -> dict[str, Path]:
        """Write what other tools read; title -> file."""


class TaskSpec(ABC):
    """All that pvtctl must know of a task. What is data is said at once; methods import torch when they are called."""

    name: ClassVar[str]
    data_names: ClassVar[tuple[str, ...]]
    """The data sets that it reads."""
    usual_data: ClassVar[str]
    """What the papers train it on."""
    needs: ClassVar[str]
    """What its data have, in words: `boxes`."""
    convert_hint: ClassVar[str] = ""
    """How data of other layouts are brought into one that it reads."""
    reads: ClassVar[tuple[str, ...]]
    """The keys of a recipe that this task reads and that not every task does."""
    predict_options: ClassVar[tuple[str, ...]] = ()
    """The options of a prediction (`PredictOptions`) that it reads."""
    figures: ClassVar[tuple[ReportedFigure, ...]]
    main_score: ClassVar[str]
    """The number of the metric that the best weights are chosen by; more is better."""
    main_figure: ClassVar[str]
    """The same among `figures`."""
    headline: ClassVar[tuple[str, ...]]
    """The metric's numbers that are said after each epoch."""
    curves: ClassVar[CurveLabels]
    """What the curves of a run show."""
    compared_curves: ClassVar[tuple[tuple[str, str], ...]]
    """Validation scores, fractions, that curves of several runs show; those that no run has are left out."""
    eval_batch_size: ClassVar[int | None] = None
    """Images that are scored at a time where nothing says how many."""
    finetune_recipe: ClassVar[str | None] = None
    """The recipe of `pvtctl finetune`; None: the table of a paper that has backbone and head."""
    has_classes: ClassVar[bool] = True
    """Whether its models tell classes apart."""
    has_data_settings: ClassVar[bool] = False
    """Whether settings say how the files of a data set are read."""
    writes_predictions: ClassVar[bool] = True
    """Whether `pvtctl predict` writes files."""
    picture_width: ClassVar[int] = 400
    """Of an augmented image with its ground truth, in pixels."""

    def figure(self, name: str) -> ReportedFigure:
        """The figure of that name; of an unknown one the name is its label."""
        return next((each for each in self.figures if each.name == name), ReportedFigure(name, name))

    def shown_figures(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """What tables show of a metric's numbers, in the papers' units."""
        measured = [each for each in self.figures if each.measured and each.name in numbers]
        return {each.name: 100 * numbers[each.name] if each.percent else numbers[each.name] for each in measured}

    def digits_of(self, figure: str) -> int:
        """Decimals that tables show of a figure."""
        return self.figure(figure).digits

    @abstractmethod
    def open_split(self, recipe: Recipe, split: str, role: Role) -> DataSplit:
        """A split, `train` or `val`, of a recipe's data. Raises UsageError for data that is not there or does not fit."""

    @abstractmethod
    def check_data(self, name: str, root: Path | None, data: Data, **options: Any) -> DatasetVerdict:
        """`pvtctl data check` of a data set."""

    @abstractmethod
    def preview(self, request: PreviewRequest) -> str:
        """`pvtctl data preview`: draw samples to a PNG; what was drawn, in words."""

    @abstractmethod
    def list_data(self, name: str, place: Path) -> dict[str, Any]:
        """For `pvtctl data ls`: number of `classes`, of images by split, and as `state` what is wrong."""

    @abstractmethod
    def new_model(self, recipe: Recipe, head: HeadClasses) -> nn.Module:
        """The model of a recipe with starting weights, for the classes of `head`."""

    @abstractmethod
    def build(self, request: BuildRequest) -> DataTask:
        """Model and data of a recipe. Raises UsageError."""

    @abstractmethod
    def predictor(self, request: PredictionRequest, model: Any = None) -> Predictor:
        """A checkpoint's model for images of any size; `model` is the checkpoint's where it is built already.

        Raises UsageError for weights that do not fit, and for options that the head does not have.
        """

    @abstractmethod
    def prediction_writer(self, request: PredictionRequest, images: Images, out: Path | None) -> PredictionWriter:
        """What `pvtctl predict` does with predictions for `images`; `out` None: nothing is written."""

    @abstractmethod
    def comparer(self, predictor: Predictor, recipe: Recipe, split: Any, *, threshold: float) -> Comparer:
        """Predictions next to the ground truth of a split, whose classes are matched by name.

        `recipe` says how depth is scored, `threshold` from which score on detections count. Raises UsageError for data
        with classes that the model does not have.
        """

    @abstractmethod
    def as_scored(self, recipe: Recipe, checkpoint: Inspected, request: EvaluationRequest) -> Recipe:
        """The recipe with the checkpoint's own model, at the size asked for, else the one that it was tested at."""

    @abstractmethod
    def sizes(self, recipe: Recipe) -> TaskSizes:
        """The sizes that a recipe's images have."""

    @abstractmethod
    def tested_side(self, meta: Mapping[str, Any]) -> int | None:
        """The short side in pixels that a checkpoint was tested at, by its metadata; None where they do not say it."""

    def counted_model(self, recipe: Recipe, head: HeadClasses) -> nn.Module:
        """The model of a recipe as it is counted: images to raw outputs."""
        return self.new_model(recipe, head)

    @abstractmethod
    def model_cost(self, recipe: Recipe, classes: int) -> dict[str, float]:
        """`params_m` and `gmacs` of the model that the papers count; see `pvtctl.runs.paper_table.model_cost`."""

    @abstractmethod
    def case_options(self, recipe: Recipe, conventions: str) -> dict[str, Any]:
        """Options of a recipe's model as `pvtctl.cost.build.build_own` takes them."""

    @abstractmethod
    def draw_target(self, split: Any, pixels: Tensor, target: Any, side: int) -> RgbImage:
        """A picture of an image of a split, uint8 (3, H, W), with its ground truth; `side` pixels wide, or long."""

    @abstractmethod
    def augment_file(self, recipe: Recipe, file: Path, generator: torch.Generator) -> Tensor:
        """What training makes of an image file without ground truth, uint8 (3, h, w). Raises BadImage, OSError."""

    def mixes(self, recipe: Recipe) -> bool:
        """Whether training mixes the images of a batch."""
        return False

    def mix(
        self, recipe: Recipe, images: Tensor, labels: Tensor, names: Sequence[str], key: int
    ) -> tuple[Tensor, list[str]]:
        """Images (B, 3, H, W), mixed as a batch with this key, and their soft labels in words."""
        raise NotImplementedError(f"{self.name} mixes no images")


def views_label(recipe: Recipe) -> str:
    """The views of an image that a recipe's `eval` block asks for, in words that follow a size."""
    ratios = ", ".join(f"x {ratio:g}" for ratio in recipe.eval.ratios)
    window = recipe.eval.window
    return (
        (f" ({ratios})" if ratios else "")
        + (f" in windows of {window[0]}x{window[1]}" if window else "")
        + (", mirrored too" if recipe.eval.flip else "")
    )


def untrained(train: Train) -> Train:
    """A recipe's `train` block for scoring: a total batch that the processes cannot share must not matter."""
    from pvtctl.tasks.depth.settings import Loss

    return train.model_copy(update={"activation_checkpointing": False, "batch_size": 1, "loss": Loss()})


def scored_model(recipe: Recipe, checkpoint: Inspected) -> dict[str, Any]:
    """A recipe's `model.weights` and `model.backbone` with those of a checkpoint."""
    from pvtctl.models.variants import split_width

    name, width = split_width(checkpoint.backbone)
    backbone = recipe.model.backbone.model_copy(update={"name": name, "width": width})
    return {"weights": str(checkpoint.path), "backbone": backbone}


def scored_recipe(
    recipe: Recipe, *, data: Mapping[str, Any], model: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> Recipe:
    """A recipe with other values in its blocks, of which nothing is trained."""
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update=data),
            "model": recipe.model.model_copy(update=model),
            "train": untrained(recipe.train),
            "eval": recipe.eval.model_copy(update=evaluation),
        }
    )
