"""Imagery of one's own, from a folder:

  legend.yaml                         classes (name, id, colour), which one is unknown; see `legend_file`
  images/<tile>.png, .jpg or .tif     any number of bands, 8 or 16 bit or float, the same in all
  masks/<tile>.png or .tif            class ids, or the legend's colours; a tile may have none
  points.csv, .geojson or .gpkg       clicked points, for tiles with or without a mask; see `pcejax.point_files`
  splits/<split>.txt                  the tiles of a split, one a line
  groups.csv                          columns tile, region: no region is in two splits

All but the legend and the images may be missing. Without split lists the tiles with a mask go to train, validation and
test as 70, 15 and 15 %, whole regions in the order of the SHA-256 of "folder/0/<region>"; tiles with points alone,
which cannot be scored, go to train, or nowhere where their region is scored; tiles with neither are UNLABELLED.

What a file calls no data, by an alpha band, a nodata value or NaN, is 0 in the image and not labelled.
"""

from __future__ import annotations

import functools
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from pcejax import datasets, point_files
from pcejax.datasets.folder_splits import find_splits
from pcejax.datasets.legend_file import LegendFile, read_legend
from pcejax.datasets.rasters import SUFFIXES, Raster, read_raster
from pcejax.errors import UserError
from pcejax.frames import Frame, metres
from pcejax.legend import IGNORE
from pcejax.points import Points

_SHARD_BYTES = 256_000_000  # TFDS holds one shard in memory
_SAMPLES = 40_000  # pixels of a tile, about, that the scaling is found on
_POINT_SUFFIXES = (".csv", ".geojson", ".gpkg")


class Survey(NamedTuple):
    """What is in the folder and where it goes; every image was read once."""

    images: dict[str, Path]
    masks: dict[str, Path]
    splits: dict[str, list[str]]
    frames: dict[str, Frame]
    points: dict[str, Points]
    legend_file: LegendFile
    bands: datasets.Bands
    skipped: list[tuple[int, str, str]]

    @property
    def num_bytes(self) -> int:
        """Upper bound of the prepared dataset's size."""
        pixel_bytes = self.bands.pixel_bytes + 1  # the mask takes one
        return sum(frame.height * frame.width * pixel_bytes + 4_000 for frame in self.frames.values())


def survey(folder: Path, chosen: Sequence[int] = ()) -> Survey:
    """Reads the folder: names, lists, points, and each image for its size, its bands and their range.

    Args:
      folder: as the module says.
      chosen: the bands to take of each image, counted from 1; () for all.

    Raises:
      UserError: something is missing, damaged or does not fit; the message names the file.
    """
    legend_file = read_legend(folder / "legend.yaml")
    images, masks = _files(folder / "images"), _files(folder / "masks")
    if not images:
        raise UserError(f"{folder / 'images'}: no image; expected <tile>{', <tile>'.join(SUFFIXES)}")
    skipped = []
    if bare := sorted(set(masks) - set(images)):
        skipped.append((len(bare), "masks", f"no image for them, as {masks[bare[0]].name}"))
    rasters = {tile: _Seen.of(read_raster(path, bands=chosen)) for tile, path in images.items()}
    _check_alike(rasters, images)
    frames = {tile: seen.frame for tile, seen in rasters.items()}
    found = [path for suffix in _POINT_SUFFIXES if (path := folder / f"points{suffix}").exists()]
    if len(found) > 1:
        raise UserError(f"{folder}: {found[0].name} and {found[1].name}; expected one file of points; move one away")
    points = point_files.read_points(found[0], frames, legend_file.legend, 0, legend_file.ids) if found else {}
    splits, left_out = find_splits(folder, sorted(images), set(masks) & set(images), set(points))
    bands = _scaling([rasters[tile] for tile in splits.get("train", sorted(images))], folder / "images")
    if chosen:
        bands = bands._replace(chosen=tuple(chosen), in_file=rasters[next(iter(images))].num_bands)
    skipped += [(len(tiles), "tiles", f"{why}, as {tiles[0]}") for why, tiles in left_out.items()]
    return Survey(images, masks, splits, frames, points, legend_file, bands, skipped)


class _Seen(NamedTuple):
    """What the survey keeps of an image."""

    frame: Frame
    dtype: np.dtype
    num_bands: int  # in the file
    sample: np.ndarray  # [n, bands], valid pixels

    @classmethod
    def of(cls, raster: Raster) -> _Seen:
        height, width, bands = raster.pixels.shape
        step = max(1, round((height * width / _SAMPLES) ** 0.5))
        thinned = raster.pixels[::step, ::step][raster.valid[::step, ::step]]
        if raster.pixels.dtype == np.uint8:
            thinned = thinned[:0]  # scaled by the type's own range
        frame = Frame(height, width, raster.transform, raster.crs)
        return cls(frame, raster.pixels.dtype, raster.num_bands, thinned.reshape(-1, bands))


def _files(folder: Path) -> dict[str, Path]:
    """Image files by their stem, sorted."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise UserError(f"{path}: tile {path.stem} is {found[path.stem].name} too; expected one file a tile")
            found[path.stem] = path
    return found


def _check_alike(rasters: dict[str, _Seen], images: dict[str, Path]) -> None:
    kinds = {tile: (seen.num_bands, seen.dtype.name) for tile, seen in rasters.items()}
    (usual, _), *_ = Counter(kinds.values()).most_common(1)
    for tile, kind in kinds.items():
        if kind != usual:
            raise UserError(
                f"{images[tile]}: {kind[0]} bands of {kind[1]}; expected {usual[0]} of {usual[1]}, as most have; "
                "convert it or take it out"
            )


def _scaling(seen: list[_Seen], folder: Path) -> datasets.Bands:
    """8-bit bands as they are, others from the 1 % to the 99 % quantile of the training tiles' valid pixels."""
    dtype, count = seen[0].dtype, seen[0].sample.shape[1]
    if dtype == np.uint8:
        return datasets.Bands("uint8", (0.0,) * count, (255.0,) * count)
    samples = np.concatenate([s.sample for s in seen])
    if not len(samples):
        raise UserError(f"{folder}: no pixel of the training tiles has data; expected some; see their nodata value")
    low, high = np.quantile(samples, [0.01, 0.99], axis=0)
    flat = np.flatnonzero(high <= low)
    if flat.size:
        raise UserError(
            f"{folder}: band {flat[0] + 1} is {low[flat[0]]:g} nearly everywhere on the training tiles; expected a "
            "range of values; leave the band out: --bands"
        )
    return datasets.Bands(dtype.name, tuple(low.tolist()), tuple(high.tolist()))


class FolderConfig(tfds.core.BuilderConfig):
    """Names one folder's dataset: `folder/<name>`."""


class Folder(tfds.core.ShardBasedBuilder):
    """Builds from the folder at `manual_dir`; `on_tile`, where set, is called with each tile's id once it is done.

    Reading a prepared dataset needs no `manual_dir`.

    Raises:
      UserError: from `survey` or `download_and_prepare`, for a file that is not as it should be.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: dict[str, str] = {"1.0.0": "Bands in their own type, masks as class ids."}  # noqa: RUF012 (as TFDS does)

    on_tile: Callable[[str], None] | None = None

    def __init__(self, *, manual_dir: Path, bands: Sequence[int] = (), **kwargs: Any) -> None:
        self._manual_dir, self._bands = manual_dir, bands
        super().__init__(**kwargs)

    @functools.cached_property
    def survey(self) -> Survey:
        """What is in the folder; read once."""
        return survey(self._manual_dir, self._bands)

    def _info(self) -> tfds.core.DatasetInfo:
        found = self.survey
        points = {tile: np.stack([p.row, p.col, p.class_id], 1).tolist() for tile, p in found.points.items()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Imagery from the folder {self._manual_dir.name}.",
            features=datasets.features(found.bands),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(
                legend=found.legend_file.legend.to_dict(),
                ids=found.legend_file.ids,
                bands=found.bands._replace(metres=metres([*found.frames.values()]))._asdict(),
                georeference={t: (frame.transform, frame.crs) for t, frame in found.frames.items() if frame.transform},
                points=points,
            ),
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, list[Any]]:
        largest = max(frame.height * frame.width for frame in self.survey.frames.values())
        step = max(1, _SHARD_BYTES // (largest * self.survey.bands.pixel_bytes))
        return {
            split: [
                functools.partial(self._generate_examples, first, tiles[first : first + step])
                for first in range(0, len(tiles), step)
            ]
            for split, tiles in self.survey.splits.items()
        }

    def _generate_examples(self, first: int, tiles: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, tile in enumerate(tiles, first):
            yield key, self._example(tile)
            if self.on_tile is not None:
                self.on_tile(tile)

    def _example(self, tile: str) -> dict[str, Any]:
        path = self.survey.images[tile]
        raster = read_raster(path, bands=self.survey.bands.chosen)
        height, width = raster.valid.shape
        mask = np.full((height, width), IGNORE, np.uint8)
        if tile in self.survey.masks:
            where = self.survey.masks[tile]
            classes = read_raster(where, indices=True)
            if classes.valid.shape != mask.shape:
                raise UserError(
                    f"{where}: tile {tile}: mask is {'x'.join(map(str, classes.valid.shape[::-1]))}, "
                    f"image is {width}x{height} pixels; "
                    "expected the same; was one of them resized?"
                )
            mask[classes.valid] = self.survey.legend_file.class_ids(classes.pixels[classes.valid], str(where))
        mask[~raster.valid] = IGNORE
        image: Any = raster.pixels
        if datasets.is_picture(self.survey.bands):
            is_stored = path.suffix.lower() in (".jpg", ".jpeg") and not self.survey.bands.chosen
            image = path.read_bytes() if is_stored else _png(raster.pixels)
        return {"tile_id": tile, "image": image, "mask": _png(mask)}


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
