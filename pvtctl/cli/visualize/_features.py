"""`pvtctl visualize features`: the levels of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pvtctl.cli._options import examples
from pvtctl.cli.predict import ImageReader
from pvtctl.cli.visualize._options import (
    ImageModel,
    Output,
    Pictures,
    picture_names,
    say_model,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from pvtctl.explain.backbone import PyramidPredictor
    from pvtctl.tasks.predict import Images


EPILOG = examples(
    "pvtctl visualize features street.jpg --weights pvt_small --size 512",
    "pvtctl visualize features frames/ --weights runs/my-detector --level C3,P3 --out features",
    "pvtctl visualize features street.jpg --backbone pvt_v2_b0 --format svg",
)


def features(
    *,
    model: ImageModel,
    level: list[str] = typer.Option(
        [], help="Levels to draw, with commas: C2 to C5 of the backbone, P2 to P7 of a neck. Default: all."
    ),
    output: Output,
) -> None:
    """Draw the levels of a model's pyramid: their principal components as colours, and their energy.

    The first three principal components of a level are red, green and blue. They are computed over all images of the
    call, so that equal colours mean equal features in all pictures. Energy is the norm of each cell's feature vector.
    The result is deterministic.
    """
    from pvtctl.engine import single
    from pvtctl.explain.backbone import PyramidPredictor
    from pvtctl.tasks.predict import find_images

    found = find_images(model.images)
    use = PyramidPredictor(model.weights, model.backbone, single(model.device).device, size=model.size)
    levels = use.check_levels([name for word in level for name in word.split(",")])
    label = f"{use.name}-{Path(model.images[0]).name}"
    pictures = output.open("features", label, len(found.names))
    say_model(use.what, trained=use.trained, size=use.size_in_words)
    pyramids = _Pyramids(use, found, levels)
    pyramids.draw(pictures)
    pictures.close(
        f"Features of {use.what}",
        f"{', '.join(levels)}. The colours of a level mean the same in all pictures.",
        {
            "model": use.what,
            "backbone": use.name,
            "trained": use.trained,
            "levels": [{"name": name, "variance_share": round(pyramids.shares[name], 5)} for name in levels],
            "skipped": pyramids.reader.skipped,
        },
    )


class _Pyramids:
    """The levels of all images. Each image is run twice: first to fit the components of each level, then to project its
    cells onto them, so that only four numbers per cell are stored instead of hundreds of channels."""

    def __init__(self, use: PyramidPredictor, images: Images, levels: Sequence[str]) -> None:
        """Raises PvtctlError if no image can be read."""
        from pvtctl.explain.feature_pictures import ComponentFit

        self.use, self.images, self.levels = use, images, levels
        self.names: list[str] = []
        self.channels: dict[str, int] = {}
        self.reader = ImageReader(images)
        fits = {level: ComponentFit() for level in levels}
        for name, _, pixels in self.reader.read("features"):
            self.names.append(name)
            maps = use.maps(use.resized(pixels))
            for level, fit in fits.items():
                fit.add(maps[level])
                self.channels[level] = len(maps[level])
        self.reader.report()
        self.components = {level: fit.components() for level, fit in fits.items()}
        self.shares = {name: each.share for name, each in self.components.items()}

    def _pixels(self, name: str) -> Tensor:
        from pvtctl.tasks.predict import read_pixels

        return self.use.resized(read_pixels(self.images.folder / name)[0])

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
