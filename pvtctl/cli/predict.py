"""`pvtctl predict`: run a trained model on images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._console import parse_size, print_json, print_text, table
from pvtctl.cli._options import AS_JSON, INSIDE, App, TestingOptions, argument, bundle, examples, option, shared
from pvtctl.cli._resolve_recipe import note
from pvtctl.errors import UsageError
from pvtctl.io.console import say
from pvtctl.io.files import require_place
from pvtctl.runs.paths import free_folder

if TYPE_CHECKING:
    from torch import Tensor

    from pvtctl.data.images import Reading
    from pvtctl.tasks.predict import Images
    from pvtctl.weights.describe import Inspected

app = App(rich_markup_mode=None)

EPILOG = examples(
    "pvtctl predict street.jpg --weights runs/my-detector",
    "pvtctl predict frames/ --weights detector.safetensors --score-threshold 0.5 --out drawn",
    "pvtctl predict frames/ --weights runs/my-segmenter --flip",
    "pvtctl predict room.jpg --weights dpt_hybrid_nyu --out depth",
    "pvtctl predict 'photos/**/*.jpg' --weights pvt_small --json",
)


NAMED = 5
"""Number of skipped files that are listed by name."""


@bundle
class PredictCommandOptions(TestingOptions):
    """Options of `pvtctl predict`; None if not given."""

    images: list[str] = argument(
        metavar="IMAGES...", help="Image files, folders of images (frames of a video), or quoted patterns."
    )
    weights: str | None = option(
        help="Checkpoint file, run directory, published name, hf:OWNER/NAME or timm:NAME.TAG. Required."
    )
    inside: str | None = shared(INSIDE)
    backbone: str | None = option(help="For weights of an unknown backbone: a name listed by `pvtctl models ls`.")
    score_threshold: float | None = option(
        min=0, max=1, help="Lowest score of detections to draw and count. Default: 0.3."
    )
    short_side: int | None = option(
        min=32, max=4096, help="Images are resized to this short side. Default: that of the weights, or 800."
    )
    long_side: int | None = option(min=32, max=8192, help="Limit of the long side. Default: in proportion.")
    size: tuple[int, int] | None = option(
        parse=parse_size, metavar="HxW", help="Depth: size that images are resized to. Default: that of the weights."
    )
    flip: bool = option(
        "--flip", default=False, help="Segmentation, depth: also predict the mirrored image, and merge."
    )
    out: Path | None = option(
        help="New folder for the output. Default: runs/predict-...; with --json, nothing is written."
    )
    as_json: bool = shared(AS_JSON)


@app.command("predict", epilog=EPILOG)
def predict(options: PredictCommandOptions) -> None:
    """Run a trained model on images.

    Detectors: writes every image with its boxes (and masks), and detections.json in COCO's results format with all
    detections, also below --score-threshold; images.json maps the ids to images and categories. Files named as COCO's
    keep COCO's ids, so that `pvtctl eval coco --results` can score them.

    Segmentation: NAME.png has the label of each pixel (with a palette), NAME_view.png shows it over the image.

    Depth: NAME.png has 16 bits per pixel, with the scale in its metadata, NAME.npy 32-bit floats (metres, or inverse
    depth if the weights have no scale), NAME_view.png shows it in colours with a bar.

    Classifiers: prints the five most likely classes of every image.

    Files that are not images are listed and skipped. Images are turned by their EXIF orientation, unless the model was
    trained with data.exif=ignore; 16-bit grey is read in the range of training.
    """
    if options.weights is None:
        raise UsageError(
            "predict needs --weights", "--weights FILE, the folder of a run, or a name of `pvtctl weights ls`"
        )
    if options.out is not None:
        require_new(options.out)
    from pvtctl.tasks.predict import find_images
    from pvtctl.weights.describe import inspect_checkpoint

    images = find_images(options.images)
    checkpoint = inspect_checkpoint(options.weights, options.backbone)
    _check_options(options, checkpoint)
    if checkpoint.task is not None:
        _predict(options, checkpoint, images)
    elif checkpoint.foreign is not None:
        raise UsageError(
            f"{checkpoint.path} holds {checkpoint.foreign}, which pvtctl does not build",
            "docs/checkpoints.md lists what is read",
        )
    else:
        raise UsageError(
            f"{checkpoint.path} has no head, so it cannot predict",
            f"train one: pvtctl finetune DATA --weights {options.weights}",
        )


def _check_options(options: PredictCommandOptions, checkpoint: Inspected) -> None:
    """Raise UsageError for an option that the weights' task does not use."""
    from pvtctl.tasks.base import PredictOptions
    from pvtctl.tasks.registry import TASK_SPECS, tasks_taking

    readers = {name: tasks_taking(name) for name in (*PredictOptions.__annotations__, "scale_shift")}
    readers["out"] = tuple(name for name, spec in TASK_SPECS.items() if spec.writes_predictions)
    task = checkpoint.task
    for name, tasks in readers.items():
        if task is not None and task not in tasks and getattr(options, name) not in (None, False):
            hint = "leave it out; --json prints everything" if name == "out" else "leave it out"
            raise UsageError(
                f"--{name.replace('_', '-')} is for {' and '.join(tasks)}, and {checkpoint.path} is for {task}", hint
            )


def _predict(options: PredictCommandOptions, checkpoint: Inspected, images: Images) -> None:
    """Predict all images, write the files, and print a table or JSON."""
    from pvtctl.engine import single
    from pvtctl.inference import EngineName
    from pvtctl.inference.engines import make_engine
    from pvtctl.models.fast_cpu.calibrate import calibrate_once
    from pvtctl.tasks.base import PredictionRequest, PredictOptions
    from pvtctl.tasks.reading import reading_of_meta
    from pvtctl.tasks.registry import task_spec

    spec = task_spec(str(checkpoint.task))
    said: Any = {name: getattr(options, name) for name in PredictOptions.__annotations__}
    out = options.out
    if out is None and spec.writes_predictions and not options.as_json:
        out = free_folder("predict", *(Path(part).name or part for part in (str(options.weights), options.images[0])))
    device = single(options.device).device
    calibrate_once(device.type, note)
    engine = make_engine(options.engine or EngineName.torch, device, say)
    engine.images = len(images.names)
    request = PredictionRequest(checkpoint, device, said, options.scale_shift, engine)
    writer = spec.prediction_writer(request, images, out)
    note(f"weights: {options.weights}, {writer.description}, by {engine.name}")
    reader = ImageReader(images, reading_of_meta(checkpoint.meta))
    files: dict[str, Path] = {}
    try:
        for name, number, pixels in reader.read("predict"):
            writer.add(name, number, pixels)
    finally:  # after Ctrl-C too: keep finished predictions, in complete files
        if len(writer):
            files = writer.finish()
    reader.report()
    if options.as_json:
        document = {"weights": options.weights, "backbone": checkpoint.backbone, "engine": engine.used}
        document |= writer.document()
        print_json(document | {"skipped": reader.skipped} | writer.places(files))
        return
    title, columns, rows = writer.table()
    if rows:
        table(title, columns, rows)
    else:
        print_text(title)
    if remark := writer.remark():
        say(remark)
    for name, path in files.items():
        print_text(f"{name}: {path}")


def require_new(out: Path) -> None:
    """Raise UsageError unless `out` is a folder that can be made, or an empty one."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} is there already", "name a new folder; nothing is ever overwritten")
    require_place(out)


class ImageReader:
    """Reads image files with a progress bar, without those that cannot be read."""

    def __init__(self, images: Images, reading: Reading | None = None) -> None:
        from pvtctl.data.images import AS_SHOWN

        self.images, self.reading = images, reading or AS_SHOWN
        self.skipped: dict[str, str] = {}
        """Name -> reason."""
        self.turned = self.stretched = 0
        """Images with an EXIF orientation, and of 16-bit grey without a known range."""

    def read(self, title: str) -> Iterator[tuple[str, int, Tensor]]:
        """Name, number and pixels, uint8 (3, H, W), of each image."""
        from pvtctl.data.images import BadImage
        from pvtctl.engine import Progress
        from pvtctl.tasks.predict import read_pixels

        with Progress(title, len(self.images.names), unit="images") as progress:
            for number, name in zip(self.images.ids, self.images.names, strict=True):
                try:
                    pixels, notes = read_pixels(self.images.folder / name, self.reading)
                except (BadImage, OSError) as error:
                    self.skipped[name] = getattr(error, "strerror", None) or str(error)
                else:
                    self.turned += notes.turned
                    self.stretched += notes.stretched
                    yield name, number, pixels
                progress.advance()

    def report(self) -> None:
        """Print what was skipped, and how images were read. Raises UsageError if all were skipped."""
        say_skipped_images(self.skipped)
        if self.turned:
            which = "1 image has" if self.turned == 1 else f"{self.turned} images have"
            done = "applied" if self.reading.exif else "ignored, as in training"
            say(f"note: {which} an EXIF rotation, which is {done}")
        if self.stretched:
            which = "1 image is" if self.stretched == 1 else f"{self.stretched} images are"
            say(f"note: {which} 16-bit grey, and the weights name no range for it: each is scaled by its own values")
        if len(self.skipped) == len(self.images.names):
            raise nothing_read(self.skipped)


def say_skipped_images(skipped: Mapping[str, str]) -> None:
    """List images that could not be read."""
    for name, reason in list(skipped.items())[:NAMED]:
        say(f"skipped {name}: {reason}")
    if len(skipped) > NAMED:
        say(f"skipped {len(skipped) - NAMED} more")


def nothing_read(skipped: Mapping[str, str]) -> UsageError:
    """The error if no image can be read."""
    name, reason = next(iter(skipped.items()))
    what = "the image could not" if len(skipped) == 1 else f"none of the {len(skipped)} images could"
    return UsageError(
        f"{what} be read; {name}: {reason}",
        "copy it again; of a video, write frames first: ffmpeg -i clip.mp4 frames/%06d.jpg",
    )
