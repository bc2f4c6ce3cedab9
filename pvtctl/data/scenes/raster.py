"""Intersection of the solids of `scenes` with camera rays: per-pixel depth, light and shadow.

An object is seen through the linearised perspective of the point where it stands: a ray is the line of points
(u - z a, v - z b, z), so z on planes and quadrics is a simple function of the pixel's u and v (metres at the
object's distance, v upwards). Only exactly rounded float32 arithmetic is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvtctl.data.scenes.objects import Convex, Part, Points, Vector, dot

Floats = NDArray[Any]
"""float32; numpy's own stubs widen it at every Python float."""
_FAR = np.float32(1e9)


class View(NamedTuple):
    """The slope of the rays at an object, and the direction to the light (unit vector)."""

    a: float
    b: float
    light: Vector


@dataclass(frozen=True, slots=True)
class Surface:
    """An object's visible surface in a window of pixels; z is towards the viewer in metres, -1e9 for empty pixels."""

    rows: slice
    columns: slice
    z: Floats
    light: Floats
    """Cosine between surface and light, -1 to 1."""


def project(points: Points, view: View) -> tuple[Points, Points]:
    """(u, v) of object points."""
    return points[:, 0] + points[:, 2] * view.a, points[:, 1] + points[:, 2] * view.b


def window(u: Floats, v: Floats, us: Points, vs: Points) -> tuple[slice, slice]:
    """Rows and columns of the grid that the projected points span, with a pixel to spare. `v` falls with the row."""
    left, right = np.searchsorted(u, [us.min(), us.max()]).tolist()
    top, bottom = np.searchsorted(-v, [-vs.max(), -vs.min()]).tolist()
    return slice(max(top - 1, 0), bottom + 1), slice(max(left - 1, 0), right + 1)


def _meet_ellipsoid(part: Convex, u: Floats, v: Floats, view: View) -> tuple[Floats, Floats]:
    """Front and back z of the ellipsoid; front < back where a ray misses it."""
    rows = part.ellipsoid
    assert rows is not None
    e0, e1, e2 = ([row[k] for row in rows] for k in range(3))
    k = [-dot(row, part.centre) for row in rows]
    d = [e2[i] - e0[i] * view.a - e1[i] * view.b for i in range(3)]
    a = dot(d, d)
    half_b = (dot(d, e0) * u + dot(d, k)) + dot(d, e1) * v
    c = (dot(e0, e0) * u * u + 2 * dot(e0, k) * u + (dot(k, k) - 1)) + (dot(e1, e1) * v * v + 2 * dot(e1, k) * v)
    c += 2 * dot(e0, e1) * u * v
    root = half_b * half_b - a * c
    miss = root <= 0
    root = np.sqrt(np.maximum(root, 0))
    front, back = (root - half_b) / a, (-root - half_b) / a
    front[miss], back[miss] = -_FAR, _FAR
    return front, back


def _ellipsoid_light(part: Convex, z: Floats, u: Floats, v: Floats, view: View) -> Floats:
    rows = part.ellipsoid
    assert rows is not None
    square = [[sum(rows[k][i] * rows[k][j] for k in range(3)) for j in range(3)] for i in range(3)]
    lit: Floats | float = 0.0
    norm: Floats | float = 0.0
    for row, towards in zip(square, view.light, strict=True):
        slope = row[2] - row[0] * view.a - row[1] * view.b
        n = (row[0] * u - dot(row, part.centre)) + row[1] * v + slope * z
        lit, norm = lit + towards * n, norm + n * n
    return np.asarray(lit / np.sqrt(norm + np.float32(1e-12)), np.float32)


def _round_light(part: Convex, z: Floats, u: Floats, v: Floats, view: View) -> Floats:
    """Light on the round faces of a surface of revolution, from the true normal instead of the face's."""
    axis, c = part.axis, part.centre
    up = dot(axis, view.light)
    across = [light - axis_k * up for light, axis_k in zip(view.light, axis, strict=True)]

    def linear(w: list[float] | Vector) -> Floats:
        return (w[0] * u - dot(w, c)) + w[1] * v + (w[2] - w[0] * view.a - w[1] * view.b) * z

    slant = 1 / float(np.sqrt(1 + part.taper * part.taper))
    radius = np.maximum(part.radius - part.taper * linear(axis), np.float32(1e-3 * part.radius))
    return np.asarray(linear(across) / radius * slant + up * part.taper * slant, np.float32)


def meet(part: Convex, u: Floats, v: Floats, view: View, *, inside: bool = False) -> tuple[Floats, Floats, Floats]:
    """Front z, back z and light of a convex part; front < back where a ray misses it.

    u is (1, W), v is (H, 1). The light is that of the front, or with `inside` that of the back seen from within.
    """
    shape = (v.shape[0], u.shape[1])
    if part.ellipsoid is not None:
        front, back = _meet_ellipsoid(part, u, v, view)
        light = _ellipsoid_light(part, back if inside else front, u, v, view)
    else:
        front, back = np.full(shape, _FAR, np.float32), np.full(shape, -_FAR, np.float32)
        light = np.zeros(shape, np.float32)
    smooth = np.zeros(shape, np.bool_)
    slopes = part.normals[:, 2] - part.normals[:, 0] * view.a - part.normals[:, 1] * view.b
    slopes = np.where(np.abs(slopes) < 1e-4, 1e-4, slopes)
    faces = zip(part.normals.tolist(), part.offsets.tolist(), slopes.tolist(), strict=True)
    for index, (normal, offset, slope) in enumerate(faces):
        z = (u * (-normal[0] / slope) + offset / slope) + v * (-normal[1] / slope)
        facing = slope > 0
        if facing != inside:
            nearer = z < front if facing else z > back
            np.copyto(front if facing else back, z, where=nearer)
            np.copyto(light, dot(normal, view.light), where=nearer)
            if part.num_round:
                np.copyto(smooth, index < part.num_round, where=nearer)
        elif facing:
            np.minimum(front, z, out=front)
        else:
            np.maximum(back, z, out=back)
    if part.num_round:
        np.copyto(light, _round_light(part, back if inside else front, u, v, view), where=smooth)
    return front, back, -light if inside else light


def _see(part: Part, u: Floats, v: Floats, view: View) -> tuple[Floats, Floats]:
    """z and light of a part with its hole."""
    front, back, light = meet(part.solid, u, v, view)
    seen = front > back
    if part.hole is not None:
        hole_front, hole_back, inner_light = meet(part.hole, u, v, view, inside=True)
        open_here = (hole_front > hole_back) & (hole_front >= front) & (hole_back < front)
        light = np.where(open_here, inner_light, light)
        front = np.where(open_here, hole_back, front)
        seen &= front > back
    return np.where(seen, front, -_FAR), light


def see_object(parts: list[Part], u: Floats, v: Floats, view: View) -> Surface | None:
    """Surface of an object on the grid of columns `u` (W,) and rows `v` (H,); None if it is outside the image."""
    spans = [project(part.solid.points, view) for part in parts]
    windows = [window(u, v, us, vs) for us, vs in spans]
    rows = slice(min(w[0].start for w in windows), min(max(w[0].stop for w in windows), len(v)))
    columns = slice(min(w[1].start for w in windows), min(max(w[1].stop for w in windows), len(u)))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    z = np.full((rows.stop - rows.start, columns.stop - columns.start), -_FAR, np.float32)
    light = np.zeros_like(z)
    for part, (its_rows, its_columns) in zip(parts, windows, strict=True):
        here = (
            slice(its_rows.start - rows.start, its_rows.stop - rows.start),
            slice(its_columns.start - columns.start, its_columns.stop - columns.start),
        )
        part_u, part_v = u[None, columns][:, here[1]], v[rows, None][here[0]]
        if not part_u.size or not part_v.size:
            continue
        part_z, part_light = _see(part, part_u, part_v, view)
        nearer = part_z > z[here]
        np.copyto(z[here], part_z, where=nearer)
        np.copyto(light[here], part_light, where=nearer)
    return Surface(rows, columns, z, light)


def _hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Corners of the convex hull, counter-clockwise (monotone chain)."""
    points = sorted(set(points))
    hull: list[tuple[float, float]] = []
    for sweep in (points, points[::-1]):
        start = len(hull)
        for x, y in sweep:
            while len(hull) >= start + 2:
                (x0, y0), (x1, y1) = hull[-2], hull[-1]
                if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0:
                    break
                hull.pop()
            hull.append((x, y))
        hull.pop()
    return hull


def cast_shadow(parts: list[Part], u: Floats, v: Floats, view: View, softness: float) -> Surface | None:
    """The shadow of an object on the ground y = 0; `light` holds how much of the light it takes, 0 to 1."""
    covers: list[tuple[slice, slice, Floats]] = []
    for part in parts:
        points = part.solid.points
        drop = points[:, 1] / view.light[1]
        shade = np.stack([points[:, 0] - drop * view.light[0], drop * 0, points[:, 2] - drop * view.light[2]], 1)
        us, vs = project(shade, view)
        rows, columns = window(u, v, us, vs)
        part_u, part_v = u[None, columns], v[rows, None]
        if not part_u.size or not part_v.size:
            continue
        hull = _hull(list(zip(us.tolist(), vs.tolist(), strict=True)))
        cover = np.ones((part_v.shape[0], part_u.shape[1]), np.float32)
        for (x0, y0), (x1, y1) in zip(hull, hull[1:] + hull[:1], strict=True):
            length = np.sqrt((x1 - x0) * (x1 - x0) + (y1 - y0) * (y1 - y0))
            dx, dy = float((x1 - x0) / (length * softness)), float((y1 - y0) / (length * softness))
            np.minimum(cover, (part_u - x0) * -dy + (part_v - y0) * dx, out=cover)
        covers.append((rows, columns, np.maximum(cover, 0)))
    if not covers:
        return None
    rows = slice(min(c[0].start for c in covers), min(max(c[0].stop for c in covers), len(v)))
    columns = slice(min(c[1].start for c in covers), min(max(c[1].stop for c in covers), len(u)))
    total = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.float32)
    for part_rows, part_columns, cover in covers:
        height, width = cover.shape
        top, left = part_rows.start - rows.start, part_columns.start - columns.start
        here = total[top : top + height, left : left + width]
        np.maximum(here, cover, out=here)
    return Surface(rows, columns, np.zeros_like(total), total)
