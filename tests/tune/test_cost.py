"""What a pair costs: by the scorer that is used, and more where more is computed."""

import pytest
import torch

from rayreid.batch import Census
from rayreid.checkpoint import build
from rayreid.experiment import compose
from rayreid.gallery import Target
from rayreid.run import open_sources
from rayreid.tune.cost import cost_per_pair
from tests.miniature import MINIATURE


@pytest.fixture(scope="module")
def target() -> Target:
    small = {"sources": ["synthetic=snow"], "synthetic.test_people": 16}
    experiment = compose("baseline", MINIATURE, small)
    return Target(open_sources(experiment)[0], experiment.loading)


def cost(target: Target, **config: object) -> float:
    """Return the cost of a pair for QAConv-MS."""
    small = {k: v for k, v in MINIATURE.items() if k.startswith(("trunk", "loading", "sources"))}
    own = {"config.channels": 64, "config.hidden": 64, "config.global_hidden": 64}
    named = {f"config.{name}": value for name, value in config.items()}
    experiment = compose("qaconv_ms", small, {"trunk.ibn": "none"}, own, named)
    method = build(experiment, Census({"snow": 4}))
    method.train()
    found = cost_per_pair(method, target)
    assert method.training, "as it was"
    return found


def test_more_scales_cost_more(target: Target) -> None:
    # Five maps against one: five times the products. The clock is the thread's own.
    plain, scales = cost(target, scales=[], global_branch=False), cost(target, scales=[1, 3, 5])
    assert 0 < 1.5 * plain < scales


def test_threads_are_given_back(target: Target) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        cost(target, scales=[])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
