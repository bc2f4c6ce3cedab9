"""`pvtctl visualize features`: the levels of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvtctl.cli.visualize._options import (
    AsJson,
    Backbone,
    Device,
    FormatOption,
    ImageSize,
    ImageWords,
    Out,
    Pictures,
    Weights,
    parse_image_size,
    picture_names,
    say_model,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pvtctl.explain.backbone import PyramidPredictor
    from pvtctl.tasks.predict import Images


EPILOG = """Examples:

pvtctl visualize features street.jpg --weights pvt_small --size 512

pvtctl visualize features frames/ --weights runs/my-detector --level C3,P3 --out features

pvtctl visualize features street.jpg --backbone pvt_v2_b0 --format svg
"""


def features(
    images: ImageWords,
    weights: Weights = None,
    backbone: Backbone = None,
    size: ImageSize = None,
    level: Annotated[
        list[str] | None,
        typer.Option(help="Levels to draw, with commas: C2 to C5 of the backbone, P2 to P7 of a neck. Default: all."),
    ] = None,
    device: Device = None,
    out: Out = None,
    form: FormatOption = None,
    as_json: AsJson = False,
) -> None:
    """Draw the levels of a model's pyramid: their principal components as colours, and their energy.

    The first three principal components of a level are red, green and blue. They are computed over all images of the
    call, so that equal colours mean equal features in all pictures. Energy is the norm of each cell's feature vector.
    The result is deterministic.
    """
    from pvtctl.cli.predict._run import nothing_read, say_skipped_images
    from pvtctl.engine import single
    from pvtctl.explain.backbone import PyramidPredictor
    from pvtctl.tasks.predict import find_images

    found = find_images(images)
    use = PyramidPredictor(weights, backbone, single(device).device, size=parse_image_size(size))
    levels = use.check_levels([name for word in level or () for name in word.split(",")])
    label = f"{use.name}-{Path(images[0]).name}"
    pictures = Pictures.open("features", label, len(found.names), out, form)
    say_model(use.what, trained=use.trained, size=use.size_in_words)
    pyramids = _Pyramids(use, found, levels)
    say_skipped_images(pyramids.skipped, len(pyramids.turned))
    if not pyramids.names:
        raise nothing_read(pyramids.skipped)
    pyramids.draw(pictures)
    pictures.close(
        f"Features of {use.what}",
        f"{', '.join(levels)}. The colours of a level mean the same in all pictures.",
        {
            "model": use.what,
            "backbone": use.name,
            "trained": use.trained,
            "levels": [{"name": name, "variance_share": round(pyramids.shares[name], 5)} for name in levels],
            "skipped": pyramids.skipped,
        },
        as_json=as_json,
    )


class _Pyramids:
    """The levels of all images. Each image is run twice: first to fit the components of each level, then to project its
    cells onto them, so that only four numbers per cell are stored instead of hundreds of channels."""

    def __init__(self, use: PyramidPredictor, images: Images, levels: Sequence[str]) -> None:
        self.use, self.images, self.levels = use, images, levels
        self.names: list[str] = []
        self.skipped: dict[str, str] = {}
        self.turned: set[str] = set()
        """Number of images with EXIF rotation."""
        self.channels: dict[str, int] = {}
        self.components = self._fit()
        self.shares = {name: each.share for name, each in self.components.items()}

    def _fit(self) -> dict[str, Any]:
        from pvtctl.data.images import BadImage
        from pvtctl.engine import Progress
        from pvtctl.explain.feature_pictures import ComponentFit

        fits = {name: ComponentFit() for name in self.levels}
        with Progress("features", len(self.images.names), unit="images") as progress:
            for name in self.images.names:
                try:
                    maps = self.use.maps(self._pixels(name))
                except (BadImage, OSError) as error:
                    self.skipped[name] = getattr(error, "strerror", None) or str(error)
                else:
                    self.names.append(name)
                    for level, fit in fits.items():
                        fit.add(maps[level])
                        self.channels[level] = len(maps[level])
                progress.advance()
        return {level: fit.components() for level, fit in fits.items()} if self.names else {}

    def _pixels(self, name: str) -> Any:
        from pvtctl.tasks.predict import read_pixels

        pixels, asks = read_pixels(self.images.folder / name)
        if asks:
            self.turned.add(name)
        return self.use.resized(pixels)

    def draw(self, pictures: Pictures) -> None:
        """Draw one picture per image."""
        from pvtctl.explain.feature_pictures import draw_features, energy_of, to_levels

        placed: dict[str, list[NDArray[Any]]] = {level: [] for level in self.levels}
        energies: dict[str, list[NDArray[Any]]] = {level: [] for level in self.levels}
        for name in self.names:
            maps = self.use.maps(self._pixels(name))
            for level in self.levels:
                placed[level].append(self.components[level].of(maps[level]))
                energies[level].append(energy_of(maps[level]))
        drawn = {
            level: to_levels(level, self.channels[level], self.shares[level], placed[level], energies[level])
            for level in self.levels
        }
        kinds = {"C": f"Maps of the backbone,\n{self.use.name}", "P": "Maps of the neck"}
        for at, (name, stem) in enumerate(zip(self.names, picture_names(self.names), strict=True)):
            image = self._pixels(name).permute(1, 2, 0).contiguous().numpy()
            groups = {
                title: [drawn[level][at] for level in self.levels if level.startswith(letter)]
                for letter, title in kinds.items()
                if any(level.startswith(letter) for level in self.levels)
            }
            pictures.add(
                stem,
                partial(draw_features, image=image, groups=groups, title=f"Features of {name}\n{self.use.what}"),
                title=name,
                caption=f"Components and energy of {', '.join(self.levels)}",
                file=str(self.images.folder / name),
            )
