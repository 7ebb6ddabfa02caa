"""Preparing a dataset: whole and checked, or not there at all.

The builder writes into a folder of its own beside the datasets, `<data_dir>/.preparing-<dataset>`. What it wrote is
read back record by record and flushed to the disk, and only then renamed into place. A run that is cut, even by
`kill -9`, leaves at most that folder, which nothing reads and which the next run empties.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import inspect
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pcejax import datasets
from pcejax.errors import UserError
from pcejax.legend import IGNORE

_FULL = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_LINE_EVERY = 10.0  # seconds between lines of progress where the output is no terminal


class Plan(NamedTuple):
    """What a builder is going to write."""

    tiles: int
    num_bytes: int  # upper bound
    skipped: Sequence[tuple[int, str, str]]  # how many, of what, why


class Job(NamedTuple):
    """What prepares a dataset."""

    folder: str  # below the folder of all datasets
    builder: Callable[[Path], tfds.core.DatasetBuilder]  # into a folder of all datasets; bad input may show here
    plan: Callable[[Any], Plan]  # of that builder, or here; it may take seconds


def _plan_of_survey(builder: Any) -> Plan:
    """Of a builder that surveys its source."""
    survey = builder.survey
    return Plan(sum(map(len, survey.splits.values())), survey.num_bytes, survey.skipped)


def _deepglobe(manual_dir: str | None = None) -> Job:
    from pcejax.datasets.deepglobe import Deepglobe

    source = Path(manual_dir).expanduser() if manual_dir else None
    return Job(
        f"deepglobe/{Deepglobe.VERSION}",
        lambda data_dir: Deepglobe(manual_dir=source, data_dir=data_dir, file_format="array_record"),
        _plan_of_survey,
    )


def _synthetic_v1(
    size: int = 768,
    num_train: int = 16,
    num_validation: int = 4,
    num_test: int = 4,
    num_unlabelled: int = 4,
    seed: int = 0,
    scene: str = "landscape",
) -> Job:
    from pcejax.datasets.synthetic import SyntheticConfig, SyntheticV1

    config = SyntheticConfig(
        size=size,
        train=num_train,
        validation=num_validation,
        test=num_test,
        unlabelled=num_unlabelled,
        seed=seed,
        scene=scene,
    )
    tiles = sum(config.counts.values())
    return Job(
        f"synthetic_v1/{config.name}/{SyntheticV1.VERSION}",
        lambda data_dir: SyntheticV1(config=config, data_dir=data_dir, file_format="array_record"),
        lambda builder: Plan(tiles, tiles * (size * size + 4_000), []),  # JPEG and PNG: half a byte a pixel
    )


def _folder(manual_dir: str | None = None, name: str | None = None, bands: Sequence[str] = ()) -> Job:
    from pcejax.datasets.folder import Folder, FolderConfig

    source = Path(manual_dir or "").expanduser().absolute()
    name = name or source.name
    if not all(band.strip().isdigit() for band in bands) or len(set(bands)) < len(bands):
        raise UserError(
            f"--bands={','.join(bands)}; expected numbers of bands, counted from 1, each once: --bands=4,3,2"
        )
    chosen = [int(band) for band in bands]

    def build(data_dir: Path) -> Folder:
        if not manual_dir or not source.is_dir():
            raise UserError(f"--manual_dir={manual_dir}: no such folder; expected one with legend.yaml and images/")
        config = FolderConfig(name=name)
        return Folder(manual_dir=source, bands=chosen, config=config, data_dir=data_dir, file_format="array_record")

    return Job(f"folder/{name}/{Folder.VERSION}", build, _plan_of_survey)


_DATASETS: dict[str, Callable[..., Job]] = {
    "deepglobe": _deepglobe,
    "synthetic_v1": _synthetic_v1,
    "folder": _folder,
}


def prepare_dataset(dataset: str, data_dir: str | Path, **options: Any) -> Path:
    """Prepares `dataset` in `data_dir`, unless it is there already; prints its table either way.

    Args:
      dataset: a name of `_DATASETS`.
      data_dir: the folder of all datasets; made where missing.
      options: the dataset's own, by the names of the script's flags.

    Returns:
      The dataset's folder, `<data_dir>/<dataset>[/<config>]/<version>`.

    Raises:
      UserError: an unknown dataset or option, bad input, too little space, or another run prepares it now.
    """
    if dataset not in _DATASETS:
        raise UserError(f"--dataset={dataset}: no such dataset; expected one of: {', '.join(_DATASETS)}")
    make = _DATASETS[dataset]
    known = inspect.signature(make).parameters
    for option in options:
        if option not in known:
            told = ", ".join(f"--{name}" for name in known)
            raise UserError(f"--{option}: {dataset} has no such option; expected only: {told}")
    data_dir = Path(data_dir).expanduser().absolute()
    job = make(**options)
    target = data_dir / job.folder
    if (target / "dataset_info.json").exists():
        heading = f"already prepared: {target} (to prepare it anew, delete that folder first)"
    elif target.exists():
        raise UserError(
            f"{target}: is there, but is no dataset: it has no dataset_info.json; move it away or delete it"
        )
    else:
        staging = data_dir / "-".join((".preparing", *Path(job.folder).parts))
        with _quiet():
            builder = job.builder(staging)
            plan = job.plan(builder)
        try:
            with _locked(staging), _quiet():
                _check_space(staging, plan.num_bytes, target)
                _build(builder, plan, target)
        except (OSError, RuntimeError) as error:  # array_record tells of a failed write by RuntimeError
            message = _disk_message(error, data_dir)
            if message is None:
                raise
            raise UserError(message) from error
        heading = f"prepared: {target}"
    builder = tfds.builder_from_directory(str(target))
    _check_files(builder)
    _print_table(heading, builder)
    return target


@contextlib.contextmanager
def _locked(staging: Path) -> Iterator[None]:
    """Holds the folder, empty at the start and gone at the end; the lock dies with the process, however it dies."""
    staging.mkdir(parents=True, exist_ok=True)
    with open(staging / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{staging}: another run prepares this dataset now; expected one at a time; wait for it, or end it"
            ) from error
        for leftover in staging.iterdir():
            if leftover.is_dir():
                shutil.rmtree(leftover)
        try:
            yield
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's own bars, lines and warnings."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        logging.set_verbosity(verbosity)


def _build(builder: tfds.core.DatasetBuilder, plan: Plan, target: Path) -> None:
    """Writes where the builder's `data_dir` says, checks, and renames to `target`."""
    with _progress("preparing", plan.tiles) as advance:
        builder.on_tile = lambda tile_id: advance()
        builder.download_and_prepare()
    written = Path(builder.data_dir)
    with _progress("reading back", plan.tiles) as advance:
        try:
            class_pixels, sizes = _read_back(builder, plan.tiles, advance)
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise UserError(
                f"{target}: what was written does not read back: {' '.join(str(error).split())[:200]}; "
                "it was removed; is the disk failing, or full? check it, then run again"
            ) from error
    builder.info.metadata.update(class_pixels=class_pixels, sizes=sizes, skipped=plan.skipped)
    builder.info.metadata.save_metadata(written)
    for path in written.iterdir():
        with open(path, "rb") as file:
            os.fsync(file)  # some disks and quotas tell that they are full only now
    target.parent.mkdir(parents=True, exist_ok=True)
    written.rename(target)


def _read_back(
    builder: tfds.core.DatasetBuilder, tiles: int, advance: Callable[[], None]
) -> tuple[dict[str, list[int]], dict[str, tuple[int, int]]]:
    """Reads every record.

    Returns:
      The pixels of each class for each split, `[num_classes + 1]`, the last one IGNORE's; and each tile's (H, W).

    Raises:
      OSError, RuntimeError, ValueError, IndexError: records are missing, doubled or damaged.
    """
    num_classes = datasets.legend_of(builder).num_classes
    raw = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}
    sizes: dict[str, tuple[int, int]] = {}
    pixels = {}
    for split in builder.info.splits:
        counts = np.zeros(256, np.int64)
        for example in builder.as_data_source(split, decoders=raw):
            mask = Image.open(io.BytesIO(example["mask"]))
            counts += mask.histogram()
            sizes[example["tile_id"].decode()] = mask.height, mask.width
            advance()
        pixels[split] = [*counts[:num_classes].tolist(), int(counts[IGNORE])]
    stored = builder.info.splits.total_num_examples
    if not len(sizes) == stored == tiles:
        raise RuntimeError(f"{len(sizes)} tiles read back, {stored} stored, {tiles} expected")
    return pixels, sizes


def _check_space(folder: Path, num_bytes: int, target: Path) -> None:
    needed = num_bytes + num_bytes // 20 + 1_000_000
    free = _free(folder)
    if free < needed:
        raise UserError(
            f"{target}: needs up to {_megabytes(needed)}, the disk has {_megabytes(free)} free; "
            "free some space, or give another --data_dir"
        )


def _disk_message(error: Exception, data_dir: Path) -> str | None:
    """What to tell of a full disk or a folder that cannot be written; None for any other error."""
    if any(text in str(error) for text in _FULL):
        return (
            f"{data_dir}: the disk or the quota became full while preparing ({' '.join(str(error).split())[:200]}); "
            f"{_megabytes(_free(data_dir))} are free now that the unfinished dataset is removed; "
            "free some space, or give another --data_dir"
        )
    if isinstance(error, OSError):
        return f"{data_dir}: cannot be written: {error}; expected a folder of yours; give another --data_dir"
    return None


def _free(folder: Path) -> int:
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"


def _check_files(builder: tfds.core.DatasetBuilder) -> None:
    for split in builder.info.splits.values():
        for path in split.filepaths:
            if not Path(path).exists():
                folder = builder.data_dir
                raise UserError(f"{path}: is missing from a prepared dataset; delete {folder} and prepare it anew")


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows tiles done, rate and time left on stderr; yields what to call once a tile."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_progress(what, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} tiles/s")


def _plain_progress(what: str, total: int) -> Callable[[], None]:
    """As lines, for logs: the last tile, and no more than one line in `_LINE_EVERY` seconds before it."""
    start = last = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal done, last
        done, now = done + 1, time.monotonic()
        if done == total or now - last >= _LINE_EVERY:
            last, rate = now, done / max(now - start, 1e-9)
            left = f"{(total - done) / rate:.0f} s left"
            print(f"{what}: {done} of {total} tiles, {rate:.1f} tiles/s, {left}", file=sys.stderr, flush=True)

    return advance


def _print_table(heading: str, builder: tfds.core.DatasetBuilder) -> None:
    metadata, legend, splits = builder.info.metadata, datasets.legend_of(builder), builder.info.splits
    table = Table("share of pixels")
    for split in splits:
        table.add_column(split, justify="right")
    if "class_pixels" in metadata:  # as written by this module; a dataset that TFDS alone prepared has none
        pixels = np.array([metadata["class_pixels"][split] for split in splits], float)
        for name, shares in zip((*legend.names, "no label"), (pixels / pixels.sum(1, keepdims=True)).T, strict=True):
            table.add_row(name, *(f"{share:.1%}" for share in shares))
    table.add_section()
    table.add_row("tiles", *(str(split.num_examples) for split in splits.values()))
    console = Console()
    console.print(heading, soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    if metadata.get("skipped"):
        skipped = Table("skipped", "what", "why")
        for number, what, why in metadata["skipped"]:
            skipped.add_row(str(number), what, why)
        console.print(skipped)
