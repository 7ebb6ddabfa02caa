import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcejax import datasets, frozen_features


@pytest.mark.parametrize("stride", [2, 4])
def test_between_the_pixels_of_a_map_is_what_resizing_gives(stride):
    level = np.random.default_rng(0).random((5, 7, 3), np.float32)
    size = (5 * stride, 7 * stride)
    row, col = np.indices(size).reshape(2, -1)
    got = frozen_features.interpolated(level, row, col, stride).reshape(*size, 3)
    np.testing.assert_allclose(got, jax.image.resize(level, (*size, 3), "bilinear"), atol=1e-6)


def test_features_are_those_of_all_levels_at_the_pixel():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    sample = frozen_features.sampler(image, 1, datasets.RGB)
    row, col = np.array([0, 49, 31]), np.array([0, 69, 8])
    features = sample(row, col)
    assert features.shape == (3, 16 + 24 + 40 + 112 + 320)
    assert features.dtype == np.float32
    padded = jnp.pad(jnp.asarray(image / 255, jnp.float32), ((0, 14), (0, 26), (0, 0)), mode="edge")
    levels = frozen_features._encoder(3)(padded[None])
    wide = [jax.image.resize(level[0], (64, 96, level.shape[-1]), "bilinear") for level in levels]
    np.testing.assert_allclose(features, jnp.concatenate(wide, -1)[row, col], rtol=1e-4, atol=1e-4)


def test_a_reduced_image_is_asked_at_its_native_pixels():
    image = np.repeat(np.repeat(np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8), 2, 0), 2, 1)
    native, reduced = np.array([10, 11]), np.array([5, 5])
    at_half = frozen_features.sampler(image, 2, datasets.RGB)(native, native)
    whole = frozen_features.sampler(image[::2, ::2], 1, datasets.RGB)(reduced, reduced)
    # Native pixels 10 and 11 lie a quarter of a reduced pixel on either side of its centre.
    np.testing.assert_allclose(at_half.mean(0), whole[0], rtol=0.2, atol=0.2)
