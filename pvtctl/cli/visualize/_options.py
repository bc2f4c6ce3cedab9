"""Options and output shared by the commands of `pvtctl visualize`. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvtctl.cli._console import print_json
from pvtctl.cli._resolve_recipe import note
from pvtctl.errors import UsageError
from pvtctl.io.files import require_place
from pvtctl.runs.paths import runs_root

if TYPE_CHECKING:
    from torch import Tensor

    from pvtctl.tasks.predict import Images

ENDINGS = (".png", ".svg")
OTHER_ENDINGS = (".jpg", ".jpeg", ".pdf", ".gif", ".webp", ".html")
"""Extensions that mark `--out` as a file rather than a folder."""


class PictureFormat(StrEnum):
    """File format of pictures."""

    png = "png"
    svg = "svg"
    both = "both"


ImageWords = Annotated[
    list[str], typer.Argument(metavar="IMAGES...", help="Image files, folders of images, or quoted patterns.")
]
Weights = Annotated[str | None, typer.Option(help="Checkpoint file, run directory or published name.")]
Backbone = Annotated[
    str | None, typer.Option(help="A name listed by `pvtctl models ls`; without --weights, randomly initialised.")
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="N|HxW",
        help="Images are resized to this short side, or to this height and width. Default: the test size of the weights.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="A new .png or .svg for one picture, else a new folder. Default: runs/visualize-..."),
]
FormatOption = Annotated[PictureFormat | None, typer.Option("--format", help="png (default), svg, or both.")]
Device = Annotated[str | None, typer.Option(help="cuda or cpu. Default: cuda if available.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def parse_image_size(text: str | None) -> int | tuple[int, int] | None:
    """`224` -> the short side 224; `256x320` -> (256, 320). Raises UsageError."""
    from pvtctl.cli._console import parse_size

    if text is None:
        return None
    size = parse_size(text)
    return size if "x" in text.lower() else size[0]


@dataclass
class Pictures:
    """Output of one command: the destination of its pictures, and those written so far.

    A single picture is written to the file that `--out` names; otherwise pictures go to a folder, with an index.html if
    there are several.
    """

    folder: Path
    endings: tuple[str, ...]
    file: str | None = None
    """Name, without extension, of the single picture that `--out` names."""
    written: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, command: str, label: str, count: int, out: Path | None, form: PictureFormat | None) -> Pictures:
        """Prepare the output. `label` is used in the name of the default folder; `count` is the number of pictures to
        come. Raises UsageError if `--out` exists or does not fit."""
        endings = _endings(form)
        if out is None:
            return cls(_free_folder(command, label), endings)
        if out.suffix.lower() in OTHER_ENDINGS and not out.is_dir():
            raise UsageError(f"--out {out}: pictures are .png or .svg", "name a new file that ends so, or a new folder")
        if out.suffix.lower() not in ENDINGS:
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise UsageError(f"--out {out} is there already", "name a new folder; nothing is ever overwritten")
            require_place(out)
            return cls(out, endings)
        if count > 1:
            raise UsageError(f"--out {out} is one file, and there will be {count} pictures", "name a new folder")
        if form not in (None, PictureFormat.both, PictureFormat(out.suffix.lower()[1:])):
            raise UsageError(f"--out {out} is no .{form}", "leave --format out, or write --format both")
        endings = endings if form is PictureFormat.both else (out.suffix.lower(),)
        for ending in endings:
            if out.with_suffix(ending).exists():
                raise UsageError(
                    f"--out {out.with_suffix(ending)} is there already", "name a new file; nothing is ever overwritten"
                )
        require_place(out.parent)
        return cls(out.parent, endings, out.stem)

    def add(
        self, name: str, draw: Callable[[Path], object], *, title: str, caption: str = "", **facts: Any
    ) -> list[Path]:
        """Write the picture `name` (a relative path without extension) with `draw(path)`, once per extension. `facts`
        are printed with `--json`."""
        paths = [self.folder / f"{self.file or name}{ending}" for ending in self.endings]
        for path in paths:
            draw(path)
        self.written.append({"title": title, "caption": caption, "files": paths, "facts": facts})
        return paths

    def close(self, title: str, lead: str, document: dict[str, Any], *, as_json: bool) -> None:
        """Write the gallery if there are several pictures, and print what was written."""
        index = self.folder / "index.html" if len(self.written) > 1 else None
        if index is not None:
            from pvtctl.views.gallery import GalleryEntry, write_gallery

            entries = [GalleryEntry(each["title"], each["caption"], each["files"][0]) for each in self.written]
            write_gallery(index, title, lead, entries)
        if as_json:
            pictures = [{**each["facts"], "files": [str(path) for path in each["files"]]} for each in self.written]
            print_json({**document, "pictures": pictures, "gallery": str(index) if index else None})
            return
        for each in self.written:
            for path in each["files"]:
                print(path)
        if index is not None:
            print(index)


def look_at_all(images: Images, look: Callable[[Path, Tensor], None]) -> dict[str, str]:
    """Call `look(path, pixels)` for every image that can be read, pixels uint8 (3, H, W), with a progress bar. Files
    that are not images are reported and skipped; returns name -> reason. Raises PvtctlError if none can be read."""
    from pvtctl.cli.predict._run import nothing_read, say_skipped_images
    from pvtctl.data.images import BadImage
    from pvtctl.engine import Progress
    from pvtctl.tasks.predict import read_pixels

    skipped: dict[str, str] = {}
    turned = 0
    with Progress("visualize", len(images.names), unit="images") as progress:
        for name in images.names:
            try:
                pixels, asks = read_pixels(images.folder / name)
            except (BadImage, OSError) as error:
                skipped[name] = getattr(error, "strerror", None) or str(error)
            else:
                turned += asks
                look(images.folder / name, pixels)
            progress.advance()
    say_skipped_images(skipped, turned)
    if len(skipped) == len(images.names):
        raise nothing_read(skipped)
    return skipped


def picture_names(names: Sequence[str]) -> list[str]:
    """Names of images without extension, made unique if two differ only in it."""
    stems = [str(Path(name).with_suffix("")) for name in names]
    return [stem if stems.count(stem) == 1 else name for stem, name in zip(stems, names, strict=True)]


def say_model(what: str, *, trained: bool, size: str) -> None:
    """Print the model and image size, and a note if the weights are random."""
    note(f"{what}; {size}")
    if not trained:
        note("random weights: the pictures show the start of training, not what a trained model does (see --weights)")


def _endings(form: PictureFormat | None) -> tuple[str, ...]:
    match form:
        case PictureFormat.both:
            return ENDINGS
        case PictureFormat.svg:
            return (".svg",)
        case _:
            return (".png",)


def _free_folder(command: str, label: str) -> Path:
    """`<runs>/visualize-<command>-<label>`, with a number if it exists."""
    name = "-".join(["visualize", command, re.sub(r"[^\w.+-]+", "_", label)])
    out, number = runs_root() / name, 2
    while out.exists():
        out, number = runs_root() / f"{name}-{number}", number + 1
    return out
