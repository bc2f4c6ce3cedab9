"""Composes and draws one scene of the built-in `scenes` data.

A camera without tilt is `height` metres above the ground; a ground point at distance Z is
horizon + focal * height / Z below the top, all in units of the image's short side. Objects rest on the ground, so
their size in the image, the row of their base and their depth agree. The content of a scene does not depend on the size
at which it is drawn. Everything is drawn at twice the size and averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pvtctl.data.scenes.objects import SCENE_CLASSES, Draws, Part, build_object
from pvtctl.data.scenes.raster import Floats, Surface, View, cast_shadow, see_object

FLOOR, WALL, SKY, STONE = -1, -2, -3, -4
"""Values of the drawn `ids` for pixels that show no object (objects count from 0)."""

Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Camera:
    """Lengths in the image are in units of its short side, from the top and from the middle column."""

    focal: float
    height: float
    horizon: float
    far: float
    """Distance of the wall, or of the edge of the ground under a sky, in metres."""

    def row_of(self, distance: float) -> float:
        """Where a ground point at this distance appears."""
        return self.horizon + self.focal * self.height / distance

    def distance_of(self, row: float) -> float:
        """Distance of the ground seen at `row`."""
        return self.focal * self.height / (row - self.horizon)


@dataclass(frozen=True, slots=True)
class Material:
    """Two colours and the pattern that mixes them."""

    first: Colour
    second: Colour
    pattern: int
    frequency: float
    turn: tuple[float, float]
    gloss: float


@dataclass(frozen=True, slots=True)
class Thing:
    """An object to draw: its class (None: a stone), where it stands, its solids and its material."""

    kind: int | None
    row: float
    column: float
    distance: float
    parts: list[Part]
    material: Material


class Canvas:
    """What has been drawn so far, at twice the final size."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.short = min(size)
        height, width = 2 * size[0], 2 * size[1]
        self.y = ((np.arange(height) + 0.5) / (2 * self.short)).astype(np.float32)
        self.x = ((np.arange(width) + 0.5 - width / 2) / (2 * self.short)).astype(np.float32)
        self.colour = np.empty((3, height, width), np.float32)
        self.depth = np.full((height, width), np.float32(1e9))
        self.ids = np.full((height, width), SKY, np.int16)


def hue(draws: Draws, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """A random colour."""
    h, s, v = 6 * draws.unit(), draws.between(*saturation), draws.between(*value)
    rgb = [min(max(abs((h + k) % 6 - 3) - 1, 0.0), 1.0) for k in (0, 4, 2)]
    return (v * (1 - s + s * rgb[0]), v * (1 - s + s * rgb[1]), v * (1 - s + s * rgb[2]))


def draw_material(draws: Draws, frequency: tuple[float, float], *, calm: bool = False) -> Material:
    """A random material, drawn alike for objects of every class; `calm` is for ground and walls."""
    saturation, contrast = (0.5, draws.between(0.05, 0.45)) if calm else (0.9, draws.between(0.1, 0.8))
    first = hue(draws, (0.1, saturation), (0.4, 0.95))
    other = hue(draws, (0.1, saturation), (0.2, 0.95))
    mixed = [a + (b - a) * contrast for a, b in zip(first, other, strict=True)]
    c = draws.between(0.3, 1.0)
    return Material(
        first,
        (mixed[0], mixed[1], mixed[2]),
        pattern=max(draws.below(NUM_PATTERNS + 1) - 1, 0),
        frequency=draws.between(*frequency),
        turn=(c, (1 - c * c) ** 0.5),
        gloss=draws.between(0.2, 0.6) if draws.chance(0.4) else 0.0,
    )


def _wave(t: Floats) -> Floats:
    """Triangle wave of period 1 between 0 and 1."""
    return np.abs(t - np.floor(t) - np.float32(0.5)) * 2


def _step(t: Floats, steepness: float) -> Floats:
    return np.clip(t * steepness + 0.5, 0, 1)


NUM_PATTERNS = 6


def mix_of(material: Material, a: Floats, b: Floats, c: Floats | float) -> Floats | float:
    """Share of the second colour at the points (a, b, c) metres; the arrays broadcast."""
    frequency, (p, q) = material.frequency, material.turn
    match material.pattern:
        case 0:
            return 0.0
        case 1:
            return _step(_wave((a * p + b * q + c * 0.3) * frequency) - 0.5, 6.0)
        case 2:
            checks = (_wave(a * frequency) - 0.5) * (_wave(b * frequency) - 0.5)
            return _step(checks * (_wave(c * frequency) - 0.5) * 4 if isinstance(c, np.ndarray) else checks, 30.0)
        case 3:
            u, v = _wave((a * p + b * q) * frequency) - 1, _wave((b * p - a * q + c) * frequency) - 1
            return _step(0.35 - (u * u + v * v), 5.0)
        case 4:
            return _wave(
                (a + c * 0.5) * frequency * 0.7 + _wave(b * frequency * 0.9 + _wave(a * frequency * 1.7) * 0.3) * 0.6
            )
        case _:
            return _wave((a * p + c) * frequency * 2.3) * _wave((b * p - a * q) * frequency * 1.9)


def _paint(
    target: Floats, where: NDArray[np.bool_] | None, material: Material, mix: Floats | float, light: Floats | float
) -> None:
    """Write the material into (3, h, w) `target`."""
    for channel in range(3):
        first, second = material.first[channel], material.second[channel]
        value = (mix * (second - first) + first) * light
        if where is None:
            target[channel] = value
        else:
            np.copyto(target[channel], value, where=where)


def _cloud(draws: Draws, shape: tuple[int, int], cells: int) -> Floats:
    """Smooth noise between 0 and 1, interpolated from a random lattice of cells x cells."""
    lattice = draws.octets((cells + 1) ** 2).reshape(cells + 1, cells + 1).astype(np.float32) / 255

    def along(length: int) -> tuple[NDArray[np.int64], Floats]:
        at = ((np.arange(length) + 0.5) * (cells / length)).astype(np.float32)
        low = at.astype(np.int64)
        return low, at - low.astype(np.float32)

    (rows, v), (columns, u) = along(shape[0]), along(shape[1])
    across = lattice[:, columns] * (1 - u) + lattice[:, columns + 1] * u
    upper = across[rows]
    return upper + (across[rows + 1] - upper) * v[:, None]


def _draw_room(canvas: Canvas, camera: Camera, draws: Draws) -> None:
    """Ground, and a wall or a sky, with their textures and flat clutter."""
    outdoors = draws.chance(0.35)
    base = int(np.searchsorted(canvas.y, camera.row_of(camera.far)))
    wall, ground = slice(0, base), slice(base, len(canvas.y))
    cloud = _cloud(draws, canvas.depth.shape, 3 + draws.below(5))
    fine = _cloud(draws, canvas.depth.shape, 12 + draws.below(20))
    mottle = cloud * draws.between(0.1, 0.4) + fine * draws.between(0.0, 0.25) + draws.between(0.55, 0.8)

    material = draw_material(draws, (0.6, 2.5), calm=True)
    scale = camera.far / camera.focal
    wall_x, wall_y = canvas.x[None, :] * scale, canvas.y[wall, None] * scale
    if outdoors:
        sky = hue(draws, (0.05, 0.5), (0.6, 1.0))
        rise = canvas.y[wall, None] * draws.between(0.1, 0.6)
        for channel in range(3):
            canvas.colour[channel, wall] = sky[channel] + (0.95 - sky[channel]) * (cloud[wall] * 0.7 + rise)
    else:
        _paint(canvas.colour[:, wall], None, material, mix_of(material, wall_x, wall_y, 0.0), mottle[wall])
        canvas.depth[wall], canvas.ids[wall] = camera.far, WALL
        for _ in range(draws.below(4)):
            _draw_poster(canvas, draws, wall_x, wall_y, mottle[wall])

    material = draw_material(draws, (0.5, 2.5), calm=True)
    z = np.float32(camera.focal * camera.height) / (canvas.y[ground, None] - np.float32(camera.horizon))
    x = canvas.x[None, :] * (z / camera.focal)
    c, s = material.turn
    mix = mix_of(material, x * c + z * s, z * c - x * s, 0.0)
    calm = np.minimum(1, 4 / (z * material.frequency))
    _paint(canvas.colour[:, ground], None, material, (mix - 0.5) * calm + 0.5, mottle[ground])
    canvas.depth[ground], canvas.ids[ground] = z, FLOOR
    for _ in range(draws.below(3)):
        _draw_rug(canvas.colour[:, ground], draws, x, z, mottle[ground])


def _draw_poster(canvas: Canvas, draws: Draws, x: Floats, y: Floats, light: Floats) -> None:
    """A flat picture on the wall: it belongs to the wall."""
    material = draw_material(draws, (1.0, 4.0))
    left, width = draws.between(-0.5, 0.35) * float(x[0, -1]) * 2, draws.between(0.15, 0.5) * float(x[0, -1])
    top = draws.between(0.0, 0.7) * (float(y[-1, 0]) if y.size else 0.0)
    bottom = top + width * draws.between(0.6, 1.6)
    columns = slice(*np.searchsorted(x[0], [left, left + width]).tolist())
    rows = slice(*np.searchsorted(y[:, 0], [top, bottom]).tolist())
    mix = mix_of(material, x[:, columns], y[rows], 0.0)
    _paint(canvas.colour[:, rows, columns], None, material, mix, light[rows, columns])


def _draw_rug(colour: Floats, draws: Draws, x: Floats, z: Floats, light: Floats) -> None:
    """A flat round or square stain on the ground: it belongs to the ground."""
    material = draw_material(draws, (1.0, 4.0))
    at_x, at_z, radius = draws.between(-1.5, 1.5), draws.between(1.5, 6.0), draws.between(0.3, 1.2)
    u, v = np.abs(x - at_x), np.abs(z - at_z)
    where = (u * u + v * v if draws.chance(0.5) else np.maximum(u, v) * radius) < radius * radius
    mix = mix_of(material, x, z, 0.0)
    _paint(colour, where, material, mix, light)


def _draw_thing(canvas: Canvas, camera: Camera, thing: Thing, view: View, index: int, ambient: float) -> None:
    """Shade the object and put it on the canvas where nothing is nearer."""
    scale = thing.distance / camera.focal
    u, v = (canvas.x - thing.column) * scale, (thing.row - canvas.y) * scale
    seen = see_object(thing.parts, u, v, view)
    if seen is None:
        return
    z = seen.z
    depth = thing.distance - z
    here = (seen.rows, seen.columns)
    where = depth < canvas.depth[here]
    np.copyto(canvas.depth[here], depth, where=where)
    np.copyto(canvas.ids[here], index, where=where)
    shift = np.where(where, z, 0)
    a, b = u[None, seen.columns] - shift * view.a, v[seen.rows, None] - shift * view.b
    material = thing.material
    mix = mix_of(material, a, b, shift)
    lit = np.maximum(seen.light, 0)
    light = lit * (1 - ambient) + (ambient + 0.12 * np.minimum(seen.light, 0))
    _paint(canvas.colour[(slice(None), *here)], where, material, mix, light)
    if material.gloss:
        shine = lit * lit
        shine *= shine
        shine *= shine
        canvas.colour[(slice(None), *here)] += np.where(where, shine * shine * material.gloss, 0)


def _draw_shadow(canvas: Canvas, camera: Camera, thing: Thing, view: View, strength: float, softness: float) -> None:
    scale = thing.distance / camera.focal
    u, v = (canvas.x - thing.column) * scale, (thing.row - canvas.y) * scale
    shadow: Surface | None = cast_shadow(thing.parts, u, v, view, softness)
    if shadow is None:
        return
    here = (shadow.rows, shadow.columns)
    dim = 1 - shadow.light * strength
    np.copyto(dim, 1, where=canvas.ids[here] != FLOOR)
    canvas.colour[(slice(None), *here)] *= dim


def _compose(draws: Draws, kind: int, aspect: tuple[float, float], camera: Camera) -> list[Thing]:
    """The main object of class `kind` first, then smaller ones of any class, then stones."""
    bottom = aspect[0]
    row = max(draws.between(0.72, 0.93) * bottom, camera.row_of(camera.far * 0.8))
    column = draws.between(-0.16, 0.16) * aspect[1]
    distance = camera.distance_of(row)
    span = draws.between(0.45, 0.75)
    main_size = span * distance / camera.focal
    material = draw_material(draws, (2.0, 6.0))
    things = [Thing(kind, row, column, distance, build_object(kind, draws, main_size), material)]
    num_others, num_stones = draws.below(6), draws.below(4)
    nearest_row, farthest_row = 1.02 * bottom, camera.row_of(camera.far * 0.9)
    for other in range(num_others + num_stones):
        stone = other >= num_others
        its_row = farthest_row + (nearest_row - farthest_row) * draws.unit()
        its_column = draws.between(-0.55, 0.55) * aspect[1]
        before = its_row > row - 0.04
        if before and abs(its_column - column) < 0.42 * span:
            side = 1 if its_column > column else -1
            its_column = column + side * draws.between(0.42, 0.6) * span
        its_distance = camera.distance_of(its_row)
        size = main_size * (draws.between(0.1, 0.35) if stone else draws.between(0.2, 0.8))
        size = min(size, (0.36 if before else 0.5) * span * its_distance / camera.focal)
        its_kind = None if stone else draws.below(len(SCENE_CLASSES))
        parts = build_object(its_kind, draws, size)
        material = draw_material(draws, (2.0, 6.0))
        things.append(Thing(its_kind, its_row, its_column, its_distance, parts, material))
    return things


def _finish(canvas: Canvas, draws: Draws) -> NDArray[np.uint8]:
    """Average to the final size, then haze, blur, exposure and noise: (H, W, 3)."""
    haze, thickness = hue(draws, (0.0, 0.2), (0.6, 0.9)), draws.between(0.0, 0.03)
    exposure, blur, grain = draws.between(0.9, 1.35), draws.chance(0.25), draws.between(0.0, 0.04)
    colour = canvas.colour
    wide = colour[:, ::2] + colour[:, 1::2]
    image = (wide[:, :, ::2] + wide[:, :, 1::2]) * np.float32(0.25)
    fog = np.minimum(canvas.depth[::2, ::2] * thickness, 0.6)
    for channel in range(3):
        image[channel] += (haze[channel] - image[channel]) * fog
    if blur and min(image.shape[1:]) > 2:
        image[:, 1:-1] = image[:, 1:-1] * 0.5 + (image[:, :-2] + image[:, 2:]) * 0.25
        image[:, :, 1:-1] = image[:, :, 1:-1] * 0.5 + (image[:, :, :-2] + image[:, :, 2:]) * 0.25
    noise = draws.octets(image.size).reshape(image.shape).astype(np.float32)
    image = image * (255 * exposure) + (noise - 127.5) * grain
    return np.ascontiguousarray(np.clip(image + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def draw(
    draws: Draws, kind: int, size: tuple[int, int], dress: Callable[[list[Thing]], list[Thing]] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int16], Floats, list[int | None]]:
    """Image (H, W, 3), ids (H, W) (FLOOR, WALL, SKY, STONE or an index), depth (H, W) in metres (0 in the sky), classes.

    `dress` may give the things other materials.
    """
    canvas = Canvas(size)
    aspect = (size[0] / canvas.short, size[1] / canvas.short)
    height, focal = draws.between(0.9, 1.7), draws.between(1.1, 1.6)
    horizon = draws.between(0.12, 0.34) * aspect[0]
    camera = Camera(focal, height, horizon, draws.between(5.0, 12.0))
    things = _compose(draws, kind, aspect, camera)
    if dress is not None:
        things = dress(things)
    _draw_room(canvas, camera, draws)
    side, ambient = draws.between(-0.7, 0.7), draws.between(0.35, 0.6)
    front = draws.between(0.1, 0.6)
    norm = (side * side + front * front + 1) ** 0.5
    light = (side / norm, 1 / norm, front / norm)
    views = [View(thing.column / camera.focal, -camera.height / thing.distance, light) for thing in things]
    strength, softness = draws.between(0.3, 0.65), draws.between(0.01, 0.08)
    for thing, view in zip(things, views, strict=True):
        _draw_shadow(canvas, camera, thing, view, strength, softness)
    for index, (thing, view) in enumerate(zip(things, views, strict=True)):
        _draw_thing(canvas, camera, thing, view, STONE if thing.kind is None else index, ambient)
    image = _finish(canvas, draws)
    ids = canvas.ids[::2, ::2].copy()
    depth = canvas.depth[::2, ::2].copy()
    depth[ids == SKY] = 0
    return image, ids, depth, [thing.kind for thing in things]
