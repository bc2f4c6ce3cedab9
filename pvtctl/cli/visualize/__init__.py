"""`pvtctl visualize`: attention, features, predictions, architectures and curves as pictures."""

from __future__ import annotations

import typer

from pvtctl.cli.visualize import _architecture as _visualize_architecture
from pvtctl.cli.visualize import _attention as _visualize_attention
from pvtctl.cli.visualize import _augmentations as _visualize_augmentations
from pvtctl.cli.visualize import _curves as _visualize_curves
from pvtctl.cli.visualize import _features as _visualize_features
from pvtctl.cli.visualize import _positions as _visualize_positions
from pvtctl.cli.visualize import _predictions as _visualize_predictions

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Draw attention, features, predictions, architectures and curves as PNG or SVG; several pictures also give one "
    "index.html. `pvtctl visualize COMMAND --help` shows examples.",
)


@app.callback()
def _root() -> None:
    """Each command is in `_<command>.py`."""


app.command("attention", epilog=_visualize_attention.EPILOG)(_visualize_attention.attention_command)
app.command("architecture", epilog=_visualize_architecture.EPILOG)(_visualize_architecture.architecture)
app.command("features", epilog=_visualize_features.EPILOG)(_visualize_features.features)
app.command("predictions", epilog=_visualize_predictions.EPILOG)(_visualize_predictions.predictions)
app.command("curves", epilog=_visualize_curves.EPILOG)(_visualize_curves.curves)
app.command("augmentations", epilog=_visualize_augmentations.EPILOG)(_visualize_augmentations.augmentations)
app.command("position-embeddings", epilog=_visualize_positions.EPILOG)(_visualize_positions.position_embeddings)
