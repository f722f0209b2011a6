"""What the number of workers does to batch and rate."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from rayreid.checkpoint import build
from rayreid.experiment import compose
from rayreid.feed import Feed
from rayreid.learn import learn
from rayreid.learner import Learner
from rayreid.run import open_sources
from rayreid.scaling import ScalingSettings
from tests.miniature import MINIATURE


@given(some.integers(1, 64), some.integers(2, 64), some.integers(1, 64))
def test_the_rules(workers: int, identities: int, world: int) -> None:
    for lr, power in (("constant", 0), ("sqrt", 0.5), ("linear", 1)):
        grows = ScalingSettings(workers=workers, lr=lr)
        assert grows.identities(identities, world) == identities
        assert grows.rate(identities, world) == pytest.approx((world / workers) ** power)
        whole = ScalingSettings(workers=workers, lr=lr, batch="whole")
        each = whole.identities(identities, world)
        assert each >= 2
        if each > 2:
            assert abs(each * world - identities * workers) <= world / 2
        assert whole.identities(identities, workers) == identities
        assert whole.rate(identities, workers) == 1


def test_by_default_nothing_is_scaled() -> None:
    assert ScalingSettings().rate(16, 7) == 1.0
    assert ScalingSettings().identities(16, 7) == 16
    plain = compose("baseline", MINIATURE)
    assert plain.fingerprint == compose("baseline", MINIATURE, {"scaling.workers": 1}).fingerprint
    scaled = compose("baseline", MINIATURE, {"scaling.lr": "sqrt"})
    assert plain.fingerprint != scaled.fingerprint


def test_feed_and_learner_follow_the_rules() -> None:
    rules = {"scaling.workers": 2, "scaling.lr": "sqrt", "sampling.identities": 2}
    made = compose("baseline", MINIATURE, rules, {"scaling.batch": "whole"})
    sources = open_sources(made)
    options = {"rank": 0, "device": torch.device("cpu")}
    alone = Feed(made, sources, None, world=1, **options)  # type: ignore[arg-type]
    assert alone.sampling.identities == 4
    method = build(made, alone.census)
    batch = alone.batch(next(alone.epoch(0, method)), torch.Generator())
    assert len(batch.images) == 2 * 4 * 2  # domains x identities x crops
    grown = compose("baseline", MINIATURE, rules)
    learner = Learner(grown, sources, None, world=1, **options)  # type: ignore[arg-type]
    (epoch,) = list(learn(grown.replaced({"epochs": 1}), sources))
    assert learner.highest == pytest.approx(grown.optimiser.lr * math.sqrt(1 / 2))
    assert epoch.lr <= learner.highest


def test_a_state_is_taken_up_by_another_number_of_workers(tmp_path: Path) -> None:
    # What differs between ranks follows from (seed, epoch, rank, world): a state names none of it.
    made = compose("baseline", MINIATURE, {"scaling.workers": 2, "scaling.batch": "whole",
                                           "sampling.identities": 2})  # fmt: skip
    sources = open_sources(made)
    first = next(learn(made, sources))
    first.learner.save(tmp_path)
    other = Feed(made, sources, None, rank=1, world=2, device=torch.device("cpu"))
    assert other.sampling.identities == 2
    again = [e.number for e in learn(made, sources, state=tmp_path)]
    assert again == [2, 3]
