import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from pcejax import parallel, tiled_inference, tiles
from pcejax.errors import UserError
from pcejax.tiled_inference import enlarge, make_mapper, map_image, window_starts, window_weights


def random_image(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def pixelwise(_, windows):
    """A model that sees one pixel at a time."""
    x = windows.astype(jnp.float32) / 255
    return jnp.stack([x[..., 0] - x[..., 1], jnp.sin(5 * x[..., 2]), 10 * x[..., 0] * x[..., 1]], -1)


def blurring(radius):
    """A model that is the same everywhere and sees `radius` pixels around; zeros beyond the window, as convolutions."""

    def eval_step(_, windows):
        side = 2 * radius + 1
        kernel = np.random.default_rng(0).normal(size=(side, side, 3, 2)).astype(np.float32) / side
        x = windows.astype(jnp.float32) / 255
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return eval_step


def mapped(eval_step, image, variables=None, moves=False, **options):
    return map_image(make_mapper(eval_step, config_of(**options), dihedral_moves=moves), variables, image)


def whole(eval_step, image):
    return np.asarray(eval_step(None, image[None])[0])


def smooth_image(shape):
    """Slow waves: any edge in the map is a seam."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    waves = [np.sin(rows / 9 + phase) + np.cos(cols / 7 - phase) for phase in range(3)]
    return (64 * (np.stack(waves, -1) + 2)).clip(0, 255).astype(np.uint8)


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


@pytest.mark.parametrize(("window", "overlap"), [(1, 0), (8, 0), (8, 1), (8, 3), (16, 8), (16, 15), (512, 128)])
def test_every_pixel_has_a_window_whose_border_is_far(window, overlap):
    for size in (window, window + 1, 2 * window, 3 * window + 5):
        starts, weights = window_starts(size, window, overlap), window_weights(size, window, overlap)
        assert weights.dtype == np.float32
        assert weights.shape == (len(starts), window)
        total = np.zeros(size)
        for start, weight in zip(starts, weights, strict=True):
            assert (weight >= 0).all()
            total[start : start + window] += weight
            margin = overlap // 4
            # Nothing is said near a border that a neighbour overlaps, all near one of the image.
            assert (weight[:margin] == 0).all() or start == 0
            assert (weight[window - margin :] == 0).all() or start + window == size
        assert total.min() > 0.1


def test_weights_of_two_neighbours_that_share_the_overlap_alone_add_up_to_one():
    weights = window_weights(40, 16, 4)
    assert window_starts(40, 16, 4) == [0, 12, 24]
    total = np.zeros(40)
    for start, weight in zip((0, 12, 24), weights, strict=True):
        total[start : start + 16] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (np.diff(weights[0]) <= 0).all()


@pytest.mark.parametrize("shape", [(40, 53), (16, 16), (3, 40)])
@pytest.mark.parametrize("value", [0.0, -2.0, 0.3])
def test_a_constant_model_gives_a_constant_map(shape, value):
    def eval_step(_, windows):
        return jnp.full((*windows.shape[:3], 2), value, jnp.float32)

    logits = mapped(eval_step, random_image((*shape, 3)), overlap=5)
    assert logits.shape == (*shape, 2)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, value, rtol=1e-6)


@pytest.mark.parametrize("shape", [(40, 53), (3, 40), (1, 1)])
@pytest.mark.parametrize(
    ("window", "overlap", "batch_size", "moves"), [(16, 5, 6, False), (16, 0, 2, False), (12, 11, 4, True)]
)
def test_a_pixelwise_model_gives_the_same_map_tiled_and_whole(shape, window, overlap, batch_size, moves):
    image = random_image((*shape, 3))
    logits = mapped(pixelwise, image, window=window, overlap=overlap, batch_size=batch_size, moves=moves)
    np.testing.assert_allclose(logits, whole(pixelwise, image), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(70, 53), (41, 33), (33, 120)])
def test_a_model_that_sees_a_quarter_of_the_overlap_gives_the_same_map_tiled_and_whole(shape):
    image = random_image((*shape, 3))
    logits = mapped(blurring(2), image, window=32, overlap=8)
    np.testing.assert_allclose(logits, whole(blurring(2), image), atol=1e-5)
    assert np.abs(mapped(blurring(4), image, window=32, overlap=8) - whole(blurring(4), image)).max() > 1e-3


@pytest.mark.parametrize("radius", [2, 4])
def test_windows_leave_no_seams(radius):
    image = smooth_image((96, 90))
    tiled, truth = (f(blurring(radius), image) for f in (lambda *a: mapped(*a, window=32, overlap=16), whole))

    def edges(logits, axis):  # the mean change of slope from each row or column to the next
        inner = logits[8:-8, 8:-8]
        return np.abs(np.diff(inner, 2, axis)).mean((1 - axis, 2))

    for axis in (0, 1):
        assert edges(tiled, axis).max() <= edges(truth, axis).max() * 1.01


def test_no_model_sees_more_windows_than_a_call_takes_and_few_strips_are_in_memory(monkeypatch):
    monkeypatch.setattr(tiled_inference, "_READ_ROWS", 24)
    shapes, asked = set(), []

    def eval_step(_, windows):
        shapes.add(windows.shape)
        return pixelwise(_, windows)

    image = random_image((200, 53, 3))

    def read(first, stop):
        asked.append((first, stop))
        return image[first:stop]

    strips = make_mapper(eval_step, config_of())(None, read, image.shape, lambda logits: logits[:2])
    first = next(strips)
    assert first.shape[0] == 2
    assert asked[-1][1] <= 72  # of 200 rows: the strip, the next one, and one ahead
    rest = [*strips]
    assert sum(part.shape[1] for part in (first, *rest)) == 200
    assert shapes == {(2, 16, 16, 3)}
    # Every row once, from the top, and whole rows of a file's blocks.
    assert all(start % 24 == 0 for start, _ in asked)
    assert asked[0][0] == 0
    assert asked[-1][1] == 200
    assert all(stop == then for (_, stop), (then, _) in itertools.pairwise(asked))


def test_moves_are_undone_before_they_are_averaged():
    def corner(_, windows):  # the brighter half of a window is told by its side
        left = jnp.ones_like(windows[..., :1], jnp.float32).at[:, :, 8:].set(0)
        return jnp.concatenate([left, windows[..., :1].astype(jnp.float32)], -1)

    image = random_image((16, 16, 3))
    logits = mapped(corner, image, moves=True)
    np.testing.assert_allclose(logits[..., 0], 0.5, atol=1e-6)
    np.testing.assert_allclose(logits[..., 1], image[..., 0], rtol=1e-6)
    np.testing.assert_array_equal(mapped(corner, image)[0, :, 0], [1] * 8 + [0] * 8)


def test_a_small_image_is_padded_by_reflection():
    image = random_image((5, 7, 3))
    rows, cols = np.array([0, 1, 2, 3, 4, 4, 3, 2, 1, 0, 0, 1]), np.array([0, 1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2])

    def last_pixels(_, windows):  # each pixel tells of the one on the other side of the window
        return windows[:, ::-1, ::-1].astype(jnp.float32)

    logits = mapped(last_pixels, image, window=12, overlap=0)
    np.testing.assert_array_equal(logits, image[rows][:, cols][::-1, ::-1][:5, :7])


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (16, 11)])
def test_enlarging_is_bilinear_resizing_edges_included(factor, shape):
    logits = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    expected = jax.image.resize(logits, (3, *(n * factor for n in shape)), "bilinear")
    padded = np.pad(logits, [(0, 0), (1, 1), (0, 0)], mode="edge")
    got = enlarge(padded, factor, lambda x: x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)
    # Whatever is asked of the pixels, and however many arrays of it.
    asked = enlarge(padded, factor, lambda x: {"ids": x.argmax(0)[None], "least": x.min(0)})
    np.testing.assert_array_equal(asked["ids"][0], got.argmax(0))
    np.testing.assert_array_equal(asked["least"], got.min(0))


def test_enlarging_once_is_the_identity():
    logits = np.random.default_rng(0).normal(size=(3, 6, 5)).astype(np.float32)
    np.testing.assert_array_equal(enlarge(logits, 1, lambda x: x), logits[:, 1:-1])


@pytest.mark.parametrize(("scale", "factor"), [(0.5, 2), (0.25, 4)])
def test_the_mapper_gives_logits_at_native_resolution_for_images_of_any_size_from_one_compilation(scale, factor):
    traces = []

    def eval_step(variables, images):
        traces.append(images.shape)
        x = images.astype(jnp.float32) / 255
        return variables["slope"] * x[..., :2]

    variables = parallel.replicate({"slope": jnp.float32(3)})
    map_rows = make_mapper(eval_step, config_of(scale=scale))
    for size in ((70, 41), (9, 12), (101, 64), (1, 3), (600, 20)):
        image = random_image((*size, 3))
        logits = map_image(map_rows, variables, image)
        reduced = 3 * tiles.reduce_image(image, factor)[..., :2].astype(np.float32) / 255
        shape = (reduced.shape[0] * factor, reduced.shape[1] * factor, 2)
        assert logits.shape == (*size, 2)
        expected = jax.image.resize(reduced, shape, "bilinear")[: size[0], : size[1]]
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
    assert window_starts(1224, 512, 128) == [0, 356, 712]
