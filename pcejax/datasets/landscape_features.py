"""What lies between the fields: rangeland, woods, bare ground, lakes, rivers and settlements."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pcejax.datasets.landscape_scene import BARREN, FOREST, RANGELAND, URBAN, WATER, Scene, count, quad
from pcejax.datasets.landscape_textures import Patch

_SITE = 256
"""px between the sites where something else than fields may lie."""

_SITES_OF = {URBAN: 0.125, RANGELAND: 0.125, FOREST: 0.13, BARREN: 0.12, WATER: 0.035}
"""Share of the sites that each class takes; rivers come on top."""


@dataclasses.dataclass
class Settlement:
    """Blocks of houses as frames: origin, along, across, float `[2]` in px, and the share of the plots built up."""

    blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    density: float


def features(scene: Scene, seed: int, index: int) -> list[Settlement]:
    """Lays rangeland, bare ground, woods, lakes and settlements on sites drawn from a jittered grid."""
    rng = scene.rng
    across = max(1, round(scene.size / _SITE))
    sites = (np.stack(np.divmod(rng.permutation(across**2), across), 1) + 0.5) * (scene.size / across)
    sites += rng.uniform(-50, 50, sites.shape)
    classes = [c for c, share in _SITES_OF.items() for _ in range(count(seed, index, c, share * across**2))]
    settlements = []
    # Settlements last: a village is not swallowed by the wood beside it.
    order = sorted(rng.permutation(classes), key=lambda c: c == URBAN)
    for land_class, site in zip(order, sites, strict=False):
        if land_class == URBAN:
            settlements.append(_settlement(scene, site))
            continue
        radius = rng.uniform(70, 110) if land_class == WATER else rng.uniform(110, 165)
        cover = {RANGELAND: _rangeland, FOREST: _forest, BARREN: _barren, WATER: _water}[land_class]
        patch = scene.add(cover(scene))
        for lobe in range(2):
            center = site + rng.normal(0, 0.45 * radius, 2) * lobe
            outline = _blob(rng, center, radius * (1 - 0.25 * lobe), angular=land_class in (RANGELAND, BARREN))
            scene.pen.polygon(outline, fill=patch)
    return settlements


def _rangeland(scene: Scene) -> Patch:
    rng = scene.rng
    color, tufts = scene.ground(rng.uniform(0.35, 0.9), rng.uniform(0.85, 1.1)), rng.uniform(0.1, 0.14)
    return Patch(RANGELAND, color, 0.05, tufts, 0.08, rng.uniform(0.4, 0.8))


def _forest(scene: Scene) -> Patch:
    rng = scene.rng
    color = scene.ground(rng.uniform(0.75, 1.1), rng.uniform(0.6, 0.9))
    return Patch(FOREST, color, 0.08, 0.05, 0.05, 0.2, crowns=rng.uniform(0.26, 0.36))


def _barren(scene: Scene) -> Patch:
    rng = scene.rng
    color, stones = scene.ground(rng.uniform(-0.1, 0.15), rng.uniform(0.9, 1.25)), rng.uniform(0.1, 0.16)
    return Patch(BARREN, color, 0.05, stones, 0.07, 0.25)


def _water(scene: Scene) -> Patch:
    rng = scene.rng
    return Patch(WATER, scene.ground(rng.uniform(0.1, 1), rng.uniform(0.6, 1.0)), 0.02, 0.005, 0.04, 0.15)


def _blob(rng: np.random.Generator, center: np.ndarray, radius: float, angular: bool) -> list[tuple[float, float]]:
    """The outline of a natural region of about `radius` px: few straight sides, or a smooth shore."""
    corners = 11 if angular else 40
    turn = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    reach = np.ones(corners)
    for wave in range(2, 6):
        reach += rng.normal(0, 0.32 / wave) * np.cos(wave * turn + rng.uniform(0, 2 * math.pi))
    reach = radius * np.clip(reach + rng.normal(0, 0.08 if angular else 0.02, corners), 0.4, 1.8)
    stretch = math.exp(rng.normal(0, 0.2))
    points = np.stack([reach * np.cos(turn) * stretch, reach * np.sin(turn) / stretch], 1)
    return [tuple(point) for point in points + center]


def river(scene: Scene) -> None:
    """A meandering river from edge to edge, between banks of rangeland or sand."""
    rng, size = scene.rng, scene.size
    along = np.arange(-80, size + 96, 16.0)
    sway = sum(
        rng.normal(0, 0.1) * length * np.sin(2 * math.pi * along / length + rng.uniform(0, 2 * math.pi))
        for length in (330, 520, 1100)
    )
    middle = np.stack([along, size * rng.uniform(0.25, 0.75) + sway + rng.normal(0, 0.25) * (along - size / 2)], 1)
    if rng.random() < 0.5:
        middle = middle[:, ::-1]
    width = rng.uniform(22, 60) * (1 + 0.2 * np.sin(along / 110 + rng.uniform(0, 6)))
    normal = np.gradient(middle, axis=0)[:, ::-1] * (1, -1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    bank = _rangeland(scene) if rng.random() < 0.5 else _barren(scene)
    left, right = (16 + 9 * np.sin(along / rng.uniform(25, 60) + rng.uniform(0, 6)) for _ in range(2))
    for patch, beyond_left, beyond_right in ((bank, left, right), (_water(scene), 0 * left, 0 * right)):
        one = middle + normal * (width / 2 + beyond_left)[:, None]
        other = middle - normal * (width / 2 + beyond_right)[:, None]
        scene.pen.polygon([tuple(point) for point in np.concatenate([one, other[::-1]])], fill=scene.add(patch))


def _settlement(scene: Scene, site: np.ndarray) -> Settlement:
    """Streets and yards: the blocks of a slanted grid whose middles lie within about 130 px of `site`."""
    rng = scene.rng
    angle = rng.uniform(0, math.pi)
    u = np.array([math.cos(angle), math.sin(angle)])
    v = np.array([-u[1], u[0]])
    street = scene.add(Patch(URBAN, scene.ground(rng.uniform(0, 0.2), rng.uniform(0.95, 1.3)), 0.05, 0.05, 0.05))
    yards = [
        scene.add(Patch(URBAN, scene.ground(rng.uniform(0.1, 0.8), rng.uniform(0.8, 1.1)), 0.05, 0.08, 0.08, 0.4))
        for _ in range(3)
    ]
    length, depth, lane = rng.uniform(60, 110), rng.uniform(38, 54), rng.uniform(6, 11)
    shape = [rng.normal(0, 0.25, 2) for _ in range(2)]
    blocks = []
    for i in range(-6, 7):
        for j in range(-6, 7):
            middle = i * length * u + j * depth * v
            turn = math.atan2(middle[1], middle[0])
            reach = 130 * (
                1 + sum(a * math.cos((k + 2) * turn) + b * math.sin((k + 2) * turn) for k, (a, b) in enumerate(shape))
            )
            if math.hypot(*middle) < reach:
                blocks.append((site + middle - (length * u + depth * v) / 2, length * u, depth * v))
    for origin, along, across in blocks:
        scene.pen.polygon(quad(origin, along, across), fill=street)
    inner = []
    for origin, along, across in blocks:
        kerb = lane / 2 * (u + v)
        yard = (origin + kerb, along * (1 - lane / length), across * (1 - lane / depth))
        scene.pen.polygon(quad(*yard), fill=yards[rng.integers(len(yards))])
        inner.append(yard)
    return Settlement(inner, rng.uniform(0.65, 0.97))
