"""A checkpoint and image files -> maps."""

from __future__ import annotations

import glob
from pathlib import Path

import numpy as np
from PIL import Image

from pcejax import datasets, pictures, trained, writers
from pcejax.datasets.rasters import SUFFIXES, read_raster
from pcejax.errors import UserError
from pcejax.legend import encode_mask


def find_images(pattern: str) -> list[Path]:
    """The images that a file, a folder or a glob names, sorted.

    Raises:
      UserError: there is none.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES]
    else:
        names = [path] if path.is_file() else glob.glob(str(path), recursive=True)
        found = [p for p in map(Path, names) if p.is_file()]
    if not found:
        raise UserError(f"--input={pattern}: no image; expected a file, a glob, or a folder of {', '.join(SUFFIXES)}")
    return sorted(found)


def predict(workdir: Path, pattern: str, output: Path) -> list[Path]:
    """Maps every image that `pattern` names with the newest checkpoint of the run in `workdir`.

    For `<name>.<suffix>` it writes `<name>_classes.png` (class ids in the legend's palette),
    `<name>_mask.png` (RGB, as DeepGlobe's masks) and `<name>_overlay.jpg` into `output`.

    Returns:
      The files written.

    Raises:
      UserError: no run, no image, a file that is no image, or two images of one name.
    """
    images = find_images(pattern)
    stems = [path.stem for path in images]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise UserError(f"--input={pattern}: two images are named {twice[0]!r}; their maps would overwrite each other")
    model = trained.load(workdir)
    output.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    progress = writers.Progress(len(images))
    for path in images:
        image = _read(path, model.bands)
        ids = model.map_image(model.variables, image).argmax(-1).astype(np.uint8)
        classes = Image.fromarray(ids)
        classes.putpalette(model.legend.palette.tobytes())
        maps = {
            "classes.png": classes,
            "mask.png": Image.fromarray(encode_mask(ids, model.legend)),
            "overlay.jpg": Image.fromarray(pictures.overlay(pictures.as_rgb(image, model.bands), ids, model.legend)),
        }
        for name, picture in maps.items():
            written.append(output / f"{path.stem}_{name}")
            picture.save(written[-1])
        shares = np.bincount(ids.reshape(-1), minlength=model.legend.num_classes) / ids.size
        told = ", ".join(f"{n} {s:.0%}" for n, s in zip(model.legend.names, shares, strict=True) if s >= 0.005)
        print(f"predict: images {progress.line(len(written) // len(maps))}: {path.name}: {told}", flush=True)
    return written


def _read(path: Path, bands: datasets.Bands) -> np.ndarray:
    image = read_raster(path).pixels
    if datasets.is_picture(bands) and image.shape[-1] == 1 and image.dtype == bands.dtype:
        image = image.repeat(3, -1)  # a grey picture is one of colours alike
    if image.shape[-1] != bands.num or image.dtype != bands.dtype:
        raise UserError(
            f"{path}: {image.shape[-1]} bands of {image.dtype}; expected {bands.num} of {bands.dtype}, as the run was "
            "taught by; convert it"
        )
    return image
