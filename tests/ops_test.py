import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcejax import ops

NHWC = ("NHWC", "HWIO", "NHWC")
TOLERANCE = {"float32": 1e-5, "bfloat16": 4e-2}
dtypes = pytest.mark.parametrize("dtype", list(TOLERANCE))


def normal(shape, dtype, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_same_function(ours, plain, *arguments):
    """Value, and gradient against a random cotangent in every argument."""
    tolerance = TOLERANCE[str(arguments[0].dtype)]

    def value_and_gradients(function):
        value, pull_back = jax.vjp(function, *arguments)
        return value, *pull_back(normal(value.shape, value.dtype, seed=9))

    results, expected = jax.jit(lambda: (value_and_gradients(ours), value_and_gradients(plain)))()
    for got, wanted in zip(results, expected, strict=True):
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


@dtypes
@pytest.mark.parametrize(
    ("shape", "features", "size", "dilation"),
    [
        ((1, 1, 1, 1), 1, 3, 1),
        ((2, 7, 5, 3), 4, 3, 1),
        ((2, 16, 16, 6), 2, 3, 2),
        ((1, 9, 8, 2), 3, 5, 1),
        ((3, 17, 6, 4), 4, 3, 7),
        ((2, 5, 8, 20), 24, 3, 1),
    ],
)
@pytest.mark.parametrize("block_values", [1, 400, 10**6])
def test_conv_is_the_native_convolution_in_blocks_of_any_size(
    monkeypatch, shape, features, size, dilation, block_values, dtype
):
    monkeypatch.setattr(ops, "_BLOCK_VALUES", block_values)

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", rhs_dilation=(dilation,) * 2, dimension_numbers=NHWC
        )

    kernel = normal((size, size, shape[-1], features), dtype, 1)
    assert_same_function(lambda x, kernel: ops.conv(x, kernel, dilation), plain, normal(shape, dtype), kernel)


@dtypes
def test_a_convolution_of_pairs_is_that_of_pixels(dtype):
    def plain(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)

    kernel = normal((3, 3, 5, 3), dtype, 1)
    assert_same_function(ops.conv_of_pairs, plain, normal((2, 3, 8, 5), dtype), kernel)


def test_cpus_alone_get_the_kernel_gradient_in_blocks():
    def gradient(x, kernel):
        return jax.grad(lambda kernel: ops.conv(x, kernel).sum())(kernel)

    traced = jax.jit(gradient).trace(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4)))
    for platform, loops in (("cpu", True), ("cuda", False), ("tpu", False)):
        assert ("stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()) is loops, platform


@dtypes
@pytest.mark.parametrize("shape", [(1, 2, 2, 1), (2, 6, 10, 3)])
def test_max_pool_is_reduce_window(shape, dtype):
    # The four values of a block differ, exactly so in bfloat16: among equals reduce_window gives the
    # gradient to one of them, ours shares it.
    batch, height, width, channels = shape
    rng = np.random.default_rng(0)
    blocks = rng.permuted(np.tile(np.arange(4), (batch * height * width * channels // 4, 1)), axis=1)
    blocks += rng.integers(-16, 16, (len(blocks), 1))
    blocks = blocks.reshape(batch, height // 2, width // 2, channels, 2, 2)
    x = jnp.asarray(blocks.transpose(0, 1, 4, 2, 5, 3).reshape(shape), dtype)

    def plain(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    assert_same_function(ops.max_pool_2x2, plain, x)


def test_the_gradient_of_a_maximum_reached_twice_keeps_its_sum():
    x = jnp.zeros((1, 4, 4, 2))
    gradient = jax.grad(lambda x: ops.max_pool_2x2(x).sum())(x)
    blocks = np.asarray(gradient).reshape(1, 2, 2, 2, 2, 2).sum((2, 4))
    np.testing.assert_allclose(blocks, 1.0)


@dtypes
@pytest.mark.parametrize(("shape", "features"), [((1, 1, 1, 1), 1), ((2, 3, 5, 4), 3)])
def test_transposed_conv_is_conv_transpose_of_the_flipped_kernel(shape, features, dtype):
    # lax.conv_transpose correlates: its kernel is ours turned by half a turn. Ours is laid down as it stands.
    def plain(x, kernel):
        return jax.lax.conv_transpose(x, kernel[::-1, ::-1], (2, 2), "VALID", dimension_numbers=NHWC)

    kernel = normal((2, 2, shape[-1], features), dtype, seed=1)
    assert_same_function(ops.transposed_conv_2x2, plain, normal(shape, dtype), kernel)


def test_transposed_conv_lays_the_kernel_down_at_each_pixel():
    kernel = jnp.arange(1.0, 5.0).reshape(2, 2, 1, 1)
    x = jnp.array([[10.0, 0.0], [0.0, 1.0]])[None, :, :, None]
    expected = [[10, 20, 0, 0], [30, 40, 0, 0], [0, 0, 1, 2], [0, 0, 3, 4]]
    np.testing.assert_array_equal(ops.transposed_conv_2x2(x, kernel)[0, :, :, 0], expected)


def resized(method):
    def plain(x):
        batch, height, width, channels = x.shape
        return jax.image.resize(x, (batch, 2 * height, 2 * width, channels), method)

    return plain


@dtypes
@pytest.mark.parametrize("shape", [(1, 1, 4, 2), (2, 3, 5, 4)])
@pytest.mark.parametrize(("op", "method"), [(ops.bilinear_2x, "bilinear"), (ops.nearest_2x, "nearest")])
def test_upsampling_is_image_resize(op, method, shape, dtype):
    assert_same_function(op, resized(method), normal(shape, dtype))


def test_bilinear_is_exact_on_a_ramp_and_clamped_at_its_ends():
    x = jnp.arange(4.0)[None, None, :, None]
    np.testing.assert_array_equal(ops.bilinear_2x(x)[0, 0, :, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])


@dtypes
@pytest.mark.parametrize(("shape", "features"), [((1, 1, 1, 1), 1), ((2, 3, 5, 4), 7)])
def test_conv_1x1_is_a_convolution(shape, features, dtype):
    def plain(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel[None, None], (1, 1), "VALID", dimension_numbers=NHWC)

    assert_same_function(ops.conv_1x1, plain, normal(shape, dtype), normal((shape[-1], features), dtype, seed=1))


@dtypes
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (1, 7, 5, 4), (1, 1, 2, 2)])
def test_strided_conv_is_the_native_convolution(shape, size, stride, dtype):
    def plain(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=NHWC)

    kernel = normal((size, size, shape[-1], 4), dtype, seed=1)
    assert_same_function(lambda x, kernel: ops.strided_conv(x, kernel, stride), plain, normal(shape, dtype), kernel)


@dtypes
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (1, 7, 5, 4), (1, 1, 2, 2)])
def test_depthwise_conv_is_a_convolution_with_a_group_for_each_channel(shape, size, stride, dtype):
    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel[:, :, None], (stride, stride), "SAME", dimension_numbers=NHWC, feature_group_count=shape[-1]
        )

    kernel = normal((size, size, shape[-1]), dtype, seed=1)
    assert_same_function(lambda x, kernel: ops.depthwise_conv(x, kernel, stride), plain, normal(shape, dtype), kernel)


def test_depthwise_conv_adds_up_bfloat16_in_float32():
    # 256 + 1 is 256 in bfloat16, twenty-four times over.
    x = jnp.ones((1, 5, 5, 1), jnp.bfloat16).at[0, 0, 0, 0].set(256)
    value = ops.depthwise_conv(x, jnp.ones((5, 5, 1), jnp.bfloat16))[0, 2, 2, 0]
    assert float(value) == 280
