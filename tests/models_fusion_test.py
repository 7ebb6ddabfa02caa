import itertools

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

from pcejax import ops
from pcejax.losses import partial_cross_entropy
from pcejax.models import blocks, fusion

COMBINATIONS = list(itertools.product(fusion.BRANCHES, fusion.FUSIONS))
combinations = pytest.mark.parametrize(("branches", "fuse"), COMBINATIONS)


@pytest.mark.parametrize("case", golden_cases(fused=True))
def test_logits_and_gradients_are_those_of_pytorch(case):
    assert_equals_golden(case)


def test_there_is_a_golden_case_for_each_combination_at_each_place():
    places = ("bottleneck", "decoder")
    expected = {f"{branches}_{fuse}_{at}" for branches, fuse in COMBINATIONS for at in places}
    assert set(golden_cases(fused=True)) == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("size", "grid"), [((8, 8), 4), ((5, 13), 1), ((5, 13), 3), ((5, 13), 8), ((1, 3), 4)])
def test_a_cell_of_the_adaptive_grid_is_the_mean_from_the_floor_to_the_ceiling_of_its_bounds(size, grid, dtype):
    x = random_image((2, *size, 3)).astype(dtype)
    pooled = fusion.adaptive_average_pool(x, grid)
    assert pooled.shape == (2, grid, grid, 3)
    assert pooled.dtype == dtype
    x = np.asarray(x, np.float64)
    for i, j in itertools.product(range(grid), repeat=2):
        rows, cols = (slice(n * k // grid, -(-(n * (k + 1)) // grid)) for n, k in zip(size, (i, j), strict=True))
        expected = x[:, rows, cols].mean((1, 2))
        np.testing.assert_allclose(
            np.asarray(pooled[:, i, j], np.float64), expected, rtol=4e-3 if dtype == "bfloat16" else 1e-6
        )


@pytest.mark.parametrize(("size", "new_size"), [((1, 1), (4, 7)), ((2, 4), (9, 4)), ((8, 8), (8, 21))])
def test_cells_are_brought_back_as_jax_and_doubling_do_it(size, new_size):
    x = random_image((2, *size, 3))
    expected = jax.image.resize(x, (2, *new_size, 3), "bilinear")
    np.testing.assert_allclose(fusion.resize_bilinear(x, *new_size), expected, atol=1e-6)
    doubled = fusion.resize_bilinear(x, 2 * size[0], 2 * size[1])
    np.testing.assert_allclose(doubled, ops.bilinear_2x(x), atol=1e-6)


@combinations
@pytest.mark.parametrize(("at", "plain_control"), [("bottleneck", False), ("decoder", True), ("both", False)])
def test_fusion_keeps_the_images_size_and_dtype_and_has_the_parts_asked_for(branches, fuse, at, plain_control):
    fields = {"at": at, "branches": branches, "fuse": fuse, "plain_control": plain_control}
    model = make_model(width=8, dtype="bfloat16", fusion=fields)
    image = jax.ShapeDtypeStruct((2, 17, 5, 3), jnp.float32)
    logits, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), image)
    assert logits.shape == (2, 17, 5, CLASSES)
    assert logits.dtype == jnp.float32
    parts = {name for name in variables["params"] if name.startswith("fusion")}
    decoder = {"fusion_pyramid", "fusion_decoder"}
    assert parts == {"bottleneck": {"fusion_bottleneck"}, "decoder": decoder}.get(at, {"fusion_bottleneck", *decoder})
    # At the bottleneck 16 features are fused; on the decoder, at full resolution, the first level's 8.
    for name, features in (("fusion_bottleneck", 16), ("fusion_decoder", 8)):
        if name in parts:
            assert variables["params"][name]["project"]["kernel"].shape[-1] == features
            assert ("control_0" in variables["params"][name]) == plain_control
            assert ("branch_0" in variables["params"][name]) == (not plain_control)


@combinations
@pytest.mark.parametrize("norm", ["group", "none"])
def test_the_plain_control_has_as_many_parameters_within_one_percent(branches, fuse, norm):
    model = make_model(norm=norm, fusion={"at": "bottleneck", "branches": branches, "fuse": fuse})
    branched = model.fusion_bottleneck
    for channels in (16, 20, 32, 48, 64, 128, 256, 512, 1024):
        x = jax.ShapeDtypeStruct((1, 4, 4, channels), jnp.float32)
        counts = []
        for module in (branched, branched.clone(plain_control=True)):
            shapes = jax.eval_shape(lambda x, module=module: module.init(jax.random.key(0), x, train=False), x)
            counts.append(sum(leaf.size for leaf in jax.tree.leaves(shapes)))
        assert abs(counts[1] / counts[0] - 1) < 0.01, channels


def test_the_plain_control_sees_one_pixel_further_and_no_more():
    model = make_model(norm="none", width=8, fusion={"at": "bottleneck", "plain_control": True})
    control = model.fusion_bottleneck
    x = random_image((1, 9, 9, 8))
    variables = jax.jit(lambda: control.init(jax.random.key(0), x, train=False))()
    felt = jax.grad(lambda x: control.apply(variables, x, train=False)[0, 4, 4].sum())(x)
    rows, cols = np.nonzero(np.abs(felt[0]).sum(-1))
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (3, 5, 3, 5)


@pytest.mark.parametrize("branches", fusion.BRANCHES)
def test_branches_have_the_features_asked_for_or_their_share(branches):
    for features, expected in ((0, 8), (4, 4)):
        model = make_model(depth=1, width=16, fusion={"at": "bottleneck", "branches": branches, "features": features})
        names = names_of(shapes_of(model))
        kernels = [
            shape.shape for name, shape in names.items() if "fusion_bottleneck/branch" in name and "kernel" in name
        ]
        assert len(kernels) == 5
        assert {shape[-1] for shape in kernels} == {expected}
        assert names["fusion_bottleneck/project/kernel"].shape == (5 * expected, 32)


@pytest.mark.parametrize(("branches", "fuse"), [("pooling", "concat"), ("dilated", "sum")])
def test_every_parameter_is_felt_and_an_image_does_not_feel_its_batch(branches, fuse):
    model = make_model(width=8, fusion={"at": "both", "branches": branches, "fuse": fuse, "rates": (1, 2)})
    variables, images = random_variables(model), random_image((2, 8, 8, 3))

    def pulled(params, images):
        logits = model.apply({"params": params}, images, train=True)
        return (logits[:1] ** 2).sum(), logits

    run = jax.jit(jax.grad(pulled, has_aux=True))
    gradient, logits = run(variables["params"], images)
    for name, value in names_of({"params": gradient}).items():
        assert float(jnp.abs(value).max()) > 0, name
    _, bright = run(variables["params"], jnp.concatenate([images[:1], 5 * images[1:] + 3]))
    np.testing.assert_array_equal(logits[0], bright[0])
    assert not np.allclose(logits[1], bright[1], atol=1e-3)


@pytest.mark.parametrize("branches", fusion.BRANCHES)
def test_branches_see_the_whole_map(branches):
    """What a U-Net of depth 1 alone does not: a corner feels the other."""
    image = random_image((1, 64, 64, 3))
    felt = []
    for at in ("", "bottleneck"):
        model = make_model(norm="none", fusion={"at": at, "branches": branches})
        variables = random_variables(model)
        gradient = jax.jit(jax.grad(lambda x, m=model, v=variables: m.apply(v, x, train=False)[0, 0, 0].sum()))(image)
        felt.append(float(jnp.abs(gradient[0, 40:, 40:]).max()))
    assert felt[0] == 0
    assert felt[1] > 0


@pytest.mark.parametrize(("branches", "fuse"), [("pooling", "concat"), ("dilated", "sum")])
def test_bfloat16_loss_is_within_a_hundredth_of_float32s(branches, fuse):
    image, labels = random_image((2, 16, 16, 3)), np.random.default_rng(1).integers(0, CLASSES, (2, 16, 16))
    fields = {"at": "both", "branches": branches, "fuse": fuse}
    half, full = (make_model(width=8, dtype=dtype, fusion=fields) for dtype in ("bfloat16", "float32"))
    variables = random_variables(full)
    rough, exact = (apply(model, variables, image) for model in (half, full))
    assert 1e-4 < float(jnp.abs(rough - exact).max() / jnp.abs(exact).max()) < 0.1
    losses = [partial_cross_entropy(logits, labels, labels % 2 == 0)[0] for logits in (rough, exact)]
    assert abs(losses[0] / losses[1] - 1) < 0.01


@pytest.mark.parametrize("norm", blocks.NORMS)
def test_a_map_of_one_pixel_is_fused_and_still_told_from_another(norm):
    model = make_model(depth=3, norm=norm, width=8, fusion={"at": "bottleneck"})
    variables = random_variables(model)
    images = random_image((2, 8, 8, 3)) * jnp.asarray([0.3, 1.0]).reshape(2, 1, 1, 1)
    logits = apply(model, variables, images)
    assert bool(jnp.isfinite(logits).all())
    assert not np.allclose(logits[0], logits[1], atol=1e-3)


@pytest.mark.parametrize("fuse", fusion.FUSIONS)
@pytest.mark.parametrize("fields", [{}, {"encoder": "efficientnet-lite0", "pretrained": False}])
def test_without_a_decoder_the_encoders_levels_are_joined(fuse, fields):
    model = make_model(decoder="none", depth=2, width=8, dtype="bfloat16", fusion={"fuse": fuse}, **fields)
    image = jax.ShapeDtypeStruct((2, 17, 5, 3), jnp.float32)
    logits, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), image)
    assert (logits.shape, logits.dtype) == ((2, 17, 5, CLASSES), jnp.float32)
    assert set(variables["params"]) == {"encoder", "fusion_pyramid", "head"}
    first = 1 if fields else 0
    levels = {name for name in variables["params"]["fusion_pyramid"] if name.startswith("level_")}
    assert levels == {f"level_{index}" for index in range(3 - first)}


def test_a_summed_pyramid_without_a_decoder_is_a_sum_of_what_each_level_says():
    """Of a net whose units are linear: no norm, and features that no ReLU shuts."""
    model = make_model(decoder="none", width=4, norm="none", fusion={"fuse": "sum"})
    image = random_image((1, 8, 12, 3))
    variables = jax.tree.map(jnp.abs, random_variables(model))
    whole = apply(model, variables, image)
    head = variables["params"]["head"]
    pyramid = variables["params"]["fusion_pyramid"]

    def only(kept):
        silent = {name: part if name == kept else jax.tree.map(jnp.zeros_like, part) for name, part in pyramid.items()}
        params = variables["params"] | {"fusion_pyramid": silent}
        return apply(model, {"params": params}, image) - head["bias"].reshape(1, 1, 1, -1)

    parts = sum(only(name) for name in pyramid) + head["bias"].reshape(1, 1, 1, -1)
    np.testing.assert_allclose(whole, parts, rtol=1e-4)
