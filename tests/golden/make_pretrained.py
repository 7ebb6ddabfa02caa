"""Writes tensors.pth: a few tensors in the format of PyTorch before 1.6, some of them views of one storage."""

from collections import OrderedDict
from pathlib import Path

import torch

numbers = torch.arange(24, dtype=torch.float32)
tensors = OrderedDict(
    matrix=numbers.reshape(4, 6).clone(),
    shared=numbers,
    transposed_end=numbers[12:].reshape(3, 4).T,
    count=torch.tensor(7),
    empty=torch.zeros(0, 3),
)
torch.save(tensors, Path(__file__).with_name("tensors.pth"), _use_new_zipfile_serialization=False)
