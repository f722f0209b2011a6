"""Rules of early stopping, beside Ray's own and beside slow transcriptions."""

from statistics import mean, median
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers.async_hyperband import _Bracket

from rayreid.tune import StudySettings
from rayreid.tune.stopping import asha, below_median, rule_of


def arrivals(trials: int, epochs: int, seed: int) -> list[int]:
    """Return the order in which trials report, each its epochs one after the other."""
    order = np.repeat(np.arange(trials), epochs)
    np.random.default_rng(seed).shuffle(order)
    return order.tolist()


@given(
    trials=st.integers(1, 9), epochs=st.integers(1, 12), seed=st.integers(0, 2**31),
    grace=st.integers(1, 3), reduction=st.integers(2, 4),
)  # fmt: skip
def test_asha_decides_as_rays_does(
    trials: int, epochs: int, seed: int, grace: int, reduction: int
) -> None:
    scores = np.random.default_rng(seed).random((trials, epochs)).round(1)
    grace = min(grace, epochs)
    theirs = _Bracket(grace, epochs + 1, reduction, 0)
    curves: dict[int, dict[int, tuple[float, ...]]] = {}
    stopped = set()
    for trial in arrivals(trials, epochs, seed):
        if trial in stopped:
            continue
        epoch = len(curves.setdefault(trial, {})) + 1
        score = float(scores[trial, epoch - 1])
        curves[trial][epoch] = (score,)
        ours = asha(curves, trial, grace=grace, reduction=reduction)
        assert ours == (theirs.on_result(SimpleNamespace(trial_id=trial), epoch, score) == "STOP")
        if ours:
            stopped.add(trial)


@given(trials=st.integers(1, 8), epochs=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_a_median_is_of_the_others_means_so_far(trials: int, epochs: int, seed: int) -> None:
    scores = np.random.default_rng(seed).random((trials, epochs))
    curves: dict[int, dict[int, tuple[float, ...]]] = {}
    for trial in arrivals(trials, epochs, seed):
        epoch = len(curves.setdefault(trial, {})) + 1
        curves[trial][epoch] = (float(scores[trial, epoch - 1]),)
        means = [
            mean(scores[other, :epoch])
            for other in range(trials)
            if other != trial and len(curves.get(other, {})) >= epoch
        ]
        expected = len(means) >= 3 and epoch >= 2 and max(scores[trial, :epoch]) < median(means)
        assert below_median(curves, trial, grace=2) == expected


@pytest.mark.parametrize("stopping", ["asha", "median"])
def test_what_no_other_beats_in_all_goes_on(stopping: str) -> None:
    rule = rule_of(StudySettings(stopping=stopping, objective="mean+cost"))
    others = {n: {1: (0.5 + n / 10, -8.0)} for n in range(4)}
    assert rule(others | {9: {1: (0.1, -8.0)}}, 9), "worse, and no cheaper"
    assert not rule(others | {9: {1: (0.1, -1.0)}}, 9), "worse, but the cheapest"


def test_none_stops_nothing() -> None:
    rule = rule_of(StudySettings(stopping="none"))
    assert not rule({0: {1: (0.9,)}, 1: {1: (0.8,)}, 2: {1: (0.0,)}}, 2)
