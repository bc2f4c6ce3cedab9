"""`pvtctl predict`: run a trained model on images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pvtctl.cli._console import parse_ratios, parse_scale_shift, parse_size
from pvtctl.cli._options import Device, Ratios, ScaleShift, Stride, Window

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EPILOG = """Examples:

pvtctl predict street.jpg --weights runs/my-detector

pvtctl predict frames/ --weights detector.safetensors --score-threshold 0.5 --out drawn

pvtctl predict frames/ --weights runs/my-segmenter --flip

pvtctl predict room.jpg --weights dpt_hybrid_nyu --out depth

pvtctl predict 'photos/**/*.jpg' --weights pvt_small --json
"""


@app.command("predict", epilog=EPILOG)
def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...", help="Image files, folders of images (frames of a video), or quoted patterns."
        ),
    ],
    weights: Annotated[
        str | None, typer.Option(help="Checkpoint file, run directory or published name. Required.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="For weights of an unknown backbone: a name listed by `pvtctl models ls`.")
    ] = None,
    score_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lowest score of detections to draw and count. Default: 0.3.")
    ] = None,
    nms_iou: Annotated[
        float | None, typer.Option(min=0, max=1, help="IoU above which NMS drops the lower-scored box. Default: 0.5.")
    ] = None,
    max_detections: Annotated[int | None, typer.Option(min=1, help="At most, per image. Default: 100.")] = None,
    short_side: Annotated[
        int | None,
        typer.Option(
            min=32, max=4096, help="Images are resized to this short side. Default: that of the weights, or 800."
        ),
    ] = None,
    long_side: Annotated[
        int | None,
        typer.Option(min=32, max=8192, help="Limit of the long side. Default: in proportion."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Depth: size that images are resized to. Default: that of the weights."),
    ] = None,
    ratios: Ratios = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Segmentation, depth: also predict the mirrored image, and merge.")
    ] = False,
    window: Window = None,
    stride: Stride = None,
    scale_shift: ScaleShift = None,
    device: Device = None,
    out: Annotated[
        Path | None,
        typer.Option(help="New folder for the output. Default: runs/predict-...; with --json, nothing is written."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Run a trained model on images.

    Detectors: writes every image with its boxes (and masks), and detections.json in COCO's results format with all
    detections, also below --score-threshold; images.json maps the ids to images and categories. Files named as COCO's
    keep COCO's ids, so that `pvtctl eval coco --results` can score them.

    Segmentation: NAME.png has the label of each pixel (with a palette), NAME_view.png shows it over the image.

    Depth: NAME.png has 16 bits per pixel, with the scale in its metadata, NAME.npy 32-bit floats (metres, or inverse
    depth if the weights have no scale), NAME_view.png shows it in colours with a bar.

    Classifiers: prints the five most likely classes of every image.

    Files that are not images are listed and skipped. EXIF rotation is ignored, as in training.
    """
    from pvtctl.cli.predict._run import PredictRequest, run_predict

    run_predict(
        PredictRequest(
            images=images,
            weights=weights,
            backbone=backbone,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            max_detections=max_detections,
            short_side=short_side,
            long_side=long_side,
            size=size,
            ratios=parse_ratios(ratios),
            flip=flip,
            window=parse_size(window) if window else None,
            stride=parse_size(stride, least=1) if stride else None,
            scale_shift=parse_scale_shift(scale_shift),
            device=device,
            out=out,
            as_json=as_json,
        )
    )
