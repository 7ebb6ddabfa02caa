import json

import numpy as np
import pytest
import scipy.special
from PIL import Image
from runs_for_tests import SIZE, builder_of, config_of, prepare, save_run

from pcejax import baselines, calibration, datasets, evaluate, metrics, pictures, runs, taught, tiles, trained, writers
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE, IGNORE


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    prepare(folder := tmp_path_factory.mktemp("data"))
    return folder


def model_of(config, map_image, about=None):
    """What `trained.load` gives, of a model that maps as told."""
    about = about or taught.about_run(config, tiles.load(config), DEEPGLOBE, datasets.RGB)
    return trained.Trained(config, DEEPGLOBE, datasets.RGB, about, 6, None, None, map_image)


def logits_of(ids):
    """Logits whose largest is at `ids`; unknown and IGNORE become class 0."""
    known = np.where(ids < 6, ids, 0)
    return 4.0 * np.eye(6, dtype=np.float32)[known]


def constant(class_id):
    return lambda variables, image: logits_of(np.full(image.shape[:2], class_id, np.uint8))


def truth_teller(config, split):
    """A model that knows the masks of the split, by the images."""
    known = {tile.image().tobytes(): tile.mask() for tile in tiles.read(builder_of(config), split)}
    return lambda variables, image: logits_of(known[image.tobytes()])


def score(model, split, workdir):
    return evaluate.score_split(model, builder_of(model.config), split, workdir)


def test_a_perfect_map_scores_one_on_every_pixel_of_every_tile(data_dir, tmp_path):
    config = config_of(data_dir)
    result = score(model_of(config, truth_teller(config, "test")), "test", tmp_path)
    masks = [tile.mask() for tile in tiles.read(builder_of(config), "test")]
    counts = np.bincount(np.concatenate(masks).ravel(), minlength=7)
    assert result["protocol"] == "across"
    assert result["miou"] == result["overall_accuracy"] == 1
    assert result["miou_interval_over_tiles"] == (1, 1)
    matrix = np.array(result["confusion_matrix"])
    np.testing.assert_array_equal(matrix.sum(1), counts[:7])
    assert matrix.sum() == 2 * SIZE**2
    assert [name for name, value in result["iou"].items() if value is None] == [
        name for name, count in zip(DEEPGLOBE.names[:6], counts, strict=False) if not count
    ]
    assert list(result["tiles"]) == ["test_0000", "test_0001"]
    np.testing.assert_array_equal(sum(np.array(m) for m in result["tiles"].values()), matrix)


def test_scores_are_those_of_the_summed_matrix_and_are_written(data_dir, tmp_path, capsys):
    config = config_of(data_dir)
    result = score(model_of(config, constant(3)), "validation", tmp_path)
    matrix = np.zeros((7, 7), np.int64)
    for tile in tiles.read(builder_of(config), "validation"):
        matrix[:, 3] += np.bincount(tile.mask().ravel(), minlength=7)[:7]
    np.testing.assert_array_equal(result["confusion_matrix"], matrix)
    for name, value in metrics.scores(matrix, DEEPGLOBE, train_unknown=False).items():
        assert result[name] == value or (np.isnan(value) and np.isnan(result[name]))
    written = json.loads(runs.evaluation_path(tmp_path, "validation").read_text())
    assert written == json.loads(json.dumps(result))
    assert (result["split"], result["step"], result["num_tiles"]) == ("validation", 6, 2)
    assert result["dataset"] == builder_of(config).info.full_name
    assert result["points"]["budget"] == 4
    assert result["points"]["num_tiles"] == 3
    assert "evaluate validation: tiles 2/2" in capsys.readouterr().out


def test_the_majority_is_that_of_the_pixels_that_are_scored(data_dir, tmp_path):
    config = config_of(data_dir, **{"points.annotator": "uniform", "points.budget": 9})
    model = model_of(config, constant(0))
    for split in ("test", "train"):  # the one without unknown pixels, the other with
        result = score(model, split, tmp_path)
        majority = np.sum(result["confusion_matrix"], 1)[:6].argmax()
        assert result["majority_class"] == DEEPGLOBE.names[majority]
        there = score(model._replace(map_image=constant(majority)), split, tmp_path)
        assert result["majority_miou"] == there["miou"] == there["majority_miou"]
    assert np.sum(result["confusion_matrix"], 1)[6] > 0


@pytest.mark.parametrize(("buffer_px", "held_out"), [(0, 0), (3, 0), (3, 2)])
def test_within_clicked_tiles_the_points_and_a_buffer_around_them_are_not_scored(
    data_dir, tmp_path, buffer_px, held_out
):
    config = config_of(data_dir, **{"inference.buffer_px": buffer_px, "points.held_out": held_out})
    result = score(model_of(config, constant(0)), "train[:2]", tmp_path)
    assert result["protocol"] == "within"
    expected = np.zeros(7, np.int64)
    for tile in tiles.read(builder_of(config), "train[:2]"):
        drawn = tiles.labels_of(tile, config_of(data_dir), DEEPGLOBE).points  # whether they teach or not
        rows, cols = np.indices((SIZE, SIZE))
        far = np.ones((SIZE, SIZE), bool)
        for row, col in zip(drawn.row, drawn.col, strict=True):
            far &= np.maximum(abs(rows - row), abs(cols - col)) > buffer_px
        assert not far.all()
        expected += np.bincount(tile.mask()[far], minlength=7)[:7]
    np.testing.assert_array_equal(np.sum(result["confusion_matrix"], 1), expected)


def test_the_buffer_is_cut_out_of_the_mask_alone():
    mask = np.arange(25, dtype=np.uint8).reshape(5, 5) % 6
    label = np.full_like(mask, IGNORE)
    label[1, 3] = mask[1, 3]
    scored = evaluate.scored_mask(mask, label, 1)
    assert scored.dtype == np.uint8
    assert (scored[:3, 2:] == IGNORE).all()
    assert (scored == IGNORE).sum() == 9
    np.testing.assert_array_equal(scored[scored != IGNORE], mask[scored != IGNORE])
    assert evaluate.scored_mask(mask, None, 1) is mask


def test_tiles_whose_dense_masks_taught_are_a_fit_and_scored_whole(data_dir, tmp_path):
    config = config_of(data_dir, **{"points.annotator": "dense"})
    result = score(model_of(config, truth_teller(config, "train")), "train", tmp_path)
    assert result["protocol"] == "fit"
    assert result["miou"] == 1
    assert np.sum(result["confusion_matrix"]) == 3 * SIZE**2
    across = score(model_of(config, constant(0)), "test", tmp_path)
    assert across["protocol"] == "across"


def test_a_split_of_clicked_and_other_tiles_is_refused_before_any_is_mapped(data_dir, tmp_path):
    model = model_of(config_of(data_dir), map_image=None)
    with pytest.raises(UserError, match=r"'train\[:1\]\+test': 1 of 3 tiles taught the run and the others did not"):
        score(model, "train[:1]+test", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("split", "told"), [("tset", "tset"), ("test[:9]", "incompatible"), ("", "split ''")])
def test_a_split_that_is_not_there_is_told(data_dir, tmp_path, split, told):
    with pytest.raises(UserError, match=f"{told}.* expected one of .*'test', 'train'"):
        score(model_of(config_of(data_dir), None), split, tmp_path)


def test_tiles_without_a_mask_are_refused(data_dir, tmp_path):
    with pytest.raises(UserError, match="unlabelled_0000 has no mask"):
        score(model_of(config_of(data_dir), constant(0)), "unlabelled", tmp_path)
    assert not runs.evaluation_path(tmp_path, "unlabelled").exists()


def test_unknown_is_scored_in_glnets_way_only_where_it_was_trained(data_dir, tmp_path):
    config = config_of(data_dir, train_unknown=True, **{"points.annotator": "dense"})
    assert "miou_glnet" in score(model_of(config, constant(0)), "test", tmp_path)
    assert "miou_glnet" not in score(model_of(config_of(data_dir), constant(0)), "test", tmp_path)


def test_where_unknown_has_a_logit_maps_are_also_scored_without_it(data_dir, tmp_path):
    config = config_of(data_dir, train_unknown=True, **{"points.annotator": "dense"})
    common = DEEPGLOBE.names.index(score(model_of(config, constant(0)), "test", tmp_path)["majority_class"])

    def mostly_unknown(variables, image):
        """Unknown everywhere, the commonest class second."""
        logits = np.zeros((*image.shape[:2], DEEPGLOBE.num_classes), np.float32)
        logits[..., 6], logits[..., common] = 9.0, 1.0
        return logits

    result = score(model_of(config, mostly_unknown), "test", tmp_path)
    plain = score(model_of(config_of(data_dir), constant(common)), "test", tmp_path)
    assert result["miou"] == 0
    assert result["miou_without_unknown_logit"] == pytest.approx(plain["miou"]) != 0
    assert "miou_without_unknown_logit" not in plain


def test_the_first_tiles_are_drawn_and_no_more_than_told(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "MAX_PICTURES", 2)
    score(model_of(config_of(data_dir), constant(4)), "train", tmp_path)
    drawn = sorted(runs.pictures_folder(tmp_path, "train").iterdir())
    assert [path.name for path in drawn] == ["train_0000.png", "train_0001.png"]
    sheet = np.asarray(Image.open(drawn[0]))
    assert sheet.shape == (384, 4 * 384 + 3 * 6, 3)
    panels = [np.asarray(pictures.panel(Image.open(drawn[0]), index)) for index in range(4)]
    assert (panels[2] == DEEPGLOBE.colors[4]).all()  # the map
    probability = np.exp(4) / (np.exp(4) + 5)
    assert (panels[3] == int(probability * 255)).all()  # confidence


# Calibration


def noisy_teller(config, split):
    """A model that knows each mask, but for noise, and is too sure of it."""
    tell = truth_teller(config, split)

    def map_image(variables, image):
        logits = tell(variables, image)
        return 3 * (logits + np.random.default_rng(0).normal(0, 3, logits.shape)).astype(np.float32)

    return map_image


@pytest.mark.parametrize("radius", [0, 6])
def test_the_temperature_is_that_of_the_logits_at_points_on_which_nothing_taught(data_dir, tmp_path, radius, capsys):
    points = {"points.budget": 6, "points.point_radius": radius}
    config = config_of(data_dir, **points, **{"points.held_out": 2, "data.num_labelled_tiles": 2})
    map_image = noisy_teller(config, "train")
    model = evaluate.calibrate(model_of(config, map_image), builder_of(config), tmp_path)
    logits, classes, weights, held_out = [], [], [], 0
    for tile in tiles.read_labelled(builder_of(config), config):
        every, annotation = (tiles.labels_of(tile, c, DEEPGLOBE) for c in (config_of(data_dir, **points), config))
        mapped, of_tile = map_image(None, tile.image()), []
        for row, col, class_id, rank in zip(*every.points, strict=True):
            held_out += rank >= 4
            if rank >= 4 and annotation.label[row, col] == IGNORE:
                logits.append(mapped[row, col])
                of_tile.append(class_id)
        classes += of_tile
        weights += [*calibration.area_weights(mapped.argmax(-1), np.array(of_tile, int))]
    assert 0 < len(classes) <= held_out
    assert (len(classes) == held_out) == (radius == 0)
    assert model.calibration.num_points == len(classes)
    assert model.calibration.step == model.step
    expected = calibration.fit_temperature(np.array(logits), np.array(classes), np.array(weights))
    assert model.calibration.temperature == expected > 1
    assert json.loads(runs.calibration_path(tmp_path).read_text()) == model.calibration._asdict()
    assert f"maps: {calibration.describe(model.calibration)}" in capsys.readouterr().out


def test_where_none_are_held_out_maps_are_uncalibrated(data_dir, tmp_path, capsys):
    model = model_of(config_of(data_dir), constant(0))
    assert evaluate.calibrate(model, builder_of(model.config), tmp_path) is model
    assert not runs.calibration_path(tmp_path).exists()
    result = score(model, "test", tmp_path)
    assert (result["calibration"], result["temperature"]) == ("uncalibrated", None)
    assert result["expected_calibration_error"] is None
    evaluate.print_scores(result)
    error = result["expected_calibration_error_uncalibrated"]
    assert f"expected calibration error {error:.3f}, uncalibrated\n" in capsys.readouterr().out


def test_where_all_that_are_held_out_lie_on_taught_pixels_maps_are_uncalibrated(data_dir, tmp_path, capsys):
    model = model_of(config_of(data_dir, **{"points.held_out": 1}), constant(0))
    annotator = evaluate.tiles.labels_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            evaluate.tiles,
            "labels_of",
            lambda *arguments: annotator(*arguments)._replace(label=np.zeros((SIZE, SIZE), np.uint8)),
        )
        assert evaluate.calibrate(model, builder_of(model.config), tmp_path).calibration is None
    found = json.loads(runs.calibration_path(tmp_path).read_text())
    assert found == {"temperature": None, "num_points": 0, "step": 6}
    assert "maps: uncalibrated" in capsys.readouterr().out


def test_the_calibration_error_is_that_of_all_pixels_scored(data_dir, tmp_path, capsys):
    config = config_of(data_dir, **{"inference.buffer_px": 2})
    model = model_of(config, noisy_teller(config, "train"))
    fitted = calibration.Calibration(2.5, 24, 6)
    plain, warm = (score(model._replace(calibration=c), "train", tmp_path) for c in (None, fitted))
    sums = {1.0: 0, 2.5: 0}
    for tile in tiles.read(builder_of(config), "train"):
        truth = evaluate.scored_mask(tile.mask(), tiles.labels_of(tile, config, DEEPGLOBE).label, 2).ravel()
        logits = model.map_image(None, tile.image()).reshape(-1, 6)[truth < 6]
        for temperature in sums:
            p = scipy.special.softmax(logits / temperature, -1)
            sums[temperature] += calibration.bin_sums(p.max(-1), p.argmax(-1) == truth[truth < 6])
    expected = {t: calibration.expected_calibration_error(s) for t, s in sums.items()}
    assert warm["expected_calibration_error"] == pytest.approx(expected[2.5], abs=1e-4)
    for result in (plain, warm):
        assert result["expected_calibration_error_uncalibrated"] == pytest.approx(expected[1.0], abs=1e-4)
    assert warm["temperature"] == 2.5
    assert expected[2.5] < expected[1.0] - 0.1
    assert warm["confusion_matrix"] == plain["confusion_matrix"]
    evaluate.print_scores(warm)
    told = f"expected calibration error {expected[2.5]:.3f}, {warm['calibration']}, and {expected[1.0]:.3f} without"
    assert told in capsys.readouterr().out


def test_pictures_of_confidence_are_of_calibrated_probabilities(data_dir, tmp_path):
    model = model_of(config_of(data_dir), constant(4))._replace(calibration=calibration.Calibration(2.0, 24, 6))
    score(model, "test", tmp_path)
    panel = pictures.panel(Image.open(runs.pictures_folder(tmp_path, "test") / "test_0000.png"), 3)
    assert (np.asarray(panel) == int(np.exp(2) / (np.exp(2) + 5) * 255)).all()


def test_a_checkpoint_without_a_temperature_of_its_step_gets_one_where_it_is_scored(data_dir, tmp_path):
    save_run(tmp_path, config_of(data_dir, **{"points.held_out": 1}), step=3)
    writers.write_json(runs.calibration_path(tmp_path), {"temperature": 9.0, "num_points": 1, "step": 2})
    result = evaluate.evaluate(tmp_path, "test")
    found = json.loads(runs.calibration_path(tmp_path).read_text())
    assert found["step"] == 3
    assert found["num_points"] > 1
    assert result["temperature"] == found["temperature"]
    assert evaluate.evaluate(tmp_path, "test")["temperature"] == found["temperature"]


def test_a_checkpoint_is_scored_from_its_workdir(data_dir, tmp_path, capsys):
    save_run(tmp_path, config_of(data_dir), step=3)
    result = evaluate.evaluate(tmp_path, "test")
    assert result["step"] == 3
    assert np.sum(result["confusion_matrix"]) == 2 * SIZE**2
    evaluate.print_scores(result)
    told = capsys.readouterr().out
    assert f"test (across): mIoU {result['miou']:.3f} [" in told
    for name, value in result["iou"].items():
        line = next(line for line in told.splitlines() if f"│ {name} " in line)
        assert ("absent" if value is None else f"{value:.3f}") in line


def test_where_the_labels_are_others_than_taught_nothing_is_scored_as_if_they_were(data_dir, tmp_path):
    config = config_of(data_dir)
    save_run(tmp_path, config)
    moved = config.copy_and_resolve_references()
    with moved.unlocked():
        moved.points.seed += 1  # as if points had been moved, or the dataset prepared anew
    runs.open_workdir(tmp_path, moved, {})
    evaluate.evaluate(tmp_path, "test")  # none of these tiles taught
    told = (
        r"was taught by other labels \(.*\) than config and dataset give now \(.*\); were points moved, or .*--workdir"
    )
    with pytest.raises(UserError, match=told):
        evaluate.evaluate(tmp_path, "train")
    with pytest.raises(UserError, match=told):
        baselines.score_baselines(tmp_path, "test")
    assert not runs.evaluation_path(tmp_path, "train").exists()
