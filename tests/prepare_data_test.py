from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets_deepglobe_test import classes_of, cut, save_archive, save_list

from pcejax import datasets
from pcejax.datasets import prepare
from pcejax.datasets.prepare import prepare_dataset
from pcejax.errors import UserError

SCRIPT = Path(__file__).parents[1] / "scripts" / "prepare_data.py"


@pytest.fixture
def archive(tmp_path):
    return save_archive(tmp_path / "archive")


def run_script(*arguments, limit=None):
    """The script in a process of its own; `limit`, in bytes, is the longest file that it may write."""
    code = "import resource, runpy, sys\n"
    if limit is not None:
        code += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    code += "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def flags_for(archive, data_dir):
    return "--dataset=deepglobe", f"--manual_dir={archive}", f"--data_dir={data_dir}"


def assert_nothing_there(data_dir):
    """No dataset to open, and nothing that takes space."""
    with pytest.raises(UserError, match="no prepared dataset"):
        datasets.open_dataset("deepglobe", data_dir)
    assert not list(data_dir.rglob("*"))


def test_the_script_prepares_and_then_says_that_it_has(archive, tmp_path):
    save_list(archive, "train", "119_sat.jpg", "855_sat.jpg", "77_sat.jpg")
    first = run_script(*flags_for(archive, tmp_path / "data"))
    assert first.returncode == 0, first.stderr
    assert "preparing: 5 of 5 tiles" in first.stderr
    assert "tiles/s" in first.stderr
    assert "WARNING" not in first.stderr
    assert "\x1b" not in first.stderr + first.stdout
    second = run_script(*flags_for("/gone", tmp_path / "data"))
    assert second.returncode == 0, second.stderr
    assert second.stderr == ""
    assert second.stdout.startswith("already prepared: ")
    assert first.stdout.splitlines()[1:] == second.stdout.splitlines()[1:]  # the same table
    assert len(datasets.open_dataset("deepglobe", tmp_path / "data").as_data_source("train")) == 2


def test_the_table_has_tiles_class_shares_and_what_was_skipped(archive, tmp_path, capsys):
    save_list(archive, "train", "119_sat.jpg", "77_sat.jpg")
    folder = prepare_dataset("deepglobe", tmp_path / "data", manual_dir=str(archive))
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    rows = {line[1].strip(): line[2:-1] for line in lines}
    assert [cell.strip() for cell in rows["tiles"]] == ["1", "3"]
    share = np.mean(classes_of("119") == 3)
    assert [cell.strip() for cell in rows["forest"]] == [f"{share:.1%}", "0.0%"]
    assert [cell.strip() for cell in rows["no label"]] == ["0.0%", "100.0%"]
    assert rows["1"][0].strip() == "ids in splits/train.txt"
    assert rows["5"][0].strip() == "tiles in train/"
    pixels = json.loads((folder / "metadata.json").read_text())["class_pixels"]
    assert pixels["train"] == [*np.bincount(classes_of("119").ravel(), minlength=7).tolist(), 0]


def test_every_builder_is_prepared_through_the_same_door(tmp_path, capsys):
    options = {"size": 64, "num_train": 2, "num_validation": 1, "num_test": 0, "num_unlabelled": 1, "seed": 3}
    folder = prepare_dataset("synthetic_v1", tmp_path, **options)
    assert folder == tmp_path / "synthetic_v1" / "64px_2-1-0-1_seed3" / "1.0.0"
    assert "preparing: 4 of 4 tiles" in capsys.readouterr().err
    builder = datasets.open_dataset("synthetic_v1/64px_2-1-0-1_seed3", tmp_path)
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {
        "train": 2,
        "validation": 1,
        datasets.UNLABELLED: 1,
    }


@pytest.mark.parametrize(
    ("dataset", "options", "told"),
    [
        ("deepglob", {}, "expected one of: deepglobe, synthetic_v1"),
        ("deepglobe", {}, "--manual_dir is missing; expected .* download it by hand from https://"),
        ("deepglobe", {"manual_dir": "/gone"}, "/gone: no such file or folder"),
        ("deepglobe", {"size": 64}, "--size: deepglobe has no such option; expected only: --manual_dir"),
        ("synthetic_v1", {"size": 65}, "size is 65 px"),
    ],
)
def test_bad_flags_are_told_and_touch_nothing(tmp_path, dataset, options, told):
    with pytest.raises(UserError, match=told):
        prepare_dataset(dataset, tmp_path / "data", **options)
    assert not (tmp_path / "data").exists()


def test_bad_input_ends_the_script_with_the_message_alone(archive, tmp_path):
    cut(archive / "train" / "855_sat.jpg", 0.5)
    ended = run_script(*flags_for(archive, tmp_path / "data"))
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"error: {archive}/train/855_sat.jpg: ")
    assert "Traceback" not in ended.stderr
    assert_nothing_there(tmp_path / "data")


def test_too_little_space_is_told_before_the_start_with_both_numbers(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(UserError, match=r"needs up to 1 MB, the disk has 1 MB free; free some space"):
        prepare_dataset("deepglobe", tmp_path / "data", manual_dir=str(archive))
    assert_nothing_there(tmp_path / "data")


def test_a_disk_that_becomes_full_in_the_middle_is_told_and_leaves_nothing(archive, tmp_path):
    """The record writer meets a real failed write, here of a file that grows beyond a limit."""
    ended = run_script(*flags_for(archive, tmp_path / "data"), limit=20_000)
    assert ended.returncode == 2
    assert "became full while preparing" in ended.stderr.splitlines()[-1]
    assert "MB are free now" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert_nothing_there(tmp_path / "data")
    assert run_script(*flags_for(archive, tmp_path / "data")).returncode == 0


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("write() failed: No space left on device; writing x"),
        OSError(122, "Disk quota exceeded"),
    ],
)
def test_a_full_disk_is_told_whoever_met_it(archive, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(prepare, "_read_back", lambda *_: ({}, {}))
    monkeypatch.setattr(os, "fsync", fail)  # as a network disk does, which tells late
    with pytest.raises(UserError, match="became full while preparing"):
        prepare_dataset("deepglobe", tmp_path / "data", manual_dir=str(archive))
    assert_nothing_there(tmp_path / "data")


def test_a_data_dir_that_cannot_be_made_is_told(archive, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        prepare_dataset("deepglobe", tmp_path / "data", manual_dir=str(archive))


def zero_the_middle(shard):
    whole = bytearray(shard.read_bytes())
    whole[len(whole) // 8 : len(whole) // 4] = bytes(len(whole) // 4 - len(whole) // 8)
    shard.write_bytes(whole)


@pytest.mark.parametrize(
    "damage",
    [zero_the_middle, lambda shard: cut(shard, 0.2), lambda shard: shard.write_bytes(b""), Path.unlink],
    ids=["zeros", "cut", "empty", "gone"],
)
def test_what_does_not_read_back_is_not_put_in_place(archive, tmp_path, monkeypatch, damage):
    read_back = prepare._read_back

    def damage_first(builder, *arguments):
        damage(next(Path(builder.data_dir).glob("*train.array_record*")))
        return read_back(builder, *arguments)

    monkeypatch.setattr(prepare, "_read_back", damage_first)
    with pytest.raises(UserError, match="what was written does not read back"):
        prepare_dataset("deepglobe", tmp_path / "data", manual_dir=str(archive))
    assert_nothing_there(tmp_path / "data")


@pytest.mark.parametrize("moment", ["deepglobe._read_tile", "prepare._read_back", "prepare.os.fsync"])
def test_a_killed_run_leaves_no_dataset_and_the_next_one_succeeds(archive, tmp_path, moment):
    module, name = moment.split(".", 1)
    code = (
        "import os, signal, sys\n"
        f"from pcejax.datasets import deepglobe, prepare\n"
        f"{module}.{name} = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepare.prepare_dataset('deepglobe', sys.argv[1], manual_dir=sys.argv[2])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "data"), str(archive)]
    killed = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert list((tmp_path / "data").iterdir())  # the leftover
    with pytest.raises(UserError, match="no prepared dataset"):
        datasets.open_dataset("deepglobe", tmp_path / "data")
    prepare_dataset("deepglobe", tmp_path / "data", manual_dir=str(archive))
    assert len(datasets.open_dataset("deepglobe", tmp_path / "data").as_data_source("train")) == 3
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["deepglobe"]


def test_two_runs_do_not_prepare_the_same_dataset_at_once(archive, tmp_path):
    staging = tmp_path / "data" / ".preparing-deepglobe-1.0.0"
    staging.mkdir(parents=True)
    with open(staging / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run prepares this dataset now"):
            prepare_dataset("deepglobe", tmp_path / "data", manual_dir=str(archive))
    assert staging.exists()


def test_a_shard_missing_from_a_prepared_dataset_is_told(archive, tmp_path):
    folder = prepare_dataset("deepglobe", tmp_path, manual_dir=str(archive))
    next(folder.glob("*train.array_record*")).unlink()
    with pytest.raises(UserError, match="is missing from a prepared dataset; delete"):
        prepare_dataset("deepglobe", tmp_path, manual_dir=str(archive))


def test_a_folder_in_the_dataset_s_place_is_told(archive, tmp_path):
    (tmp_path / "deepglobe" / "1.0.0").mkdir(parents=True)
    with pytest.raises(UserError, match=r"it has no dataset_info\.json; move it away"):
        prepare_dataset("deepglobe", tmp_path, manual_dir=str(archive))


def test_help_is_quick_and_names_the_datasets():
    start = time.monotonic()
    ended = run_script("--help")
    assert time.monotonic() - start < 3
    assert "deepglobe, synthetic_v1, or folder" in ended.stdout
