import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from clu.metrics import Average
from runs_for_tests import config_of, state_of

from pcejax import metrics, parallel
from pcejax.checkpoints import Checkpoints
from pcejax.errors import UserError

ABOUT = {"labels_hash": "ab" * 32, "tile_ids": ["119", "Fläche 2"], "label_counts": {"water": 3}, "labelled_share": 0.1}


@pytest.fixture(scope="module", params=["group", "batch"])
def state(request):
    return state_of(config_of("data", **{"model.norm": request.param}), 6, step=4)


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_what_was_saved_comes_back_bit_for_bit(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(parallel.replicate(state), ABOUT, [])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 4
        assert checkpoints.about() == ABOUT
        restored = checkpoints.restore(jax.tree.map(np.zeros_like, state))
    assert_same(restored, state)
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(restored))


def test_shapes_are_enough_to_restore(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, ABOUT, [])
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.restore(shapes), state)


def test_a_state_that_changes_after_the_save_does_not_change_the_checkpoint(tmp_path, state):
    """Saving goes on in the background while the next step overwrites the donated state."""
    placed = parallel.replicate(state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(placed, ABOUT, [])
        parallel.to_host(jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)(placed))
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.restore(state), state)


def test_the_newest_two_are_kept(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(state._replace(step=np.int32(step)), ABOUT | {"step": step}, [])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "6"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 6
        assert checkpoints.about()["step"] == 6
        assert checkpoints.restore(state).step == 6


def test_on_exit_the_last_save_is_on_disk_also_when_the_run_failed(tmp_path, state):
    def fail():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(state, ABOUT, [])
            raise UserError("not finite")

    with pytest.raises(UserError, match="not finite"):
        fail()
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.restore(state), state)


def test_a_save_that_was_cut_is_no_checkpoint(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, ABOUT, [])
    whole = tmp_path / "checkpoints" / "4"
    # As a killed process leaves it: under a temporary name, without some of its files.
    cut = whole.with_name("6.orbax-checkpoint-tmp")
    cut.mkdir()
    (cut / "state").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 4
        assert_same(checkpoints.restore(state), state)


@pytest.mark.parametrize("read", [lambda c: c.about(), lambda c: c.restore({})], ids=["about", "restore"])
def test_no_checkpoint_is_told_with_what_to_do(tmp_path, read):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        with pytest.raises(UserError, match=r"checkpoints: no checkpoint; .* scripts/train.py"):
            read(checkpoints)


def test_a_relative_workdir_is_meant_from_here(tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    with Checkpoints(tmp_path.relative_to(tmp_path) / "run") as checkpoints:
        checkpoints.save(state, ABOUT, [])
    assert (tmp_path / "run" / "checkpoints" / "4").is_dir()


def write_two(workdir, state):
    """Checkpoints of steps 2 and 4, whose states differ."""
    with Checkpoints(workdir) as checkpoints:
        for step in (2, 4):
            moved = jax.tree.map(lambda x, step=step: x + np.asarray(step, x.dtype), state)
            checkpoints.save(moved._replace(step=np.int32(step)), ABOUT | {"step": step}, [])


def test_a_checkpoint_with_any_file_damaged_is_passed_over_for_the_one_before(tmp_path, state, capsys):
    write_two(tmp_path / "whole", state)
    newest = tmp_path / "whole" / "checkpoints" / "4"
    names = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    assert len(names) > 5

    def truncate(path):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def zero(path):
        path.write_bytes(bytes(path.stat().st_size))

    checked = 0
    for name, damage in itertools.product(names, (truncate, zero, Path.unlink)):
        if damage is not Path.unlink and (newest / name).stat().st_size == 0:
            continue  # an empty file, which can only be deleted
        shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
        damage(tmp_path / "damaged" / "checkpoints" / "4" / name)
        with Checkpoints(tmp_path / "damaged") as checkpoints:
            assert checkpoints.latest_step() == 2, (name, damage)
            assert checkpoints.about()["step"] == 2
            assert checkpoints.restore(state).step == 2
        assert "passed over for the checkpoint before" in capsys.readouterr().out
        shutil.rmtree(tmp_path / "damaged")
        checked += 1
    assert checked > 10


def test_after_a_damaged_checkpoint_its_step_can_be_saved_again(tmp_path, state):
    write_two(tmp_path, state)
    (tmp_path / "checkpoints" / "4" / "sha256.json").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.discard_after(checkpoints.latest_step())
        checkpoints.save(state._replace(step=np.int32(4)), ABOUT, [])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 4
        assert_same(checkpoints.restore(state), state._replace(step=np.int32(4)))


def test_what_a_cut_save_and_a_cut_deletion_left_is_cleared_away_by_the_run_that_goes_on(tmp_path, state):
    folder = tmp_path / "checkpoints"
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, ABOUT, [])
    (folder / "6.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    shutil.copytree(folder / "4", folder / "2")
    (folder / "2" / "sha256.json").unlink()
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.discard_after(4)
        assert checkpoints.latest_step() == 4
    assert [path.name for path in folder.iterdir()] == ["4"]


def test_a_deletion_that_is_cut_leaves_nothing_that_looks_whole(tmp_path, state, monkeypatch):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, ABOUT, [])

    def cut(manager, step):
        raise OSError("cut")

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.delete", cut)
    with pytest.raises(UserError, match="cut"), Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state._replace(step=np.int32(6)), ABOUT, [])
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None


def test_another_process_than_the_primary_one_deletes_nothing(tmp_path, state, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, ABOUT, [])
    monkeypatch.setattr("pcejax.parallel.is_primary", lambda: False)
    (tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.discard_after(2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "6.orbax-checkpoint-tmp"]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_checkpoint_is_deleted_only_when_a_newer_one_is_whole(tmp_path, state, monkeypatch, keep):
    """As `kill -9` leaves it after Orbax has written all, and before the digests."""
    with Checkpoints(tmp_path, keep=keep) as checkpoints:
        checkpoints.save(state, ABOUT, [])

    def cut(path, value):
        raise OSError("cut")

    monkeypatch.setattr("pcejax.checkpoints.writers.write_json", cut)
    with pytest.raises(UserError, match="cut"), Checkpoints(tmp_path, keep=keep) as checkpoints:
        checkpoints.save(state._replace(step=np.int32(6)), ABOUT, [])
    monkeypatch.undo()
    assert (tmp_path / "checkpoints" / "6").exists()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 4


def test_multiples_of_a_step_are_kept_beside_the_newest(tmp_path, state):
    with Checkpoints(tmp_path, keep=1, keep_every_steps=4) as checkpoints:
        for step in (2, 4, 6, 7):
            checkpoints.save(state._replace(step=np.int32(step)), ABOUT, [])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "7"]


def test_a_state_that_is_not_finite_is_never_saved(tmp_path, state):
    leaves, tree = jax.tree.flatten(state.params)
    leaves[0] = np.full_like(leaves[0], np.nan)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state._replace(params=jax.tree.unflatten(tree, leaves)), ABOUT, [])
    with pytest.raises(UserError, match=r"step 4: .*params.* is not finite; the state was not saved"):
        checkpoints.__exit__(None)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None


def test_steps_that_were_measured_and_not_logged_come_back_bit_for_bit(tmp_path, state):
    measured = {
        "loss": Average(np.float32(1) / np.float32(3), np.int32(7)),
        "pixels": Average(np.float64(0.1), np.float32(2)),
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, ABOUT, [metrics.to_json(measured)])
    with Checkpoints(tmp_path) as checkpoints:
        (got,) = map(metrics.from_json, checkpoints.unlogged())
    assert_same(got, measured)


FILLING = """
import resource, sys
import numpy as np
from runs_for_tests import config_of, state_of
from pcejax import cli
from pcejax.checkpoints import Checkpoints

def main():
    state = state_of(config_of("data"), 6, step=2)
    with Checkpoints(__import__("pathlib").Path(sys.argv[1])) as checkpoints:
        checkpoints.save(state, {"step": 2}, [])
    # No file may grow beyond this: the second save fails as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    with Checkpoints(__import__("pathlib").Path(sys.argv[1])) as checkpoints:
        checkpoints.save(state._replace(step=np.int32(4)), {"step": 4}, [])

try:
    main()
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_save_that_finds_no_room_is_told_and_the_checkpoint_before_is_whole(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", FILLING, tmp_path],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "UserError" in ended.stdout, ended.stdout + ended.stderr
    assert "a checkpoint could not be written" in ended.stdout
    assert "the newest whole one is of step 2" in ended.stdout
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 2
        assert checkpoints.about() == {"step": 2}
