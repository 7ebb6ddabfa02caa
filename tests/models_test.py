import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from pcejax.errors import UserError
from pcejax.models import blocks, create_model

CLASSES = 5


def make_model(**overrides):
    config = default.get_config().model
    config.update(**{"depth": 1, "width": 4, **overrides})
    return create_model(config, CLASSES)


def shape_of(model, image_shape, dtype=jnp.float32):
    """Shape and type of the logits without computing them."""

    def run(image):
        return model.init_with_output(jax.random.key(0), image, train=False)[0]

    return jax.eval_shape(run, jax.ShapeDtypeStruct(image_shape, dtype))


def random_image(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


def shapes_of(model):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))


def random_variables(model, seed=0):
    """Every parameter random, unlike at the start, where biases and offsets are 0 and could hide."""
    rng = np.random.default_rng(seed)

    def fill(shape):
        spread = np.prod(shape.shape[:-1]) ** -0.5 if len(shape.shape) > 1 else 0.2
        return jnp.asarray(rng.normal(len(shape.shape) == 1, spread, shape.shape), shape.dtype)

    return jax.tree.map(fill, shapes_of(model))


def apply(model, variables, image):
    return jax.jit(lambda variables, image: model.apply(variables, image, train=False))(variables, image)


def names_of(variables):
    return flax.traverse_util.flatten_dict(variables["params"], sep="/")


@pytest.mark.parametrize("norm", blocks.NORMS)
@pytest.mark.parametrize("upsample", blocks.UPSAMPLERS)
@pytest.mark.parametrize(("depth", "size"), [(1, (16, 16)), (2, (17, 30)), (3, (8, 13))])
def test_logits_have_the_images_size(norm, upsample, depth, size):
    logits = shape_of(make_model(norm=norm, upsample=upsample, depth=depth), (2, *size, 3))
    assert logits.shape == (2, *size, CLASSES)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("depth", [1, 7])
def test_an_image_has_a_pixel_for_the_deepest_level_or_is_refused_with_both_numbers(depth):
    model, least = make_model(depth=depth), 2**depth
    assert shape_of(model, (1, least, least + 1, 3)).shape == (1, least, least + 1, CLASSES)
    told = f"{least - 1}x{least} pixels in a model of model.depth={depth}, .* expected {least} pixels or more a side"
    with pytest.raises(UserError, match=told):
        shape_of(model, (1, least - 1, least, 3))
    with pytest.raises(UserError, match=f"{least}x{least - 1} pixels"):
        shape_of(model, (1, least, least - 1, 3))


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_images_have_any_number_of_bands(bands):
    assert shape_of(make_model(), (1, 8, 8, bands)).shape == (1, 8, 8, CLASSES)


def test_an_odd_size_is_the_image_padded_by_its_edge_and_cropped():
    model, image = make_model(depth=2), random_image((2, 13, 10, 3))
    variables = random_variables(model)
    padded = jnp.pad(image, ((0, 0), (0, 3), (0, 2), (0, 0)), mode="edge")
    expected = apply(model, variables, padded)[:, :13, :10]
    np.testing.assert_allclose(apply(model, variables, image), expected, atol=1e-5)


@pytest.mark.parametrize("norm", blocks.NORMS)
@pytest.mark.parametrize("upsample", blocks.UPSAMPLERS)
def test_bfloat16_compute_gives_float32_logits_of_float32_parameters(norm, upsample):
    model = make_model(norm=norm, upsample=upsample, dtype="bfloat16", depth=1)
    assert shape_of(model, (1, 8, 8, 3)).dtype == jnp.float32
    variables = shapes_of(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_bfloat16_computes_in_bfloat16_what_float32_computes():
    image = random_image((1, 16, 16, 3))
    half, full = make_model(dtype="bfloat16"), make_model()
    variables = random_variables(full)
    rough, exact = apply(half, variables, image), apply(full, variables, image)
    difference = float(jnp.abs(rough - exact).max() / jnp.abs(exact).max())
    assert 1e-5 < difference < 0.1


def test_float64_gives_float64_logits():
    with jax.enable_x64(True):
        assert shape_of(make_model(dtype="float64"), (1, 8, 8, 3), jnp.float64).dtype == jnp.float64


def test_with_group_norm_an_image_does_not_feel_its_batch():
    model = make_model(norm="group")
    images = random_image((3, 12, 12, 3))
    variables = random_variables(model)
    bright = jnp.concatenate([images[:1], 5 * images[1:] + 3])
    together = jax.jit(lambda x: model.apply(variables, x, train=True))
    np.testing.assert_array_equal(together(images)[0], together(bright)[0])
    np.testing.assert_allclose(together(images)[:1], together(images[:1]), atol=1e-5)


def test_batch_norm_takes_the_batchs_statistics_in_training_alone():
    model = make_model(norm="batch")
    images = random_image((2, 8, 8, 3))
    variables = random_variables(model)
    changed = jnp.concatenate([images[:1], images[1:] + 1])
    train = jax.jit(lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"]))
    assert not np.allclose(train(images)[0][0], train(changed)[0][0], atol=1e-4)
    assert not np.allclose(*(jax.tree.leaves(train(x)[1])[0] for x in (images, changed)), atol=1e-5)
    np.testing.assert_array_equal(apply(model, variables, images)[0], apply(model, variables, changed)[0])


@pytest.mark.parametrize("norm", ["group", "none"])
def test_without_batch_norm_there_are_no_statistics(norm):
    variables = shapes_of(make_model(norm=norm))
    assert list(variables) == ["params"]


@pytest.mark.parametrize("norm", blocks.NORMS)
def test_a_convolution_has_a_bias_only_where_no_norm_follows(norm):
    model = make_model(norm=norm, depth=3)
    names = names_of(shapes_of(model))
    kernels = [name for name in names if "Conv_" in name and name.endswith("kernel")]
    biases = [name for name in names if "Conv_" in name and name.endswith("bias")]
    assert len(kernels) == 2 * (3 + 1 + 3)
    assert len(biases) == (len(kernels) if norm == "none" else 0)
    assert "head/bias" in names


@pytest.mark.parametrize("upsample", blocks.UPSAMPLERS)
def test_every_parameter_is_felt_by_the_logits(upsample):
    model, image = make_model(upsample=upsample), random_image((1, 8, 8, 3))
    variables = random_variables(model)
    gradient = jax.jit(jax.grad(lambda params: (model.apply({"params": params}, image, train=True) ** 2).sum()))
    for name, value in names_of({"params": gradient(variables["params"])}).items():
        assert float(jnp.abs(value).max()) > 0, name


def test_the_head_starts_with_all_classes_about_equally_likely():
    model, image = make_model(width=16), random_image((1, 16, 16, 3))
    variables = jax.jit(lambda: model.init(jax.random.key(0), image, train=False))()
    p = jax.nn.softmax(apply(model, variables, image))
    assert float(jnp.abs(p - 1 / CLASSES).max()) < 0.1


def test_width_doubles_at_each_level():
    names = names_of(shapes_of(make_model(width=6, depth=3)))
    assert [names[f"encoder/level_{level}/block_0/conv_1/Conv_0/kernel"].shape[-1] for level in range(4)] == [
        6,
        12,
        24,
        48,
    ]
    assert [names[f"decoder_{level}/block_0/conv_1/Conv_0/kernel"].shape[-1] for level in range(3)] == [6, 12, 24]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"norm": "layer"}, r"model.norm='layer'; expected one of \['group', 'batch', 'none'\]"),
        ({"upsample": "cubic"}, r"model.upsample='cubic'; expected one of .*'transposed'"),
        ({"dtype": "float16"}, r"model.dtype='float16'; expected one of .*'bfloat16'"),
        ({"depth": 0}, "model.depth=0; expected 1 to 7"),
        ({"depth": 8}, "model.depth=8"),
    ],
)
def test_unknown_choices_are_refused(overrides, told):
    with pytest.raises(UserError, match=told):
        make_model(**overrides)
