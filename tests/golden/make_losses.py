"""Writes losses.npz: cross entropies and their gradients as torch computes them, in float64.

Run with any Python that has torch (2.13 was used) and NumPy: python tests/golden/make_losses.py
"""

import itertools
import pathlib

import numpy as np
import torch

SHAPE, CLASSES, IGNORE = (2, 6, 7), 5, 255
WEIGHTS = (0.2, 1.0, 3.0, 0.5, 1.7)

golden = {}
for labelled, weighted, smoothing, reduction in itertools.product(
    (0.1, 0.3, 1.0), (False, True), (0.0, 0.1, 0.6), ("mean", "sum")
):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2.0, size=(*SHAPE, CLASSES)).astype(np.float32)
    mask = rng.random(SHAPE) < labelled
    labels = np.where(mask, rng.integers(0, CLASSES, SHAPE), IGNORE)

    tensor = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        tensor.movedim(-1, 1),
        torch.tensor(labels),
        weight=torch.tensor(np.float32(WEIGHTS)).double() if weighted else None,
        ignore_index=IGNORE,
        label_smoothing=smoothing,
        reduction=reduction,
    )
    loss.backward()
    case = f"{labelled} {weighted} {smoothing} {reduction}"
    golden[f"{case} value"] = np.float64(loss.item())
    golden[f"{case} gradient"] = tensor.grad.numpy()[mask].astype(np.float32)  # of labelled pixels: [n, C]
    assert (tensor.grad.numpy()[~mask] == 0).all()

np.savez_compressed(pathlib.Path(__file__).with_name("losses.npz"), **golden)
