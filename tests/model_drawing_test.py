import itertools
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation

from configs import all_configs
from pcejax import model_drawing
from pcejax.models import create_model, summary

DRAWINGS = Path(__file__).parents[1] / "docs" / "models"
CONFIGS = {name: config.model for name, config in all_configs().items()}
DILATED = {"at": "both", "branches": "dilated", "rates": (6, 12, 18), "fuse": "sum"}


def fused(fusion):
    config = CONFIGS["unet"].copy_and_resolve_references()
    config.fusion.update(fusion)
    return config


def without_decoder(fusion):
    config = fused(fusion)
    config.decoder = "none"
    return config


CASES = CONFIGS | {
    "dilated": fused(DILATED),
    "no decoder": without_decoder({}),
    "no decoder, dilated": without_decoder(DILATED),
    "control on the decoder": fused({"at": "decoder", "plain_control": True}),
}


def texts_of(config):
    """Each label that is drawn and its box in pixels; the figure's."""
    figure = model_drawing.draw("a model", create_model(config, 6), config, 256)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for text in figure.axes[0].texts if not isinstance(text, Annotation)]
    return [(text.get_text(), text.get_window_extent()) for text in texts], figure.bbox


@pytest.mark.parametrize("config", CASES.values(), ids=CASES.keys())
def test_labels_are_inside_and_do_not_overlap(config):
    texts, figure = texts_of(config)
    for text, box in texts:
        assert figure.x0 <= box.x0 < box.x1 <= figure.x1, text
        assert figure.y0 <= box.y0 < box.y1 <= figure.y1, text
    for (text, box), (other, its_box) in itertools.combinations(texts, 2):
        assert not box.overlaps(its_box), (text, other)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_drawing_in_the_documentation_is_the_models(name):
    config = CONFIGS[name]
    told = summary.describe(summary.model_summary(create_model(config, 6), config, (1, 256, 256, 3)))
    assert told.partition(" (beyond")[0] in (DRAWINGS / f"{name}.svg").read_text()


def test_features_and_branches_are_the_models():
    config = CONFIGS["multiscale_unet"]
    told = [text for text, _ in texts_of(config)[0]]
    for features in (32, 64, 128, 256):
        assert told.count(f"{features} features") == 2
    assert told.count("512 features") == 1
    assert told.count("multi-scale") == told.count("concat") == 2
    branches = [layer for layer in summary.layers(create_model(config, 6), (1, 256, 256, 3)) if len(layer.path) == 2]
    features = {layer.path: layer.shape[-1] for layer in branches}["fusion_bottleneck", "branch_2"]
    assert f"means of 2×2: {features}" in told
    assert "6 logits" in told


def test_rates_are_the_configs():
    told = [text for text, _ in texts_of(CASES["dilated"])[0]]
    assert [text.partition(":")[0] for text in told if "rate" in text] == [
        "3×3, rate 6",
        "3×3, rate 12",
        "3×3, rate 18",
    ] * 2
