"""Every script in a process of its own: flags in, one message out, a known exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ["prepare_data", "train", "evaluate", "predict", "ablate"]

MAIN = """
import sys
from absl import flags, logging
from ml_collections import config_flags
from pcejax import cli
from pcejax.errors import UserError
_CONFIG = config_flags.DEFINE_config_file("config", None, "", lock_config=True)
def main():
    {body}
cli.run(main)
"""


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def run_main(body, config="configs/default.py", *arguments):
    return run_python(MAIN.format(body=body), f"--config={config}", *arguments)


def assert_message(ended, told):
    """Exit code 2, nothing but one message."""
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("error: "), ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert told in ended.stderr


def test_a_main_that_ends_well_ends_with_code_0():
    ended = run_main("print('done')")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_what_a_user_can_mend_is_told_in_one_message():
    assert_message(run_main("raise UserError('a.png: is 3x3; expected 4x4; resize it')"), "a.png: is 3x3; expected 4x4")


def test_what_a_user_cannot_mend_keeps_its_traceback():
    ended = run_main("raise ZeroDivisionError('ours')")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert "ZeroDivisionError: ours" in ended.stderr


def test_libraries_are_heard_from_warnings_on():
    ended = run_main("logging.info('chatter'); logging.warning('of weight')")
    assert "of weight" in ended.stderr
    assert "chatter" not in ended.stderr


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--config.train.num_step=3", "config: no field 'num_step'; Did you mean \"num_steps\" instead"),
        ("--config.trian.num_steps=3", "config: no field 'trian'; Did you mean \"train\" instead"),
        ("--config.sead=3", "config: no field 'sead'; Did you mean \"seed\" instead"),
        ("--config.data.zzzzz=3", "config: no field 'zzzzz'"),
    ],
)
def test_a_misspelt_field_or_section_is_told_with_its_nearest(argument, told):
    assert_message(run_main("print('started')", "configs/default.py", argument), told)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("configs/gone.py", "gone.py"),
        ("configs/quickstart.py:fast", "configs/quickstart.py:fast: expected no variant, or :smoke"),
        ("configs/unet.py:tpu", "configs/unet.py:tpu: expected no variant, or :cpu"),
        ("configs/deep_unet.py:tpu", "configs/deep_unet.py:tpu: expected no variant, or :cpu"),
        ("configs/multiscale_unet.py:tpu", "configs/multiscale_unet.py:tpu: expected no variant, or :cpu"),
        ("configs/default.py:x", "configs/default.py:x: this config has no variants"),
    ],
)
def test_a_config_that_is_not_there_is_told(config, told):
    assert_message(run_main("print('started')", config), told)


def test_a_value_of_another_type_starts_nothing():
    ended = run_main("print('started')", "configs/default.py", "--config.train.num_steps=many")
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert "--config.train.num_steps=many" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--workdir=runs/unet"],
        ["--map=map.tif"],
        ["--map=map.tif", "--reference_points=points.csv", "--workdir=runs/unet"],
        ["--map=map.tif", "--split=test", "--workdir=runs/unet"],
    ],
)
def test_neither_a_run_nor_a_map_to_score_is_told(arguments):
    ended = subprocess.run(
        [sys.executable, "scripts/evaluate.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert_message(
        ended, "expected --workdir and --split to score a run, or --map and --reference_points to score a map"
    )


LIST_MODULES = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    pass
print("MODULES", *{name.split(".")[0] for name in sys.modules}, "pcejax.train" if "pcejax.train" in sys.modules else "")
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_tells_the_flags_without_loading_what_trains(script):
    ended = run_python(LIST_MODULES, f"scripts/{script}.py", "--help")
    told, _, modules = ended.stdout.partition("MODULES")
    assert f"scripts/{script}.py:" in told
    assert not {"jax", "jaxlib", "flax", "orbax", "tensorflow_datasets", "tensorflow"} & set(modules.split())


def test_importing_the_package_loads_neither_jax_nor_tensorflow():
    ended = run_python("import sys, pcejax, pcejax.cli, pcejax.errors; print(*{n.split('.')[0] for n in sys.modules})")
    assert ended.returncode == 0, ended.stderr
    assert not {"jax", "jaxlib", "tensorflow", "tensorflow_datasets"} & set(ended.stdout.split())


def test_all_that_a_script_imports_does_without_tensorflow():
    names = "baselines, evaluate, predict, report, train"
    ended = run_python(f"import sys; from pcejax import {names}; print('tensorflow' in sys.modules)")
    assert ended.stdout == "False\n", ended.stderr
