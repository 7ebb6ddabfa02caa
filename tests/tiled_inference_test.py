import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from pcejax import parallel, tiled_inference, tiles
from pcejax.errors import UserError
from pcejax.tiled_inference import blended_logits, enlarge, make_mapper, window_starts, window_weight


def random_image(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def pixelwise(windows):
    """A model that sees one pixel at a time."""
    x = windows.astype(np.float32) / 255
    return np.stack([x[..., 0] - x[..., 1], np.sin(5 * x[..., 2]), 10 * x[..., 0] * x[..., 1]], -1)


def config_of(scale=1.0, **inference):
    config = default.get_config()
    config.data.scale = scale
    config.inference.update(**{"window": 16, "overlap": 4, "batch_size": 4, **inference})
    return config


@pytest.mark.parametrize(("window", "overlap"), [(1, 0), (8, 0), (8, 3), (16, 8), (16, 15), (512, 128)])
def test_windows_cover_every_pixel_share_the_overlap_and_end_flush(window, overlap):
    for size in [*range(1, 8 * window, max(1, window // 16)), 1224, 2448]:
        starts = window_starts(size, window, overlap)
        if size <= window:
            assert starts == [0]
            continue
        assert starts[0] == 0
        assert starts[-1] == size - window
        steps = np.diff(starts)
        assert steps.min() >= 1
        assert steps.max() <= window - overlap
        # And no window more than needed.
        assert (len(starts) - 2) * (window - overlap) + window < size


@pytest.mark.parametrize("window", [1, 2, 7, 512])
def test_the_weight_is_positive_symmetric_and_falls_towards_the_border(window):
    weight = window_weight(window)
    assert weight.shape == (window, window)
    assert weight.dtype == np.float32
    assert weight.min() > 0
    np.testing.assert_allclose(weight, weight[::-1, ::-1], rtol=1e-4)
    np.testing.assert_allclose(weight, weight.T, rtol=1e-6)
    assert (np.diff(weight[window // 2, : (window + 1) // 2]) > 0).all()


@pytest.mark.parametrize("shape", [(40, 53), (16, 16), (5, 9), (3, 40), (1, 1)])
@pytest.mark.parametrize("value", [0.0, 1.0, -2.0, 0.3])
def test_a_constant_model_gives_a_constant_map(shape, value):
    def apply(windows):
        return np.full((*windows.shape[:3], 2), value, np.float32)

    logits = blended_logits(apply, random_image((*shape, 3)), window=16, overlap=5, batch=3)
    assert logits.shape == (*shape, 2)
    assert logits.dtype == np.float32
    if np.log2(abs(value) or 1) % 1 == 0:
        # Powers of two scale the weights without rounding.
        assert (logits == value).all()
    np.testing.assert_allclose(logits, value, rtol=1e-6)


@pytest.mark.parametrize("shape", [(40, 53), (16, 17), (5, 9), (3, 40), (1, 1)])
@pytest.mark.parametrize(("window", "overlap", "batch"), [(16, 5, 3), (16, 0, 1), (12, 11, 4)])
def test_a_pixelwise_model_gives_the_same_map_tiled_and_whole(shape, window, overlap, batch):
    image = random_image((*shape, 3))
    logits = blended_logits(pixelwise, image, window=window, overlap=overlap, batch=batch)
    np.testing.assert_allclose(logits, pixelwise(image[None])[0], rtol=1e-5, atol=1e-6)


def test_every_call_has_the_same_number_of_windows():
    shapes = set()

    def apply(windows):
        assert windows.dtype == np.uint8
        shapes.add(windows.shape)
        return pixelwise(windows)

    for shape in ((40, 53), (5, 9)):
        blended_logits(apply, random_image((*shape, 4)), window=16, overlap=5, batch=3)
    assert shapes == {(3, 16, 16, 4)}


def test_a_small_image_is_padded_by_reflection():
    seen = []

    def apply(windows):
        seen.append(windows)
        return pixelwise(windows)

    image = random_image((5, 7, 3))
    blended_logits(apply, image, window=12, overlap=0, batch=1)
    expected = image[np.array([0, 1, 2, 3, 4, 4, 3, 2, 1, 0, 0, 1])][:, [0, 1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2]]
    np.testing.assert_array_equal(seen[0][0], expected)


def test_the_middle_of_a_window_outweighs_its_border():
    # Where two windows overlap, the map goes smoothly from the one to the other.
    window_numbers = itertools.count()

    def apply(windows):
        return np.stack([np.full((16, 16, 1), next(window_numbers), np.float32) for _ in windows])

    line = blended_logits(apply, random_image((16, 24, 3)), window=16, overlap=8, batch=2)[8, :, 0]
    np.testing.assert_array_equal(line[:8], 0)
    np.testing.assert_array_equal(line[16:], 1)
    assert (np.diff(line[7:17]) > 0).all()
    assert np.diff(line).max() < 0.25


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (16, 11)])
def test_enlarging_is_bilinear_resizing_edges_included(factor, shape):
    logits = np.random.default_rng(0).normal(size=(*shape, 3)).astype(np.float32)
    native = tuple(n * factor - 1 for n in shape)
    expected = jax.image.resize(logits, (*(n * factor for n in shape), 3), "bilinear")
    got = enlarge(logits, factor, (*native, 3))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected[: native[0], : native[1]], atol=1e-5)


def test_enlarging_once_is_the_identity():
    logits = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(enlarge(logits, 1, (4, 5, 3)), logits)


def test_the_mapper_gives_logits_at_native_resolution_for_images_of_any_size_from_one_compilation():
    traces = []

    def eval_step(variables, images):
        traces.append(images.shape)
        x = images.astype(jnp.float32) / 255
        return variables["slope"] * x[..., :2]

    variables = parallel.replicate({"slope": jnp.float32(3)})
    map_image = make_mapper(eval_step, config_of(scale=0.5))
    for size in ((70, 41), (9, 12), (100, 64)):
        image = random_image((*size, 3))
        logits = map_image(variables, image)
        reduced = tiles.reduce_image(image, 2)
        expected = enlarge(3 * reduced[..., :2].astype(np.float32) / 255, 2, size)
        assert logits.shape == (*size, 2)
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    # Four windows, two on each of two devices.
    assert traces == [(2, 16, 16, 3)]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"overlap": 16}, "inference.overlap=16; expected 0 to below inference.window=16"),
        ({"overlap": -1}, "inference.overlap=-1"),
        ({"batch_size": 3}, "inference.batch_size=3 on 2 devices; expected a multiple of 2"),
        ({"scale": 0.3}, "data.scale=0.3; expected 1, 0.5 or 0.25"),
    ],
)
def test_the_mapper_refuses(overrides, told):
    with pytest.raises(UserError, match=told):
        make_mapper(lambda variables, images: images, config_of(**overrides))


def test_the_windows_of_a_tile_are_those_that_its_size_asks_for():
    assert tiled_inference.window_starts(1224, 512, 128) == [0, 356, 712]
