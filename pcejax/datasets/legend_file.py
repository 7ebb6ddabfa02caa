"""`legend.yaml`: the classes of one's own masks and points."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from pcejax.errors import UserError
from pcejax.legend import IGNORE, Legend, decode_mask

_EXAMPLE = "classes: a list of {name: water, id: 3, color: [0, 0, 255]}, two or more; unknown: a name; ignore: [ids]"


class LegendFile(NamedTuple):
    """The legend, what its classes are called in masks, and the ids there that mean "not labelled"."""

    legend: Legend
    ids: tuple[int, ...]  # of class i of the legend
    ignore: tuple[int, ...]

    def class_ids(self, mask: np.ndarray, name: str) -> np.ndarray:
        """Class ids or IGNORE, uint8 `[...]`, of a mask's pixels `[..., 1]`, ids, or `[..., 3]`, colours.

        Raises:
          UserError: a value is no class, or the mask has other bands; the message has `name`.
        """
        if mask.shape[-1] == 3 and mask.dtype == np.uint8:
            return decode_mask(mask, self.legend, name)
        if mask.shape[-1] != 1 or not np.issubdtype(mask.dtype, np.integer):
            raise UserError(
                f"{name}: {mask.shape[-1]} bands of {mask.dtype}; expected one band of class ids, or the legend's "
                "colours in three bands of uint8"
            )
        values, place, counts = np.unique(mask, return_inverse=True, return_counts=True)
        classes = {value: class_id for class_id, value in enumerate(self.ids)} | dict.fromkeys(self.ignore, IGNORE)
        stray = [f"{v} at {n} pixels" for v, n in zip(values, counts, strict=True) if int(v) not in classes]
        if stray:
            known = ", ".join(f"{value} {name}" for value, name in zip(self.ids, self.legend.names, strict=True))
            raise UserError(
                f"{name}: ids that are no class: {', '.join(stray[:3])}; expected only: {known}; add them to "
                "legend.yaml, as a class or under `ignore`"
            )
        table = np.array([classes[int(value)] for value in values], np.uint8)
        return table[place].reshape(mask.shape[:-1])


def read_legend(path: Path) -> LegendFile:
    """The legend that a file describes; the unknown class, if any, becomes the last one.

    Raises:
      UserError: no such file, or it is not as expected.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; expected {_EXAMPLE}")
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        unknown = content.get("unknown")
        classes = [(_name(row["name"]), _whole(row["id"]), row["color"]) for row in content["classes"]]
        colors = [(_whole(r), _whole(g), _whole(b)) for _, _, (r, g, b) in classes]
        ignore = tuple(_whole(value) for value in content.get("ignore") or ())
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {told}); expected {_EXAMPLE}") from error
    names = [name for name, _, _ in classes]
    ids = [value for _, value, _ in classes]
    if unknown is not None and unknown not in names:
        raise UserError(f"{path}: unknown is {unknown!r}; expected one of the classes {names}")
    twice = sorted({value for value in ids if ids.count(value) > 1} | {value for value in ids if value in ignore})
    if twice:
        raise UserError(f"{path}: id {twice[0]} stands for two things; expected one meaning an id")
    for name, color in zip(names, colors, strict=True):
        if not all(0 <= value <= 255 for value in color):
            raise UserError(f"{path}: the colour of {name!r} is {color}; expected three numbers from 0 to 255")
    order = sorted(range(len(names)), key=lambda index: names[index] == unknown)
    try:
        legend = Legend(tuple(names[i] for i in order), tuple(colors[i] for i in order), unknown is not None)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return LegendFile(legend, tuple(ids[i] for i in order), ignore)


def _name(value: Any) -> str:
    if isinstance(value, bool) or value is None:  # what YAML makes of no, yes and nothing
        raise ValueError(f"name {value!r}; put it in quotes")
    return str(value).strip()


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no whole number")
    return value
