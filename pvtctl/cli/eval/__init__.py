"""`pvtctl eval`: score a run, a checkpoint or a published model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pvtctl.cli._console import parse_size
from pvtctl.cli._options import (
    FOLDER,
    HEAD,
    INSIDE,
    OVERRIDES,
    PARTIAL,
    TASK,
    App,
    TestingOptions,
    argument,
    bundle,
    examples,
    option,
    shared,
)
from pvtctl.cli._resolve_recipe import Override
from pvtctl.errors import UsageError

app = App(rich_markup_mode=None)

EPILOG = examples(
    "pvtctl eval imagenet --backbone pvt_small",
    "pvtctl eval runs/imagenet_pvt_v1-pvt_tiny-mini",
    "pvtctl eval photos/ --weights model.safetensors --json",
    "pvtctl eval coco --backbone pvt_large --head mask_rcnn",
    "pvtctl eval coco --images photos --annotations boxes.json --weights runs/my-detector",
    "pvtctl eval coco --results detections.json",
    "pvtctl eval ade20k --backbone pvt_small --head semantic_fpn --ratios 0.75,1,1.25 --flip",
    "pvtctl eval nyu --weights dpt_hybrid_nyu --depth-crop eigen --max-depth 10",
)


def _scales(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 32 <= int(part) <= 4096 for part in parts):
        raise UsageError(f"--scales {text!r} are not short sides in pixels", "write them as 600,800,1000 (32 to 4096)")
    return tuple(int(part) for part in parts)


TESTING = (
    "score_threshold",
    "nms_iou",
    "max_detections",
    "scales",
    "flip",
    "ratios",
    "window",
    "stride",
    "alignment",
    "max_depth",
    "crop",
    "backend",
)
"""Options that are keys of a recipe's `eval` block."""
OF_DETECTIONS = {"target", "folder", "images", "annotations", "results", "backend", "max_detections", "out", "as_json"}
"""Options that go with `--results`; all others are for a model."""


@bundle
class EvalOptions(TestingOptions):
    """Options of `pvtctl eval`; None if not given."""

    target: str = argument(
        metavar="DATA|RUN",
        help="imagenet, coco, ade20k, pascal_context, cityscapes, nyu, kitti, scenes, a folder in one of their "
        "layouts, or the folder of a run.",
    )
    weights: str | None = option(
        help="Checkpoint file, run directory, published name, hf:OWNER/NAME, timm:NAME.TAG or timm. Default: the newest "
        "finished run of the backbone on the data, else its published weights."
    )
    inside: str | None = shared(INSIDE)
    backbone: str | None = option(
        help="A name listed by `pvtctl models ls`. Default: that of the weights, else pvt_small."
    )
    head: str | None = shared(HEAD)
    task: str | None = shared(TASK)
    folder: str | None = shared(FOLDER)
    images: Path | None = option(help="With coco: folder of the images.")
    annotations: Path | None = option(help="With coco: JSON file of the annotations.")
    results: Path | None = option(help="With coco: score this COCO results file; no model is needed.")
    size: tuple[int, int] | None = option(
        parse=parse_size,
        help="Side of the square crop in pixels; for detectors and segmentation the short side, or both as "
        "640x1066; for depth HxW. Default: the training size.",
    )
    resize: int | None = option(help="Short side before the crop. Default: in the recipe's ratio to the size.")
    batch_size: int | None = option(help="Images per batch. Default: the recipe's.")
    score_threshold: float | None = option(
        min=0, max=1, help="Lower-scored detections are dropped. Default: 0.05; DETR 0."
    )
    scales: tuple[int, ...] | None = option(parse=_scales, help="Short sides for multi-scale testing: 600,800,1000.")
    flip: bool | None = option("--flip", help="Also predict the mirrored image, and merge.")
    alignment: str | None = option(
        help="Depth: alignment with the ground truth: none, median or scale_shift. Default: none for metres, "
        "scale_shift for inverse depth."
    )
    max_depth: float | None = option(help="Depth: largest depth scored, in metres.")
    crop: str | None = option("--depth-crop", help="Depth: crop to score: eigen (NYUv2) or garg (KITTI).")
    backend: str | None = option(
        help="Implementation of COCO's metrics: auto, hotcoco, numpy, pycocotools. Default: auto, hotcoco if installed, "
        "else numpy."
    )
    profile: str | None = option(help="Scale of the data: paper, mini, smoke. Default: that of the weights' run.")
    overrides: list[str] = shared(OVERRIDES)
    partial: bool = shared(PARTIAL)
    out: Path | None = option(
        help="Folder for report.html and pictures. Default: RUN/eval, or runs/eval-...; with --json, none."
    )
    as_json: bool = option("--json", default=False, help="Print one JSON document; fractions, not percent.")

    @property
    def files(self) -> dict[str, Path | None]:
        """Images and annotations outside a known layout (`DataChoice.files`)."""
        return {"val_images": self.images, "val_annotations": self.annotations}

    @property
    def testing(self) -> dict[str, Any]:
        """What is given of a recipe's `eval` block."""
        values = {name: getattr(self, name) for name in TESTING}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def asked(self) -> set[str]:
        """Keys set by `--set`, or by an option for one of them."""
        from pvtctl.recipe.load import keys_said

        pixels = {"data.normalization"} if self.normalization is not None else set()
        return keys_said(self.overrides) | pixels

    @property
    def settings(self) -> list[Override]:
        """All overrides of the recipe."""
        pixels = [("data.normalization", self.normalization)] if self.normalization is not None else []
        return [*((f"eval.{key}", value) for key, value in self.testing.items()), *pixels, *self.overrides]


@app.command("eval", epilog=EPILOG)
def eval_command(options: EvalOptions) -> None:
    """Score a run, a checkpoint or a published model on validation images.

    Classifiers: top-1, top-5, loss, calibration and the worst classes; report.html has the confusion matrix, the
    reliability diagram and a sheet of the worst images. A head of 1000 classes is scored by class name (wnid), so that
    folders with some of the classes are scored correctly.

    Detectors: COCO's 12 numbers for boxes (and masks), per-class AP; report.html has precision-recall curves, the
    confusion matrix with background, error types and the worst images with ground truth; the detections are
    saved as a COCO results file.

    Segmentation: mIoU, pixel and mean accuracy, boundary F-score and the IoU of every class. Depth: AbsRel, SqRel, RMSE,
    log10, SILog and threshold accuracies, with the space, alignment, crop and cap used. report.html has the worst
    images with ground truth and errors.
    """
    from pvtctl.cli.eval._score import run_evaluation, run_results

    if options.results is None:
        if (options.images is None) != (options.annotations is None):
            raise UsageError("--images and --annotations go together", "--images DIR --annotations FILE.json")
        run_evaluation(options)
        return
    for name, value in vars(options).items():
        if name not in OF_DETECTIONS and value is not None and value is not False and value != []:
            raise UsageError(
                f"--{option_name(name)} is for a model, and --results scores existing detections",
                "leave out one of them",
            )
    run_results(options, options.results)


def option_name(field: str) -> str:
    """The option, without dashes, of a field of `EvalOptions`."""
    return {"crop": "depth-crop", "overrides": "set"}.get(field, field.replace("_", "-"))
