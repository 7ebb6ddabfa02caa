"""The loop in this process: what it refuses, how often it compiles, where it stops."""

import itertools
import json

import jax
import numpy as np
import pytest
from runs_for_tests import config_of, prepare, save_run, state_of

from pcejax import losses, parallel, train, training_log, writers
from pcejax.checkpoints import Checkpoints
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    prepare(folder := tmp_path_factory.mktemp("data"))
    return folder


@pytest.fixture(autouse=True)
def random_start(monkeypatch):
    """A true initialisation takes seconds to compile, and nothing here looks at it."""

    def create_train_state(model, tx, key, image_shape, initial):
        state = state_of(config_of("data"), 6)
        return state._replace(opt_state=tx.init(state.params))

    monkeypatch.setattr(train, "create_train_state", create_train_state)


def run(data_dir, workdir, **overrides):
    return train.train_and_evaluate(config_of(data_dir, **overrides), workdir)


def latest_step(workdir):
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.latest_step()


class CutError(Exception):
    """What ends a run that is cut."""


def cut_after_three_steps(monkeypatch):
    """A run that starts at step 0 is; one that goes on is not."""
    plans = train.input_pipeline.plans

    def cut_plans(config, tile_set, first_step):
        for index, plan in enumerate(plans(config, tile_set, first_step)):
            if first_step == 0 and index == 3:
                raise CutError
            yield plan

    monkeypatch.setattr(train.input_pipeline, "plans", cut_plans)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"data.train_split": "trian"}, r"split 'trian' .* expected one of \['test', 'train', "),
        ({"data.eval_split": "tset"}, r"split 'tset' .* expected one of"),
        (
            {"data.eval_split": "", "train.eval_every_steps": 2},
            r"eval_every_steps=2 with data.eval_split=''; expected a",
        ),
        ({"data.eval_split": "test+train[:1]"}, r"1 of 3 tiles taught the run and the others did not"),
        (
            {"points.annotator": "expert"},
            r"points.annotator='expert'; expected one of \['uniform', 'balanced', 'component', 'file', 'scribble', "
            r"'block', 'dense', 'dense_balanced'\]",
        ),
        ({"points.budget": 0}, r"points.budget=0; expected 1 or more"),
        ({"train.batch_size": 0}, r"train.batch_size=0 .*set it to 2"),
        ({"train.accumulation": 3}, r"train.accumulation=3; expected a divisor of 8, the crops of a step that each"),
        ({"train.num_steps": 0}, r"train.num_steps=0; expected 1 or more"),
        ({"train.keep_checkpoints": 0}, r"train.keep_checkpoints=0; expected 1 or more"),
        ({"train.profile_steps": (1, 3)}, r"train.profile_steps=\(1, 3\); expected \(first, last\), after step 1"),
        ({"inference.batch_size": 3}, r"inference.batch_size=3 on 2 devices"),
        ({"inference.overlap": 48}, r"inference.overlap=48"),
        ({"loss.class_weights": (1.0, 2.0)}, r"loss.class_weights has 2 values; expected 6"),
        ({"loss.class_weights": (1.0,) * 6, "loss.effective_number_beta": 0.9}, r"are both set; expected one of them"),
        ({"loss.effective_number_beta": 1.0}, r"loss.effective_number_beta=1.0; expected a number from 0 to below 1"),
        ({"loss.partial_cross_entropy.weight": 0.0}, r"no term has a weight above 0"),
        ({"loss.unknown_class_cross_entropy.weight": 1.0}, r"which has no logit; set train_unknown=True"),
        ({"model.depth": 6}, r"an image of 32x32 pixels in a model of model.depth=6, .*; expected 64 pixels or more"),
        ({"model.norm": "layer"}, r"model.norm='layer'"),
        ({"data.scale": 0.3}, r"data.scale=0.3; expected 1, 0.5 or 0.25"),
        ({"data.anchored_share": 1.5}, r"data.anchored_share=1.5"),
    ],
)
def test_bad_input_ends_a_run_before_it_starts(data_dir, tmp_path, overrides, told):
    with pytest.raises(UserError, match=told):
        run(data_dir, tmp_path / "run", **overrides)
    assert not (tmp_path / "run").exists()


def test_pretrained_weights_are_asked_for_by_a_fresh_run_alone(data_dir, tmp_path, monkeypatch):
    def variables(config, bands):
        assert bands == 3
        raise UserError("not installed")

    monkeypatch.setattr(train.pretrained, "variables", variables)
    with pytest.raises(UserError, match="not installed"):
        run(data_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    save_run(tmp_path / "run", config_of(data_dir, **{"data.eval_split": ""}), step=5)
    run(data_dir, tmp_path / "run", **{"data.eval_split": ""})
    assert latest_step(tmp_path / "run") == 6


def test_class_weights_come_from_the_labels_that_teach_and_are_told(data_dir, tmp_path):
    result = run(data_dir, tmp_path, **{"loss.effective_number_beta": 0.9})["points"]
    counts = np.array([result["label_counts"][name] for name in result["class_weights"]])
    assert list(result["class_weights"]) == list(DEEPGLOBE.names[:6])
    np.testing.assert_allclose(
        list(result["class_weights"].values()), losses.effective_number_weights(counts, 0.9), rtol=1e-6
    )
    assert len(set(counts)) > 1


def test_terms_are_logged_each(data_dir, tmp_path):
    overrides = {"loss.consistency.weight": 2.0, "loss.propagation.weight": 0.5, "model.dropout": 0.5}
    run(data_dir, tmp_path, **overrides)
    for record in writers.read_lines(tmp_path / "metrics.jsonl")[:2]:
        terms = [record[f"loss/{name}"] for name in ("partial_cross_entropy", "consistency", "propagation")]
        assert min(terms) >= 0
        # Means over steps of other weights differ from the mean over all their pixels by little.
        assert record["loss"] == pytest.approx(terms[0] + 2.0 * terms[1] + 0.5 * terms[2], rel=0.1)


def test_each_step_is_compiled_once_in_a_run_and_once_in_one_that_goes_on(data_dir, tmp_path, monkeypatch):
    compiled, calls = [], []

    def on_event(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(details)

    def counted(map_step):
        def mapped(step, **arguments):
            call_step, name = map_step(step, **arguments), step.__name__

            def call(*arguments):
                before = len(compiled)
                outputs = call_step(*arguments)
                calls.append((name, len(compiled) - before))
                return outputs

            return call

        return mapped

    def compilations(name):
        return [count for called, count in calls if called == name]

    monkeypatch.setattr(parallel, "map_train_step", counted(parallel.map_train_step))
    monkeypatch.setattr(parallel, "map_eval_step", counted(parallel.map_eval_step))

    cut_after_three_steps(monkeypatch)
    # It stays registered, since the oldest jax has no way back; it only counts.
    jax.monitoring.register_event_duration_secs_listener(on_event)
    with pytest.raises(CutError):
        run(data_dir, tmp_path, **{"train.eval_every_steps": 1})
    # Three steps, and after each an evaluation of two tiles of one window.
    assert compilations("train_step") == [1, 0, 0]
    assert sum(compilations("eval_step")) == compilations("eval_step")[0] == 1
    assert len(compilations("eval_step")) >= 6
    calls.clear()
    run(data_dir, tmp_path, **{"train.eval_every_steps": 1})
    # From the checkpoint of step 2 to step 6.
    assert compilations("train_step") == [1, 0, 0, 0]
    assert sum(compilations("eval_step")) == compilations("eval_step")[0] == 1


def test_nothing_comes_from_the_devices_but_for_records_and_checkpoints(data_dir, tmp_path, monkeypatch):
    """On accelerators the transfer guard sees to that; on CPUs, where nothing has to move, all that fetches is told."""
    fetched, to_host, steps = [], parallel.to_host, []
    add = training_log.TrainingLog.add

    def counted(tree):
        fetched.append(len(steps))
        return to_host(tree)

    def counted_add(self, step, measured):
        steps.append(step)
        add(self, step, measured)

    monkeypatch.setattr(training_log.TrainingLog, "add", counted_add)
    monkeypatch.setattr(parallel, "to_host", counted)
    run(data_dir, tmp_path, **{"train.log_every_steps": 3, "train.checkpoint_every_steps": 3, "data.eval_split": ""})
    # At steps 3 and 6 the records, what the checkpoint has of them, and the state; the state's shapes beforehand.
    assert [step for step in fetched if step] == [3] * 3 + [6] * 3


def make_not_finite(monkeypatch, bad_steps):
    """What these steps measured is not finite, for all that the host can see."""
    to_host, seen = training_log.parallel.to_host, []

    def measured(tree):
        host = to_host(tree)
        for step_metrics in host if isinstance(host, list) else []:
            seen.append(0)
            if len(seen) in bad_steps:
                step_metrics["loss"] = step_metrics["loss"].replace(total=np.float32(np.nan))
        return host

    monkeypatch.setattr(training_log.parallel, "to_host", measured)


def test_a_step_that_is_not_finite_ends_the_run_and_is_told_and_the_checkpoint_before_is_kept(
    data_dir, tmp_path, monkeypatch
):
    make_not_finite(monkeypatch, {4})
    told = (
        r"step 4: not finite: loss; tiles (train_000\d(, )?)+; .*max_skipped_steps=0; .*lower optimizer.learning_rate"
    )
    with pytest.raises(UserError, match=told):
        run(data_dir, tmp_path)
    assert latest_step(tmp_path) == 2
    assert [record["step"] for record in writers.read_lines(tmp_path / "metrics.jsonl")] == [2]


def test_as_many_steps_as_allowed_are_skipped_and_counted(data_dir, tmp_path, monkeypatch):
    make_not_finite(monkeypatch, {1, 4})
    run(data_dir, tmp_path / "two", **{"train.max_skipped_steps": 2})
    records = writers.read_lines(tmp_path / "two" / "metrics.jsonl")
    assert [record["skipped_steps"] for record in records] == [1, 1, 0]
    assert np.isfinite([record["loss"] for record in records]).all()
    monkeypatch.undo()
    make_not_finite(monkeypatch, {1, 4})
    with pytest.raises(UserError, match=r"step 4: .* so far: 2, and train.max_skipped_steps=1"):
        run(data_dir, tmp_path / "one", **{"train.max_skipped_steps": 1})


def test_a_run_starts_from_anothers_parameters_where_they_fit(data_dir, tmp_path, monkeypatch, capsys):
    other = config_of(data_dir)
    state = save_run(tmp_path / "other", other, step=6)
    starts = []
    monkeypatch.setattr(train, "create_train_state", lambda *arguments: starts.append(arguments[-1]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(data_dir, tmp_path / "new", init_from=str(tmp_path / "other"), train_unknown=True)
    kernel = starts[0]["params"]["encoder"]["level_0"]["block_0"]["conv_0"]["Conv_0"]["kernel"]
    expected = state.ema_params["encoder"]["level_0"]["block_0"]["conv_0"]["Conv_0"]["kernel"]
    np.testing.assert_array_equal(kernel, expected)
    # A head of seven logits cannot start from one of six.
    assert "head" not in starts[0]["params"]
    told = capsys.readouterr().out
    assert "not taken: params/head/kernel: (2, 6) there, (2, 7) here" in told


def test_checkpoints_by_the_minute_lose_nothing_of_the_records(data_dir, tmp_path, monkeypatch):
    """Saved after every step, cut between two records: what goes on has them as if nothing had been."""

    often = {"train.checkpoint_every_minutes": 1e-9, "train.checkpoint_every_steps": 100}
    run(data_dir, tmp_path / "uncut", **often)
    cut_after_three_steps(monkeypatch)
    with pytest.raises(CutError):
        run(data_dir, tmp_path / "cut", **often)
    assert latest_step(tmp_path / "cut") == 3
    run(data_dir, tmp_path / "cut", **often)
    texts = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("cut", "uncut")]
    assert texts[0] == texts[1]


def test_a_run_whose_first_save_was_cut_before_its_digests_starts_again_and_saves_that_step(data_dir, tmp_path):
    save_run(tmp_path, config_of(data_dir), step=2)
    (tmp_path / "checkpoints" / "2" / "sha256.json").unlink()
    run(data_dir, tmp_path, **{"train.num_steps": 6})
    assert latest_step(tmp_path) == 6
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "6"]


def test_a_run_without_a_split_to_score_trains_scores_nothing_and_is_done(data_dir, tmp_path, monkeypatch, capsys):
    unscored = {"data.eval_split": "", "train.num_steps": 4}
    monkeypatch.setattr(train.evaluate, "score_split", None)
    plans = train.input_pipeline.plans

    def cut_plans(*arguments):
        yield from itertools.islice(plans(*arguments), 3)
        raise KeyboardInterrupt

    monkeypatch.setattr(train.input_pipeline, "plans", cut_plans)
    with pytest.raises(KeyboardInterrupt):
        run(data_dir, tmp_path, **unscored)
    assert latest_step(tmp_path) == 2
    monkeypatch.setattr(train.input_pipeline, "plans", plans)
    capsys.readouterr()
    assert run(data_dir, tmp_path, **unscored) == {}
    told = capsys.readouterr().out
    assert "resumed at step 2 of 4" in told
    assert "done already" not in told
    assert latest_step(tmp_path) == 4

    monkeypatch.setattr(train.tiles, "load", None)
    assert run(data_dir, tmp_path, **unscored) == {}
    assert capsys.readouterr().out == f"{tmp_path}: done already, 4 steps trained\n"


def test_a_run_is_done_when_its_maps_are_calibrated_by_points_that_did_not_teach_it(data_dir, tmp_path, capsys):
    fields = {"data.eval_split": "", "train.num_steps": 2, "points.held_out": 1}
    run(data_dir, tmp_path, **fields)
    path = tmp_path / "calibration.json"
    found = json.loads(path.read_text())
    with Checkpoints(tmp_path) as checkpoints:
        about = checkpoints.about()
    assert (found["step"], found["num_points"]) == (2, sum(about["held_out_counts"].values()))
    # Four points a class and tile, and with a point a pixel: what is clicked is what is held out and what teaches.
    assert sum(about["point_counts"].values()) == found["num_points"] + sum(about["label_counts"].values())
    assert f"maps: calibrated by temperature {found['temperature']:.3f}, fitted on" in capsys.readouterr().out
    path.unlink()  # as of a run that was cut before
    run(data_dir, tmp_path, **fields)
    assert json.loads(path.read_text()) == found
    capsys.readouterr()
    run(data_dir, tmp_path, **fields)
    assert "done already" in capsys.readouterr().out


def test_a_checkpoint_follows_all_records_of_its_step_and_comes_before_the_last_scores(data_dir, tmp_path, monkeypatch):
    """So that a run that is cut while it scores misses no record, and one that has its last scores has all."""
    on_disk = []

    def score_split(model, builder, split, workdir):
        on_disk.append((model.step, (tmp_path / "checkpoints" / str(model.step)).exists()))
        if len(on_disk) == 1:
            raise KeyboardInterrupt
        return {"miou": 0.5}

    monkeypatch.setattr(train.evaluate, "score_split", score_split)
    scored = {"train.eval_every_steps": 2, "train.pictures_every_evaluations": 0}
    with pytest.raises(KeyboardInterrupt):
        run(data_dir, tmp_path, **scored)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
    assert run(data_dir, tmp_path, **scored) == {"miou": 0.5}
    assert on_disk == [(2, False), (2, False), (4, False), (6, True)]
    records = writers.read_lines(tmp_path / "metrics.jsonl")
    assert [(record["step"], "miou" in record) for record in records] == [
        (2, False),
        (2, True),
        (4, False),
        (4, True),
        (6, False),
    ]
