"""`pvtctl visualize position-embeddings`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from pvtctl.cli._console import parse_size
from pvtctl.cli._options import examples
from pvtctl.cli.visualize._options import ModelChoice, Output, say_model
from pvtctl.errors import UsageError

if TYPE_CHECKING:
    from pvtctl.explain.positions import PositionTable, Similarities

EPILOG = examples(
    "pvtctl visualize position-embeddings --weights pvt_small --size 384x640",
    "pvtctl visualize position-embeddings --weights deit_small_patch16 --cells 7 --out positions.svg",
)


def position_embeddings(
    *,
    model: ModelChoice,
    size: str | None = typer.Option(None, metavar="HxW", help="Also draw the tables resized for images of this size."),
    cells: int = typer.Option(5, min=1, max=14, help="Cells per side that are compared with all others."),
    output: Output,
) -> None:
    """Draw the cosine similarity of learned position embeddings: of some cells of each table with all cells.

    Each small map belongs to one cell (the dot), and the maps are arranged like the cells. With --size, the learned
    table is shown next to the resized one. For PVT v1 (one table per stage), ViT, DeiT and vit_hybrid.
    """
    wanted = parse_size(size) if size else None
    from pvtctl.engine import single
    from pvtctl.explain.backbone import BackbonePredictor
    from pvtctl.explain.positions import draw_positions, position_tables
    from pvtctl.views.figure import save

    use = BackbonePredictor(model.weights, model.backbone, single("cpu").device)
    tables = position_tables(use.model)
    pictures = output.open("position-embeddings", use.name, 1)
    say_model(use.what, trained=use.trained, size=f"tables of {', '.join(_by(table.grid) for table in tables)} cells")
    trained = "learned" if use.trained else "not trained yet"
    rows: list[list[Similarities]] = []
    facts: list[dict[str, Any]] = []
    for table in tables:
        both = [table]
        if wanted is not None and table.grid_at(wanted) != table.grid:
            both.append(table.resized(table.grid_at(wanted)))
        rows.append([_similarities(each, cells, trained if each is table else "resized") for each in both])
        facts.append({"name": table.name, "grids": [list(each.grid) for each in both]})
    if wanted is not None and all(len(row) == 1 for row in rows):
        raise UsageError(
            f"the tables were learned at {size}: nothing is resized", "name another --size, or leave it out"
        )
    title = f"Position embeddings of {use.what}"
    figure = draw_positions(rows, title=title)
    pictures.add(use.name, partial(save, figure, dpi=150), title=title, tables=facts)
    pictures.close(title, "", {"model": use.what, "backbone": use.name, "trained": use.trained})


def _similarities(table: PositionTable, cells: int, how: str) -> Similarities:
    from pvtctl.explain.positions import Similarities, spread_places

    places = spread_places(table.grid, cells)
    return Similarities(f"{table.name}: {_by(table.grid)} cells, {how}", table.similarity(places), places)


def _by(grid: tuple[int, int]) -> str:
    return f"{grid[0]}×{grid[1]}"
