"""PLACEHOLDER"""

import ml_collections

from configs import unet


def get_config() -> ml_collections.ConfigDict:
    config = unet.get_config("cpu")
    config.model.encoder = "efficientnet-lite0"
    config.model.depth = 5
    config.model.norm = "batch"
    config.model.decoder = "none"
    config.model.width = 64
    config.model.frozen_stages = 5
    config.model.frozen_statistics = True
    config.data.crop = 128
    config.train.batch_size = 8
    config.train.num_steps = 700
    return config
