"""Procedural landscapes at 0.5 m/px with DeepGlobe's seven classes.

A scene is a map of patches and a table of what each patch is made of: a field, a street, a river. The class
of a pixel is the class of its patch, so the truth is exact; trees, roofs and roads are painted over it and belong
to the patch that they stand on. Lengths are pixels, so a smaller tile shows less of the same world.

Colours are shared on purpose: every class takes its colour from the same soil and green, which change from tile
to tile. What tells classes apart is shape, orientation and layout. The scenes are an instrument and a
demonstration: nothing measured on them is a finding about the world.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image, ImageDraw

from pcejax.datasets import landscape_textures as textures
from pcejax.datasets.landscape_textures import Patch
from pcejax.legend import DEEPGLOBE

URBAN, AGRICULTURE, RANGELAND, FOREST, WATER, BARREN, UNKNOWN = range(DEEPGLOBE.num_classes)

_SITE = 256
"""px between the sites where something else than fields may lie."""

_SITES_OF = {URBAN: 0.125, RANGELAND: 0.125, FOREST: 0.13, BARREN: 0.12, WATER: 0.035}
"""Share of the sites that each class takes; rivers come on top."""

_RIVERS = 0.45
"""Rivers on a tile of 768 px, in the mean."""

_CLOUDED = 0.2
"""Share of tiles with clouds."""

_SOILS = ((152, 108, 72), (150, 126, 90), (128, 116, 88), (136, 114, 82))
_GREENS = ((66, 88, 50), (74, 96, 58), (78, 92, 50), (60, 80, 56))


@dataclasses.dataclass
class _Scene:
    """A scene while it is laid out."""

    rng: np.random.Generator
    size: int
    soil: np.ndarray  # float32 [3]
    green: np.ndarray  # float32 [3]
    dryness: float  # 0: fields are green; 1: fields are bare
    sun: tuple[int, int]  # px (rows, columns) from a thing to its shadow
    patches: list[Patch] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.map = Image.new("I", (self.size, self.size))
        self.pen = ImageDraw.Draw(self.map)

    def add(self, patch: Patch) -> int:
        """The number of a new patch, which is what the pen draws with."""
        self.patches.append(patch)
        return len(self.patches) - 1

    def ground(self, greenness: float, shade: float = 1.0) -> np.ndarray:
        """A colour float32 `[3]` between the tile's soil (0) and its green (1)."""
        mixed = self.soil + greenness * (self.green - self.soil)
        return (mixed * shade * (1 + self.rng.normal(0, 0.025, 3))).astype(np.float32)


def draw_tile(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Tile `index` of the world `seed`, a square of `size` px at 0.5 m/px.

    Args:
      seed: of the world, 0 or more.
      index: of the tile, 0 or more. Each is another scene; a few consecutive ones show every class but unknown.
      size: px.

    Returns:
      Image uint8 `[size, size, 3]` and class ids uint8 `[size, size]`, always the same ones for the same arguments.
    """
    rng = np.random.default_rng((seed, index))
    scene = _new_scene(rng, size)
    _fields(scene)
    settlements = _features(scene, seed, index)
    if _count(seed, index, WATER, _RIVERS * size / 768):
        _river(scene)
    patch_map = np.asarray(scene.map)
    ids = np.array([patch.land_class for patch in scene.patches], np.uint8)[patch_map]
    ground = textures.surface(scene.patches, patch_map, scene.sun, rng)
    image = _objects(scene, ids, ground, settlements)
    if _count(seed, index, UNKNOWN, _CLOUDED):
        ids[textures.add_clouds(image, rng)] = UNKNOWN
    return textures.atmosphere(image, rng), ids


def _new_scene(rng: np.random.Generator, size: int) -> _Scene:
    soil = np.array(_SOILS[rng.integers(len(_SOILS))]) * (1 + rng.normal(0, 0.05, 3))
    green = np.array(_GREENS[rng.integers(len(_GREENS))]) * (1 + rng.normal(0, 0.05, 3))
    sun = (int(rng.integers(2, 4)), int(rng.choice([-3, -2, 2, 3])))
    return _Scene(rng, size, soil.astype(np.float32), green.astype(np.float32), float(rng.random()), sun)


def _count(seed: int, index: int, land_class: int, mean: float) -> int:
    """How many of something stand on this tile: `mean` over tiles, spread evenly over any few consecutive ones.

    Each class walks the unit interval by its own irrational step, so that no run of tiles goes without it for long.
    """
    start = np.random.default_rng((seed, land_class, 1)).random()
    step = math.sqrt((2, 3, 5, 7, 11, 13, 17)[land_class])
    return int(mean + (start + index * step) % 1.0)


# Fields.


def _fields(scene: _Scene) -> None:
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


def _crop(scene: _Scene, angle: float) -> Patch:
    """A parcel's surface: a crop in rows, ploughed soil, fallow, an orchard, or a flooded paddy."""
    rng = scene.rng
    lush = float(np.clip(rng.beta(1.2, 1.2) * 1.2 - 0.5 * scene.dryness + 0.1, 0, 1))
    angle += math.pi / 2 * rng.integers(2) + rng.normal(0, 0.03)
    shade, period, ridges = rng.uniform(0.8, 1.2), rng.uniform(10, 15), rng.uniform(0.08, 0.15)
    kind = rng.choice(5, p=(0.45, 0.21, 0.17, 0.14, 0.03))
    if kind == 0:
        color = scene.ground(lush, shade)
        return Patch(AGRICULTURE, color, 0.04, 0.02, 0.04, 0.12, rows=ridges, period=period, angle=angle)
    if kind == 1:
        color = scene.ground(rng.uniform(-0.1, 0.2), shade)
        return Patch(AGRICULTURE, color, 0.05, 0.03, 0.06, 0.2, rows=ridges, period=period, angle=angle)
    if kind == 2:
        color = scene.ground(rng.uniform(0.2, 0.8), shade)
        return Patch(AGRICULTURE, color, 0.05, 0.03, 0.07, 0.5, rows=ridges, period=period, angle=angle)
    if kind == 3:
        color, plants = scene.ground(rng.uniform(0.7, 1.1), rng.uniform(0.65, 0.95)), rng.uniform(0.2, 0.3)
        return Patch(AGRICULTURE, color, 0.08, 0.05, lattice=plants, period=rng.uniform(13, 18), angle=angle)
    color = scene.ground(rng.uniform(0.1, 0.9), rng.uniform(0.6, 0.9))
    return Patch(AGRICULTURE, color, 0.02, 0.01, 0.05, rows=0.05, period=26, angle=angle)


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


# What lies between the fields.


@dataclasses.dataclass
class _Settlement:
    """Blocks of houses as frames: origin, along, across, float `[2]` in px, and the share of the plots built up."""

    blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    density: float


def _features(scene: _Scene, seed: int, index: int) -> list[_Settlement]:
    """Lays rangeland, bare ground, woods, lakes and settlements on sites drawn from a jittered grid."""
    rng = scene.rng
    across = max(1, round(scene.size / _SITE))
    sites = (np.stack(np.divmod(rng.permutation(across**2), across), 1) + 0.5) * (scene.size / across)
    sites += rng.uniform(-50, 50, sites.shape)
    classes = [c for c, share in _SITES_OF.items() for _ in range(_count(seed, index, c, share * across**2))]
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


def _rangeland(scene: _Scene) -> Patch:
    rng = scene.rng
    color, tufts = scene.ground(rng.uniform(0.2, 0.8), rng.uniform(0.8, 1.15)), rng.uniform(0.07, 0.13)
    return Patch(RANGELAND, color, 0.05, tufts, 0.08, rng.uniform(0.4, 0.8))


def _forest(scene: _Scene) -> Patch:
    rng = scene.rng
    color = scene.ground(rng.uniform(0.75, 1.1), rng.uniform(0.6, 0.9))
    return Patch(FOREST, color, 0.08, 0.05, 0.05, 0.2, crowns=rng.uniform(0.2, 0.3))


def _barren(scene: _Scene) -> Patch:
    rng = scene.rng
    color, stones = scene.ground(rng.uniform(-0.1, 0.15), rng.uniform(0.9, 1.25)), rng.uniform(0.07, 0.13)
    return Patch(BARREN, color, 0.05, stones, 0.07, 0.25)


def _water(scene: _Scene) -> Patch:
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


def _river(scene: _Scene) -> None:
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


def _settlement(scene: _Scene, site: np.ndarray) -> _Settlement:
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
        scene.pen.polygon(_quad(origin, along, across), fill=street)
    inner = []
    for origin, along, across in blocks:
        kerb = lane / 2 * (u + v)
        yard = (origin + kerb, along * (1 - lane / length), across * (1 - lane / depth))
        scene.pen.polygon(_quad(*yard), fill=yards[rng.integers(len(yards))])
        inner.append(yard)
    return _Settlement(inner, rng.uniform(0.65, 0.97))


def _quad(origin: np.ndarray, along: np.ndarray, across: np.ndarray) -> list[tuple[float, float]]:
    return [tuple(origin), tuple(origin + along), tuple(origin + along + across), tuple(origin + across)]


# What stands on the ground.


def _objects(scene: _Scene, ids: np.ndarray, ground: np.ndarray, settlements: list[_Settlement]) -> np.ndarray:
    """Paints roads, trees and roofs on `ground` float32 `[3, size, size]`; a new array like it."""
    picture = Image.fromarray(np.ascontiguousarray(np.clip(ground, 0, 255).astype(np.uint8).transpose(1, 2, 0)))
    pen = ImageDraw.Draw(picture)
    _road(scene, pen)
    _trees(scene, pen, ids)
    for settlement in settlements:
        for block in settlement.blocks:
            _houses(scene, pen, ids, block, settlement.density)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1)).astype(np.float32)


def _road(scene: _Scene, pen: ImageDraw.ImageDraw) -> None:
    """Roads and footpaths from edge to edge."""
    rng, size = scene.rng, scene.size
    for _ in range(max(1, round(size / 500))):
        ends = rng.uniform(-0.1, 1.1, (2, 2)) * size
        ends[0, 0], ends[1, 0] = -20, size + 20
        t = np.linspace(0, 1, 12)[:, None]
        path = ends[0] + t * (ends[1] - ends[0]) + np.sin(t * rng.uniform(2, 9)) * rng.normal(0, 25, 2)
        if rng.random() < 0.5:
            path = path[:, ::-1]
        color = tuple(int(c) for c in scene.ground(rng.uniform(0, 0.2), rng.uniform(0.8, 1.3)))
        pen.line([tuple(p) for p in path], fill=color, width=int(rng.integers(3, 9)), joint="curve")


def _trees(scene: _Scene, pen: ImageDraw.ImageDraw, ids: np.ndarray) -> None:
    """Bushes and trees: many on rangeland and in settlements, some in rows along fields, none on water."""
    rng, size = scene.rng, scene.size
    likely = np.array([0.35, 0.05, 0.9, 0.0, 0.0, 0.04, 0.0])
    spots = rng.uniform(0, size, (round(size * size / 700), 2))
    chance = rng.random(len(spots))
    rows, columns = spots.astype(int).T
    for (y, x), radius in zip(
        spots[chance < likely[ids[rows, columns]]], rng.gamma(2.0, 1.1, len(spots)) + 1.5, strict=False
    ):
        _crown(scene, pen, x, y, radius)


def _crown(scene: _Scene, pen: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    """A tree of a few boughs, with its shadow."""
    down, right = (0.35 * radius * step for step in scene.sun)
    dark, base, lit = (tuple(int(c * f) for c in scene.green) for f in (0.45, 0.7, 0.9))
    boughs = scene.rng.normal(0, 0.55 * radius, (4, 2)) + (x, y)
    for shift, size, color in ((1.0, 0.8, dark), (0.0, 0.75, base), (-0.5, 0.4, lit)):
        for bough_x, bough_y in boughs:
            cx, cy, r = bough_x + right * shift, bough_y + down * shift, radius * size
            pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=color)


def _stands_on(ids: np.ndarray, point: np.ndarray, land_class: int) -> bool:
    """Whether `point` (x, y) lies in the tile and on that class."""
    column, row = (int(x) for x in np.floor(point))
    return 0 <= row < len(ids) and 0 <= column < len(ids) and ids[row, column] == land_class


def _houses(
    scene: _Scene, pen: ImageDraw.ImageDraw, ids: np.ndarray, block: tuple[np.ndarray, ...], density: float
) -> None:
    """Two rows of houses back to back, each with its shadow and a second tone on its roof."""
    rng = scene.rng
    origin, along, across = block
    length, depth = math.hypot(*along), math.hypot(*across)
    u, v = along / length, across / depth
    shadow = np.array(scene.sun[::-1]) * 1.6
    for side in range(2):
        at = rng.uniform(0, 6)
        while at < length - 10:
            width, deep = rng.uniform(11, 26), rng.uniform(0.6, 1.0) * depth / 2
            width = min(width, length - at)
            corner = origin + at * u + (v * (depth / 2) if side else v * (depth / 2 - deep))
            middle = corner + (width * u + deep * v) / 2
            if rng.random() < density and _stands_on(ids, middle, URBAN):
                tone = rng.uniform(0.75, 1.75)
                roof = scene.ground(0, tone) if rng.random() < 0.5 else np.full(3, 118.0) * tone
                color = tuple(int(min(c, 250)) for c in roof)
                pen.polygon(_quad(corner + shadow, width * u, deep * v), fill=tuple(int(c * 0.3) for c in scene.soil))
                pen.polygon(_quad(corner, width * u, deep * v), fill=color)
                other = tuple(int(c * 0.82) for c in color)
                pen.polygon(_quad(corner, width * u, deep / 2 * v), fill=other)
            at += width + rng.uniform(0, 5)
