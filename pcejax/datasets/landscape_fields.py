"""Fields: parcels that cover a scene, in blocks of one orientation, and what grows on them."""

from __future__ import annotations

import math

import numpy as np

from pcejax.datasets.landscape_scene import AGRICULTURE, Scene
from pcejax.datasets.landscape_textures import Patch


def fields(scene: Scene) -> None:
    """Covers the scene with parcels: blocks of fields of one orientation, cut again and again along straight lines."""
    size, rng = scene.size, scene.rng
    corners = np.array([(-8, -8), (size + 8, -8), (size + 8, size + 8), (-8, size + 8)], float)
    bund = scene.add(Patch(AGRICULTURE, scene.ground(rng.uniform(0, 0.5), rng.uniform(0.85, 1.15)), 0.05, clumps=0.05))
    track = scene.add(Patch(AGRICULTURE, scene.ground(0, 1.15), 0.05, clumps=0.05))
    blocks = [(corners, rng.uniform(0, math.pi))]
    while blocks:
        block, angle = blocks.pop()
        if _area(block) > 340**2:
            angle += rng.normal(0, 0.25)
            blocks += [(half, angle) for half in _halves(block, angle, rng)]
            continue
        parcel_area = rng.uniform(55, 120) ** 2
        parcels = [block]
        while parcels:
            parcel = parcels.pop()
            if _area(parcel) > parcel_area * rng.uniform(1.0, 2.2):
                parcels += _halves(parcel, angle + rng.normal(0, 0.03), rng)
            else:
                outline = [tuple(corner) for corner in parcel]
                scene.pen.polygon(outline, fill=scene.add(_crop(scene, angle)))
                scene.pen.line([*outline, outline[0]], fill=bund, width=int(rng.integers(2, 4)))
        outline = [tuple(corner) for corner in block]
        scene.pen.line([*outline, outline[0]], fill=track, width=int(rng.integers(3, 7)))


def _crop(scene: Scene, angle: float) -> Patch:
    """A parcel's surface: a crop in rows, ploughed soil, fallow, an orchard, or a flooded paddy."""
    rng = scene.rng
    lush = float(np.clip(rng.beta(1.2, 1.2) * 1.2 - 0.5 * scene.dryness + 0.1, 0, 1))
    angle += math.pi / 2 * rng.integers(2) + rng.normal(0, 0.03)
    shade, period, ridges = rng.uniform(0.8, 1.2), rng.uniform(12, 16), rng.uniform(0.15, 0.21)
    kind = rng.choice(5, p=(0.5, 0.21, 0.17, 0.1, 0.02))
    if kind == 0:
        color = scene.ground(lush, shade)
        return Patch(AGRICULTURE, color, 0.04, 0.02, 0.04, 0.12, rows=ridges, period=period, angle=angle)
    if kind == 1:
        color = scene.ground(rng.uniform(-0.1, 0.2), shade)
        return Patch(AGRICULTURE, color, 0.05, 0.03, 0.06, 0.2, rows=ridges, period=period, angle=angle)
    if kind == 2:
        color = scene.ground(rng.uniform(0.2, 0.8), shade)
        return Patch(AGRICULTURE, color, 0.05, 0.03, 0.07, 0.3, rows=ridges, period=period, angle=angle)
    if kind == 3:
        color, plants = scene.ground(rng.uniform(0.7, 1.1), rng.uniform(0.65, 0.95)), rng.uniform(0.26, 0.36)
        return Patch(AGRICULTURE, color, 0.08, 0.05, lattice=plants, period=rng.uniform(16, 21), angle=angle)
    color = scene.ground(rng.uniform(0.1, 0.9), rng.uniform(0.6, 0.9))
    return Patch(AGRICULTURE, color, 0.02, 0.01, 0.05, rows=0.08, period=26, angle=angle)


def _area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _halves(polygon: np.ndarray, angle: float, rng: np.random.Generator) -> list[np.ndarray]:
    """A convex polygon `[N, 2]` cut across its longer side, where `angle` is the direction of one of its sides."""
    u = np.array([math.cos(angle), math.sin(angle)])
    v = np.array([-u[1], u[0]])
    along, across = polygon @ u, polygon @ v
    distance = along if np.ptp(along) * rng.uniform(0.7, 1.4) > np.ptp(across) else across
    distance = distance - (distance.min() + np.ptp(distance) * rng.uniform(0.38, 0.62))
    halves: list[list[np.ndarray]] = [[], []]
    for i, here in enumerate(distance):
        j = (i + 1) % len(polygon)
        halves[int(here > 0)].append(polygon[i])
        if (here > 0) != (distance[j] > 0):
            crossing = polygon[i] + (polygon[j] - polygon[i]) * here / (here - distance[j])
            halves[0].append(crossing)
            halves[1].append(crossing)
    return [np.array(half) for half in halves]
