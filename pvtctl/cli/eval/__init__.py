"""`pvtctl eval`: score a run, a checkpoint or a published model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pvtctl.cli._console import parse_ratios, parse_scale_shift, parse_size
from pvtctl.cli._options import (
    DataFolder,
    Device,
    Head,
    Overrides,
    Partial,
    Ratios,
    ScaleShift,
    Stride,
    TaskName,
    Window,
)
from pvtctl.errors import UsageError

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EPILOG = """Examples:

pvtctl eval imagenet --backbone pvt_small

pvtctl eval runs/imagenet_pvt_v1-pvt_tiny-mini

pvtctl eval photos/ --weights model.safetensors --json

pvtctl eval coco --backbone pvt_large --head mask_rcnn

pvtctl eval coco --images photos --annotations boxes.json --weights runs/my-detector

pvtctl eval coco --results detections.json

pvtctl eval ade20k --backbone pvt_small --head semantic_fpn --ratios 0.75,1,1.25 --flip

pvtctl eval nyu --weights dpt_hybrid_nyu --depth-crop eigen --max-depth 10
"""


@app.command("eval", epilog=EPILOG)
def eval_command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="DATA|RUN",
            help="imagenet, coco, ade20k, pascal_context, cityscapes, nyu, kitti, scenes, a folder in one of their "
            "layouts, or the folder of a run.",
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint file, run directory or published name. Default: the newest finished run of the backbone on "
            "the data, else its published weights."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="A name listed by `pvtctl models ls`. Default: that of the weights, else pvt_small."),
    ] = None,
    head: Head = None,
    task: TaskName = None,
    folder: DataFolder = None,
    images: Annotated[Path | None, typer.Option(help="With coco: folder of the images.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="With coco: JSON file of the annotations.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="With coco: score this COCO results file; no model is needed.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Side of the square crop in pixels; for detectors and segmentation the short side, or both as "
            "640x1066; for depth HxW. Default: the training size."
        ),
    ] = None,
    resize: Annotated[
        int | None, typer.Option(help="Short side before the crop. Default: in the recipe's ratio to the size.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per batch. Default: the recipe's.")] = None,
    score_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lower-scored detections are dropped. Default: 0.05; DETR 0.")
    ] = None,
    nms_iou: Annotated[
        float | None, typer.Option(min=0, max=1, help="IoU above which NMS drops a box. Default: 0.5.")
    ] = None,
    max_detections: Annotated[int | None, typer.Option(min=1, help="Per image. Default: 100.")] = None,
    scales: Annotated[str | None, typer.Option(help="Short sides for multi-scale testing: 600,800,1000.")] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Also predict the mirrored image, and merge.")] = False,
    ratios: Ratios = None,
    window: Window = None,
    stride: Stride = None,
    alignment: Annotated[
        str | None,
        typer.Option(
            help="Depth: alignment with the ground truth: none, median or scale_shift. Default: none for metres, "
            "scale_shift for inverse depth."
        ),
    ] = None,
    max_depth: Annotated[float | None, typer.Option(help="Depth: largest depth scored, in metres.")] = None,
    depth_crop: Annotated[str | None, typer.Option(help="Depth: crop to score: eigen (NYUv2) or garg (KITTI).")] = None,
    scale_shift: ScaleShift = None,
    backend: Annotated[
        str | None,
        typer.Option(help="Implementation of COCO's metrics: auto, numpy, pycocotools, faster. Default: auto, numpy."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Scale of the data: paper, mini, smoke. Default: that of the weights' run.")
    ] = None,
    overrides: Overrides = None,
    partial: Partial = False,
    device: Device = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for report.html and pictures. Default: RUN/eval, or runs/eval-...; with --json, none."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document; fractions, not percent.")] = False,
) -> None:
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
    from pvtctl.cli.eval._plan import EvalOptions
    from pvtctl.cli.eval._results_file import run_results
    from pvtctl.cli.eval._score import run_evaluation

    if (images is None) != (annotations is None) and results is None:
        raise UsageError("--images and --annotations go together", "--images DIR --annotations FILE.json")
    files = {"val_images": images, "val_annotations": annotations}
    detecting = {
        "score_threshold": score_threshold,
        "nms_iou": nms_iou,
        "max_detections": max_detections,
        "scales": _scales(scales),
        "flip": flip or None,
        "ratios": parse_ratios(ratios),
        "window": parse_size(window) if window else None,
        "stride": parse_size(stride, least=1) if stride else None,
        "alignment": alignment,
        "max_depth": max_depth,
        "crop": depth_crop,
    }
    model = {
        "weights": weights,
        "backbone": backbone,
        "head": head,
        "task": task,
        "scale_shift": scale_shift,
        "set": overrides or None,
        "size": size,
        "resize": resize,
        "batch_size": batch_size,
        "profile": profile,
        "partial": partial or None,
        "device": device,
    }
    if results is not None:
        if (needless := next((k for k, value in (model | detecting).items() if value is not None), None)) is not None:
            raise UsageError(
                f"--{needless.replace('_', '-')} is for a model, and --results scores existing detections",
                "leave out one of them",
            )
        run_results(target, folder, files, results, backend=backend, out=out, as_json=as_json)
        return
    run_evaluation(
        EvalOptions(
            target=target,
            weights=weights,
            backbone=backbone,
            head=head,
            task=task,
            folder=folder,
            files=files,
            testing=detecting | {"backend": backend},
            overrides=overrides or (),
            scale_shift=parse_scale_shift(scale_shift),
            size=size,
            resize=resize,
            batch_size=batch_size,
            profile=profile,
            partial=partial,
            device=device,
            out=out,
            as_json=as_json,
        )
    )


def _scales(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 32 <= int(part) <= 4096 for part in parts):
        raise UsageError(f"--scales {text!r} are not short sides in pixels", "write them as 600,800,1000 (32 to 4096)")
    return tuple(int(part) for part in parts)
