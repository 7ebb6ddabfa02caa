"""Classes: names, colours, which one is unknown; RGB masks <-> class ids."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from pcejax.errors import UserError

IGNORE = 255
"""The label of a pixel that teaches nothing and is not scored: unlabelled, or padding."""


@dataclasses.dataclass(frozen=True)
class Legend:
    """Class i has the name `names[i]` and the RGB colour `colors[i]`; an unknown class, if any, is the last."""

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    has_unknown: bool

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors):
            raise UserError(f"legend: {len(self.names)} names and {len(self.colors)} colours; expected as many of each")
        if not 2 <= self.num_known <= IGNORE - 1:
            raise UserError(f"legend: {self.num_known} known classes; expected 2 to {IGNORE - 1}")
        for what, values in (("name", self.names), ("colour", self.colors)):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise UserError(f"legend: {what} {twice[0]!r} stands for two classes; expected one {what} a class")

    @property
    def num_classes(self) -> int:
        """Number of classes, the unknown one included."""
        return len(self.names)

    @property
    def num_known(self) -> int:
        """Number of classes without the unknown one: the known ids are `0 .. num_known - 1`."""
        return len(self.names) - self.has_unknown

    @property
    def palette(self) -> np.ndarray:
        """uint8 `[num_classes, 3]`."""
        return np.array(self.colors, np.uint8)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; `from_dict` is the way back."""
        return {"names": list(self.names), "colors": [list(c) for c in self.colors], "has_unknown": self.has_unknown}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Legend:
        """The legend that `to_dict` wrote."""
        colors = tuple((int(r), int(g), int(b)) for r, g, b in value["colors"])
        return cls(tuple(value["names"]), colors, bool(value["has_unknown"]))


DEEPGLOBE = Legend(
    # class_dict.csv of the DeepGlobe Land Cover Classification Challenge (Demir et al., 2018).
    names=("urban", "agriculture", "rangeland", "forest", "water", "barren", "unknown"),
    colors=(
        (0, 255, 255),
        (255, 255, 0),
        (255, 0, 255),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
        (0, 0, 0),
    ),
    has_unknown=True,
)


@functools.lru_cache(maxsize=4)
def _class_of_color(legend: Legend) -> np.ndarray:
    """uint8 `[2**24]`: class id, or IGNORE, of every packed RGB colour."""
    table = np.full(1 << 24, IGNORE, np.uint8)
    for index, (red, green, blue) in enumerate(legend.colors):
        table[red << 16 | green << 8 | blue] = index
    return table


def decode_mask(rgb: np.ndarray, legend: Legend, name: str) -> np.ndarray:
    """Class ids uint8 `[H, W]` of an RGB mask uint8 `[H, W, 3]`.

    Raises:
      UserError: a colour is no class; the message has `name`, each such colour and its pixel count.
    """
    packed = np.dot(rgb.astype(np.int32), np.array([1 << 16, 1 << 8, 1], np.int32))
    ids = _class_of_color(legend)[packed]
    stray = packed[ids == IGNORE]
    if stray.size:
        colors, counts = np.unique(stray, return_counts=True)
        most = np.argsort(-counts)[:3]
        told = ", ".join(
            f"({c >> 16}, {c >> 8 & 255}, {c & 255}) at {n} pixels"
            for c, n in zip(colors[most], counts[most], strict=True)
        )
        known = ", ".join(f"{n} {c}" for n, c in zip(legend.names, legend.colors, strict=True))
        raise UserError(
            f"{name}: {len(colors)} colour(s) are no class: {told}; expected only: {known}; recolour or remove the mask"
        )
    return ids


def encode_mask(ids: np.ndarray, legend: Legend) -> np.ndarray:
    """RGB mask uint8 `[H, W, 3]` of class ids uint8 `[H, W]`; every id is a class of the legend."""
    return legend.palette[ids]
