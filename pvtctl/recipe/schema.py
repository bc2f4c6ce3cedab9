"""The settings of a recipe: one pydantic model per block, frozen; unknown keys are errors.

No torch: recipes are read, checked and printed without it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from pvtctl.errors import UsageError, nearest
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.io.urls import is_url, keep_secrets
from pvtctl.models.backbone_names import TIMM_PREFIX, WIDEST, join_name, split_name, timm_name
from pvtctl.models.registry import HeadOptions, OwnOptions, find_backbone, find_head, head_specs
from pvtctl.recipe.block import NormalizationText, Positive, Rate, SettingsBlock, Side
from pvtctl.tasks.classification.settings import Augment, Shards
from pvtctl.tasks.depth.settings import DepthData, Loss
from pvtctl.tasks.detection.settings import Backend, DetectionData
from pvtctl.tasks.segmentation.settings import SegmentationData

Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=0)]


class Paper(SettingsBlock):
    """Where the experiment was published."""

    key: Literal["pvt_v1", "pvt_v2", "dpt"]
    table: int | None = None
    figure: int | None = None


class ScenesData(SettingsBlock):
    """Appearance of the built-in `scenes`."""

    materials: Literal["any", "typical"] = "any"
    """`any`: colour and texture are independent of the class; `typical`: they correlate with it, so that small
    experiments learn much sooner."""


class Data(SettingsBlock):
    """The data set and its image size."""

    name: str = "imagenet"
    """Classes: `imagenet` (class folders or tar shards). Boxes: `coco` (any COCO-format set). Label maps: `ade20k`,
    `pascal_context`, `cityscapes`, `masks` (folders of images and label maps). Depth: `nyu`, `kitti`, `depth` (folders of
    images and depth), `mix`. Any: `scenes` (the built-in renderer)."""
    path: Annotated[str, AfterValidator(keep_secrets)] | None = None
    """Folder of the data; unset: `$PVTCTL_DATA/<name>`, then `./data/<name>`. Tar shards: also a URL, `https://`, `s3://` or
    `gs://`; user, password and query of it are not written to any file."""
    train_images: str | None = None
    """`coco`: folder of images and JSON file, if they are not in COCO's layout under `path`."""
    train_annotations: str | None = None
    val_images: str | None = None
    val_annotations: str | None = None
    detection: DetectionData = DetectionData()
    segmentation: SegmentationData = SegmentationData()
    depth: DepthData = DepthData()
    scenes: ScenesData = ScenesData()
    exif: Literal["apply", "ignore"] | None = None
    """Turn images by their EXIF orientation; boxes and maps are read in the same frame, and where their sizes tell which
    one it is, that is taken. Unset: `apply` for boxes, label maps and depth, `ignore` for classes, as ImageNet's code."""
    grey_range: tuple[float, float] | None = None
    """16-bit grey images: the values that become black and white. Unset: 0 and 65535 if the training images use the upper
    half of them, else their smallest and largest value; it is printed, and kept in the checkpoint."""
    normalization: NormalizationText | None = None
    """Mean and standard deviation of the pixels: `imagenet`, `half` (0.5 and 0.5: DPT and its ViTs), `clip`, `unit` (0 to 1
    as they are), `caffe`, or `mean=A,B,C std=A,B,C`, with `range=0..255` for those of bytes and `order=bgr`. Unset: those
    that the starting weights were trained with, else `imagenet`."""
    image_size: Annotated[int, Field(ge=32, le=4096)] = 224
    resize: Annotated[int, Field(ge=32, le=8192)] = 256
    """Evaluation: short side before the centre crop of `image_size`."""
    train_samples: Annotated[int, Field(ge=1)] | None = None
    """`scenes`: number of images per split; other data: use only this many, spread over the classes (for trials)."""
    val_samples: Annotated[int, Field(ge=1)] | None = None
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Loader processes per rank; unset: chosen by the available cores, and reported."""
    augment: Augment = Augment()
    shards: Shards = Shards()

    @property
    def url(self) -> str | None:
        """`path`, if it is a URL and no folder."""
        return self.path if is_url(self.path) else None

    @property
    def pixels(self) -> Normalization:
        """`normalization` as numbers."""
        return IMAGENET if self.normalization is None else Normalization.read(self.normalization)


class BackboneSettings(SettingsBlock):
    """A backbone listed by `pvtctl models ls`, or `timm:NAME`."""

    name: str
    """`NAME@F` is NAME with `width` F, `NAME+key=value` NAME with that option."""
    width: Annotated[float, Field(gt=0.0, le=WIDEST)] = 1.0
    """Factor on all its widths, those in `options` too; the depth is unchanged. Published weights fit 1 only. Not for
    timm's models."""
    options: OwnOptions = OwnOptions()
    """Its own sizes, such as PVT's `sr_ratios: [8, 4, 2, 1]`; `pvtctl models show NAME` lists them. Unset: the named
    model's."""
    drop_path_rate: Rate = 0.0
    frozen_stages: Annotated[int, Field(ge=0, le=4)] = 0
    """ResNets: `train.freeze` of the stem and this many stages (1: stem and stage1, in the papers' detectors)."""
    output_stride: Literal[8, 16, 32] = 32
    """ResNets: the last stages are dilated instead of strided (DeepLab)."""
    image_size: Side | None = None
    """Dense heads: position tables (ViT, PVT v1) are created for square images of this size, and resized for others;
    unset: 224. Classifiers use `data.image_size`."""
    freeze_norm: bool = False
    """ResNets: `train.freeze` of `backbone.statistics`: batch norm uses stored ones; its scale and shift still train."""

    @model_validator(mode="before")
    @classmethod
    def _split(cls, values: Any) -> Any:
        """A factor and options in the name override `width` and `options`; timm's models have only one width."""
        if not isinstance(values, dict) or not isinstance(values.get("name"), str):
            return values
        if values["name"].startswith(TIMM_PREFIX):
            return values | ({"width": 1.0} if "width" in values else {})
        try:
            name, width, options = split_name(values["name"])
        except UsageError as error:
            raise ValueError(error.message) from error
        in_name = {"width": width} if "@" in values["name"] else {}
        return values | {"name": name, **in_name, **({"options": options} if options else {})}

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        try:
            own = find_backbone(self.name)
            if own is not None and self.options.said:
                own.with_options(self.options.said)
        except UsageError as error:
            raise PydanticCustomError(
                "options", "{fault}", {"fault": error.message, "hint": error.hint or ""}
            ) from error
        if own is None and self.options.said and self.name.startswith(TIMM_PREFIX):
            raise PydanticCustomError("options", "{fault}", {"fault": "timm's models have no options"})
        return self

    @property
    def spec(self) -> str:
        """Name for `pvtctl.models.backbones.build_backbone`: `pvt_small`, `pvt_small@0.25`, `pvt_small+depths=2,2,2,2`."""
        return self.at_width(self.width)

    def at_width(self, width: float) -> str:
        """`spec` at another width."""
        own = find_backbone(self.name) if self.options.said else None
        chosen = self.options.said if own is None else own.with_options(self.options.said).chosen
        return join_name(self.name, width, chosen)


def _as_head_options(value: Any, info: ValidationInfo) -> Any:
    """Validate a head's block as the registered options of the head that it names."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return value  # the field's type reports what is wrong
    spec = find_head(value["name"])
    if spec is None:
        raise ValueError(f"no head {value['name']!r}, {nearest(value['name'], [each.name for each in head_specs()])}")
    if info.mode == "json":
        return spec.Options.model_validate_json(json.dumps(value), strict=True)
    return spec.Options.model_validate(value)


HeadBlock = Annotated[SerializeAsAny[HeadOptions], BeforeValidator(_as_head_options)]
"""A dense head with the papers' neck for it; its keys depend on `name`."""


class Model(SettingsBlock):
    backbone: BackboneSettings
    head: HeadBlock | None = None
    """Unset: a classifier."""
    num_classes: Annotated[int, Field(ge=1)] | None = None
    """Unset: that of the data."""
    weights: str | None = None
    """A checkpoint file, a run directory, a published name (`pvtctl weights ls`), `hf:OWNER/NAME` of the Hugging Face Hub,
    `timm:NAME.TAG`, or `timm`: timm's default weights of the backbone; unset: see `init`."""
    init: Literal["pretrained", "scratch"] = "pretrained"
    """A dense head without `weights`: find and load the backbone's ImageNet weights, or train from scratch."""

    @property
    def start(self) -> str | None:
        """The weights to start from, `timm` as the name that it stands for."""
        return timm_name(self.backbone.spec) if self.weights == "timm" else self.weights


class Optimizer(SettingsBlock):
    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """`adam`: weight decay is added to the gradient."""
    lr: Positive = 1e-3
    """At `train.total_batch`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Positive = 1e-8
    momentum: Rate = 0.9
    """SGD only."""
    nesterov: bool = False
    no_decay: Literal["papers", "norms", "none"] = "papers"
    """`papers`: 1-D parameters, biases and class tokens are not decayed, position tables are."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate per layer further from the head; 1 disables it."""
    backbone_lr_mult: Annotated[float, Field(ge=0)] = 1.0
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    """How `lr` is scaled if the batch differs from `train.total_batch`."""


class ScheduleSettings(SettingsBlock):
    name: Literal["cosine", "poly", "step", "constant", "official_lagging"] = "cosine"
    """`official_lagging`: cosine stepped after each epoch with that epoch's index, as the official code does."""
    min_lr: Annotated[float, Field(ge=0)] = 1e-5
    """At `train.total_batch`, scaled as `lr` is."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 5.0
    warmup_steps: Count | None = None
    """Warm-up in optimiser steps, instead of `warmup_epochs`."""
    warmup_lr: Annotated[float, Field(ge=0)] = 1e-6
    power: Positive = 0.9
    """`poly` only."""
    steps: tuple[Positive, ...] = ()
    """`step` only: epochs after which the rate is multiplied by `gamma`."""
    gamma: Positive = 0.1


class EmaSettings(SettingsBlock):
    enabled: bool = False
    decay: Rate = 0.99996
    warmup: bool = True
    """decay at step t is min(decay, (1 + t) / (10 + t))."""


class Train(SettingsBlock):
    epochs: Annotated[int, Field(ge=1)] = 300
    iterations: Annotated[int, Field(ge=1)] | None = None
    """Instead of `epochs`: optimiser steps of `total_batch` images; another batch sees as many images."""
    loss: Loss = Loss()
    total_batch: Annotated[int, Field(ge=1)] = 1024
    """The batch that `optimizer.lr` is stated at: images per optimiser step over all ranks."""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Images per rank and forward pass; unset: total_batch / ranks / accumulate."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many optimiser steps (schedules still span `epochs`)."""
    max_minutes: Positive | None = None
    """Save and stop after this time, to be resumed (a queue's time limit)."""
    optimizer: Optimizer = Optimizer()
    schedule: ScheduleSettings = ScheduleSettings()
    freeze: tuple[str, ...] = ()
    """Parts of the backbone that are not trained: `backbone`, `stem`, `stage1` to `stage4`; with `.norms` only their
    normalisation layers, with `.statistics` only stored statistics of batch norms, whose scale and shift still train."""
    clip_grad: Positive | None = None
    ema: EmaSettings = EmaSettings()
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    channels_last: Literal["auto", "on", "off"] = "auto"
    compile: bool = False
    activation_checkpointing: bool = False
    sync_batch_norm: bool = False
    """Batch norm over the images of all ranks; more than one rank needs GPUs."""
    seed: Count = 0
    save_minutes: Positive = 10.0
    """A checkpoint at least this often, in addition to the one at each epoch's end."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    eval_every: Annotated[int, Field(ge=1)] = 1
    """Epochs between evaluations; the last epoch is always evaluated."""


class Eval(SettingsBlock):
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Images per rank; unset: 1.5 x the training batch, as the papers' code does, at most 192; detectors 1."""
    score_threshold: Rate | None = None
    """Lower-scored detections are dropped; unset: the head's default (0.05, DETR 0)."""
    nms_iou: Rate | None = None
    """RetinaNet and Mask R-CNN; unset: 0.5."""
    max_detections: Annotated[int, Field(ge=1)] | None = None
    """Per image; unset: 100."""
    scales: tuple[Annotated[int, Field(ge=32, le=4096)], ...] = ()
    """Detection: short sides for multi-scale testing; unset: `data.detection.test_short_side` only."""
    ratios: tuple[Positive, ...] = ()
    """Segmentation and depth: factors on the test size for multi-scale testing; unset: 1 only."""
    flip: bool = False
    """Also predict the mirrored image, and merge."""
    window: tuple[Side, Side] | None = None
    """Segmentation: (height, width) of the sliding window; unset: the whole image at once."""
    stride: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Step of the sliding window; unset: two thirds of its size."""
    alignment: Literal["auto", "none", "median", "scale_shift"] = "auto"
    """Depth: alignment of each prediction with the ground truth before scoring; auto: none for metres, scale_shift for
    inverse depth."""
    max_depth: Positive | None = None
    """Depth: largest depth scored, in metres; unset: `data.depth.max_depth`."""
    crop: Literal["none", "eigen", "garg"] = "none"
    """Depth: part of the image that is scored (`eigen`: of NYUv2, `garg`: of KITTI)."""
    backend: Backend = "auto"
    """Implementation of COCO's metrics, all with equal results; auto: hotcoco if installed, else numpy."""


class PrintedFigure(SettingsBlock):
    """One published figure."""

    paper: float | None = None
    code: float | None = None
    """The official repository's figure, if different."""
    note: str | None = None


class Recipe(SettingsBlock):
    """One run, flat: base, recipe, row, profile and `--set` merged."""

    name: str
    row: str | None = None
    profile: str = "paper"
    about: str | None = None
    """One line: what the experiment is."""
    title: str | None = None
    """The paper's name of this row."""
    paper: Paper | None = None
    task: Literal["classification", "detection", "segmentation", "depth"] = "classification"
    module: str | tuple[str, ...] = ()
    """Python files that register the backbone or head: the recipe needs them loaded (`--module FILE.py`)."""
    data: Data = Data()
    model: Model
    train: Train = Train()
    eval: Eval = Eval()
    expect: dict[str, PrintedFigure] = {}
    """Published figures by metric: `top1_err` (percent), `params_m`, `gmacs` ... A bare number means `paper:`."""
    provenance: dict[str, str] = {}
    """By dotted key: source of the value, and the values of paper and official code if they differ."""

    @property
    def modules(self) -> tuple[str, ...]:
        """`module` as a list."""
        return (self.module,) if isinstance(self.module, str) else self.module


class Printed(SettingsBlock):
    """A row of the paper's table that no recipe runs, listed for completeness."""

    title: str
    expect: dict[str, PrintedFigure]
    note: str
    """Why it is not run."""


class Claim(SettingsBlock):
    """A checkable claim of the paper about its table: two rows, or a row and a bound."""

    text: str
    """One sentence, with the paper's figures."""
    figure: str
    """The figure compared: a score, or `params_m`, `gmacs`, `latency_ms`, `train_memory_gib`."""
    better: str | None = None
    """The row that should be better than `worse`."""
    worse: str | None = None
    row: str | None = None
    """Instead of two rows: a row whose figure should be `above` or `below` a value."""
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        pair = self.better is not None and self.worse is not None
        bound = self.row is not None and (self.above is None) != (self.below is None)
        if (
            pair == bound
            or (pair and (self.row or self.above or self.below))
            or (bound and (self.better or self.worse))
        ):
            raise ValueError("name better and worse, or row with above or below")
        return self


class Study(SettingsBlock):
    """Makes a recipe a study for `pvtctl ablate`: the claims, and how far the mini profile can test them."""

    claim: str
    """One line: what the paper found."""
    score: str
    """The figure that ranks the rows."""
    pretraining: str | None = None
    """The recipe that pretrains the rows' backbones if there are no weights; unset: no row needs any."""
    claims: tuple[Claim, ...] = ()
    figures: tuple[Literal["params", "curves", "macs", "tradeoff"], ...] = ()
    """Pictures: score against parameters (Figure 2), over epochs (Figure 5), multiply-adds against input size (Figure 6),
    score against time (Table 11)."""
    scale: str
    """What profile mini can show, and what it cannot."""
    left_out: dict[str, str] = {}
    """Rows that profile mini runs only if named, and why."""
    cost: dict[str, str] = {}
    """Profile -> total time and hardware: `16 min, 2 CPU cores`."""
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    """Seeds of each row at profile mini."""
