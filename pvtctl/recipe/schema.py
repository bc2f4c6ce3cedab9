"""What a recipe may say: pydantic models, one a block, all frozen and closed to unknown keys.

No torch here: recipes are read, checked and printed without it. Field names equal the argument names of the functions
that use them (`pvtctl.engine.build_optimizer(**recipe.train.optimizer.model_dump())`), so that nothing is said twice.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, model_validator

from pvtctl.errors import UsageError, nearest
from pvtctl.models.registry import HeadOptions, find_head, head_specs
from pvtctl.models.variants import TIMM_PREFIX, join_width, split_width
from pvtctl.recipe.block import Positive, Rate, SettingsBlock, Side
from pvtctl.tasks.classification.settings import Augment
from pvtctl.tasks.depth.settings import DepthData, Loss
from pvtctl.tasks.detection.settings import DetectionData
from pvtctl.tasks.segmentation.settings import SegmentationData

Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=0)]


class Paper(SettingsBlock):
    """Where the experiment was printed."""

    key: Literal["pvt_v1", "pvt_v2", "dpt"]
    table: int | None = None
    figure: int | None = None


class ScenesData(SettingsBlock):
    """What the built-in `scenes` looks like."""

    materials: Literal["any", "typical"] = "any"
    """`any`: colour and texture tell nothing of the class; `typical`: most objects wear a colour of their class, which a
    small experiment learns from much sooner."""


class Data(SettingsBlock):
    """Which data, at what size."""

    name: str = "imagenet"
    """Classes: `imagenet` (class folders or tar shards). Boxes: `coco` (any COCO-format set). Label maps: `ade20k`,
    `pascal_context`, `cityscapes`, `masks` (folders of images and label maps). Depth: `nyu`, `kitti`, `depth` (folders of
    images and depth), `mix`. Any: `scenes` (the built-in renderer)."""
    path: str | None = None
    """Where it lies; unset: `$PVTCTL_DATA/<name>`, then `./data/<name>`."""
    train_images: str | None = None
    """`coco`: folder of images and JSON file, where they do not lie in the layout under `path`."""
    train_annotations: str | None = None
    val_images: str | None = None
    val_annotations: str | None = None
    detection: DetectionData = DetectionData()
    segmentation: SegmentationData = SegmentationData()
    depth: DepthData = DepthData()
    scenes: ScenesData = ScenesData()
    normalization: Literal["imagenet", "half"] = "imagenet"
    """Segmentation and depth: mean and deviation of the pixels; `half` is 0.5 and 0.5 (DPT and its ViTs)."""
    image_size: Annotated[int, Field(ge=32, le=4096)] = 224
    resize: Annotated[int, Field(ge=32, le=8192)] = 256
    """Evaluation: short side before the centre crop of `image_size`."""
    train_samples: Annotated[int, Field(ge=1)] | None = None
    """`scenes`: how many images a split renders; elsewhere: use only so many, spread over the classes (for trials)."""
    val_samples: Annotated[int, Field(ge=1)] | None = None
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Loader processes per rank; unset: chosen from the cores at hand, and said."""
    augment: Augment = Augment()


class BackboneSettings(SettingsBlock):
    """A backbone of `pvtctl models ls`, or `timm:NAME`."""

    name: str
    """`NAME@F` is NAME with the `width` F."""
    width: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor on all its widths, for small experiments: the depth stays. Published weights fit 1 only. timm's models stay
    as they are."""
    drop_path_rate: Rate = 0.0
    frozen_stages: Annotated[int, Field(ge=0, le=4)] = 0
    """ResNets: the stem and that many stages are frozen (1, stem and stage 1, in the papers' detectors; 0: nothing)."""
    output_stride: Literal[8, 16, 32] = 32
    """ResNets: the last stages are dilated instead of strided (DeepLab)."""
    image_size: Side | None = None
    """Dense heads: position tables (ViT, PVT v1) are made for square images of this size, and resized for others; unset:
    224. Classifiers take `data.image_size`."""
    freeze_norm: bool = False
    """ResNets: batch norm runs on its stored statistics in training too; scale and shift outside frozen stages still train."""

    @model_validator(mode="before")
    @classmethod
    def _split(cls, values: Any) -> Any:
        """A factor in the name counts, whatever a profile says of the width; timm's models have one width each."""
        if not isinstance(values, dict) or not isinstance(values.get("name"), str):
            return values
        if values["name"].startswith(TIMM_PREFIX):
            return values | ({"width": 1.0} if "width" in values else {})
        if "@" not in values["name"]:
            return values
        try:
            name, width = split_width(values["name"])
        except UsageError as error:
            raise ValueError(error.message) from error
        return values | ({"name": name, "width": width} if name != values["name"] else {})

    @property
    def spec(self) -> str:
        """As `pvtctl.models.backbones.build_backbone` takes it: `pvt_small`, or `pvt_small@0.25`."""
        return join_width(self.name, self.width)


def _as_head_options(value: Any, info: ValidationInfo) -> Any:
    """A head's block as the options of the head that it names: the registry says which keys that head has."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return value  # the field's own type says what is wrong
    spec = find_head(value["name"])
    if spec is None:
        raise ValueError(f"no head {value['name']!r}, {nearest(value['name'], [each.name for each in head_specs()])}")
    if info.mode == "json":
        return spec.Options.model_validate_json(json.dumps(value), strict=True)
    return spec.Options.model_validate(value)


HeadBlock = Annotated[SerializeAsAny[HeadOptions], BeforeValidator(_as_head_options)]
"""A dense head, with the neck that the papers put under it; `name` decides which keys it has."""


class Model(SettingsBlock):
    backbone: BackboneSettings
    head: HeadBlock | None = None
    """Unset: a classifier."""
    num_classes: Annotated[int, Field(ge=1)] | None = None
    """Unset: as many as the data has."""
    weights: str | None = None
    """A checkpoint file, a run folder, or a published name of `pvtctl weights ls`; unset: `init` says what then."""
    init: Literal["pretrained", "scratch"] = "pretrained"
    """A dense head without `weights`: the backbone's ImageNet weights are found and loaded, or training starts from nothing."""


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
    """Factor on the learning rate for each layer further from the head; 1 switches it off."""
    backbone_lr_mult: Annotated[float, Field(ge=0)] = 1.0
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    """How `lr` follows the batch when it differs from `train.total_batch`."""


class ScheduleSettings(SettingsBlock):
    name: Literal["cosine", "poly", "step", "constant", "official_lagging"] = "cosine"
    """`official_lagging`: cosine stepped after each epoch with that epoch's index, as the official code does."""
    min_lr: Annotated[float, Field(ge=0)] = 1e-5
    """At `train.total_batch`, scaled as `lr` is."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 5.0
    warmup_steps: Count | None = None
    """Optimiser steps of warm-up, instead of `warmup_epochs`."""
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
    """Instead of `epochs`: optimiser steps of `total_batch` images; steps of another batch see as many images in all."""
    loss: Loss = Loss()
    total_batch: Annotated[int, Field(ge=1)] = 1024
    """The batch that `optimizer.lr` is stated at: images per optimiser step over all ranks."""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Images per rank and forward pass; unset: total_batch / ranks / accumulate."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many optimiser steps (schedules still span `epochs`)."""
    max_minutes: Positive | None = None
    """Save and stop after so long, to be resumed (a queue's time limit)."""
    optimizer: Optimizer = Optimizer()
    schedule: ScheduleSettings = ScheduleSettings()
    clip_grad: Positive | None = None
    ema: EmaSettings = EmaSettings()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: Literal["auto", "on", "off"] = "auto"
    compile: bool = False
    activation_checkpointing: bool = False
    sync_batch_norm: bool = False
    """Batch norm over the images of all ranks; needs GPUs where there is more than one rank."""
    seed: Count = 0
    save_minutes: Positive = 10.0
    """A checkpoint at least this often, besides the one at each epoch's end."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    eval_every: Annotated[int, Field(ge=1)] = 1
    """Epochs between evaluations; the last epoch is always evaluated."""


class Eval(SettingsBlock):
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Images per rank; unset: 1.5 x the training batch, as the papers' code does, at most 192; detectors 1."""
    score_threshold: Rate | None = None
    """Detections below are dropped; unset: the head's own (0.05, DETR 0)."""
    nms_iou: Rate | None = None
    """RetinaNet and Mask R-CNN; unset: 0.5."""
    max_detections: Annotated[int, Field(ge=1)] | None = None
    """An image; unset: 100."""
    scales: tuple[Annotated[int, Field(ge=32, le=4096)], ...] = ()
    """Detection: short sides to test at and merge; unset: `data.detection.test_short_side` alone."""
    ratios: tuple[Positive, ...] = ()
    """Segmentation and depth: factors on the test size to test at and merge; unset: 1 alone."""
    flip: bool = False
    """Test the mirrored image too, and merge."""
    window: tuple[Side, Side] | None = None
    """Segmentation: (height, width) of a window that slides over the image; unset: the whole image at once."""
    stride: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """How far it slides; unset: two thirds of the window."""
    alignment: Literal["auto", "none", "median", "scale_shift"] = "auto"
    """Depth: how each image's prediction is fitted to the truth before it is scored; auto: none for metres, scale_shift
    for inverse depth."""
    max_depth: Positive | None = None
    """Depth: metres that are scored at most; unset: `data.depth.max_depth`."""
    crop: Literal["none", "eigen", "garg"] = "none"
    """Depth: part of the image that is scored (`eigen`: of NYUv2, `garg`: of KITTI)."""
    backend: Literal["auto", "numpy", "pycocotools", "faster"] = "auto"
    """Who computes COCO's numbers, all to the same; auto: numpy. faster: faster-coco-eval, if installed."""


class PrintedFigure(SettingsBlock):
    """One printed figure and where it stands with it."""

    paper: float | None = None
    code: float | None = None
    """What the official repository states or reaches, where that differs."""
    note: str | None = None


class Recipe(SettingsBlock):
    """One run, flat: what is left after base, recipe, row, profile and `--set` are merged."""

    name: str
    row: str | None = None
    profile: str = "paper"
    about: str | None = None
    """One line: what the experiment is."""
    title: str | None = None
    """What the paper calls this row."""
    paper: Paper | None = None
    task: Literal["classification", "detection", "segmentation", "depth"] = "classification"
    module: str | tuple[str, ...] = ()
    """Python files that register the backbone or head: the recipe needs them loaded (`--module FILE.py`)."""
    data: Data = Data()
    model: Model
    train: Train = Train()
    eval: Eval = Eval()
    expect: dict[str, PrintedFigure] = {}
    """Printed figures by metric name: `top1_err` (percent), `params_m`, `gmacs` ... A bare number means `paper:`."""
    provenance: dict[str, str] = {}
    """Where a setting's value comes from, and what paper and official code say where they differ, by dotted key."""

    @property
    def modules(self) -> tuple[str, ...]:
        """`module` as a list."""
        return (self.module,) if isinstance(self.module, str) else self.module


class Printed(SettingsBlock):
    """A row that the paper prints and that no recipe runs: it keeps the table whole."""

    title: str
    expect: dict[str, PrintedFigure]
    note: str
    """Why it is not run."""


class Claim(SettingsBlock):
    """What the paper says its table shows, in a form that can be checked: two rows, or a row and a bound."""

    text: str
    """One sentence, with the paper's figures."""
    figure: str
    """The figure that decides: a score of the rows, or `params_m`, `gmacs`, `latency_ms`, `train_memory_gib`."""
    better: str | None = None
    """The row that should be ahead of `worse`."""
    worse: str | None = None
    row: str | None = None
    """Instead of two rows: this one's figure should lie `above` or `below` a value."""
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
    """What makes a table a study that `pvtctl ablate` runs: its claims, and what the small scale can show of them."""

    claim: str
    """One line: what the paper found."""
    score: str
    """The figure that ranks the rows."""
    pretraining: str | None = None
    """The recipe that trains the rows' ImageNet weights where there are none; unset: no row needs any."""
    claims: tuple[Claim, ...] = ()
    figures: tuple[Literal["params", "curves", "macs", "tradeoff"], ...] = ()
    """Pictures: score against parameters (Figure 2), over epochs (Figure 5), multiply-adds against input size (Figure 6),
    score against time (Table 11)."""
    scale: str
    """What profile mini can show and what not."""
    left_out: dict[str, str] = {}
    """Rows that profile mini runs only where they are named, and why."""
    cost: dict[str, str] = {}
    """Profile -> what all of it takes and on what: `16 min, 2 CPU cores`."""
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    """Seeds of each row at profile mini."""
