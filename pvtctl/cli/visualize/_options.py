"""Options and output shared by the commands of `pvtctl visualize`. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pvtctl.cli._console import parse_size, print_json, print_text
from pvtctl.cli._options import AS_JSON, DEVICE, INSIDE, argument, bundle, option, shared
from pvtctl.cli._resolve_recipe import note
from pvtctl.cli.predict import require_new
from pvtctl.errors import UsageError
from pvtctl.io.files import require_place
from pvtctl.runs.paths import free_folder

OTHER_ENDINGS = (".jpg", ".jpeg", ".pdf", ".gif", ".webp", ".html")
"""Extensions that mark `--out` as a file rather than a folder."""


class PictureFormat(StrEnum):
    """File format of pictures."""

    png = "png"
    svg = "svg"
    both = "both"


ENDINGS = {PictureFormat.png: (".png",), PictureFormat.svg: (".svg",), PictureFormat.both: (".png", ".svg")}


def parse_image_size(text: str) -> int | tuple[int, int]:
    """`224` -> the short side 224; `256x320` -> (256, 320). Raises UsageError."""
    size = parse_size(text)
    return size if "x" in text.lower() else size[0]


@bundle
class ModelChoice:
    """The model of which pictures are made."""

    weights: str | None = option(help="Checkpoint file, run directory, published name, hf:OWNER/NAME or timm:NAME.TAG.")
    inside: str | None = shared(INSIDE)
    backbone: str | None = option(help="A name listed by `pvtctl models ls`; without --weights, randomly initialised.")


@bundle
class ImageModel(ModelChoice):
    """Images, and the model that they are shown to."""

    images: list[str] = argument(metavar="IMAGES...", help="Image files, folders of images, or quoted patterns.")
    size: int | tuple[int, int] | None = option(
        "--size",
        parse=parse_image_size,
        metavar="N|HxW",
        help="Images are resized to this short side, or to this height and width. Default: the test size of the weights.",
    )
    device: str | None = shared(DEVICE)


@bundle
class Output:
    """Where pictures are written, and how that is reported."""

    out: Path | None = option(help="A new .png or .svg for one picture, else a new folder. Default: runs/visualize-...")
    form: PictureFormat | None = option("--format", help="png (default), svg, or both.")
    as_json: bool = shared(AS_JSON)

    def open(self, command: str, label: str, count: int) -> Pictures:
        """Prepare the output. `label` is used in the name of the default folder; `count` is the number of pictures to
        come. Raises UsageError if `--out` exists or does not fit."""
        out, form, endings = self.out, self.form, ENDINGS[self.form or PictureFormat.png]
        if out is None:
            return Pictures(free_folder("visualize", command, label), endings, self.as_json)
        ending = out.suffix.lower()
        if ending in OTHER_ENDINGS and not out.is_dir():
            raise UsageError(f"--out {out}: pictures are .png or .svg", "name a new file that ends so, or a new folder")
        if ending not in ENDINGS[PictureFormat.both]:
            require_new(out)
            return Pictures(out, endings, self.as_json)
        if count > 1:
            raise UsageError(f"--out {out} is one file, and there will be {count} pictures", "name a new folder")
        if form not in (None, PictureFormat.both, PictureFormat(ending[1:])):
            raise UsageError(f"--out {out} is no .{form}", "leave --format out, or write --format both")
        endings = endings if form is PictureFormat.both else (ending,)
        for place in map(out.with_suffix, endings):
            if place.exists():
                raise UsageError(f"--out {place} is there already", "name a new file; nothing is ever overwritten")
        require_place(out.parent)
        return Pictures(out.parent, endings, self.as_json, out.stem)


@dataclass
class Pictures:
    """The pictures of one command: their destination, and those written so far.

    A single picture is written to the file that `--out` names; otherwise pictures go to a folder, with an index.html if
    there are several.
    """

    folder: Path
    endings: tuple[str, ...]
    as_json: bool
    file: str | None = None
    """Name, without extension, of the single picture that `--out` names."""
    written: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, draw: Callable[[Path], object], *, title: str, caption: str = "", **facts: Any) -> None:
        """Write the picture `name` (a relative path without extension) with `draw(path)`, once per extension. `facts`
        are printed with `--json`."""
        paths = [self.folder / f"{self.file or name}{ending}" for ending in self.endings]
        for path in paths:
            draw(path)
        self.written.append({"title": title, "caption": caption, "files": paths, "facts": facts})

    def close(self, title: str, lead: str, document: dict[str, Any]) -> None:
        """Write the gallery if there are several pictures, and print what was written."""
        index = self.folder / "index.html" if len(self.written) > 1 else None
        if index is not None:
            from pvtctl.views.report import GalleryEntry, write_gallery

            entries = [GalleryEntry(each["title"], each["caption"], each["files"][0]) for each in self.written]
            write_gallery(index, title, lead, entries)
        if self.as_json:
            pictures = [{**each["facts"], "files": [str(path) for path in each["files"]]} for each in self.written]
            print_json({**document, "pictures": pictures, "gallery": str(index) if index else None})
            return
        files = [path for each in self.written for path in each["files"]]
        print_text("\n".join(map(str, [*files, *([index] if index else [])])))


def picture_names(names: Sequence[str]) -> list[str]:
    """Names of images without extension, made unique if two differ only in it."""
    stems = [str(Path(name).with_suffix("")) for name in names]
    return [stem if stems.count(stem) == 1 else name for stem, name in zip(stems, names, strict=True)]


def say_model(what: str, *, trained: bool, size: str) -> None:
    """Print the model and image size, and a note if the weights are random."""
    note(f"{what}; {size}")
    if not trained:
        note("random weights: the pictures show the start of training, not what a trained model does (see --weights)")
