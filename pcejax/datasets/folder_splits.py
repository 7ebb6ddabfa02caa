"""The splits of a folder of one's own: by lists, or drawn; whole regions either way."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import re
from pathlib import Path

from pcejax import datasets
from pcejax.errors import UserError

_SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}
_SEED = 0  # of the split without lists


def find_splits(
    folder: Path, tiles: list[str], masked: set[str], pointed: set[str]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The tiles of each split, and those of none by the reason why; `folder`'s head says who goes where.

    Args:
      folder: may hold splits/<split>.txt and groups.csv.
      tiles: those that have an image, sorted.
      masked: those with a mask.
      pointed: those with points.

    Raises:
      UserError: a list names a tile twice, or one that is not there or cannot teach; a region is in two splits.
    """
    regions = _regions(folder / "groups.csv", tiles)
    lists = sorted((folder / "splits").glob("*.txt"))
    if not lists:
        return _draw_splits(tiles, masked, pointed, regions)
    splits = _read_lists(lists, tiles, masked | pointed)
    home: dict[str, tuple[str, str]] = {}
    for split, members in splits.items():
        for tile in members if split != datasets.UNLABELLED else []:
            first, other = home.setdefault(regions[tile], (split, tile))
            if first != split:
                raise UserError(
                    f"{folder / 'splits'}: region {regions[tile]!r} of groups.csv is in {first} (tile {other}) and in "
                    f"{split} (tile {tile}); expected each region in one split; move its tiles together"
                )
    listed = {tile for members in splits.values() for tile in members}
    left = [tile for tile in tiles if tile not in listed]
    return splits, {"in no list of splits/": left} if left else {}


def _regions(path: Path, tiles: list[str]) -> dict[str, str]:
    """The region of each tile; a tile that `groups.csv` does not name is a region of its own."""
    regions = {tile: tile for tile in tiles}
    if not path.exists():
        return regions
    named: set[str] = set()
    rows = csv.DictReader(io.StringIO(_text(path), newline=""))
    if not {"tile", "region"} <= set(rows.fieldnames or ()):
        raise UserError(f"{path}: columns are {rows.fieldnames}; expected tile and region")
    for row in rows:
        tile, place = row["tile"], f"{path}, line {rows.line_num}"
        if tile not in regions:
            raise UserError(f"{place}: no image of tile {tile!r}; expected <tile> in images/, without a suffix")
        if tile in named:
            raise UserError(f"{place}: tile {tile} is named before; expected each tile once")
        if not row["region"]:
            raise UserError(f"{place}: tile {tile} has no region; expected a name")
        named.add(tile)
        regions[tile] = row["region"]
    return regions


def _read_lists(lists: list[Path], tiles: list[str], labelled: set[str]) -> dict[str, list[str]]:
    places: dict[str, str] = {}
    splits: dict[str, list[str]] = {}
    known = set(tiles)
    for path in lists:
        if not re.fullmatch(r"[A-Za-z]\w*", path.stem) or path.stem == "all":
            raise UserError(f"{path}: {path.stem!r} cannot name a split; expected letters, digits and _, and not 'all'")
        splits[path.stem] = []
        for number, line in enumerate(_text(path).splitlines(), 1):
            tile, place = line.strip(), f"{path}, line {number}"
            if not tile:
                continue
            if tile not in known:
                raise UserError(f"{place}: no image of tile {tile!r}; expected <tile> in images/, without a suffix")
            if tile in places:
                raise UserError(f"{place}: tile {tile} is named before, in {places[tile]}; expected each tile once")
            if tile not in labelled and path.stem != datasets.UNLABELLED:
                raise UserError(f"{place}: tile {tile} has neither mask nor points; expected one of them; add it")
            places[tile] = place
            splits[path.stem].append(tile)
    unlabelled = [tile for tile in tiles if tile not in places and tile not in labelled]
    if unlabelled:
        splits.setdefault(datasets.UNLABELLED, []).extend(unlabelled)
    return {split: members for split, members in splits.items() if members}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no UTF-8 ({error.reason}); expected text; save it as UTF-8") from error


def _draw_splits(
    tiles: list[str], masked: set[str], pointed: set[str], regions: dict[str, str]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The split without lists, as `folder`'s head says: any machine and any numpy draw the same."""
    drawn = sorted({regions[tile] for tile in tiles if tile in masked}, key=_draw)
    ends = [round(len(drawn) * share) for share in itertools.accumulate(_SHARES.values())]
    split_of = {
        region: split
        for split, (start, end) in zip(_SHARES, itertools.pairwise([0, *ends]), strict=True)
        for region in drawn[start:end]
    }
    splits: dict[str, list[str]] = {split: [] for split in (*_SHARES, datasets.UNLABELLED)}
    beside = []
    for tile in tiles:
        split = split_of.get(regions[tile], "train") if tile in masked or tile in pointed else datasets.UNLABELLED
        if split in _SHARES and split != "train" and tile not in masked:
            beside.append(tile)  # it cannot be scored, and would give away the region if it taught
        else:
            splits[split].append(tile)
    left_out = {"points alone, in a region that is scored": beside} if beside else {}
    return {split: members for split, members in splits.items() if members}, left_out


def _draw(region: str) -> bytes:
    return hashlib.sha256(f"folder/{_SEED}/{region}".encode()).digest()
