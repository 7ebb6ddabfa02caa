"""Writes models.npz: logits and gradients of models as PyTorch computes them, for models_test and models_fusion_test.

Needs torch and numpy. Weights and images are not stored: both sides make them by seeded NumPy, weights from their
names (models_for_tests.py). All is float64; the models are written out by hand, on `torch.nn.functional` alone.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

CLASSES = 3
IMAGE = (2, 21, 26, 3)  # B, H, W, bands: neither side is a multiple of 4

# The fields of config.model that each case changes, and the parameters whose gradient is stored.
CASES = {
    "plain": ({"depth": 2, "width": 4}, ["encoder/level_0/block_0/conv_0/Conv_0/kernel", "upsample_1/kernel"]),
    "deep": (
        {"depth": 3, "width": 4, "widening": 1.5, "blocks": 2, "residual": True, "upsample": "bilinear"},
        ["encoder/level_1/block_0/shortcut/kernel", "decoder_2/block_1/conv_1/Norm_0/GroupNorm_0/scale"],
    ),
    "batch": (
        {"depth": 1, "width": 4, "norm": "batch", "upsample": "nearest"},
        ["encoder/level_0/block_0/conv_0/Conv_0/kernel", "decoder_0/block_0/conv_1/Norm_0/BatchNorm_0/bias"],
    ),
    "none": ({"depth": 1, "width": 4, "norm": "none"}, ["encoder/level_1/block_0/conv_1/Norm_0/bias"]),
    **{
        f"{branches}_{fuse}_{at}": (
            {
                "depth": depth,
                "width": 8,
                "fusion.at": at,
                "fusion.branches": branches,
                "fusion.fuse": fuse,
                "fusion.rates": (1, 2),
            },
            [f"fusion_{at}/branch_0/kernel", "encoder/level_0/block_0/conv_0/Conv_0/kernel"]
            + ([f"fusion_{at}/branch_4/kernel"] if branches == "pooling" else [f"fusion_{at}/branch_2/Conv_0/kernel"])
            + (["fusion_pyramid/level_2/kernel"] if at == "decoder" else []),
        )
        for branches in ("pooling", "dilated")
        for fuse in ("concat", "sum")
        for at, depth in (("bottleneck", 1), ("decoder", 2))
    },
}


def make_array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random, float32; kernels such that what they give has about their input's spread, scales about 1."""
    spread = np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0.2
    return np.random.default_rng(zlib.crc32(name.encode())).normal(len(shape) == 1, spread, shape).astype(np.float32)


class Net:
    """One model. Arrays are NCHW inside; weights have the shapes that JAX gives them."""

    def __init__(
        self, *, depth, width, widening=2.0, blocks=1, residual=False, norm="group", upsample="transposed", **fusion
    ):
        self.depth, self.blocks, self.residual, self.norm, self.upsample = depth, blocks, residual, norm, upsample
        self.features = [width * max(1, round(widening**level)) for level in range(depth + 1)]  # for widths 4 and 8
        self.at, self.branches = fusion.get("fusion.at"), fusion.get("fusion.branches")
        self.fuse, self.rates = fusion.get("fusion.fuse"), fusion.get("fusion.rates")
        self.weights = {}

    def weight(self, name, *shape):
        if name not in self.weights:
            self.weights[name] = torch.tensor(make_array(name, shape), dtype=torch.float64, requires_grad=True)
        return self.weights[name]

    def normalise(self, x, name, kind):
        channels = x.shape[1]
        if kind == "none":
            return x + self.weight(f"{name}/bias", channels).view(1, -1, 1, 1)
        at = f"{name}/{'GroupNorm_0' if kind == 'group' else 'BatchNorm_0'}"
        scale, bias = self.weight(f"{at}/scale", channels), self.weight(f"{at}/bias", channels)
        if kind == "group":
            return F.group_norm(x, next(n for n in (8, 4, 2, 1) if channels % n == 0), scale, bias, eps=1e-6)
        return F.batch_norm(x, None, None, scale, bias, training=True, eps=1e-5)

    def conv(self, x, features, name, *, size=3, dilation=1, relu=True, norm=None):
        if size == 1:
            kernel = self.weight(f"{name}/kernel", x.shape[1], features).T[:, :, None, None]
            x = F.conv2d(x, kernel)
        else:
            kernel = self.weight(f"{name}/Conv_0/kernel", 3, 3, x.shape[1], features).permute(3, 2, 0, 1)
            x = F.conv2d(x, kernel, padding=dilation, dilation=dilation)
        x = self.normalise(x, f"{name}/Norm_0", norm or self.norm)
        return F.relu(x) if relu else x

    def level(self, x, features, name):
        for index in range(self.blocks):
            at, into = f"{name}/block_{index}", x
            x = self.conv(x, features, f"{at}/conv_0")
            x = self.conv(x, features, f"{at}/conv_1", relu=not self.residual)
            if self.residual:
                if into.shape[1] != features:
                    into = self.conv(into, features, f"{at}/shortcut", size=1, relu=False)
                x = F.relu(into + x)
        return x

    def double(self, x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def up(self, x, features, name):
        if self.upsample == "transposed":
            kernel = self.weight(f"{name}/kernel", 2, 2, x.shape[1], features).permute(2, 3, 0, 1)
            return F.conv_transpose2d(x, kernel, stride=2)
        x = F.conv2d(x, self.weight(f"{name}/kernel", x.shape[1], features).T[:, :, None, None])
        return self.double(x) if self.upsample == "bilinear" else F.interpolate(x, scale_factor=2, mode="nearest")

    def multi_scale(self, x, name):
        channels, size = x.shape[1], x.shape[2:]
        branches = 5 if self.branches == "pooling" else 2 + len(self.rates)
        features = 8 * max(1, round(channels / branches / 8))

        def means(grid, index):
            cells = F.adaptive_avg_pool2d(x, grid)
            cells = self.conv(cells, features, f"{name}/branch_{index}", size=1, norm="none")
            return F.interpolate(cells, size=size, mode="bilinear", align_corners=False)

        seen = [self.conv(x, features, f"{name}/branch_0", size=1)]
        if self.branches == "pooling":
            seen += [means(grid, index) for index, grid in enumerate((1, 2, 4, 8), 1)]
        else:
            seen += [
                self.conv(x, features, f"{name}/branch_{index}", dilation=rate)
                for index, rate in enumerate(self.rates, 1)
            ]
            seen.append(means(1, len(self.rates) + 1))
        x = torch.cat(seen, 1) if self.fuse == "concat" else torch.stack(seen).sum(0)
        return self.conv(x, channels, f"{name}/project", size=1)

    def pyramid(self, levels, name):
        width, maps = self.features[0], []
        for index, x in enumerate(levels):
            x = self.conv(x, width, f"{name}/level_{index}", size=1)
            for _ in range(index):
                x = self.double(x)
            maps.append(x)
        if self.fuse == "sum":
            return torch.stack(maps).sum(0)
        kernels = [self.weight(f"{name}/kernel_{index}", width, width) for index in range(len(levels))]
        x = F.conv2d(torch.cat(maps, 1), torch.cat(kernels).T[:, :, None, None])
        return F.relu(self.normalise(x, f"{name}/norm", self.norm))

    def logits(self, image):
        x = torch.tensor(image, dtype=torch.float64).permute(0, 3, 1, 2)
        height, width = x.shape[2:]
        part = 2**self.depth
        x = (F.pad(x, (0, -width % part, 0, -height % part), mode="replicate") - 0.4) / 0.2
        skips = []
        for index, features in enumerate(self.features):
            x = self.level(F.max_pool2d(x, 2) if index else x, features, f"encoder/level_{index}")
            skips.append(x)
        if self.at == "bottleneck":
            x = self.multi_scale(x, "fusion_bottleneck")
        levels = [x]
        for index in reversed(range(self.depth)):
            x = torch.cat([skips[index], self.up(x, self.features[index], f"upsample_{index}")], 1)
            x = self.level(x, self.features[index], f"decoder_{index}")
            levels.insert(0, x)
        if self.at == "decoder":
            x = self.multi_scale(self.pyramid(levels, "fusion_pyramid"), "fusion_decoder")
        x = F.conv2d(x, self.weight("head/kernel", x.shape[1], CLASSES).T[:, :, None, None])
        x = x + self.weight("head/bias", CLASSES).view(1, -1, 1, 1)
        return x[:, :, :height, :width].permute(0, 2, 3, 1)


def main():
    stored = {}
    image = np.random.default_rng(0).random(IMAGE).astype(np.float32)
    for case, (fields, names) in CASES.items():
        net = Net(**fields)
        logits = net.logits(image)
        (logits * torch.tensor(make_array("cotangent", tuple(logits.shape)))).sum().backward()
        stored[f"{case}/fields"] = json.dumps(fields)
        # Every third pixel says as much as all of them.
        stored[f"{case}/logits"] = logits.detach().numpy()[:, ::3, ::3].astype(np.float32)
        stored[f"{case}/num_parameters"] = sum(weight.numel() for weight in net.weights.values())
        for name in names:
            stored[f"{case}/gradient/{name}"] = net.weights[name].grad.numpy().astype(np.float32)
    np.savez_compressed(Path(__file__).with_name("models.npz"), **stored)


if __name__ == "__main__":
    main()
