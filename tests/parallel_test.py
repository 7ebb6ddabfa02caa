import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcejax import parallel
from pcejax.errors import UserError


def test_replicated_arrays_are_whole_on_every_device():
    assert jax.local_device_count() == 2
    tree = parallel.replicate({"a": np.arange(6.0), "b": np.int32(3)})
    for name, value in (("a", np.arange(6.0)), ("b", np.int32(3))):
        assert tree[name].is_fully_replicated
        copies = [np.asarray(shard.data) for shard in tree[name].addressable_shards]
        assert len(copies) == 2
        for copy in copies:
            np.testing.assert_array_equal(copy, value)


def test_sharded_rows_keep_their_order_and_lie_one_block_a_device():
    rows = np.arange(24).reshape(6, 4)
    placed = parallel.shard_rows(rows)
    assert placed.shape == (2, 3, 4)
    np.testing.assert_array_equal(np.asarray(placed).reshape(6, 4), rows)
    blocks = {shard.device: np.asarray(shard.data) for shard in placed.addressable_shards}
    for block, device in zip(rows.reshape(2, 1, 3, 4), jax.local_devices(), strict=True):
        np.testing.assert_array_equal(blocks[device], block)


def test_rows_that_do_not_divide_are_never_placed_on_fewer_devices():
    with pytest.raises(ValueError, match="3 rows for 2 local devices"):
        parallel.shard_rows(np.zeros((3, 4)))


def test_the_rows_of_a_device_are_a_share_of_the_global_batch():
    assert parallel.rows_per_device(8, "train.batch_size") == 4


@pytest.mark.parametrize(("rows", "told"), [(7, "set it to 6 or 8"), (1, "set it to 2$"), (9, "set it to 8 or 10")])
def test_a_batch_that_does_not_divide_is_refused_with_two_that_do(rows, told):
    with pytest.raises(UserError, match=f"train.batch_size={rows} on 2 devices; expected a multiple of 2, .*{told}"):
        parallel.rows_per_device(rows, "train.batch_size")


@pytest.mark.parametrize("rows", [0, -2])
def test_a_batch_of_no_rows_is_refused(rows):
    with pytest.raises(UserError, match=f"train.batch_size={rows} .*set it to 2$"):
        parallel.rows_per_device(rows, "train.batch_size")


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_processes_take_all_rows_once_and_in_order(monkeypatch, processes):
    rows = np.arange(16).reshape(8, 2)
    taken = []
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    for index in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        taken.append(parallel.process_rows(rows))
    assert {len(block) for block in taken} == {8 // processes}
    np.testing.assert_array_equal(np.concatenate(taken), rows)


def test_a_mapped_train_step_sums_over_devices_and_returns_one_state():
    def step(state, tiles, plan, knobs):
        total = jax.lax.psum(jnp.sum(plan), parallel.AXIS)
        return state + total * knobs, {"total": total + tiles}

    mapped = parallel.map_train_step(step)
    state, tiles, knobs = parallel.replicate((jnp.float32(1), jnp.float32(10), jnp.float32(2)))
    rows = parallel.shard_rows(np.arange(4, dtype=np.float32).reshape(4, 1))
    new, measured = mapped(state, tiles, rows, knobs)
    assert parallel.to_host((new, measured)) == (13, {"total": 16})
    assert new.is_fully_replicated
    assert state.is_deleted()  # donated
    assert not tiles.is_deleted()


def test_a_mapped_evaluation_step_keeps_the_rows_where_they_were():
    mapped = parallel.map_eval_step(lambda variables, images: images * variables)
    images = np.arange(8, dtype=np.float32).reshape(4, 2)
    out = mapped(parallel.replicate(np.float32(3)), parallel.shard_rows(images))
    np.testing.assert_array_equal(parallel.to_host(out).reshape(4, 2), images * 3)


def test_what_comes_to_the_host_is_numpy_without_a_device_axis():
    tree = parallel.to_host(parallel.replicate({"a": np.arange(3)}))
    assert type(tree["a"]) is np.ndarray
    assert tree["a"].shape == (3,)


def test_devices_without_memory_of_their_own_share_the_machines(monkeypatch):
    both = parallel.device_memory()
    assert both > 100e6
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    assert parallel.device_memory() == pytest.approx(2 * both, abs=2)


def test_a_device_with_memory_of_its_own_offers_its_limit(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 123, "bytes_in_use": 7}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert parallel.device_memory() == 123


def test_devices_and_processes_are_told(monkeypatch):
    assert parallel.describe() == "2 x cpu"
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert parallel.describe() == "2 x cpu (2 processes)"
