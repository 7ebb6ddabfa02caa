import jax
import numpy as np
import pytest
from runs_for_tests import config_of, state_of

from pcejax import parallel
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
        checkpoints.save(parallel.replicate(state), ABOUT)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 4
        assert checkpoints.about() == ABOUT
        restored = checkpoints.restore(jax.tree.map(np.zeros_like, state))
    assert_same(restored, state)
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(restored))


def test_shapes_are_enough_to_restore(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, ABOUT)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.restore(shapes), state)


def test_a_state_that_changes_after_the_save_does_not_change_the_checkpoint(tmp_path, state):
    """Saving goes on in the background while the next step overwrites the donated state."""
    placed = parallel.replicate(state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(placed, ABOUT)
        parallel.to_host(jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)(placed))
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.restore(state), state)


def test_the_newest_two_are_kept(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(state._replace(step=np.int32(step)), ABOUT | {"step": step})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "6"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 6
        assert checkpoints.about()["step"] == 6
        assert checkpoints.restore(state).step == 6


def test_on_exit_the_last_save_is_on_disk_also_when_the_run_failed(tmp_path, state):
    def fail():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(state, ABOUT)
            raise UserError("not finite")

    with pytest.raises(UserError, match="not finite"):
        fail()
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.restore(state), state)


def test_a_save_that_was_cut_is_no_checkpoint(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, ABOUT)
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
        checkpoints.save(state, ABOUT)
    assert (tmp_path / "run" / "checkpoints" / "4").is_dir()
