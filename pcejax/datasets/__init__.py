"""TFDS builders, and the way back in to what they built.

Every builder stores tiles as examples of three features:

  tile_id  str, unique in the dataset
  image    PNG or JPEG bytes, uint8 `[H, W, bands]`
  mask     PNG bytes, uint8 `[H, W, 1]`: class id, or IGNORE; IGNORE everywhere on an unlabelled tile

in array_record files, in a fixed order, with the legend in the dataset's metadata. Masks are read
where points are drawn and where maps are scored, and nowhere else.
"""

from __future__ import annotations

from pathlib import Path

import tensorflow_datasets as tfds

from pcejax.errors import UserError
from pcejax.legend import Legend

UNLABELLED = "unlabelled"
"""The split of tiles without a mask."""


def features() -> tfds.features.FeaturesDict:
    """The features of every builder."""
    return tfds.features.FeaturesDict(
        {
            "tile_id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
        }
    )


def open_dataset(name: str, data_dir: str | Path) -> tfds.core.DatasetBuilder:
    """The prepared dataset `name` ("deepglobe", or "<builder>/<config>") in `data_dir`, newest version.

    Raises:
      UserError: it was not prepared there.
    """
    folder = Path(data_dir).expanduser() / name
    versions = [p.parent for p in folder.glob("*/dataset_info.json")]
    if not versions:
        raise UserError(
            f"data.name={name!r}: no prepared dataset in {folder}; expected <version>/dataset_info.json there; "
            f"prepare it: scripts/prepare_data.py --dataset={name.split('/')[0]} --data_dir={data_dir}"
        )
    newest = max(versions, key=lambda p: tuple(int(part) for part in p.name.split(".")))
    return tfds.builder_from_directory(str(newest))


def legend_of(builder: tfds.core.DatasetBuilder) -> Legend:
    """The legend that the dataset was built with."""
    return Legend.from_dict(builder.info.metadata["legend"])
