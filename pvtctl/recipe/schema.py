"""What a recipe may say: pydantic models, one a block, all frozen and closed to unknown keys.

No torch here: recipes are read, checked and printed without it. Field names equal the argument names of the functions
that use them (`pvtctl.engine.build_optimizer(**recipe.train.optimizer.model_dump())`), so that nothing is said twice.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=0)]


class Block(BaseModel):
    """A closed, frozen part of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Paper(Block):
    """Where the experiment was printed."""

    key: Literal["pvt_v1", "pvt_v2", "dpt"]
    table: int | None = None
    figure: int | None = None


class Augment(Block):
    """The training transforms of DeiT as the papers' code runs them (facts 8.1)."""

    crop_scale: tuple[Positive, Positive] = (0.08, 1.0)
    crop_ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    hflip: Rate = 0.5
    rand_augment: bool = True
    rand_augment_magnitude: Annotated[float, Field(ge=0, le=10)] = 9.0
    rand_augment_std: Annotated[float, Field(ge=0)] = 0.5
    rand_augment_prob: Rate = 0.5
    rand_augment_ops: Annotated[int, Field(ge=0, le=15)] = 2
    erasing: Rate = 0.25
    mixup_alpha: Annotated[float, Field(ge=0)] = 0.8
    cutmix_alpha: Annotated[float, Field(ge=0)] = 1.0
    mixup_prob: Rate = 1.0
    mixup_switch_prob: Rate = 0.5
    label_smoothing: Rate = 0.1
    repeats: Annotated[int, Field(ge=1, le=16)] = 3
    """Repeated augmentation: copies of an image in an epoch (1 switches it off)."""


class DetectionData(Block):
    """Sizes and augmentation of detection. Images are resized within (short side, long side), keeping their aspect."""

    short_sides: Annotated[tuple[Annotated[int, Field(ge=32, le=4096)], ...], Field(min_length=1)] = (800,)
    """Training: one is drawn for each image."""
    sampling: Literal["choice", "range"] = "choice"
    """`range`: any whole number from the smallest to the largest of `short_sides`."""
    long_side: Annotated[int, Field(ge=32, le=8192)] = 1333
    crop: Rate = 0.0
    """Share of the images that are first resized to a short side of 400, 500 or 600 and cropped to 384 to 600 (DETR)."""
    hflip: Rate = 0.5
    test_short_side: Annotated[int, Field(ge=32, le=4096)] = 800
    test_long_side: Annotated[int, Field(ge=32, le=8192)] = 1333
    pad: Annotated[int, Field(ge=1, le=128)] = 32
    """Sides of a batch are multiples of this."""
    aspect_groups: bool = True
    """Wide and tall images come in batches of their own."""


class Data(Block):
    """Which data, at what size."""

    name: str = "imagenet"
    """`imagenet` (class folders or tar shards), `coco` (any COCO-format set), or `scenes` (the built-in renderer)."""
    path: str | None = None
    """Where it lies; unset: `$PVTCTL_DATA/<name>`, then `./data/<name>`."""
    train_images: str | None = None
    """`coco`: folder of images and JSON file, where they do not lie in the layout under `path`."""
    train_annotations: str | None = None
    val_images: str | None = None
    val_annotations: str | None = None
    detection: DetectionData = DetectionData()
    image_size: Annotated[int, Field(ge=32, le=4096)] = 224
    resize: Annotated[int, Field(ge=32, le=8192)] = 256
    """Evaluation: short side before the centre crop of `image_size`."""
    train_samples: Annotated[int, Field(ge=1)] | None = None
    """`scenes`: how many images a split renders; elsewhere: use only so many, spread over the classes (for trials)."""
    val_samples: Annotated[int, Field(ge=1)] | None = None
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Loader processes per rank; unset: chosen from the cores at hand, and said."""
    augment: Augment = Augment()


class Backbone(Block):
    """A backbone of `pvtctl models ls`, or `timm:NAME`."""

    name: str
    drop_path_rate: Rate = 0.0
    frozen_stages: Annotated[int, Field(ge=0, le=4)] = 0
    """ResNets: the stem and that many stages are frozen (1, stem and stage 1, in the papers' detectors; 0: nothing)."""
    freeze_norm: bool = False
    """ResNets: batch norm runs on its stored statistics in training too; scale and shift outside frozen stages still train."""


class Head(Block):
    """A dense head, with the neck that the papers put under it (RetinaNet and Mask R-CNN: FPN; DETR: none)."""

    name: Literal["retinanet", "mask_rcnn", "detr"]
    num_queries: Annotated[int, Field(ge=1, le=10_000)] = 100
    """DETR only."""
    rois_per_image: Annotated[int, Field(ge=4, le=10_000)] = 512
    """Mask R-CNN only: proposals an image that its second stage trains on, a quarter of them objects at most."""


class Model(Block):
    backbone: Backbone
    head: Head | None = None
    """Unset: a classifier."""
    num_classes: Annotated[int, Field(ge=1)] | None = None
    """Unset: as many as the data has."""
    weights: str | None = None
    """A checkpoint file, a run folder, or a published name of `pvtctl weights ls`; unset: `init` says what then."""
    init: Literal["pretrained", "scratch"] = "pretrained"
    """Detection without `weights`: the backbone's ImageNet weights are found and loaded, or training starts from nothing."""


class Optimizer(Block):
    name: Literal["adamw", "sgd"] = "adamw"
    lr: Positive = 1e-3
    """At `train.total_batch`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Positive = 1e-8
    momentum: Rate = 0.9
    """SGD only."""
    nesterov: bool = False
    no_decay: Literal["papers", "norms", "none"] = "papers"
    """`papers`: 1-D parameters, biases and class tokens are not decayed, position tables are (facts 8.1)."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate for each layer further from the head; 1 switches it off."""
    backbone_lr_mult: Annotated[float, Field(ge=0)] = 1.0
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    """How `lr` follows the batch when it differs from `train.total_batch`."""


class Schedule(Block):
    name: Literal["cosine", "poly", "step", "constant", "official_lagging"] = "cosine"
    """`official_lagging`: cosine stepped after each epoch with that epoch's index, as the official code does (facts 8.1)."""
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


class Ema(Block):
    enabled: bool = False
    decay: Rate = 0.99996
    warmup: bool = True
    """decay at step t is min(decay, (1 + t) / (10 + t))."""


class Train(Block):
    epochs: Annotated[int, Field(ge=1)] = 300
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
    schedule: Schedule = Schedule()
    clip_grad: Positive | None = None
    ema: Ema = Ema()
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


class Eval(Block):
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
    flip: bool = False
    """Detection: test the mirrored image too, and merge."""
    backend: Literal["auto", "numpy", "pycocotools", "faster"] = "auto"
    """Who computes COCO's numbers, all to the same; auto: numpy. faster: faster-coco-eval, if installed."""


class Figure(Block):
    """One printed figure and where it stands with it."""

    paper: float | None = None
    code: float | None = None
    """What the official repository states or reaches, where that differs."""
    note: str | None = None


class Recipe(Block):
    """One run, flat: what is left after base, recipe, row, profile and `--set` are merged."""

    name: str
    row: str | None = None
    profile: str = "paper"
    about: str | None = None
    """One line: what the experiment is."""
    title: str | None = None
    """What the paper calls this row."""
    paper: Paper | None = None
    task: Literal["classification", "detection"] = "classification"
    data: Data = Data()
    model: Model
    train: Train = Train()
    eval: Eval = Eval()
    expect: dict[str, Figure] = {}
    """Printed figures by metric name: `top1_err` (percent), `params_m`, `gmacs` ... A bare number means `paper:`."""
    provenance: dict[str, str] = {}
    """Where a setting's value comes from, and what paper and official code say where they differ, by dotted key."""


class Printed(Block):
    """A row that the paper prints and that no recipe runs: it keeps the table whole."""

    title: str
    expect: dict[str, Figure]
    note: str
    """Why it is not run."""
