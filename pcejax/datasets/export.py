"""A prepared dataset's images as files again, to look at or to map."""

from __future__ import annotations

from pathlib import Path

import tensorflow_datasets as tfds

from pcejax import datasets
from pcejax.errors import UserError


def write_images(dataset: Path, folder: Path) -> None:
    """Writes each image of a prepared dataset as `<folder>/<split>/<tile_id>.jpg`, or `.png`: the bytes as stored.

    Raises:
      UserError: the images are not pictures, of three bands of 8 bits.
    """
    builder = tfds.builder_from_directory(str(dataset))
    if not datasets.is_picture(datasets.bands_of(builder)):
        raise UserError(f"--images_dir={folder}: the images of {builder.info.full_name} are no pictures of 3 x 8 bits")
    decoders = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}
    for split in builder.info.splits:
        (folder / split).mkdir(parents=True, exist_ok=True)
        for example in builder.as_data_source(split, decoders=decoders):
            suffix = "jpg" if example["image"].startswith(b"\xff\xd8") else "png"
            (folder / split / f"{example['tile_id'].decode()}.{suffix}").write_bytes(example["image"])
