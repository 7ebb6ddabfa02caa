import numpy as np
import pytest

from pcejax.errors import UserError
from pcejax.losses import effective_number_weights


def test_class_weights_fall_with_the_effective_number_of_labels():
    counts, beta = np.array([1, 10, 0, 1000]), 0.99
    weights = effective_number_weights(counts, beta)
    raw = [(1 - beta) / (1 - beta**n) for n in (1, 10, 1000)]
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights[[0, 1, 3]], np.array(raw) * 3 / sum(raw), rtol=1e-6)
    # Nobody labelled class 2.
    assert weights[2] == 0
    assert weights.sum() == pytest.approx(3, rel=1e-6)


def test_class_weights_go_from_equal_to_the_inverse_of_the_counts():
    counts = np.array([3, 30, 300])
    np.testing.assert_array_equal(effective_number_weights(counts, 0.0), [1, 1, 1])
    inverse = 1 / counts
    np.testing.assert_allclose(effective_number_weights(counts, 1 - 1e-12), 3 * inverse / inverse.sum(), rtol=1e-6)
    np.testing.assert_array_equal(effective_number_weights(np.zeros(3, int), 0.9), [0, 0, 0])


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_a_beta_without_an_effective_number_is_refused(beta):
    with pytest.raises(UserError, match=f"beta={beta}; expected"):
        effective_number_weights(np.array([1, 2]), beta)
