"""The solids of the built-in `scenes` data: a dozen classes, each built from a few convex parts with random proportions.

Axes: x to the right, y up, z towards the viewer. All lengths are relative; `build_object` scales the whole to 1.
Everything here uses exactly rounded arithmetic (+ - * / sqrt) and rounded trigonometry, and random numbers come from raw
Philox words, so that a scene is the same on every platform and numpy version.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Matrix = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
Vector = tuple[float, float, float]
Points = NDArray[np.float64]


class Draws:
    """A stream of random numbers that depends on `key` alone."""

    def __init__(self, *key: object) -> None:
        text = "|".join(["pvtctl.scenes.1", *(str(part) for part in key)])
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        self._source = np.random.Philox(key=int.from_bytes(digest, "little"))
        self._words: list[int] = []

    def unit(self) -> float:
        """Uniform in [0, 1)."""
        if not self._words:
            self._words = self._source.random_raw(128).tolist()
        return (self._words.pop() >> 11) * 2.0**-53

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.unit()

    def below(self, count: int) -> int:
        """Uniform integer in 0 .. count - 1."""
        return int(self.unit() * count)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.unit() < probability

    def octets(self, count: int) -> NDArray[np.uint8]:
        """`count` random bytes."""
        words = np.asarray(self._source.random_raw((count + 7) // 8), dtype="<u8")
        return words.view(np.uint8)[:count]


@dataclass(frozen=True, slots=True)
class Convex:
    """A convex part: the points p with normal . p <= offset for every face, and inside the ellipsoid if there is one."""

    points: Points
    """(V, 3); their hull is the part, or approximately if round: for bounds and shadows."""
    normals: Points
    """(F, 3) unit vectors pointing outwards."""
    offsets: Points
    """(F,)"""
    num_round: int = 0
    """The first so many faces approximate a surface of revolution around `axis` and are shaded smoothly."""
    axis: Vector = (0.0, 1.0, 0.0)
    centre: Vector = (0.0, 0.0, 0.0)
    """A point on the axis, or the ellipsoid's centre."""
    radius: float = 0.0
    """Radius of the round faces at `centre`; it shrinks by `taper` per unit of length along the axis."""
    taper: float = 0.0
    ellipsoid: Matrix | None = None
    """The matrix E of |E (p - centre)| <= 1."""


@dataclass(frozen=True, slots=True)
class Part:
    """A convex solid, less a convex hole."""

    solid: Convex
    hole: Convex | None = None


def cos_sin(turns: float) -> tuple[float, float]:
    """Cosine and sine of an angle in turns, rounded so that every C library gives the same bits."""
    return round(math.cos(2 * math.pi * turns), 9), round(math.sin(2 * math.pi * turns), 9)


def turned_x(turns: float) -> Matrix:
    """Rotation about the x axis."""
    c, s = cos_sin(turns)
    return ((1.0, 0.0, 0.0), (0.0, c, -s), (0.0, s, c))


def turned_y(turns: float) -> Matrix:
    """Rotation about the vertical axis."""
    c, s = cos_sin(turns)
    return ((c, 0.0, s), (0.0, 1.0, 0.0), (-s, 0.0, c))


def turned_z(turns: float) -> Matrix:
    """Rotation about the axis of view."""
    c, s = cos_sin(turns)
    return ((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))


def product(a: Matrix, b: Matrix) -> Matrix:
    """The rotation b followed by a."""
    rows = [tuple(sum(a[i][k] * b[k][j] for k in range(3)) for j in range(3)) for i in range(3)]
    return (rows[0], rows[1], rows[2])  # type: ignore[return-value]


def apply(matrix: Matrix, points: Points) -> Points:
    """Rotate (V, 3) points. Not a matmul: BLAS orders its sums differently from one machine to the next."""
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    turned = np.empty_like(points)
    for axis, row in enumerate(matrix):
        turned[:, axis] = row[0] * x + row[1] * y + row[2] * z
    return turned


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Scalar product of two 3-vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def place_part(part: Convex, rotation: Matrix, scale: float, offset: Vector) -> Convex:
    """The part rotated about the origin, scaled, then moved by `offset`."""
    normals = apply(rotation, part.normals) if len(part.normals) else part.normals
    move = np.array(offset)
    shift = normals[:, 0] * offset[0] + normals[:, 1] * offset[1] + normals[:, 2] * offset[2]
    c = [scale * dot(row, part.centre) + o for row, o in zip(rotation, offset, strict=True)]
    a = [dot(row, part.axis) for row in rotation]
    ellipsoid = part.ellipsoid
    if ellipsoid is not None:
        rows = [tuple(dot(row, turned) / scale for turned in rotation) for row in ellipsoid]
        ellipsoid = (rows[0], rows[1], rows[2])  # type: ignore[assignment]
    return replace(
        part,
        points=apply(rotation, part.points) * scale + move,
        normals=normals,
        offsets=part.offsets * scale + shift,
        axis=(a[0], a[1], a[2]),
        centre=(c[0], c[1], c[2]),
        radius=part.radius * scale,
        ellipsoid=ellipsoid,
    )


ROUND_SIDES = 20


@lru_cache
def _circle(sides: int, phase: float) -> Points:
    return np.array([cos_sin((k + phase) / sides) for k in range(sides)])


def frustum(sides: int, low: float, high: float, bottom: float, top: float, *, smooth: bool = True) -> Convex:
    """A regular frustum about the y axis between `bottom` and `top`, with inner radii `low` and `high`."""
    length = math.sqrt((top - bottom) ** 2 + (low - high) ** 2)
    along, up = (top - bottom) / length, (low - high) / length
    middle, corner = _circle(sides, 0.0), _circle(sides, 0.5) / cos_sin(0.5 / sides)[0]
    level = np.ones((sides, 1))
    rim = [
        np.concatenate([corner[:, :1] * r, level * y, corner[:, 1:] * r], 1) for r, y in ((low, bottom), (high, top))
    ]
    walls = np.concatenate([middle[:, :1] * along, level * up, middle[:, 1:] * along], 1)
    return Convex(
        points=np.concatenate(rim),
        normals=np.concatenate([walls, [[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]]]),
        offsets=np.concatenate([np.full(sides, low * along + bottom * up), [-bottom, top]]),
        num_round=sides if smooth else 0,
        centre=(0.0, bottom, 0.0),
        radius=low,
        taper=(low - high) / (top - bottom),
    )


_CORNERS = np.array([(x, y, z) for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
_FACES = np.array([(1.0, 0, 0), (-1.0, 0, 0), (0, 1.0, 0), (0, -1.0, 0), (0, 0, 1.0), (0, 0, -1.0)])


def box(width: float, height: float, depth: float, at: Vector = (0.0, 0.0, 0.0)) -> Convex:
    """A box with these edges (x, y, z) whose bottom face is centred at `at`."""
    half = np.array([width / 2, height / 2, depth / 2])
    middle = np.array([at[0], at[1] + height / 2, at[2]])
    offsets = (
        np.abs(_FACES * half).max(1) + _FACES[:, 0] * middle[0] + _FACES[:, 1] * middle[1] + _FACES[:, 2] * middle[2]
    )
    return Convex(points=_CORNERS * half + middle, normals=_FACES, offsets=offsets)


def _sphere_points() -> Points:
    rings = [(cos_sin(t / 12), cos_sin(k / 12)) for t in range(-2, 3) for k in range(12)]
    return np.array([(r * c, y, r * s) for (r, y), (c, s) in rings] + [(0.0, 1.0, 0.0), (0.0, -1.0, 0.0)])


_SPHERE = _sphere_points()


def ellipsoid(rx: float, ry: float, rz: float, at: Vector = (0.0, 0.0, 0.0)) -> Convex:
    """An ellipsoid with these radii around `at`."""
    return Convex(
        points=_SPHERE * np.array([rx, ry, rz]) + np.array(at),
        normals=np.zeros((0, 3)),
        offsets=np.zeros(0),
        centre=at,
        ellipsoid=((1 / rx, 0.0, 0.0), (0.0, 1 / ry, 0.0), (0.0, 0.0, 1 / rz)),
    )


def _ball(draws: Draws) -> list[Part]:
    r = [draws.between(0.85, 1.0) for _ in range(3)]
    return [Part(ellipsoid(r[0], r[1], r[2]))]


def _block(draws: Draws) -> list[Part]:
    return [Part(box(draws.between(0.6, 1.0), draws.between(0.5, 1.0), draws.between(0.6, 1.0)))]


def _can(draws: Draws) -> list[Part]:
    radius = draws.between(0.28, 0.48)
    return [Part(frustum(ROUND_SIDES, radius, radius * draws.between(0.85, 1.0), 0.0, 1.0))]


def _cone(draws: Draws) -> list[Part]:
    return [Part(frustum(ROUND_SIDES, draws.between(0.32, 0.55), 0.015, 0.0, 1.0))]


def _ring(draws: Draws) -> list[Part]:
    thickness, inner = draws.between(0.2, 0.45), draws.between(0.25, 0.36)
    upright = turned_x(0.25)
    rim = frustum(ROUND_SIDES, 0.5, 0.5, -thickness / 2, thickness / 2)
    hole = frustum(ROUND_SIDES, inner, inner, -thickness, thickness)
    return [Part(place_part(rim, upright, 1.0, (0, 0, 0)), place_part(hole, upright, 1.0, (0, 0, 0)))]


def _star(draws: Draws) -> list[Part]:
    thickness = draws.between(0.15, 0.4)
    triangle = frustum(3, 0.25, 0.25, -thickness / 2, thickness / 2, smooth=False)
    tilt = draws.between(0.0, 1 / 6)
    turns = [product(turned_z(tilt + k / 6), turned_x(0.25)) for k in (0, 1)]
    return [Part(place_part(triangle, turn, 1.0, (0, 0, 0))) for turn in turns]


def _cross(draws: Draws) -> list[Part]:
    arm, depth = draws.between(0.2, 0.34), draws.between(0.2, 0.34)
    tilt = turned_z(draws.between(-0.125, 0.125))
    bars = [box(1.0, arm, depth, (0, -arm / 2, 0)), box(arm, 1.0, depth, (0, -0.5, 0))]
    return [Part(place_part(bar, tilt, 1.0, (0, 0, 0))) for bar in bars]


def _mug(draws: Draws) -> list[Part]:
    radius, height, lip = draws.between(0.32, 0.42), draws.between(0.75, 1.0), draws.between(0.78, 0.86)
    body = frustum(ROUND_SIDES, radius * draws.between(0.9, 1.0), radius, 0.0, height)
    hollow = frustum(ROUND_SIDES, radius * 0.78 * lip, radius * lip * 1.03, 0.1, height * 1.1)
    reach, grip = draws.between(0.2, 0.3), height * draws.between(0.5, 0.65)
    root = radius * 0.88  # inside the wall of the body
    handle = box(reach, grip, 0.12, (root + reach / 2, height * 0.2, 0))
    gap = box(reach, grip - 0.22, 0.3, (root + reach / 2 - 0.1, height * 0.2 + 0.11, 0))
    return [Part(body, hollow), Part(handle, gap)]


def _arch(draws: Draws) -> list[Part]:
    height, depth = draws.between(0.7, 1.0), draws.between(0.3, 0.55)
    radius = draws.between(0.24, 0.36)
    tunnel = place_part(frustum(ROUND_SIDES, radius, radius, -1.0, 1.0), turned_x(0.25), 1.0, (0, height * 0.42, 0))
    wall = box(1.0, height, depth)
    passage = box(2 * radius, height * 0.45, 2.0, (0, -height * 0.03, 0))
    upper = replace(wall, normals=wall.normals, offsets=np.where(_FACES[:, 1] < 0, -height * 0.42, wall.offsets))
    lower = replace(wall, offsets=np.where(_FACES[:, 1] > 0, height * 0.42, wall.offsets))
    return [Part(upper, tunnel), Part(lower, passage)]


def _legs(width: float, depth: float, height: float, thick: float) -> list[Part]:
    x, z = (width - thick) / 2, (depth - thick) / 2
    return [Part(box(thick, height, thick, (sx * x, 0.0, sz * z))) for sx in (-1, 1) for sz in (-1, 1)]


def _table(draws: Draws) -> list[Part]:
    width, depth, height = 1.0, draws.between(0.6, 1.0), draws.between(0.55, 0.8)
    thick = draws.between(0.08, 0.14)
    return [Part(box(width, thick, depth, (0, height - thick, 0))), *_legs(width, depth, height - thick, thick)]


def _chair(draws: Draws) -> list[Part]:
    width, depth, seat = draws.between(0.5, 0.62), draws.between(0.5, 0.62), draws.between(0.42, 0.52)
    thick = draws.between(0.08, 0.12)
    back = box(width, 1.0 - seat, thick, (0, seat, (thick - depth) / 2))
    return [Part(box(width, thick, depth, (0, seat - thick, 0))), Part(back), *_legs(width, depth, seat - thick, thick)]


def _mushroom(draws: Draws) -> list[Part]:
    stem, height, cap = draws.between(0.12, 0.22), draws.between(0.4, 0.6), draws.between(0.35, 0.5)
    dome = ellipsoid(0.5, cap, 0.5, (0, height, 0))
    flat = np.array([[0.0, -1.0, 0.0]])
    points = np.maximum(dome.points, [-1.0, height, -1.0])
    dome = replace(dome, points=points, normals=flat, offsets=np.array([-height]))
    return [Part(dome), Part(frustum(ROUND_SIDES, stem * 1.2, stem, 0.0, height + 0.02))]


def _rubble(draws: Draws) -> list[Part]:
    return [
        Part(frustum(5, draws.between(0.4, 0.6), draws.between(0.2, 0.4), 0.0, draws.between(0.3, 0.7), smooth=False))
    ]


_BUILDERS: dict[str, Callable[[Draws], list[Part]]] = {
    "arch": _arch,
    "ball": _ball,
    "block": _block,
    "can": _can,
    "chair": _chair,
    "cone": _cone,
    "cross": _cross,
    "mug": _mug,
    "mushroom": _mushroom,
    "ring": _ring,
    "star": _star,
    "table": _table,
}

SCENE_CLASSES: tuple[str, ...] = tuple(_BUILDERS)
"""The dozen classes, in label order (alphabetic, so that class folders sort the same way)."""


def build_object(kind: int | None, draws: Draws, size: float) -> list[Part]:
    """An object of class `kind` (None: a stone of no class), standing or lying on y = 0 around the origin.

    `size` is its largest edge along its own axes, in metres. Proportions, yaw and pose come from `draws`.
    """
    parts = _rubble(draws) if kind is None else _BUILDERS[SCENE_CLASSES[kind]](draws)
    points = np.concatenate([part.solid.points for part in parts])
    scale = size / float((points.max(0) - points.min(0)).max())
    rotation = turned_y(draws.unit())
    lying = draws.chance(0.15)
    if lying or kind is None:
        tip = turned_x(draws.unit()) if kind is None else turned_x(0.25 + 0.5 * draws.below(2))
        rotation = product(rotation, product(tip, turned_y(draws.unit())))
    turned = apply(rotation, points) * scale
    centre = (turned.max(0) + turned.min(0)) / 2
    offset = (-float(centre[0]), -float(turned[:, 1].min()), -float(centre[2]))
    return [
        Part(
            place_part(p.solid, rotation, scale, offset),
            None if p.hole is None else place_part(p.hole, rotation, scale, offset),
        )
        for p in parts
    ]
