"""Materials that correlate with the class, as in photographs: an easier setting of the built-in `scenes`.

By default only shape distinguishes the classes of `scenes`, and a transformer without convolutions needs more images
than a small experiment has before it learns anything from that. With typical materials nine objects in ten have the hue
of their class, which it shares with one other class: one of the two is plain, the other is patterned. Everything else,
from the shapes to the light and the clutter, is as in the scene of the same index without them.
"""

from __future__ import annotations

from dataclasses import replace

from pvtctl.data.scenes.objects import SCENE_CLASSES, Draws
from pvtctl.data.scenes.render import Colour, Material, Thing

TYPICAL_SHARE = 0.9
"""Of the objects; the others keep the material of the default setting."""
HUES = len(SCENE_CLASSES) // 2


def dress(things: list[Thing], draws: Draws) -> list[Thing]:
    """The same things, most of them in the material of their class; stones stay as they are."""
    return [
        thing if thing.kind is None else replace(thing, material=_typical(thing.kind, thing.material, draws))
        for thing in things
    ]


def _typical(kind: int, material: Material, draws: Draws) -> Material:
    # every object draws as often as any other, whatever becomes of it
    typical = draws.chance(TYPICAL_SHARE)
    turn, saturation, value = draws.between(-0.04, 0.04), draws.between(0.55, 0.95), draws.between(0.5, 0.95)
    bright, pattern = draws.chance(0.5), 1 + draws.below(3)
    if not typical:
        return material
    first = _colour(kind % HUES / HUES + turn, saturation, value)
    if kind < HUES:
        return replace(material, first=first, second=first, pattern=0)
    red, green, blue = (1 - (1 - part) * 0.35 if bright else part * 0.35 for part in first)
    return replace(material, first=first, second=(red, green, blue), pattern=pattern)


def _colour(turn: float, saturation: float, value: float) -> Colour:
    h = 6 * (turn % 1.0)
    red, green, blue = (min(max(abs((h + k) % 6 - 3) - 1, 0.0), 1.0) * saturation + 1 - saturation for k in (0, 4, 2))
    return value * red, value * green, value * blue
