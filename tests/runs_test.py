import json
import re
import subprocess
import sys

import pytest

from configs import default
from pcejax import runs
from pcejax.errors import UserError


def config_of(**overrides):
    config = default.get_config()
    config.update_from_flattened_dict(overrides)
    return config


def test_a_workdir_tells_config_machine_and_model(tmp_path):
    workdir = tmp_path / "a" / "run"
    runs.open_workdir(workdir, config_of(), {"parameters": 7})
    assert sorted(path.name for path in workdir.iterdir()) == ["config.json", "manifest.json", "model.json"]
    written = json.loads((workdir / "config.json").read_text())
    assert written == json.loads(json.dumps(config_of().to_dict()))
    assert (written["points"]["annotator"], written["points"]["budget"]) == ("balanced", 50)
    manifest = json.loads((workdir / "manifest.json").read_text())
    assert manifest["command"] == sys.argv
    assert manifest["devices"] == "2 x cpu"
    assert manifest["cores"] >= 1
    assert "--xla_force_host_platform_device_count=2" in manifest["xla_flags"]
    assert json.loads((workdir / "model.json").read_text()) == {"parameters": 7}
    assert {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy"} <= set(manifest["packages"])


def test_the_manifest_tells_the_commit_or_nothing(tmp_path, monkeypatch):
    def manifest():
        runs.open_workdir(tmp_path, config_of(), {})
        return json.loads((tmp_path / "manifest.json").read_text())

    commit = manifest()["git_commit"]
    assert commit is None or re.fullmatch(r"[\w.+-]+", commit)

    def gone(*arguments, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", gone)
    assert manifest()["git_commit"] is None


def test_the_config_comes_back_locked_and_equal(tmp_path):
    nested = {"loss.class_weights": (1.0, 2.0), "points.label_confusion": ((0.0, 1.0), (1.0, 0.0))}
    config = config_of(**{"optimizer.learning_rate": 1 / 3, **nested})
    runs.open_workdir(tmp_path, config, {})
    read = runs.read_config(tmp_path)
    assert json.loads(read.to_json()) == json.loads(config.to_json())
    with pytest.raises(AttributeError, match="Did you mean"):
        read.train.num_step = 1
    # And what was read is the config of the workdir again.
    runs.check_config(tmp_path, read)


def test_the_same_config_goes_on(tmp_path):
    nested = {"loss.class_weights": (1.0, 2.0), "points.label_confusion": ((0.0, 1.0), (1.0, 0.0))}
    runs.check_config(tmp_path / "new", config_of())
    runs.open_workdir(tmp_path, config_of(**nested), {})
    runs.check_config(tmp_path, config_of(**nested))
    assert not (tmp_path / "new").exists()


def test_another_config_is_refused_with_every_field_and_both_values(tmp_path):
    runs.open_workdir(tmp_path, config_of(), {})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError) as error:
        runs.check_config(tmp_path, config_of(**{"train.num_steps": 7, "points.annotator": "dense"}))
    told = str(error.value)
    assert "points.annotator: 'balanced' there, 'dense' now" in told
    assert "train.num_steps: 10000 there, 7 now" in told
    assert told.count(" there, ") == 2
    assert str(tmp_path) in told
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_field_that_came_or_went_is_a_difference(tmp_path):
    runs.open_workdir(tmp_path, config_of(), {})
    more = config_of()
    with more.unlocked():
        more.data.channels = 4
        del more.data.scale
    with pytest.raises(UserError, match=r"data.channels: None there, 4 now; data.scale: 0.5 there, None now"):
        runs.check_config(tmp_path, more)


def test_no_run_is_told(tmp_path):
    with pytest.raises(UserError, match=r"no run there, config.json is missing; expected the --workdir"):
        runs.read_config(tmp_path / "gone")


def test_result_files_lie_in_the_report_folder_by_their_split(tmp_path):
    assert runs.evaluation_path(tmp_path, "test") == tmp_path / "report" / "evaluation_test.json"
    assert runs.baselines_path(tmp_path, "train[6:]") == tmp_path / "report" / "baselines_train_6-.json"
    assert runs.pictures_folder(tmp_path, "test") == tmp_path / "report" / "maps_test"


def test_splits_of_different_names_have_different_files():
    splits = ["train", "train[:6]", "train[6:]", "train[:6%]", "train[6:8]+train[9:]", "train+test", "train[-6:]"]
    names = [runs.split_name(split) for split in splits]
    assert len(set(names)) == len(splits)
    for name in names + [runs.split_name("../../etc/passwd")]:
        assert re.fullmatch(r"[\w+%-]+", name)
