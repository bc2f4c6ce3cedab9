"""The public functions, which the commands also call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones import Backbone, Classifier, build_backbone, build_classifier
from pvtctl.models.dense import DenseModel, build_depth_model, build_segmenter
from pvtctl.models.detector import Detector, build_detector
from pvtctl.models.registry import HeadSpec

if TYPE_CHECKING:
    from pvtctl.recipe.load import Override
    from pvtctl.recipe.schema import Recipe
    from pvtctl.runs.train import RunResult
    from pvtctl.weights.report import LoadReport


def create_backbone(name: str, weights: str | Path | Mapping[str, Tensor] | None = None, **options: Any) -> Backbone:
    """Build a backbone: images (B, 3, H, W) -> four maps (B, C_i, H/s_i, W/s_i), s = 4, 8, 16, 32.

    Args:
        name: A name listed by `pvtctl models ls`, or `timm:NAME`.
        weights: Checkpoint file, run directory, published name (`pvtctl weights ls`), `hf:OWNER/NAME`, `timm:NAME.TAG`
            or state dict.
        **options: See `pvtctl.models.backbones.build_backbone`.

    Raises:
        UsageError: Unknown name, option or file, or weights that do not fit.
    """
    backbone = build_backbone(name, **options)
    if weights is not None:
        load_weights(backbone, weights)
    return backbone


def create_classifier(
    name: str | Backbone,
    num_classes: int = 1000,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    **options: Any,
) -> Classifier:
    """Build a classifier: images (B, 3, H, W) -> logits (B, num_classes). Arguments as in `create_backbone`; `name`
    may also be a built backbone."""
    classifier = build_classifier(name, num_classes=num_classes, **options)
    if weights is not None:
        load_weights(classifier, weights)
    return classifier


def create_detector(
    backbone: str | Backbone,
    head: str | HeadSpec,
    num_classes: int = 80,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    **options: Any,
) -> Detector:
    """Build a detector: normalised images (B, 3, H, W) -> a list of Detections; with targets, losses.

    Args:
        backbone: Name or built backbone.
        head: retinanet, mask_rcnn, detr, the name of a registered head, or a `HeadSpec`.
        num_classes: Number of classes, without background.
        weights: As in `create_backbone`. A classifier's weights fill the backbone only, a detector's the whole model.
        **options: See `pvtctl.models.detector.build_detector`.
    """
    detector = build_detector(backbone, head, num_classes=num_classes, **options)
    if weights is not None:
        load_weights(detector, weights)
    return detector


def create_segmenter(
    backbone: str | Backbone,
    head: str | HeadSpec,
    num_classes: int,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    *,
    head_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> DenseModel:
    """Build a segmentation model: normalised images (B, 3, H, W) -> logits (B, K, h, w), K classes.

    `model.at_size(model(images), (H, W))` resizes the logits to the images' size.

    Args:
        backbone: Name or built backbone.
        head: semantic_fpn, trans2seg, deeplabv3plus, dpt, the name of a registered head, or a `HeadSpec`.
        num_classes: Number of classes.
        weights: As in `create_backbone`. A classifier's weights fill the backbone only.
        head_options: See `pvtctl.models.dense.build_segmenter`.
        **options: Options of the backbone.
    """
    model = build_segmenter(
        backbone, head, num_classes=num_classes, head_options=head_options, backbone_options=options
    )
    if weights is not None:
        load_weights(model, weights)
    return model


def create_depth_model(
    backbone: str | Backbone,
    head: str | HeadSpec = "dpt",
    weights: str | Path | Mapping[str, Tensor] | None = None,
    *,
    scale_shift: tuple[float, float] | None = None,
    head_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> DenseModel:
    """Build a depth model: normalised images (B, 3, H, W) -> inverse depth (B, 1, h, w), larger is nearer.

    With `scale_shift` (a, b) the depth is metric: metres = 1 / (a x + b). The published DPT for KITTI has (6.016e-5,
    0.00579), the one for NYUv2 (3.05e-4, 0.1378). If None, it is read from the weights' metadata. Other arguments as in
    `create_segmenter`.
    """
    model = build_depth_model(
        backbone, head, scale_shift=scale_shift, head_options=head_options, backbone_options=options
    )
    if weights is not None:
        found = load_weights(model, weights).scale_shift
        model.scale_shift = scale_shift or found
    return model


def load_weights(module: nn.Module, source: str | Path | Mapping[str, Tensor], partial: bool = False) -> LoadReport:
    """Load a checkpoint (pvtctl's or another project's) into a backbone, classifier, detector, segmentation or depth
    model, and report what was loaded.

    Raises UsageError if the file is not a checkpoint, has less than 95 % of the backbone, or has another head (unless
    `partial`).
    """
    from pvtctl.weights.load import load_checkpoint

    return load_checkpoint(module, source, partial=partial)


def run_recipe(
    recipe: str | Path | Recipe,
    *,
    row: str | None = None,
    profile: str = "paper",
    overrides: Sequence[Override] = (),
    data: str | Path | None = None,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    device: str | None = None,
    partial: bool = False,
    quiet: bool = False,
) -> RunResult:
    """Train by a recipe, as `pretrain` and `finetune` do. Writes a run directory with weights and a report.

    Under torchrun, call it in every process; all return the same result.

    Args:
        recipe: A name listed by `pvtctl recipes ls`, a YAML file, or a `Recipe` from `pvtctl.recipe.load.load_recipe`
            (row, profile and overrides already applied).
        row: Row of the recipe; optional if the recipe has at most one.
        profile: paper, mini or smoke.
        overrides: As for `--set` (`"train.epochs=2"`), or (key, value) pairs.
        data: Folder of the data set, or the URL of tar shards.
        weights: Checkpoint file, run directory, published name, `hf:OWNER/NAME` or `timm:NAME.TAG` to start from.
        out: New run directory. Default: named as by the commands.
        resume: Resume the run in `out`.
        device: cuda or cpu. Default: cuda if available.
        partial: As in `load_weights`.
        quiet: Print nothing.

    Raises:
        pvtctl.engine.Stopped: A signal or Ctrl-C; the current step is finished and the run saved first.
        UsageError: Unusable recipe, data, weights or directory.
        PvtctlError: Out of memory or disk space, or the loss stayed non-finite.

    >>> run = pvtctl.run_recipe("imagenet_pvt_v2", row="pvt_v2_b0", profile="mini")
    >>> run.numbers["top1"], run.best_epoch, run.path
    """
    from pvtctl.engine import start_distributed, stop_distributed
    from pvtctl.engine.log import silent
    from pvtctl.io.console import say
    from pvtctl.recipe.load import load_recipe
    from pvtctl.recipe.schema import Recipe
    from pvtctl.runs.paths import absolute_place, default_out, given_weights
    from pvtctl.runs.train import train_recipe

    settings: list[Override] = []
    settings += [("data.path", absolute_place(data))] if data is not None else []
    settings += [("model.weights", given_weights(weights))] if weights is not None else []
    settings += overrides
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, row, profile, settings)
    elif settings or row is not None or profile != "paper":
        raise UsageError(
            "a Recipe is complete as it is", "give row, profile, overrides, data and weights to load_recipe"
        )
    folder = Path(out).expanduser() if out is not None else default_out(recipe)
    dist = start_distributed(device)
    try:
        talk = silent if quiet else say
        result = train_recipe(recipe, folder, dist, resume=resume, partial=partial, say=talk)
        run: RunResult = dist.from_main(result)
    finally:
        stop_distributed()
    return run
