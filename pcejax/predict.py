"""A checkpoint and image files -> maps: pictures of pictures, GeoTIFFs of georeferenced rasters."""

from __future__ import annotations

import glob
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pcejax import calibration, datasets, map_files, pictures, raster_maps, trained, writers
from pcejax.datasets.rasters import SUFFIXES, is_tiff, open_tiff, read_raster
from pcejax.errors import UserError
from pcejax.frames import Frame
from pcejax.legend import Legend, encode_mask


class Job(NamedTuple):
    """An image, the files of its maps, and of a georeferenced raster where it lies."""

    path: Path
    outputs: dict[str, Path]
    frame: Frame | None


def find_images(pattern: str) -> list[Path]:
    """The images that a file, a folder or a glob names, sorted; of the latter two what is none by its name is left out.

    A raster that QGIS showed has an `.aux.xml` beside it, which `images/*` names too.

    Raises:
      UserError: there is none.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    names = path.iterdir() if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    found = [p for p in names if p.suffix.lower() in SUFFIXES and p.is_file()]
    if not found:
        raise UserError(f"--input={pattern}: no image; expected a file, a glob, or a folder of {', '.join(SUFFIXES)}")
    return sorted(found)


def predict(
    workdir: Path,
    pattern: str,
    output: Path,
    *,
    overwrite: bool = False,
    dihedral_moves: bool = False,
    confidence: bool = False,
    probabilities: bool = False,
) -> list[Path]:
    """Maps every image that `pattern` names with the newest checkpoint of the run in `workdir`.

    For a picture `<name>.<suffix>` it writes `<name>_classes.png` (class ids in the legend's palette),
    `<name>_mask.png` (RGB, as DeepGlobe's masks) and `<name>_overlay.jpg` into `output`; for a georeferenced TIFF
    `<name>_classes.tif` and as asked `<name>_confidence.tif` and `<name>_probabilities.tif`: see `raster_maps`.

    Args:
      workdir: of the run.
      pattern: a file, a folder or a glob.
      output: a folder.
      overwrite: whether files that are there may be replaced.
      dihedral_moves: see `tiled_inference.make_mapper`.
      confidence: whether to write the probability of the class mapped.
      probabilities: whether to write those of all classes.

    Returns:
      The files written.

    Raises:
      UserError: no run, no image, a file that is no image or has other bands than the run was taught by, two images of
        one name, maps that are there, or no room for them.
    """
    images = find_images(pattern)
    stems = [path.stem for path in images]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise UserError(f"--input={pattern}: two images are named {twice[0]!r}; their maps would overwrite each other")
    model = trained.load(workdir, dihedral_moves=dihedral_moves)
    extra = [name for name, wanted in (("confidence", confidence), ("probabilities", probabilities)) if wanted]
    jobs = [_job(path, output, extra, model.bands) for path in images]
    there = [path for job in jobs for path in job.outputs.values() if path.exists()]
    if there and not overwrite:
        told = f"{there[0]} and {len(there) - 1} more are there" if len(there) > 1 else f"{there[0]} is there"
        raise UserError(f"{told}; expected a new --output, or --overwrite to replace them")
    _check_space(jobs, output, model)
    if extra:
        print(f"predict: {' and '.join(extra)}: {calibration.describe(model.calibration)}", flush=True)
    output.mkdir(parents=True, exist_ok=True)
    progress = writers.Progress(len(images))
    for done, job in enumerate(jobs, 1):
        counts = _map_picture(model, job) if job.frame is None else raster_maps.map_raster(model, job.path, job.outputs)
        told = f"{progress.line(done)}: {job.path.name}: {_shares(counts, model.legend)}"
        print(f"predict: images {told}", flush=True)
    return [path for job in jobs for path in job.outputs.values()]


def _job(path: Path, output: Path, extra: list[str], bands: datasets.Bands) -> Job:
    frame = None
    if is_tiff(path):
        with open_tiff(path, bands.chosen) as file:
            if file.frame.transform is not None:
                file.check_bands()
                bands.check_file(str(path), file.num_bands, file.dtype)
                frame = file.frame
    if frame is None and extra:
        raise UserError(f"{path}: is not georeferenced; expected a GeoTIFF for --{extra[0]}; leave that out")
    names = ["classes.png", "mask.png", "overlay.jpg"] if frame is None else [f"{n}.tif" for n in ("classes", *extra)]
    return Job(path, {Path(name).stem: output / f"{path.stem}_{name}" for name in names}, frame)


def _check_space(jobs: list[Job], output: Path, model: trained.Trained) -> None:
    bands = {"classes": 1, "confidence": 1, "probabilities": trained.num_logits(model.config, model.legend)}
    needed = sum(
        map_files.needed_bytes(job.frame, bands[name]) for job in jobs if job.frame is not None for name in job.outputs
    )
    free = shutil.disk_usage(next(path for path in (output, *output.absolute().parents) if path.exists())).free
    if needed > free:
        raise UserError(
            f"{output}: {len(jobs)} maps take up to {needed / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB free; "
            "free some space, or give another --output"
        )


def _map_picture(model: trained.Trained, job: Job) -> np.ndarray:
    """Writes the pictures of a map; returns the pixels of each class."""
    image = _read(job.path, model.bands)
    ids = model.map_image(model.variables, image).argmax(-1).astype(np.uint8)
    classes = Image.fromarray(ids)
    classes.putpalette(model.legend.palette.tobytes())
    classes.save(job.outputs["classes"])
    Image.fromarray(encode_mask(ids, model.legend)).save(job.outputs["mask"])
    shown = pictures.overlay(pictures.as_rgb(image, model.bands), ids, model.legend)
    Image.fromarray(shown).save(job.outputs["overlay"])
    return np.bincount(ids.reshape(-1), minlength=model.legend.num_classes)


def _read(path: Path, bands: datasets.Bands) -> np.ndarray:
    raster = read_raster(path, bands=bands.chosen)
    pixels, num_bands = raster.pixels, raster.num_bands
    if datasets.is_picture(bands) and not bands.chosen and num_bands == 1 and pixels.dtype == bands.dtype:
        pixels, num_bands = pixels.repeat(3, -1), 3  # a grey picture is one of colours alike
    bands.check_file(str(path), num_bands, pixels.dtype.name)
    return pixels


def _shares(counts: np.ndarray, legend: Legend) -> str:
    shares = counts / max(1, counts.sum())
    return ", ".join(f"{n} {s:.0%}" for n, s in zip(legend.names, shares, strict=True) if s >= 0.005) or "no data"
