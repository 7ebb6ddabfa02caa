"""Partial cross entropy against values of torch, which tests/golden/make_losses.py computed and stored."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcejax.legend import IGNORE
from pcejax.losses import all_pixel_cross_entropy, partial_cross_entropy, unknown_class_cross_entropy

SHAPE, CLASSES = (2, 6, 7), 5
WEIGHTS = (0.2, 1.0, 3.0, 0.5, 1.7)
GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "losses.npz")


def batch_of(labelled):
    """The batch of make_losses.py."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2.0, size=(*SHAPE, CLASSES)).astype(np.float32)
    mask = rng.random(SHAPE) < labelled
    labels = np.where(mask, rng.integers(0, CLASSES, SHAPE), IGNORE)
    return jnp.asarray(logits), jnp.asarray(labels, jnp.uint8), jnp.asarray(mask)


@pytest.mark.parametrize(
    ("labelled", "weighted", "smoothing"), list(itertools.product((0.1, 0.3, 1.0), (False, True), (0.0, 0.1, 0.6)))
)
def test_values_and_gradients_are_those_of_torch(labelled, weighted, smoothing):
    logits, labels, mask = batch_of(labelled)
    class_weights = jnp.array(WEIGHTS) if weighted else None

    def loss(logits):
        return partial_cross_entropy(logits, labels, mask, class_weights=class_weights, label_smoothing=smoothing)

    (loss_sum, weight_sum), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(logits)
    for reduction, divisor in {"sum": 1.0, "mean": float(weight_sum)}.items():
        case = f"{labelled} {weighted} {smoothing} {reduction}"
        expected = GOLDEN[f"{case} gradient"]
        assert float(loss_sum) / divisor == pytest.approx(float(GOLDEN[f"{case} value"]), rel=1e-6)
        np.testing.assert_allclose(
            np.asarray(gradient)[np.asarray(mask)] / divisor, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max()
        )
    assert (np.asarray(gradient)[~np.asarray(mask)] == 0).all()


def test_dense_supervision_is_a_full_mask():
    logits, labels, mask = batch_of(1.0)
    assert mask.all()
    loss_sum, weight_sum = partial_cross_entropy(logits, labels, mask)
    assert float(loss_sum / weight_sum) == pytest.approx(float(GOLDEN["1.0 False 0.0 mean value"]), rel=1e-6)


def test_the_two_mistakes_are_what_torch_computes_for_them():
    logits, labels, mask = batch_of(0.3)
    loss_sum, weight_sum = all_pixel_cross_entropy(logits, labels, mask)
    expected = float(GOLDEN["0.3 False 0.0 sum value"]) / mask.size
    assert float(loss_sum / weight_sum) == pytest.approx(expected, rel=1e-6)
    # The labels of the full mask, had nobody labelled any but those of the last class.
    logits, labels, _ = batch_of(1.0)
    loss_sum, weight_sum = unknown_class_cross_entropy(logits, labels, labels != CLASSES - 1)
    assert float(loss_sum / weight_sum) == pytest.approx(float(GOLDEN["1.0 False 0.0 mean value"]), rel=1e-6)
