"""DeepGlobe Land Cover, from the archive as people download it.

The archive holds `train/<id>_sat.jpg` with `train/<id>_mask.png` (803 tiles of 2448x2448 pixels at 0.5 m), and
`valid/` and `test/` with images alone, which become the split UNLABELLED. Split lists `splits/train.txt`,
`splits/crossvali.txt` and `splits/test.txt`, one `<id>_sat.jpg` a line, are honoured where present; those that most
papers use hold 454, 207 and 142 tiles. Without lists the labelled tiles are put in the order of the SHA-256 of
"deepglobe/0/<id>" and cut in the same proportions: another split than theirs, so scores on it compare with nobody's.

Data: Demir et al., DeepGlobe 2018: A Challenge to Parse the Earth through Satellite Images, CVPR Workshops 2018.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, UnidentifiedImageError

from pcejax import datasets
from pcejax.datasets.archive import Archive, open_archive
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE, IGNORE, decode_mask

BANDS = datasets.RGB._replace(metres=0.5)

HOMEPAGE = "https://www.kaggle.com/datasets/balraj98/deepglobe-land-cover-classification-dataset"

_COUNTS = {"train": 454, "crossvali": 207, "test": 142}  # tiles in the split lists that most papers use
_SEED = 0  # of the split without lists
_FILE = re.compile(r"(?P<root>(?:[^/]+/)?)(?P<folder>train|valid|test)/(?P<id>[^/]+)_(?P<kind>sat\.jpg|mask\.png)")
_LINE = re.compile(r"(?P<id>[^\s/]+)_sat\.jpg")
_TILES_PER_SHARD = 64  # about 160 MB; TFDS holds one shard in memory, and a full disk is noticed once a shard
_WORKERS = min(4, os.cpu_count() or 1)  # threads; a tile takes up to 200 MB while it is decoded


class Tile(NamedTuple):
    """Names of a tile's files in the archive."""

    tile_id: str
    image: str
    mask: str | None  # None: unlabelled


class Skipped(NamedTuple):
    """Files or ids that are in no split, and why."""

    number: int
    what: str
    why: str


class Survey(NamedTuple):
    """What is in the archive and where it goes, before any image is read."""

    archive: Archive
    splits: dict[str, list[Tile]]
    skipped: list[Skipped]

    @property
    def num_bytes(self) -> int:
        """Upper bound of the prepared dataset's size: images are stored as they came, masks smaller."""
        sizes = self.archive.sizes
        tiles = [tile for split in self.splits.values() for tile in split]
        return sum(sizes[tile.image] + (sizes[tile.mask] if tile.mask else 0) + 32_000 for tile in tiles)


def survey(manual_dir: Path) -> Survey:
    """Reads names and split lists of the archive at `manual_dir`: the zip, its extracted folder, or a folder with it.

    Raises:
      UserError: no archive, another archive, no labelled tile, an image without a mask in a labelled split, or a bad
        split list.
    """
    archive = open_archive(manual_dir)
    zips = [name for name in archive.sizes if "/" not in name and name.endswith(".zip")]
    if len(zips) == 1 and not any(map(_FILE.fullmatch, archive.sizes)):
        archive = open_archive(manual_dir / zips[0])
    root, labelled, unlabelled, skipped = _find_tiles(archive)
    _check_classes(archive, f"{root}class_dict.csv")
    lists = _read_lists(archive, root)
    if lists:
        splits = {split: [labelled[i] for i in ids if i in labelled] for split, ids in lists.items()}
        skipped += _unlisted(lists, labelled, unlabelled)
    else:
        splits = _draw_splits(labelled)
    unmasked = [tile for tiles in splits.values() for tile in tiles if not tile.mask]
    if unmasked:
        raise UserError(
            f"{archive.where(unmasked[0].image)}: has no mask; expected train/{unmasked[0].tile_id}_mask.png, as the "
            f"tile is in a labelled split ({len(unmasked)} such image(s)); add the mask, or take the tile out of "
            "train/ and of the split lists"
        )
    splits = {split: tiles for split, tiles in splits.items() if tiles}
    if not splits:
        raise UserError(
            f"{archive.path}: no tile for a labelled split: {len(labelled)} image(s) in train/, and the split lists "
            f"({len(lists)} found) name none of them; expected one or more; are the lists this archive's?"
        )
    if unlabelled:
        splits[datasets.UNLABELLED] = list(unlabelled.values())
    return Survey(archive, splits, skipped)


def _find_tiles(archive: Archive) -> tuple[str, dict[str, Tile], dict[str, Tile], list[Skipped]]:
    """The folder that holds train/, its tiles, those of valid/ and test/ (both by id, sorted), and masks left over."""
    found = [m for m in map(_FILE.fullmatch, sorted(archive.sizes)) if m and not m["id"].startswith("._")]
    roots = sorted({m["root"] for m in found})
    if len(roots) != 1:
        got = f"tiles in several folders ({', '.join(root or '.' for root in roots)})" if roots else "holds no tile"
        raise UserError(
            f"{archive.path}: {got}; expected one folder with train/<id>_sat.jpg and train/<id>_mask.png; "
            f"--manual_dir is the zip from {HOMEPAGE} or its extracted folder"
        )
    masks = {m["id"]: m[0] for m in found if m["folder"] == "train" and m["kind"] == "mask.png"}
    labelled: dict[str, Tile] = {}
    unlabelled: dict[str, Tile] = {}
    for match in sorted((m for m in found if m["kind"] == "sat.jpg"), key=lambda m: m["id"]):
        tile_id, image = match["id"], match[0]
        other = labelled.get(tile_id) or unlabelled.get(tile_id)
        if other:
            raise UserError(
                f"{archive.path}: tile {tile_id} is {other.image} and {image}; expected each id once; remove one"
            )
        if match["folder"] == "train":
            labelled[tile_id] = Tile(tile_id, image, masks.pop(tile_id, None))
        else:
            unlabelled[tile_id] = Tile(tile_id, image, None)
    leftover = [Skipped(len(masks), "masks in train/", f"no image for them, as {min(masks)}")] if masks else []
    return roots[0], labelled, unlabelled, leftover


def _check_classes(archive: Archive, name: str) -> None:
    """Refuses its sister, the road archive: same names and layout, and its black and white would pass for classes."""
    if name not in archive.sizes:
        return
    lines = archive.read(name).decode("utf-8-sig", "replace").splitlines()
    rows = [line.replace(" ", "").split(",") for line in lines if line.strip()]
    if {tuple(row[1:4]) for row in rows[1:]} != {tuple(map(str, color)) for color in DEEPGLOBE.colors}:
        raise UserError(
            f"{archive.where(name)}: classes are {', '.join(row[0] for row in rows[1:])}; expected the colours of "
            f"{', '.join(DEEPGLOBE.names)}; is this another archive than the Land Cover one?"
        )


def _read_lists(archive: Archive, root: str) -> dict[str, dict[str, str]]:
    """The split lists present: for each, its ids in order, and where each is named."""
    names = {split: f"{root}splits/{split}.txt" for split in _COUNTS}
    if not any(name in archive.sizes for name in names.values()):  # then a folder beside the zip, or above the root
        folder = archive.path if archive.path.is_dir() else archive.path.parent
        if not (folder / "splits").is_dir():
            return {}
        archive, names = open_archive(folder), {split: f"splits/{split}.txt" for split in _COUNTS}
    places: dict[str, str] = {}
    lists: dict[str, dict[str, str]] = {}
    for split, name in names.items():
        if name not in archive.sizes:
            continue
        lists[split] = {}
        for number, line in enumerate(archive.read(name).decode("utf-8-sig", "replace").splitlines(), 1):
            if not line.strip():
                continue
            match, place = _LINE.fullmatch(line.strip()), f"{archive.where(name)}, line {number}"
            if not match:
                raise UserError(f"{place}: got {line.strip()!r}; expected <id>_sat.jpg; correct the line")
            if match["id"] in places:
                raise UserError(
                    f"{place}: tile {match['id']} is named before, in {places[match['id']]}; "
                    "expected each tile once and in one split; remove one of the two lines"
                )
            places[match["id"]] = lists[split][match["id"]] = place
    return lists


def _unlisted(
    lists: dict[str, dict[str, str]], labelled: dict[str, Tile], unlabelled: dict[str, Tile]
) -> list[Skipped]:
    """Ids named without a file, and tiles with files that no list names."""
    skipped = []
    for split, ids in lists.items():
        absent = [i for i in ids if i not in labelled]
        bare = [i for i in absent if i in unlabelled]
        if len(absent) > len(bare):
            example = next(i for i in absent if i not in unlabelled)
            skipped.append(Skipped(len(absent) - len(bare), f"ids in splits/{split}.txt", f"no image, as of {example}"))
        if bare:
            why = f"no mask, so in {datasets.UNLABELLED}, as {unlabelled[bare[0]].image}"
            skipped.append(Skipped(len(bare), f"ids in splits/{split}.txt", why))
    unnamed = [i for i in labelled if not any(i in ids for ids in lists.values())]
    if unnamed:
        skipped.append(Skipped(len(unnamed), "tiles in train/", f"no split list names them, as {unnamed[0]}"))
    return skipped


def _draw_splits(labelled: dict[str, Tile]) -> dict[str, list[Tile]]:
    """The split without lists, as the module's head says: any machine and any numpy draw the same."""
    drawn = sorted(labelled, key=lambda i: hashlib.sha256(f"deepglobe/{_SEED}/{i}".encode()).digest())
    ends = np.rint(np.cumsum(list(_COUNTS.values())) / sum(_COUNTS.values()) * len(drawn)).astype(int)
    parts = np.split(np.array(drawn, object), ends[:-1])
    return {split: [labelled[i] for i in sorted(part)] for split, part in zip(_COUNTS, parts, strict=True)}


class Deepglobe(tfds.core.ShardBasedBuilder):
    """Builds from the archive at `manual_dir`; `on_tile`, where set, is called with each tile's id once it is done.

    Shard by shard, since TFDS's generator-based builder holds a whole split in memory and, from 1000 MiB on (the usual
    train split is 1.1 GB), needs TensorFlow. Reading a prepared dataset needs no `manual_dir`.

    Raises:
      UserError: from `download_and_prepare`, for an archive or a tile that is not as it should be.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: dict[str, str] = {"1.0.0": "Images as they came, masks as class ids."}  # noqa: RUF012 (as TFDS does)

    on_tile: Callable[[str], None] | None = None

    def __init__(self, *, manual_dir: Path | None = None, **kwargs: Any) -> None:
        self._manual_dir = manual_dir
        super().__init__(**kwargs)

    @functools.cached_property
    def survey(self) -> Survey:
        """What is in the archive; read once."""
        if self._manual_dir is None:
            raise UserError(
                "--manual_dir is missing; expected the DeepGlobe Land Cover zip or its extracted folder; "
                f"download it by hand from {HOMEPAGE}"
            )
        return survey(self._manual_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="DeepGlobe Land Cover: satellite tiles of 2448x2448 pixels at 0.5 m, seven classes.",
            homepage=HOMEPAGE,
            features=datasets.features(),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(legend=DEEPGLOBE.to_dict(), bands=BANDS._asdict()),
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, list[Any]]:
        return {
            split: [
                functools.partial(self._generate_examples, first, tiles[first : first + _TILES_PER_SHARD])
                for first in range(0, len(tiles), _TILES_PER_SHARD)
            ]
            for split, tiles in self.survey.splits.items()
        }

    def _generate_examples(self, first: int, tiles: list[Tile]) -> Iterator[tuple[int, dict[str, Any]]]:
        read = functools.partial(_read_tile, self.survey.archive)
        for key, example in enumerate(_in_order(read, tiles), first):
            yield key, example
            if self.on_tile is not None:
                self.on_tile(example["tile_id"])


def _in_order(read: Callable[[Tile], dict[str, Any]], tiles: list[Tile]) -> Iterator[dict[str, Any]]:
    """`map(read, tiles)`, some tiles ahead in threads."""
    pending: deque[Future[dict[str, Any]]] = deque()
    with ThreadPoolExecutor(_WORKERS) as pool:
        for tile in tiles:
            pending.append(pool.submit(read, tile))
            if len(pending) > 2 * _WORKERS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _read_tile(archive: Archive, tile: Tile) -> dict[str, Any]:
    """The tile's example; both files are decoded whole, since a cut file shows only at its end."""
    jpeg = archive.read(tile.image)
    size = _decode(jpeg, archive.where(tile.image), ("RGB",)).size
    if tile.mask is None:
        mask = Image.new("L", size, IGNORE)
    else:
        where = archive.where(tile.mask)
        colors = _decode(archive.read(tile.mask), where, ("RGB", "RGBA", "P")).convert("RGB")
        if colors.size != size:
            raise UserError(
                f"{where}: tile {tile.tile_id}: mask is {colors.width}x{colors.height}, image is {size[0]}x{size[1]} "
                "pixels; expected the same; was one of them resized?"
            )
        # The archive's note: values may differ from 0 and 255, threshold at 128.
        pure = np.where(np.asarray(colors) >= 128, np.uint8(255), np.uint8(0))
        mask = Image.fromarray(decode_mask(pure, DEEPGLOBE, where))
    png = io.BytesIO()
    mask.save(png, "PNG")
    return {"tile_id": tile.tile_id, "image": jpeg, "mask": png.getvalue()}


def _decode(encoded: bytes, where: str, modes: tuple[str, ...]) -> Image.Image:
    """The decoded JPEG or PNG.

    Raises:
      UserError: it is damaged, or has other bands.
    """
    try:
        image = Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG"))
        image.load()
    except (OSError, SyntaxError, ValueError) as error:  # Pillow tells of a broken PNG by SyntaxError
        told = "no JPEG or PNG" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(
            f"{where}: {len(encoded)} bytes, cannot be decoded: {told}; expected a whole JPEG or PNG; get the file anew"
        ) from error
    if image.mode not in modes:
        raise UserError(f"{where}: bands are {image.mode}; expected {modes[0]}, 8 bits each; convert the file")
    return image
