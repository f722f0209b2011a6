"""Which trials are stopped early: rules over the trials' figures by epoch.

The rules are functions of what was reported, which the study's folder keeps, so that a resumed
study goes on with the rungs it had; Ray's own schedulers hold them in memory.
"""

from collections.abc import Callable, Mapping
from functools import partial
from statistics import mean, median

import numpy as np

from rayreid.tune.objectives import beats
from rayreid.tune.settings import StudySettings

Curves = Mapping[int, Mapping[int, tuple[float, ...]]]
"""Gains (more is better) by trial and epoch."""
Rule = Callable[[Curves, int], bool]
"""Whether a trial, whose last report is the newest, is to be stopped."""
AT_LEAST = 3
"""Other trials that a median is taken of."""


def rule_of(settings: StudySettings) -> Rule:
    """Return the rule by its name."""
    rules: dict[str, Rule] = {
        "asha": partial(asha, grace=settings.grace_epochs, reduction=settings.reduction),
        "median": partial(below_median, grace=settings.grace_epochs),
        "none": lambda curves, trial: False,  # noqa: ARG005
    }
    return rules[settings.stopping]


def asha(curves: Curves, trial: int, *, grace: int, reduction: int) -> bool:
    """Asynchronous successive halving (Li et al., MLSys 2020).

    Rungs are ``grace * reduction^k`` epochs. At a rung a trial is stopped that lies below the
    quantile 1 - 1/reduction of those that were there before it. Of several objectives the first
    is compared; a trial that none of the others beats in all goes on, however it compares.
    """
    epoch = max(curves[trial])
    rung = grace
    while rung < epoch:
        rung *= reduction
    if rung != epoch:
        return False
    own = curves[trial][epoch]
    others = [by_epoch[epoch] for n, by_epoch in curves.items() if n != trial and epoch in by_epoch]
    if not others or (len(own) > 1 and not any(beats(other, own) for other in others)):
        return False
    return own[0] < float(np.percentile([gains[0] for gains in others], 100 * (1 - 1 / reduction)))


def below_median(curves: Curves, trial: int, *, grace: int) -> bool:
    """Return whether a trial's best lies below the median of the others' means, up to its epoch.

    The rule of Golovin et al. (KDD 2017), over others that came as far; with several objectives
    as `asha`.
    """
    epoch = max(curves[trial])
    others = [by_epoch for n, by_epoch in curves.items() if n != trial and epoch in by_epoch]
    if epoch < grace or len(others) < AT_LEAST:
        return False
    own = curves[trial][epoch]
    if len(own) > 1 and not any(beats(by_epoch[epoch], own) for by_epoch in others):
        return False
    means = [mean(gains[0] for e, gains in other.items() if e <= epoch) for other in others]
    return max(gains[0] for gains in curves[trial].values()) < median(means)
