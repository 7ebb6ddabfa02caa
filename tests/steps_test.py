"""The step is one function of the global batch, however its rows lie on devices."""

import functools

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from pcejax import augment, losses, models, optimizer, parallel, steps, terms, tiles
from pcejax.legend import IGNORE
from pcejax.train_state import create_train_state

CLASSES, CROP, BATCH = 3, 8, 8
LABELLED = ("logits", "labels", "label_mask", "class_weights")
SMALL = {"depth": 1, "width": 2}
"""A model that has each kind of layer and is compiled soon."""


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def make_tiles(labelled_rows=40):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 40, 40, 3), dtype=np.uint8)
    labels = np.full((2, 40, 40), IGNORE, np.uint8)
    # Labels in a corner only: crops, and so devices, hold very different numbers of them, some none.
    labels[0, :12, :labelled_rows] = rng.integers(0, CLASSES, (12, labelled_rows))
    return tiles.Tiles(images, labels, np.ones((2, CLASSES), np.float32))


def make_plans(count):
    rng = np.random.default_rng(1)
    columns = [rng.integers(0, high, (count, BATCH)) for high in (2, 40 - CROP, 40 - CROP, 2**31)]
    return np.stack(columns, -1).astype(np.int32)


def knobs_of(loss):
    return steps.Knobs(jax.random.key_data(jax.random.key(1)), jnp.ones(CLASSES), jnp.array(terms.make_schedules(loss)))


@functools.cache
def make_parts(norm, accumulation=1):
    """In float64; once for all tests, and with it what is compiled of it."""
    config = default.get_config()
    config.model.update(SMALL, norm=norm, dtype="float64")
    return build(config, accumulation)


def build(config, accumulation=1, tx=None):
    tx = tx or optimizer.make_optimizer(config.optimizer, 20)
    state = create_train_state(models.create_model(config.model, CLASSES), tx, jax.random.key(0), (1, CROP, CROP, 3))
    state = jax.tree.map(lambda x: x.astype(config.model.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)
    step = steps.make_train_step(
        models.create_model(config.model, CLASSES, axis_name=parallel.AXIS),
        tx,
        terms.make_terms(config.loss),
        functools.partial(augment.augment, **config.augment),
        class_names=[f"class{index}" for index in range(CLASSES)],
        cut=functools.partial(tiles.cut, size=CROP),
        ema_decay=0.9,
        accumulation=accumulation,
    )
    return step, state, knobs_of(config.loss)


@functools.cache
def over_devices(step, devices):
    """The step mapped over an axis of simulated devices, in the sense of `parallel.map_train_step`."""
    mapped = jax.jit(jax.vmap(step, (None, None, 0, None), (None, None), axis_name=parallel.AXIS))
    return lambda state, tile_arrays, plan, knobs: mapped(
        state, tile_arrays, plan.reshape(devices, -1, plan.shape[-1]), knobs
    )


def run(step, state, knobs, plans, tile_arrays):
    tile_arrays = jax.tree.map(jnp.asarray, tile_arrays)
    for plan in plans:
        state, measured = step(state, tile_arrays, plan, knobs)
    return jax.device_get(state), jax.device_get(measured)


def largest_difference(a, b):
    return max(float(np.max(np.abs(x - y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("norm", ["group", "none", "batch"])
def test_twenty_steps_give_the_same_state_on_one_two_and_four_devices(x64, norm):
    step, state, knobs = make_parts(norm)
    plans = make_plans(20)
    one, measured_one = run(over_devices(step, 1), state, knobs, plans, make_tiles())
    for devices in (2, 4):
        many, measured_many = run(over_devices(step, devices), state, knobs, plans, make_tiles())
        assert largest_difference(one.params, many.params) < 1e-10
        assert largest_difference(one.ema_params, many.ema_params) < 1e-10
        assert largest_difference(measured_one, measured_many) < 1e-9
    assert largest_difference(one.params, state.params) > 1e-3


@functools.cache
def make_parts_of_all_terms(accumulation=1):
    """Every term at once, and dropout, in float64."""
    config = default.get_config()
    for index, name in enumerate(terms.TERMS):
        config.loss[name].weight = 0.5 + 0.1 * index
        config.loss[name].warmup_steps = index
    config.loss.gated_crf.radius = 1
    config.loss.propagation.reach = 3
    config.loss.pseudo_labels.confidence = 0.34
    config.model.update(SMALL, norm="group", dtype="float64", dropout=0.5)
    return build(config, accumulation)


def test_all_terms_give_the_same_state_on_one_two_and_four_devices(x64):
    step, state, knobs = make_parts_of_all_terms()
    plans = make_plans(5)
    one, measured_one = run(over_devices(step, 1), state, knobs, plans, make_tiles())
    assert all(measured_one[f"loss/{name}"].total > 0 for name in terms.TERMS)
    for devices in (2, 4):
        many, measured_many = run(over_devices(step, devices), state, knobs, plans, make_tiles())
        assert largest_difference(one.params, many.params) < 1e-10
        assert largest_difference(measured_one, measured_many) < 1e-9


def test_in_float32_the_gradient_of_a_step_is_the_same_within_its_rounding():
    config = default.get_config()
    config.model.update(SMALL, norm="group")
    plan = make_plans(1)
    gradients = []
    for devices, accumulation in ((1, 1), (2, 1), (4, 1), (2, 4)):
        step, state, knobs = build(config, accumulation, tx=optax.sgd(1.0))
        new, _ = run(over_devices(step, devices), state, knobs, plan, make_tiles())
        gradients.append(jax.tree.map(lambda old, new: np.asarray(old) - new, state.params, new.params))
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradients[0]))
    assert largest > 1e-2
    for others in gradients[1:]:
        assert largest_difference(gradients[0], others) < 1e-5 * largest


@pytest.mark.parametrize(("devices", "accumulation"), [(1, 2), (1, 8), (2, 4)])
def test_micro_batches_give_the_same_state_as_one_batch(x64, devices, accumulation):
    plans = make_plans(20)
    whole, state, knobs = make_parts("group")
    one, measured_one = run(over_devices(whole, 1), state, knobs, plans, make_tiles())
    step, state, knobs = make_parts("group", accumulation)
    many, measured_many = run(over_devices(step, devices), state, knobs, plans, make_tiles())
    assert largest_difference(one.params, many.params) < 1e-10
    assert largest_difference(measured_one, measured_many) < 1e-9


def convolutions(jaxpr, in_loop=False):
    """For each convolution whether it is in the body of a loop."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            yield in_loop
        for body in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from convolutions(body, in_loop or eqn.primitive.name in ("scan", "while"))


def test_micro_batches_are_taken_without_a_loop_around_their_convolutions():
    """In one, a CPU takes twenty times as long for a convolution's gradient (jax issue 12868)."""
    config = default.get_config()
    config.model.update(SMALL, norm="group")

    def traced(accumulation):
        step, state, knobs = build(config, accumulation)
        axes = {"axis_env": [(parallel.AXIS, 1)]}
        return list(convolutions(jax.make_jaxpr(step, **axes)(state, make_tiles(), make_plans(1)[0], knobs).jaxpr))

    assert len(traced(1)) > 3
    assert len(traced(4)) >= 4 * 3
    assert not any(traced(4))


def test_all_terms_give_the_same_state_in_micro_batches(x64):
    plans = make_plans(5)
    whole, state, knobs = make_parts_of_all_terms()
    one, measured_one = run(over_devices(whole, 1), state, knobs, plans, make_tiles())
    step, state, knobs = make_parts_of_all_terms(2)
    many, measured_many = run(over_devices(step, 2), state, knobs, plans, make_tiles())
    assert largest_difference(one.params, many.params) < 1e-10
    assert largest_difference(measured_one, measured_many) < 1e-9


def test_a_step_that_is_not_finite_changes_nothing_but_its_number(x64):
    def infinite(logits, labels, label_mask, class_weights):
        total, weight = losses.partial_cross_entropy(logits, labels, label_mask)
        return total / jnp.where(weight > 0, 0.0, 1.0), weight

    step, state, knobs = make_pixelwise(infinite)
    new, measured = run(over_devices(step, 2), state, knobs, make_plans(1), make_tiles())
    assert not np.isfinite(measured["loss"].total)
    assert new.step == 1
    assert largest_difference(new._replace(step=0), jax.device_get(state)._replace(step=0)) == 0


def test_terms_of_no_labels_teach_on_crops_without_any(x64):
    step, state, knobs = make_parts_of_all_terms()
    new, measured = run(over_devices(step, 1), state, knobs, make_plans(2), make_tiles(labelled_rows=0))
    for name, (_, needs) in terms.TERMS.items():
        of_labels = "labels" in needs and name != "unknown_class_cross_entropy"
        assert np.isfinite(measured[f"loss/{name}"].total)
        assert (measured[f"loss/{name}"].total == 0) == of_labels, name
    assert measured["grad_norm"].total > 0
    assert largest_difference(new.params, state.params) > 0


def test_the_loss_is_the_sum_of_its_terms_means_by_their_weights_at_the_step(x64):
    step, state, knobs = make_parts_of_all_terms()
    _, measured = run(over_devices(step, 1), state._replace(step=jnp.int32(3)), knobs, make_plans(1), make_tiles())
    weights = terms.weights_at(knobs.schedules, jnp.int32(3))
    means = [measured[f"loss/{name}"].total / measured[f"loss/{name}"].count for name in terms.TERMS]
    assert measured["loss"].total == pytest.approx(float(np.dot(weights, means)), rel=1e-6)


def test_the_mapped_step_on_real_devices_equals_one_device(x64):
    assert jax.local_device_count() == 2
    step, state, knobs = make_parts("batch")
    plans = make_plans(5)
    one, _ = run(over_devices(step, 1), state, knobs, plans, make_tiles())
    mapped = parallel.map_train_step(step)
    placed = parallel.replicate((state, make_tiles(), knobs))
    two = placed[0]
    for plan in plans:
        two, _ = mapped(two, placed[1], parallel.shard_rows(plan), placed[2])
    assert largest_difference(one.params, jax.device_get(two.params)) < 1e-10
    for leaf in jax.tree.leaves(two.params):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == 2
        np.testing.assert_array_equal(copies[0], copies[1])


def test_a_mean_of_device_means_would_not_pass(x64):
    def mean_of_means(logits, labels, label_mask, **arguments):
        loss_sum, weight_sum = losses.partial_cross_entropy(logits, labels, label_mask, **arguments)
        return loss_sum / jnp.maximum(weight_sum, 1), jnp.float64(1)

    step, state, knobs = make_pixelwise(mean_of_means)
    plans = make_plans(3)
    one, _ = run(over_devices(step, 1), state, knobs, plans, make_tiles())
    four, _ = run(over_devices(step, 4), state, knobs, plans, make_tiles())
    assert largest_difference(one.params, four.params) > 1e-6


def test_a_batch_without_labels_is_counted_and_teaches_nothing(x64):
    step, state, knobs = make_parts("group")
    blank = make_tiles(labelled_rows=0)
    new, measured = run(over_devices(step, 2), state, knobs, make_plans(1), blank)
    assert new.step == 1
    assert measured["loss"].total == 0
    assert measured["loss/partial_cross_entropy"].count == 0
    assert measured["grad_norm"].total == 0
    assert measured["unlabelled_crops"].total == measured["unlabelled_crops"].count == BATCH
    # Zero gradients, and the learning rate of the warm-up's first step is zero: not even decay moves them.
    assert largest_difference(new.params, state.params) == 0


def test_the_gradient_is_that_of_the_quotient_of_sums(x64):
    """The mapped step against a plain, unmapped computation of the same update."""
    step, state, knobs = make_parts("none")
    plan, tile_arrays = make_plans(1)[0], jax.tree.map(jnp.asarray, make_tiles())
    config = default.get_config()
    config.model.update(SMALL, norm="none", dtype="float64")
    model = models.create_model(config.model, CLASSES)
    batch = tiles.cut(tile_arrays, jnp.asarray(plan), CROP)

    # Compiled as in the step: views are float32 whatever follows, and op by op they are rounded otherwise.
    @jax.jit
    def view(image, label):
        return augment.augment(
            steps.row_keys(jax.random.wrap_key_data(knobs.key_data), "augment", plan),
            tiles.scale_image(image),
            label,
            **config.augment,
        )

    image, label, *_ = view(batch.image, batch.label)

    def loss(params):
        logits = model.apply({"params": params}, image, train=True)
        total, weight = losses.partial_cross_entropy(logits, label, label != IGNORE)
        return total / weight

    value, grads = jax.jit(jax.value_and_grad(loss))(state.params)
    _, measured = run(over_devices(step, 4), state, knobs, [plan], make_tiles())
    assert measured["loss"].total / measured["loss"].count == pytest.approx(float(value), rel=1e-12)
    assert measured["grad_norm"].total == pytest.approx(float(optax.tree.norm(grads)), rel=1e-10)


class Pixelwise(nn.Module):
    """Logits of each pixel from its colour alone: what weights do to a step is plain, and compiled in no time."""

    @nn.compact
    def __call__(self, image, train, dropout_keys=None):
        return nn.Dense(CLASSES, param_dtype=jnp.float64 if jax.config.jax_enable_x64 else jnp.float32)(image)


def make_pixelwise(loss=losses.partial_cross_entropy, balance_crops=False, needs=LABELLED):
    tx = optimizer.make_optimizer(default.get_config().optimizer, 20)
    state = create_train_state(Pixelwise(), tx, jax.random.key(0), (1, CROP, CROP, 3))
    step = steps.make_train_step(
        Pixelwise(),
        tx,
        [terms.Term("partial_cross_entropy", loss, needs)],
        lambda keys, image, label: augment.Views(image, label, image, image),
        class_names=[f"class{index}" for index in range(CLASSES)],
        cut=functools.partial(tiles.cut, size=CROP),
        ema_decay=0.9,
        balance_crops=balance_crops,
    )
    return step, state, knobs_of(default.get_config().loss)


def test_pixels_without_data_are_told_from_dark_ones(x64):
    tile_arrays = make_tiles()
    tile_arrays.images[:, 10:20] = 0
    tile_arrays.images[:, 20:22, :, :2] = 0
    seen = []

    def recording(logits, image, valid):
        jax.debug.callback(lambda *arrays: seen.append(jax.device_get(arrays)), image, valid)
        return logits.sum(), jnp.float64(1)

    step, state, knobs = make_pixelwise(recording, needs=("logits", "image", "valid"))
    plan = np.array([[0, row, 4, 7] for row in range(4, 4 + BATCH)], np.int32)
    run(over_devices(step, 1), state, knobs, [plan], tile_arrays)
    jax.effects_barrier()
    image, valid = seen[0]
    np.testing.assert_array_equal(valid, (image > 0).any(-1))
    expected = [np.arange(row, row + CROP) for row in plan[:, 1]]
    np.testing.assert_array_equal(valid.all(-1), [(rows < 10) | (rows >= 20) for rows in expected])


def test_tile_weights_of_one_change_no_bit():
    def unweighted(logits, labels, label_mask, **arguments):
        return losses.partial_cross_entropy(logits, labels, labels != IGNORE, **arguments)

    plans = make_plans(3)
    results = []
    for loss in (losses.partial_cross_entropy, unweighted):
        step, state, knobs = make_pixelwise(loss)
        results.append(run(over_devices(step, 1), state, knobs, plans, make_tiles()))
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("balance_crops", [False, True])
def test_a_pixel_weighs_what_its_class_does_on_its_tile_and_in_a_balanced_crop_its_share_of_that(x64, balance_crops):
    weights = np.array([[0.5, 2.0, 1.0], [4.0, 0.25, 3.0]], np.float32)
    rng = np.random.default_rng(2)
    tile_arrays = make_tiles()._replace(weights=weights)
    tile_arrays.labels[1, 5:30, 5:30] = rng.integers(0, CLASSES, (25, 25))
    plan = make_plans(1)[0]
    seen = []

    def recording(logits, labels, label_mask, **arguments):
        jax.debug.callback(lambda *arrays: seen.append(jax.device_get(arrays)), labels, label_mask)
        return losses.partial_cross_entropy(logits, labels, label_mask, **arguments)

    step, state, knobs = make_pixelwise(recording, balance_crops)
    _, measured = run(over_devices(step, 1), state, knobs, [plan], tile_arrays)
    jax.effects_barrier()
    labels, pixel_weights = seen[0]
    assert pixel_weights.dtype == np.float32
    for tile, label, got in zip(plan[:, 0], labels, pixel_weights, strict=True):
        of_class = weights[tile]
        if balance_crops:
            of_class = of_class / np.maximum(np.bincount(label.ravel(), minlength=256)[:CLASSES], 1)
        expected = np.where(label == IGNORE, 0, of_class[np.minimum(label, CLASSES - 1)])
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert measured["loss/partial_cross_entropy"].count == pytest.approx(float(pixel_weights.sum()))
    # Statistics count pixels, not weights.
    assert measured["labelled_pixels"].total == (labels != IGNORE).sum()
    for class_id in range(CLASSES):
        assert measured[f"labelled_pixels/class{class_id}"].total == (labels == class_id).sum()


def test_tile_weights_act_like_class_weights_where_all_tiles_have_the_same(x64):
    by_class = np.array([0.5, 2.0, 1.25], np.float32)
    step, state, knobs = make_pixelwise()
    plans = make_plans(4)
    tiled = make_tiles()._replace(weights=np.stack([by_class, by_class]))
    mapped = over_devices(step, 1)
    one, _ = run(mapped, state, knobs, plans, tiled)
    other, _ = run(mapped, state, knobs._replace(class_weights=jnp.asarray(by_class)), plans, make_tiles())
    plain, _ = run(mapped, state, knobs, plans, make_tiles())
    assert largest_difference(one.params, other.params) < 1e-10
    assert largest_difference(one.params, plain.params) > 1e-4
