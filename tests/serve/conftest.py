from pathlib import Path

import numpy as np
import pytest
import torch

import rayreid.session  # noqa: F401 - before any test imports ray: it sets what ray reads then
from rayreid.batch import Census
from rayreid.checkpoint import Trained, build, load_trained, save_trained
from rayreid.data.views import as_images
from rayreid.experiment import compose
from rayreid.matching.metric_network import squared_difference
from tests.serve.pictures import HEIGHT, WIDTH, decoded, picture


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny GMN whose scores differ well from pair to pair."""
    return saved(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of the same name with other weights."""
    return saved(tmp_path_factory.mktemp("others") / "tiny", seed=1)


def saved(folder: Path, seed: int = 0) -> Path:
    """Save a tiny GMN as a run."""
    experiment = compose(
        "gmn",
        {
            "trunk.name": "test_resnet",
            "trunk.weights": "none",
            "config.hidden": 16,
            "loading.height": HEIGHT,
            "loading.width": WIDTH,
            "sources": ["synthetic=plaza-noon"],
            "seed": seed,
        },
    )
    census = Census({"plaza-noon": 4})
    method = build(experiment, census)
    images = as_images(torch.from_numpy(np.stack([decoded(picture(seed)) for seed in range(8)])))
    a, b = torch.triu_indices(8, 8, 1)
    with torch.no_grad():
        for _ in range(10):
            # Statistics of these pictures: with those of no data all scores would be alike.
            f = method.embed(images)
            method.metric(squared_difference(f[a], f[b]))
        # As far apart as those of a trained one.
        method.metric.logit.weight.mul_(50)
    save_trained(folder / "best", experiment, census, method.state_dict())
    return folder


@pytest.fixture(scope="session")
def trained(run: Path) -> Trained:
    return load_trained(run)
