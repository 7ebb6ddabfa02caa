"""TFDS builders, and the way back in to what they built.

Every builder stores tiles as examples of three features:

  tile_id  str, unique in the dataset
  image    `[H, W, bands]`: PNG or JPEG bytes for three bands of uint8, else the array, compressed
  mask     PNG bytes, uint8 `[H, W, 1]`: class id, or IGNORE; IGNORE everywhere on an unlabelled tile

in array_record files, in a fixed order, with the legend in the dataset's metadata. Masks are read
where points are drawn and where maps are scored, and nowhere else.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from pcejax.errors import UserError
from pcejax.frames import Frame
from pcejax.legend import Legend

UNLABELLED = "unlabelled"
"""The split of tiles without a mask."""


class Bands(NamedTuple):
    """The bands of a dataset's images: type of number, and of each band what the model sees as 0 and as 1.

    `chosen` are those taken of a user's files, counted from 1, of `in_file` bands there; () for all. `metres` is the
    side of a pixel on the ground, 0 where it is unknown.
    """

    dtype: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    chosen: tuple[int, ...] = ()
    in_file: int = 0
    metres: float = 0.0

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Bands:
        """The bands of which `_asdict` went through JSON."""
        low, high, chosen = (tuple(value.get(name, ())) for name in ("low", "high", "chosen"))
        return cls(value["dtype"], low, high, chosen, value.get("in_file", 0), value.get("metres", 0.0))

    @property
    def num(self) -> int:
        """Number of bands."""
        return len(self.low)

    def check_file(self, name: str, num: int, dtype: str) -> None:
        """Checks the bands of a file to be mapped.

        Raises:
          UserError: another number of them than training's files had, or another type; the message has `name`.
        """
        expected = self.in_file or self.num
        if (num, dtype) != (expected, self.dtype):
            raise UserError(
                f"{name}: {num} bands of {dtype}; expected {expected} of {self.dtype}, as the run was taught by; "
                "convert it"
            )

    @property
    def pixel_bytes(self) -> int:
        """Bytes that a pixel of all bands takes."""
        return self.num * np.dtype(self.dtype).itemsize


RGB = Bands("uint8", (0.0,) * 3, (255.0,) * 3)
"""Pictures, as most datasets hold them."""


def features(bands: Bands = RGB) -> tfds.features.FeaturesDict:
    """The features of every builder."""
    return tfds.features.FeaturesDict(
        {
            "tile_id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3))
            if is_picture(bands)
            else tfds.features.Tensor(shape=(None, None, bands.num), dtype=np.dtype(bands.dtype), encoding="zlib"),
            "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
        }
    )


def is_picture(bands: Bands) -> bool:
    """Whether images are stored as PNG or JPEG."""
    return bands.num == 3 and bands.dtype == "uint8"


def decode_image(encoded: Any, bands: Bands = RGB) -> np.ndarray:
    """`[H, W, bands]` of a stored image, in the bands' type: bytes of a picture, else TFDS's dict of an array."""
    if is_picture(bands):
        return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    return features(bands)["image"].decode_example_np(encoded)


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


def ids_of(builder: tfds.core.DatasetBuilder) -> list[int]:
    """The number that each class of the legend has in the user's own files."""
    return builder.info.metadata.get("ids") or list(range(legend_of(builder).num_classes))


def bands_of(builder: tfds.core.DatasetBuilder) -> Bands:
    """The bands of the dataset's images."""
    stored = builder.info.metadata.get("bands")
    return Bands.from_dict(stored) if stored else RGB


def frames_of(builder: tfds.core.DatasetBuilder) -> dict[str, Frame]:
    """Size of every tile, by its id, and of georeferenced ones where they lie.

    Raises:
      UserError: the dataset was prepared by TFDS alone, which does not keep the sizes.
    """
    if "sizes" not in (builder.info.metadata or {}):
        raise UserError(
            f"{builder.data_dir}: holds no sizes of tiles; expected a dataset that scripts/prepare_data.py prepared; "
            "delete that folder and prepare it anew"
        )
    placed = builder.info.metadata.get("georeference", {})
    return {
        tile_id: Frame(height, width, *((tuple(place[0]), place[1]) if (place := placed.get(tile_id)) else ()))
        for tile_id, (height, width) in builder.info.metadata["sizes"].items()
    }
