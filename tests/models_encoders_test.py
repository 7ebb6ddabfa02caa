"""EfficientNet-Lite against PyTorch, and what is frozen or shared over devices."""

import functools
import json
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_for_tests import CLASSES, make_model, random_image, random_variables
from PIL import Image
from sklearn.datasets import load_sample_image

from configs import default
from pcejax import parallel
from pcejax.errors import UserError
from pcejax.losses import partial_cross_entropy
from pcejax.models import create_model, encoders, pretrained

GOLDEN = np.load(Path(__file__).parent / "golden" / "encoders.npz")
LITE0 = "efficientnet-lite0"
# By PyTorch's name: the end of ours, and our axes in their order.
GRADIENTS = {
    "_conv_stem.weight": ("stem_kernel", (3, 2, 0, 1)),
    "_blocks.0._bn1.bias": ("block_0/depthwise_norm/bias", (0,)),
    "_blocks.3._depthwise_conv.weight": ("block_3/depthwise_kernel", (2, 0, 1)),
    "_blocks.6._expand_conv.weight": ("block_6/expand_kernel", (1, 0)),
    "_blocks.15._bn2.weight": ("block_15/project_norm/scale", (0,)),
}


def config_of(**overrides):
    config = default.get_config().model
    config.update(**{"encoder": LITE0, "depth": 5, **overrides})
    return config


@functools.cache
def encoder_variables(bands=3, depth=5):
    found = pretrained.variables(config_of(depth=depth), bands)
    return {collection: tree["encoder"] for collection, tree in found.items()}


def apply(encoder, variables, image, depth=5):
    return encoders.EfficientNetLite(encoder, depth, jnp.float32).apply(variables, image, train=False)


@functools.cache
def jitted(depth):
    return jax.jit(lambda variables, image: apply(LITE0, variables, image, depth))


def sampled_features(encoder, variables):
    """Of a random image, by level, at the golden file's places."""
    rng = np.random.default_rng(0)
    image = rng.random((2, 64, 96, 3), np.float32)
    _, *features = jax.jit(lambda variables: apply(encoder, variables, image))(variables)
    return [np.asarray(x).reshape(-1)[rng.choice(x.size, 300, replace=False)] for x in features]


def sampled_gradients(encoder, variables, seed):
    """Of a weighted sum of an image's features, by name, at the golden file's places."""
    rng = np.random.default_rng(seed)
    image = rng.random((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(lambda: apply(encoder, variables, image))
    weights = [rng.normal(size=shape.shape).astype(np.float32) for shape in shapes[1:]]

    def scalar(params):
        _, *features = apply(encoder, {**variables, "params": params}, image)
        return sum((x * weight).mean() for x, weight in zip(features, weights, strict=True))

    gradients = jax.device_get(jax.jit(jax.grad(scalar))(variables["params"]))
    found = {}
    for theirs, (ours, axes) in GRADIENTS.items():
        leaves = flax.traverse_util.flatten_dict(gradients, sep="/").items()
        (gradient,) = (value for name, value in leaves if name.endswith(ours))
        found[theirs] = gradient.transpose(axes).reshape(-1)[rng.permutation(gradient.size)[:300]]
    return found


def largest_difference(found, expected):
    """Relative to the largest value."""
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_features_are_pytorchs():
    for level, found in enumerate(sampled_features(LITE0, encoder_variables()), 1):
        assert largest_difference(found, GOLDEN[f"level_{level}"]) < 1e-4, level


def test_gradients_are_pytorchs():
    for name, found in sampled_gradients(LITE0, encoder_variables(), int(GOLDEN["seed"])).items():
        assert largest_difference(found, GOLDEN[f"gradient{name}"]) < 1e-4, name


@functools.cache
def read_lite0():
    return pretrained.read_tensors(pretrained.checked(LITE0))


@pytest.mark.parametrize(("picture", "label"), [("flower.jpg", 985), ("china.jpg", 698)])
def test_its_own_head_calls_a_flower_a_daisy_and_a_temple_a_palace(picture, label):
    image = Image.fromarray(load_sample_image(picture))
    image = image.resize([round(side * 256 / min(image.size)) for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - 224) // 2 for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)[None] / 255
    features = np.asarray(jitted(5)(encoder_variables(), pixels)[-1][0])
    read = read_lite0()
    head = features @ read["_conv_head.weight"][:, :, 0, 0].T
    head = (head - read["_bn1.running_mean"]) / np.sqrt(read["_bn1.running_var"] + 1e-3)
    head = np.clip(head * read["_bn1.weight"] + read["_bn1.bias"], 0, 6).mean((0, 1))
    logits = read["_fc.weight"] @ head + read["_fc.bias"]
    assert logits.argmax() == label


@pytest.mark.parametrize("variant", ["lite0", "lite1", "lite2"])
@pytest.mark.parametrize(("depth", "bands"), [(2, 4), (5, 3)])
def test_every_variant_has_the_shapes_of_its_file(variant, depth, bands):
    shapes = json.loads(str(GOLDEN[f"shapes_{variant}"]))
    empty = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    encoder = f"efficientnet-{variant}"
    found = pretrained.convert(empty, encoder, depth, bands)
    model = create_model(config_of(encoder=encoder, depth=depth), 3)
    expected = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, bands)), train=False))
    for collection in ("params", "batch_stats"):
        ours = jax.tree.map(lambda x: x.shape, expected[collection]["encoder"])
        assert jax.tree.map(lambda x: x.shape, found[collection]["encoder"]) == ours
    if depth == encoders.MAX_DEPTH:
        # All of the file but its head: each block's numbers are used, none is left over.
        head = sum(
            np.prod(shape) for name, shape in shapes.items() if name.split(".")[0] in ("_conv_head", "_bn1", "_fc")
        )
        used = sum(leaf.size for leaf in jax.tree.leaves(found))
        assert used == sum(np.prod(shape) for shape in shapes.values()) - head


def test_bands_seen_twice_say_what_they_say_once():
    image = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
    (_, once), (_, twice) = (
        jitted(1)(encoder_variables(bands, depth=1), pixels)
        for bands, pixels in ((3, image), (6, np.concatenate([image, image], -1)))
    )
    np.testing.assert_allclose(once, twice, rtol=1e-4, atol=1e-4)
    kernels = [encoder_variables(bands, depth=1)["params"]["level_1"]["stem_kernel"] for bands in (3, 4)]
    np.testing.assert_allclose(kernels[1], 0.75 * np.take(kernels[0], [0, 1, 2, 0], axis=2), rtol=1e-6)


@pytest.mark.parametrize("depth", range(1, 6))
def test_levels_without_a_skip_and_images_of_any_size_reach_the_decoder(depth):
    model = create_model(config_of(depth=depth, width=8), 7)

    def run(image):
        return model.init_with_output(jax.random.key(0), image, train=True, mutable=["batch_stats", "params"])[0]

    logits = jax.eval_shape(run, jax.ShapeDtypeStruct((2, 45, 70, 3), jnp.float32))
    assert logits.shape == (2, 45, 70, 7)
    features = jax.eval_shape(lambda: apply(LITE0, encoder_variables(depth=depth), np.zeros((1, 32, 64, 3)), depth))
    assert features[0] is None
    channels = [16, 24, 40, 112, 320]
    assert [x.shape for x in features[1:]] == [
        (1, 32 // 2**level, 64 // 2**level, channels[level - 1]) for level in range(1, depth + 1)
    ]


def test_bfloat16_computes_about_what_float32_computes():
    image = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
    variables = encoder_variables(depth=2)
    half = encoders.EfficientNetLite(LITE0, 2, jnp.bfloat16)
    rough = jax.jit(lambda image: half.apply(variables, image, train=False))(image)[-1]
    exact = jitted(2)(variables, image)[-1]
    assert rough.dtype == jnp.bfloat16
    assert 1e-5 < np.abs(rough - exact).max() / np.abs(exact).max() < 0.1


def test_bfloat16_loss_is_within_a_hundredth_of_float32s():
    image, labels = random_image((2, 32, 32, 3)), np.random.default_rng(1).integers(0, CLASSES, (2, 32, 32))
    half, full = (
        make_model(encoder=LITE0, depth=2, width=8, norm="batch", dtype=dtype) for dtype in ("bfloat16", "float32")
    )
    variables = random_variables(full)
    for collection, tree in encoder_variables(depth=2).items():
        variables[collection]["encoder"] = tree
    rough, exact = (jax.jit(lambda v, m=model: m.apply(v, image, train=False))(variables) for model in (half, full))
    assert rough.dtype == exact.dtype == jnp.float32
    assert 1e-4 < float(jnp.abs(rough - exact).max() / jnp.abs(exact).max()) < 0.1
    losses = [partial_cross_entropy(logits, labels, labels % 2 == 0)[0] for logits in (rough, exact)]
    assert abs(losses[0] / losses[1] - 1) < 0.01


def train(variables, image, **overrides):
    """What training does to the encoder's two first levels: gradients of a sum of features, and new statistics."""
    model = encoders.EfficientNetLite(**{"variant": LITE0, "depth": 2, "dtype": image.dtype, **overrides})

    def scalar(params):
        of_all = {"params": params, "batch_stats": variables["batch_stats"]}
        (_, *features), changed = model.apply(of_all, image, train=True, mutable=["batch_stats"])
        # Not a sum alone: batch norm keeps that from feeling anything.
        return sum((jnp.sin(x) * x).sum() for x in features), changed["batch_stats"]

    return jax.grad(scalar, has_aux=True)(variables["params"])


def test_batch_norm_over_two_devices_is_that_of_the_joined_batch():
    assert jax.local_device_count() == 2
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), encoder_variables(depth=2))
        # Unlike halves: statistics of one would not do for the other.
        image = np.random.default_rng(0).random((4, 8, 8, 3)) * np.array([1, 1, 0.2, 0.2]).reshape(4, 1, 1, 1)
        joined, joined_statistics = jax.jit(train)(variables, image)

        def on_device(variables, image):
            gradients, statistics = train(variables, image, axis_name=parallel.AXIS)
            return jax.lax.psum(gradients, parallel.AXIS), statistics

        split, statistics = parallel.map_eval_step(on_device)(
            parallel.replicate(variables), image.reshape(2, 2, *image.shape[1:])
        )
    for device in (0, 1):
        for one, two in ((joined, split), (joined_statistics, statistics)):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[device], rtol=1e-8, atol=1e-9), one, two)  # noqa: B023


def frozen_levels(gradients):
    return [name for name, level in gradients.items() if not any(np.any(x) for x in jax.tree.leaves(level))]


def kept_levels(old, new):
    return [name for name in old if jax.tree.all(jax.tree.map(np.array_equal, old[name], new[name]))]


@pytest.mark.parametrize(
    ("overrides", "without_gradient", "with_old_statistics"),
    [
        ({}, [], []),
        ({"frozen_stages": 1}, ["level_1"], ["level_1"]),
        ({"frozen_stages": 2}, ["level_1", "level_2"], ["level_1", "level_2"]),
        ({"frozen_statistics": True}, [], ["level_1", "level_2"]),
    ],
)
def test_frozen_levels_have_no_gradient_and_frozen_statistics_stay(overrides, without_gradient, with_old_statistics):
    variables = encoder_variables(depth=2)
    image = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    gradients, statistics = jax.jit(functools.partial(train, **overrides))(variables, image)
    assert frozen_levels(gradients) == without_gradient
    assert kept_levels(variables["batch_stats"], statistics) == with_old_statistics


def test_recomputed_activations_give_the_same_gradients():
    variables = encoder_variables(depth=2)
    image = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    plain, again = (jax.jit(functools.partial(train, remat=remat))(variables, image) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(a).max()), plain, again)
    text = str(jax.make_jaxpr(functools.partial(train, remat=True))(variables, image))
    assert "remat" in text or "checkpoint" in text


def test_the_plain_encoder_is_frozen_alike():
    config = default.get_config().model
    config.update(depth=1, width=2, norm="batch")
    image = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)

    def run(frozen_stages, frozen_statistics):
        config.update(frozen_stages=frozen_stages, frozen_statistics=frozen_statistics)
        model = create_model(config, 3)
        variables = jax.jit(lambda: model.init(jax.random.key(0), image, train=False))()

        def scalar(params):
            of_all = {"params": params, "batch_stats": variables["batch_stats"]}
            logits, changed = model.apply(of_all, image, train=True, mutable=["batch_stats"])
            return (logits * logits).sum(), changed["batch_stats"]

        gradients, statistics = jax.jit(jax.grad(scalar, has_aux=True))(variables["params"])
        old = variables["batch_stats"]["encoder"]
        return frozen_levels(gradients["encoder"]), kept_levels(old, statistics["encoder"])

    assert run(0, False) == ([], [])
    assert run(1, False) == (["level_0"], ["level_0"])
    assert run(0, True) == ([], ["level_0", "level_1"])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"encoder": "efficientnet-lite3"}, r"model.encoder='efficientnet-lite3'; expected one of \['plain', 'effic"),
        ({"depth": 6}, "model.depth=6; expected 1 to 5 with model.encoder='efficientnet-lite0'"),
        ({"frozen_stages": 6}, "model.frozen_stages=6; expected 0 to 5, the encoder's levels at model.depth=5"),
        ({"frozen_stages": -1}, "model.frozen_stages=-1; expected 0 to 5"),
        ({"encoder": "plain", "frozen_stages": 7}, "model.frozen_stages=7; expected 0 to 6"),
    ],
)
def test_what_an_encoder_cannot_do_is_refused(overrides, told):
    with pytest.raises(UserError, match=told):
        create_model(config_of(**overrides), 3)
