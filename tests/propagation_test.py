import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse.csgraph

from pcejax.legend import IGNORE
from pcejax.propagation import geodesic, propagated_cross_entropy

CLASSES = 3
COSTS = {"color_cost": 4.0, "teacher_cost": 1.5, "step_cost": 0.05}


def random_batch(seed=0, size=9, labelled=3):
    rng = np.random.default_rng(seed)
    image = rng.random((2, size, size, 3)).astype(np.float32)
    teacher = rng.normal(size=(2, size, size, CLASSES)).astype(np.float32)
    logits = rng.normal(size=teacher.shape).astype(np.float32)
    labels = np.full((2, size, size), IGNORE, np.uint8)
    for label in labels:
        label.reshape(-1)[rng.choice(size * size, labelled, replace=False)] = rng.integers(0, CLASSES, labelled)
    return logits, labels, labels != IGNORE, image, teacher


def loss_of(logits, labels, mask, image, teacher, reach=4, **costs):
    return propagated_cross_entropy(logits, labels, mask, image, teacher, reach=reach, **(COSTS | costs))


def shortest_paths(label, image, probabilities):
    """Cost and class by Dijkstra's algorithm on the graph of neighbouring pixels, written from the definition."""
    smooth = scipy.ndimage.uniform_filter(image.astype(np.float64), (3, 3, 0), mode="nearest")
    size = len(label)
    pixels = np.arange(size * size).reshape(size, size)
    graph = scipy.sparse.lil_matrix((size * size, size * size))
    for row, col in np.ndindex(size, size):
        for there in ((row + 1, col), (row, col + 1)):
            if max(there) < size:
                cost = COSTS["step_cost"] + COSTS["color_cost"] * np.abs(smooth[row, col] - smooth[there]).sum()
                cost += COSTS["teacher_cost"] * np.abs(probabilities[row, col] - probabilities[there]).sum()
                graph[pixels[row, col], pixels[there]] = graph[pixels[there], pixels[row, col]] = cost
    seeds = pixels[label != IGNORE]
    cost, _, source = scipy.sparse.csgraph.dijkstra(
        graph.tocsr().astype(np.float64), indices=seeds, min_only=True, return_predecessors=True
    )
    return cost.reshape(size, size), label.reshape(-1)[source].reshape(size, size)


def test_costs_and_classes_are_those_of_the_shortest_paths():
    _, labels, mask, image, teacher = random_batch()
    p = jax.nn.softmax(teacher)
    cost, label = jax.jit(lambda *arrays: geodesic(*arrays, reach=81, **COSTS))(labels, mask, image, p)
    for index in range(2):
        expected_cost, expected_label = shortest_paths(labels[index], image[index], np.asarray(p[index]))
        np.testing.assert_allclose(cost[index], expected_cost, rtol=1e-5)
        np.testing.assert_array_equal(label[index], expected_label)


def test_a_label_goes_as_many_steps_as_it_may():
    _, labels, mask, image, teacher = random_batch(labelled=1)
    cost, _ = geodesic(labels, mask, image, jax.nn.softmax(teacher), reach=3, **COSTS)
    distance = [scipy.ndimage.distance_transform_cdt(label == IGNORE, "taxicab") for label in labels]
    np.testing.assert_array_equal(np.isfinite(cost), np.stack(distance) <= 3)


@pytest.mark.parametrize("border", ["color", "teacher"])
def test_a_label_does_not_cross_a_border_that_costs(border):
    size = 12
    labels = np.full((1, size, size), IGNORE, np.uint8)
    labels[0, 5, 2], labels[0, 5, 9] = 0, 1
    image, teacher = np.full((1, size, size, 3), 0.5, np.float32), np.zeros((1, size, size, 2), np.float32)
    # The border is off the middle between the two labels.
    if border == "color":
        image[:, :, 8:] = 0.9
    else:
        teacher[:, :, 8:, 0] = 5.0
    costs = {"color_cost": 10.0, "teacher_cost": 5.0, "step_cost": 0.01}
    arrays = labels, labels != IGNORE, image, jax.nn.softmax(teacher)
    cost, label = geodesic(*arrays, reach=30, **costs)
    side = np.arange(size) >= 8
    np.testing.assert_array_equal(
        label[0][:, [0, 1, 2, 3, 4, 5, 6, 9, 10, 11]], np.tile(side[[0, 1, 2, 3, 4, 5, 6, 9, 10, 11]], (size, 1))
    )
    assert float(cost[0][:, :7].max()) < 0.2
    _, unhindered = geodesic(*arrays, reach=30, **(costs | {"color_cost": 0.0, "teacher_cost": 0.0}))
    assert (np.asarray(unhindered[0][:, 7]) == 1).all()


@pytest.mark.parametrize("soft", [False, True])
def test_a_class_weighs_what_its_labels_do_and_is_divided_among_the_pixels_they_reach(soft):
    logits, labels, mask, image, teacher = random_batch(labelled=5)
    weights = mask * (np.random.default_rng(1).random(mask.shape).astype(np.float32) if soft else 1.0)
    cost, label = geodesic(labels, mask, image, jax.nn.softmax(teacher), reach=4, **COSTS)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    total = 0.0
    for index, class_id in np.ndindex(2, CLASSES):
        places = np.argwhere(np.isfinite(cost[index]) & (np.asarray(label[index]) == class_id))
        spread = np.array([np.exp(-float(cost[index][tuple(place)])) for place in places])
        losses = np.array([-log_p[(index, *place, class_id)] for place in places])
        if len(places):
            total += weights[index][labels[index] == class_id].sum() * (spread * losses).sum() / spread.sum()
    loss, weight = loss_of(logits, labels, weights, image, teacher)
    assert float(loss) == pytest.approx(total, rel=1e-5)
    assert float(weight) == pytest.approx(weights.sum(), rel=1e-6)


def test_at_no_reach_it_is_partial_cross_entropy():
    from pcejax.losses import partial_cross_entropy

    logits, labels, mask, image, teacher = random_batch()
    got, expected = loss_of(logits, labels, mask, image, teacher, reach=0), partial_cross_entropy(logits, labels, mask)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_only_pixels_within_reach_teach_and_the_teacher_is_not_taught():
    batch = random_batch(labelled=1)
    gradient, of_teacher = jax.jit(jax.grad(lambda *arrays: loss_of(*arrays)[0], argnums=(0, 4)))(*batch)
    cost, _ = geodesic(*batch[1:4], jax.nn.softmax(batch[4]), reach=4, **COSTS)
    np.testing.assert_array_equal(np.abs(gradient).sum(-1) > 0, np.isfinite(cost))
    assert not np.asarray(of_teacher).any()


def test_the_weight_comes_from_the_batch_and_halves_add_up():
    batch = random_batch()
    whole = loss_of(*batch)
    halves = [loss_of(*(array[index : index + 1] for array in batch)) for index in range(2)]
    np.testing.assert_allclose(whole, np.sum(halves, 0), rtol=1e-6)
    other = loss_of(2 * batch[0], *batch[1:4], -batch[4])
    assert float(other[1]) == float(whole[1])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_value_and_gradient_are_finite_without_labels_and_for_extreme_logits(dtype):
    logits, labels, mask, image, teacher = random_batch()
    for scale, kept in ((1.0, False), (1e4, True), (-1e4, True)):
        arguments = (scale * logits).astype(dtype), labels, mask & kept, image, (scale * teacher).astype(dtype)
        (loss, weight), gradient = jax.value_and_grad(loss_of, has_aux=True)(*arguments)
        assert loss.dtype == jnp.float32
        assert np.isfinite(loss)
        assert np.isfinite(np.asarray(gradient, np.float32)).all()
        assert (float(weight) > 0) == kept
    assert float(loss_of(logits, labels, mask & False, image, teacher)[0]) == 0
