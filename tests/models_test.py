import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_for_tests import (
    CLASSES,
    apply,
    assert_equals_golden,
    golden_cases,
    make_model,
    names_of,
    random_image,
    random_variables,
    shapes_of,
)

from configs import deep_unet, efficientnet_unet, multiscale_unet
from configs import unet as unet_config
from pcejax.errors import UserError
from pcejax.losses import partial_cross_entropy
from pcejax.models import blocks, create_model, unet


def shape_of(model, image_shape, dtype=jnp.float32):
    """Shape and type of the logits without computing them."""

    def run(image):
        return model.init_with_output(jax.random.key(0), image, train=False)[0]

    return jax.eval_shape(run, jax.ShapeDtypeStruct(image_shape, dtype))


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


@pytest.mark.parametrize(
    "fields",
    [*({"norm": norm} for norm in blocks.NORMS), {"blocks": 2, "residual": True, "depth": 3, "upsample": "bilinear"}],
)
def test_bfloat16_computes_in_bfloat16_a_loss_within_a_hundredth_of_float32s(fields):
    image, labels = random_image((2, 16, 16, 3)), np.random.default_rng(1).integers(0, CLASSES, (2, 16, 16))
    half, full = (make_model(**{"depth": 2, **fields, "dtype": dtype}) for dtype in ("bfloat16", "float32"))
    variables = random_variables(full)
    rough, exact = apply(half, variables, image), apply(full, variables, image)
    difference = float(jnp.abs(rough - exact).max() / jnp.abs(exact).max())
    assert 1e-4 < difference < 0.1
    losses = [partial_cross_entropy(logits, labels, labels % 2 == 0)[0] for logits in (rough, exact)]
    assert abs(losses[0] / losses[1] - 1) < 0.01


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
def test_a_convolution_has_a_norm_or_a_bias(norm):
    names = names_of(shapes_of(make_model(norm=norm, depth=3, residual=True)))
    convolutions = [name.split("/Conv_0")[0].removesuffix("/kernel") for name in names if name.endswith("kernel")]
    inner = [name for name in convolutions if not name.startswith(("upsample", "head"))]
    assert len(inner) == (2 + 1) * (4 + 3)
    beside = {"group": {"GroupNorm_0/scale", "GroupNorm_0/bias"}, "batch": {"BatchNorm_0/scale", "BatchNorm_0/bias"}}
    for name in inner:
        found = {other.removeprefix(f"{name}/") for other in names if other.startswith(f"{name}/")}
        expected = {f"Norm_0/{part}" for part in beside.get(norm, {"bias"})}
        assert found - {"kernel", "Conv_0/kernel"} == expected, name
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


@pytest.mark.parametrize(
    ("width", "widening", "features"),
    [(32, 2.0, [32, 64, 128, 256]), (12, 1.5, [12, 20, 28, 40]), (6, 1.0, [6, 6, 6, 6]), (16, 1.1, [16, 16, 16, 24])],
)
def test_features_grow_by_the_widening_to_multiples_of_what_divides_width_and_eight(width, widening, features):
    names = names_of(shapes_of(make_model(width=width, widening=widening, depth=3)))
    encoder = [names[f"encoder/level_{level}/block_0/conv_1/Conv_0/kernel"].shape[-1] for level in range(4)]
    decoder = [names[f"decoder_{level}/block_0/conv_1/Conv_0/kernel"].shape[-1] for level in range(3)]
    assert (encoder, decoder) == (features, features[:-1])


def test_every_level_of_both_ways_has_as_many_blocks_as_asked_for():
    names = names_of(shapes_of(make_model(blocks=3, depth=2)))
    found = {"/".join(name.split("/")[:-3]) for name in names if name.endswith("Conv_0/kernel")}
    levels = ["encoder/level_0", "encoder/level_1", "encoder/level_2", "decoder_0", "decoder_1"]
    assert found == {f"{level}/block_{index}" for level in levels for index in range(3)}


@pytest.mark.parametrize("norm", blocks.NORMS)
def test_a_residual_block_starts_as_its_shortcut_and_learns_at_once(norm):
    conv = functools.partial(blocks.Conv, norm=norm, dtype=jnp.float32)
    block, x = blocks.Block(8, True, conv), random_image((2, 6, 6, 8))
    out, variables = jax.jit(lambda: block.init_with_output(jax.random.key(0), x, train=False))()
    np.testing.assert_array_equal(out, x)

    def loss(params):
        return (block.apply({**variables, "params": params}, x, train=False) ** 3).sum()

    gradients = names_of({"params": jax.jit(jax.grad(loss))(variables["params"])})
    # By what starts at zero alone: the kernel, or the norm's scale.
    started = gradients["conv_1/Conv_0/kernel" if norm == "none" else f"conv_1/Norm_0/{norm.title()}Norm_0/scale"]
    assert float(jnp.abs(started).max()) > 0


@pytest.mark.parametrize("case", golden_cases(fused=False))
def test_logits_and_gradients_are_those_of_pytorch(case):
    assert_equals_golden(case)


@pytest.mark.parametrize(("depth", "size", "margin"), [(1, 32, 10), (2, 64, 24)])
def test_without_a_norm_an_image_moved_by_a_cell_of_the_deepest_level_has_its_logits_moved_inside(depth, size, margin):
    model, wide = make_model(norm="none", depth=depth), random_image((1, size, size + 8, 3))
    variables, cell = random_variables(model), 2**depth

    def inside_moved(shift):
        """Logits of the same piece of ground, in an image and in one that starts `shift` pixels further right."""
        here, there = (apply(model, variables, wide[:, :, start : start + size]) for start in (0, shift))
        inside = slice(margin, -margin)
        return here[:, inside, margin + shift : size - margin], there[:, inside, margin : size - margin - shift]

    np.testing.assert_allclose(*inside_moved(cell), atol=1e-5)
    assert not np.allclose(*inside_moved(cell // 2), atol=1e-3)


def test_remat_changes_what_is_kept_and_not_what_is_computed():
    image = random_image((2, 16, 16, 3))
    gradients, convolutions, kept = [], [], []
    for remat in (False, True):
        model = make_model(remat=remat, norm="batch", blocks=2)
        variables = random_variables(model)

        def loss(params, model=model, variables=variables):
            logits, changed = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
            return (logits**2).sum(), changed

        gradient = jax.grad(loss, has_aux=True)
        convolutions.append(str(jax.make_jaxpr(gradient)(variables["params"])).count("conv_general_dilated["))
        gradients.append(jax.jit(gradient)(variables["params"]))
        backward = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params, has_aux=True)[1], variables["params"])
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(backward)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *gradients)
    # Of the 12 forward ones the last of each level need not be known again: its output is kept by the next.
    assert convolutions[0] < convolutions[1]
    assert kept[1] < kept[0] / 2


def test_dropout_takes_whole_maps_of_each_image_by_its_own_key_and_keeps_the_mean():
    x, keys = jnp.ones((3, 2, 2, 4000)), jax.random.split(jax.random.key(0), 3)
    dropped = np.asarray(blocks.drop_maps(x, keys, 0.25))
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1, :1], dropped.shape))
    assert abs(dropped.mean() - 1) < 0.02
    assert not np.array_equal(dropped[0], dropped[1])
    np.testing.assert_array_equal(blocks.drop_maps(x[1:2], keys[1:2], 0.25)[0], dropped[1])


def test_dropout_acts_in_training_alone_and_asks_for_keys():
    model, image = make_model(dropout=0.5), random_image((2, 8, 8, 3))
    variables, keys = random_variables(model), jax.random.split(jax.random.key(0), 2)
    train = jax.jit(lambda keys: model.apply(variables, image, train=True, dropout_keys=keys))
    assert not np.allclose(train(keys), apply(model, variables, image), atol=1e-3)
    assert not np.allclose(train(keys), train(keys[::-1]), atol=1e-3)
    np.testing.assert_array_equal(apply(model, variables, image), apply(make_model(dropout=0.0), variables, image))
    with pytest.raises(ValueError, match="dropout_keys=None; expected a key for each image"):
        jax.eval_shape(lambda: model.apply(variables, image, train=True))


def test_batch_norm_over_two_devices_is_that_of_the_joined_batch():
    assert jax.local_device_count() == 2
    images = random_image((4, 8, 8, 3)) * jnp.asarray([0.2, 0.5, 1.0, 2.0]).reshape(4, 1, 1, 1)
    cotangent = random_image((4, 8, 8, CLASSES), seed=1)
    variables = random_variables(make_model(norm="batch"))

    def run(axis_name, params, images, cotangent):
        model = make_model(norm="batch", axis_name=axis_name)

        def pulled(params):
            logits, changed = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return (logits * cotangent).sum(), (logits, changed)

        gradient, (logits, changed) = jax.grad(pulled, has_aux=True)(params)
        return logits, changed, jax.lax.psum(gradient, axis_name) if axis_name else gradient

    one = jax.jit(functools.partial(run, None))(variables["params"], images, cotangent)
    halves = [x.reshape(2, 2, *x.shape[1:]) for x in (images, cotangent)]
    two = jax.pmap(functools.partial(run, "data"), axis_name="data", in_axes=(None, 0, 0))(variables["params"], *halves)
    np.testing.assert_allclose(two[0].reshape(one[0].shape), one[0], rtol=1e-4, atol=1e-4)
    for joined, split in zip(jax.tree.leaves(one[1:]), jax.tree.leaves(two[1:]), strict=True):
        scale = float(jnp.abs(joined).max())
        for device in range(2):
            np.testing.assert_allclose(split[device], joined, rtol=0, atol=1e-3 * scale)


@pytest.mark.parametrize("config", [unet_config, deep_unet, multiscale_unet, efficientnet_unet])
@pytest.mark.parametrize("variant", ["", "cpu"])
def test_the_configs_models_divide_their_crops_and_windows_without_padding(config, variant):
    config = config.get_config(variant)
    for side in (config.data.crop, config.inference.window):
        assert side % 2**config.model.depth == 0
        image_shape = (1, side, side, 3)
        assert shape_of(create_model(config.model, CLASSES), image_shape).shape == (*image_shape[:-1], CLASSES)


def test_an_encoder_may_lack_features_at_full_resolution():
    class Blind(unet.PlainEncoder):
        def __call__(self, image, *, train):
            return [None, *super().__call__(image, train=train)[1:]]

    plain = make_model(depth=2)
    blind = plain.clone(encoder=Blind(plain.encoder.features, plain.encoder.level, plain.encoder.dtype))
    assert shape_of(blind, (1, 9, 12, 3)).shape == (1, 9, 12, CLASSES)
    kernels = [names_of(shapes_of(model))["decoder_0/block_0/conv_0/Conv_0/kernel"].shape for model in (plain, blind)]
    assert kernels == [(3, 3, 8, 4), (3, 3, 4, 4)]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"norm": "layer"}, r"model.norm='layer'; expected one of \['group', 'batch', 'none'\]"),
        ({"decoder": "some"}, r"model.decoder='some'; expected one of \['convolutions', 'none'\]"),
        ({"upsample": "cubic"}, r"model.upsample='cubic'; expected one of .*'transposed'"),
        ({"dtype": "float16"}, r"model.dtype='float16'; expected one of .*'bfloat16'"),
        ({"depth": 0}, "model.depth=0; expected 1 to 7"),
        ({"depth": 8}, "model.depth=8"),
        ({"encoder": "vgg"}, r"model.encoder='vgg'; expected one of \['plain'"),
        ({"width": 0}, "model.width=0; expected 1 or more"),
        ({"widening": 0.5}, "model.widening=0.5; expected 1 or more"),
        ({"blocks": 0}, "model.blocks=0; expected 1 or more"),
        ({"dropout": 1.0}, "model.dropout=1.0; expected 0 to below 1"),
        ({"fusion": {"at": "top"}}, "model.fusion.at='top'; expected one of .*'bottleneck'"),
        ({"fusion": {"branches": "wavelets"}}, "model.fusion.branches='wavelets'; expected one of .*'pooling'"),
        ({"fusion": {"fuse": "product"}}, "model.fusion.fuse='product'; expected one of .*'concat'"),
        ({"fusion": {"grids": ()}}, r"model.fusion.grids=\(\); expected whole numbers of 1 or more"),
        ({"fusion": {"rates": (2, 0)}}, r"model.fusion.rates=\(2, 0\); expected whole numbers of 1 or more"),
        ({"fusion": {"features": -1}}, "model.fusion.features=-1; expected 0 or more"),
    ],
)
def test_unknown_choices_are_refused(overrides, told):
    with pytest.raises(UserError, match=told):
        make_model(**overrides)
