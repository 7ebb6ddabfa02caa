"""The embedded dataset: procedural landscapes or scenes of context, any tile size, any count.

An instrument and a demonstration: it needs no download and its truth is exact, so that the whole way from points to a
report can be run and tested anywhere. Nothing measured on it is a finding about the world.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from pcejax import datasets
from pcejax.datasets import context_scenes, landscapes
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE, IGNORE

_FIRST_INDEX = {"train": 0, "validation": 1_000_000, "test": 2_000_000, datasets.UNLABELLED: 3_000_000}
"""Where each split's tiles begin in the world of a seed: no scene is in two splits, whatever their counts."""

SCENES: dict[str, Callable[[int, int, int], tuple[np.ndarray, np.ndarray]]] = {
    "landscape": landscapes.draw_tile,
    "context": functools.partial(context_scenes.draw_tile, informative=True),
    "no_context": functools.partial(context_scenes.draw_tile, informative=False),
}
"""What draws tile `index` of the world `seed` with `size` px a side, by what it shows."""

_SPLIT_LIMIT = 1_000_000  # tiles from one split's first index to the next one's


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class SyntheticConfig(tfds.core.BuilderConfig):
    """Which tiles to draw; the name is made from the fields: `768px_16-4-4-4_seed0`, `context_128px_8-24-0-0_seed0`.

    Raises:
      UserError: a field is out of its range.
    """

    name: str = dataclasses.field(init=False)
    size: int = 768  # px, a multiple of 16; 0.5 m each
    train: int = 16  # tiles
    validation: int = 4  # tiles
    test: int = 4  # tiles
    unlabelled: int = 4  # tiles without a mask
    seed: int = 0  # of the world
    scene: str = "landscape"  # what tiles show

    def __post_init__(self) -> None:
        if self.size < 64 or self.size % 16:
            raise UserError(f"synthetic: size is {self.size} px; expected a multiple of 16, 64 or more")
        for split, count in self.counts.items():
            if not 0 <= count <= _SPLIT_LIMIT:
                raise UserError(f"synthetic: {split} is {count} tiles; expected 0 to {_SPLIT_LIMIT}")
        if not any(self.counts.values()):
            raise UserError("synthetic: no tiles; expected one or more in train, validation, test or unlabelled")
        if self.seed < 0:
            raise UserError(f"synthetic: seed is {self.seed}; expected 0 or more")
        if self.scene not in SCENES:
            raise UserError(f"synthetic: scene is {self.scene!r}; expected one of: {', '.join(SCENES)}")
        kind = "" if self.scene == "landscape" else f"{self.scene}_"
        counts = "-".join(str(count) for count in self.counts.values())
        self.name = f"{kind}{self.size}px_{counts}_seed{self.seed}"

    @property
    def counts(self) -> dict[str, int]:
        """Tiles of each split, in the order of the name."""
        return {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
            datasets.UNLABELLED: self.unlabelled,
        }


class SyntheticV1(tfds.core.GeneratorBasedBuilder):
    """Drawn scenes; the version of the drawing is in the name, since other drawings are other data.

    Images are JPEG at quality 95 without chroma subsampling, so a decoded tile differs from the drawn one by a few
    grey levels; masks are lossless. `on_tile`, where set, is called with the id of each tile once it is drawn.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: dict[str, str] = {"1.0.0": "First drawing."}  # noqa: RUF012 (as TFDS declares it)

    on_tile: Callable[[str], None] | None = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Drawn scenes with DeepGlobe's classes: an instrument, not a finding about the world.",
            features=datasets.features(),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(legend=DEEPGLOBE.to_dict()),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
        return {split: self._generate_examples(split, n) for split, n in self.builder_config.counts.items() if n}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        for number in range(count):
            image, mask = SCENES[config.scene](config.seed, _FIRST_INDEX[split] + number, config.size)
            if split == datasets.UNLABELLED:
                mask = np.full_like(mask, IGNORE)
            tile_id = f"{split}_{number:04d}"
            if self.on_tile is not None:
                self.on_tile(tile_id)
            jpeg, png = io.BytesIO(), io.BytesIO()
            Image.fromarray(image).save(jpeg, "JPEG", quality=95, subsampling=0)
            Image.fromarray(mask).save(png, "PNG")
            yield number, {"tile_id": tile_id, "image": jpeg.getvalue(), "mask": png.getvalue()}
