"""`pvtctl visualize`: attention, features, predictions, architectures and curves as pictures."""

from __future__ import annotations

from pvtctl.cli._options import App
from pvtctl.cli.visualize import (
    _architecture,
    _attention,
    _augmentations,
    _curves,
    _features,
    _positions,
    _predictions,
)

app = App(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Draw attention, features, predictions, architectures and curves as PNG or SVG; several pictures also give one "
    "index.html. `pvtctl visualize COMMAND --help` shows examples.",
)


@app.callback()
def _root() -> None:
    """Each command is in `_<command>.py`."""


app.command("attention", epilog=_attention.EPILOG)(_attention.attention_command)
app.command("architecture", epilog=_architecture.EPILOG)(_architecture.architecture)
app.command("features", epilog=_features.EPILOG)(_features.features)
app.command("predictions", epilog=_predictions.EPILOG)(_predictions.predictions)
app.command("curves", epilog=_curves.EPILOG)(_curves.curves)
app.command("augmentations", epilog=_augmentations.EPILOG)(_augmentations.augmentations)
app.command("position-embeddings", epilog=_positions.EPILOG)(_positions.position_embeddings)
