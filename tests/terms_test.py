import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from configs.ablations import loss
from pcejax import ablation_grid, losses, terms
from pcejax.errors import UserError


def loss_config(**weights):
    config = default.get_config().loss
    config.partial_cross_entropy.weight = 0.0
    for name, weight in weights.items():
        config[name].weight = weight
    return config


def test_the_default_loss_is_partial_cross_entropy_alone():
    (term,) = terms.make_terms(default.get_config().loss)
    assert term.name == "partial_cross_entropy"
    np.testing.assert_array_equal(terms.make_schedules(default.get_config().loss), [[1, 0, 0]])


def test_every_term_has_its_fields_in_the_default_config_and_no_others():
    config = default.get_config().loss
    nested = {name for name in config if hasattr(config[name], "items")}
    assert nested == set(terms.TERMS)
    for name, (function, needs) in terms.TERMS.items():
        options = set(config[name]) - {"weight", "start", "warmup_steps"}
        arguments = inspect.signature(function).parameters
        assert options | set(needs) <= set(arguments), name
        required = {key for key, parameter in arguments.items() if parameter.default is inspect.Parameter.empty}
        assert required <= options | set(needs), name


def test_terms_with_a_weight_are_added_with_their_options():
    config = loss_config(partial_dice=0.5, partial_cross_entropy=2.0)
    config.partial_cross_entropy.focal_gamma = 2.0
    chosen = terms.make_terms(config)
    assert [term.name for term in chosen] == ["partial_cross_entropy", "partial_dice"]
    np.testing.assert_array_equal(terms.make_schedules(config)[:, 0], [2.0, 0.5])
    rng = np.random.default_rng(0)
    logits, labels = jnp.array(rng.normal(size=(1, 4, 4, 3))), jnp.array(rng.integers(0, 3, (1, 4, 4)))
    batch = {"logits": logits, "labels": labels, "label_mask": labels > 0, "class_weights": jnp.ones(3)}
    got = chosen[0].function(**{name: batch[name] for name in chosen[0].needs})
    expected = losses.partial_cross_entropy(logits, labels, labels > 0, focal_gamma=2.0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert not np.allclose(got[0], losses.partial_cross_entropy(logits, labels, labels > 0)[0], rtol=1e-3)


def test_a_weight_starts_at_its_step_and_grows_in_equal_parts():
    schedules = jnp.array([[1.0, 0, 0], [2.0, 10, 0], [4.0, 10, 3]])
    at = {step: terms.weights_at(schedules, jnp.int32(step)).tolist() for step in (0, 9, 10, 11, 12, 13, 100)}
    assert at[0] == at[9] == [1, 0, 0]
    assert at[10] == [1, 2, 1]
    assert [at[step][2] for step in (11, 12, 13, 100)] == [2, 3, 4, 4]


@pytest.mark.parametrize("field", ["weight", "start", "warmup_steps"])
def test_a_negative_schedule_is_refused(field):
    config = loss_config(entropy=1.0)
    config.entropy[field] = type(config.entropy[field])(-1)
    with pytest.raises(UserError, match=rf"loss.entropy.{field}=-1.*; expected 0 or more"):
        terms.make_terms(config)


def test_a_loss_of_no_terms_is_refused():
    with pytest.raises(UserError, match="no term has a weight above 0"):
        terms.make_terms(loss_config())


@pytest.mark.parametrize("size", ["smoke", "demo", "full", "table", "table_deepglobe"])
def test_each_loss_of_the_ablation_has_the_terms_of_its_name(size):
    ablation = loss.get_config(size)
    for name, level in ablation.axes["loss"].items():
        config = ablation_grid.config_of(ablation, ablation.overrides | level)
        told = {term.name for term in terms.make_terms(config.loss)}
        replaced = ("unknown_class_cross_entropy", "all_pixel_cross_entropy")
        assert told == ({name} if name in replaced else {"partial_cross_entropy", name})
        assert config.train_unknown == (name == "unknown_class_cross_entropy")
        if name in loss.WEIGHTS:  # grown in by the middle of training
            assert config.loss[name].warmup_steps == config.train.num_steps // 2


def test_the_ablation_of_losses_has_all_terms():
    axis = loss.get_config("full").axes["loss"]
    assert set(axis) == set(terms.TERMS)
