"""Which settings mattered: fANOVA (Hutter et al., ICML 2014) by Optuna, beside what chance does."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from rayreid.study_report.record import Study, Trial

CHANCE = "(chance)"
"""A setting that does nothing, drawn anew in each repetition."""
FEWEST = 6
"""Trials below which nothing is said."""
_REPEATS, _TREES = 20, 16
_WANTED = 20
"""Trials that should have reached the epoch which is judged, where there are so many."""


@dataclass(frozen=True)
class Importances:
    """Shares of the score's variance, over random forests on resampled trials."""

    epoch: int
    """The epoch whose scores were explained."""
    trials: int
    """How many trials had one."""
    shares: Mapping[str, tuple[float, float, float]]
    """Mean, lowest and highest by setting, the largest first; a control among them."""
    left_out: tuple[str, ...]
    """Settings that not all these trials had, or that did not vary."""

    @property
    def beyond_chance(self) -> list[str]:
        """Return the settings whose mean share is above all that the control had."""
        bar = self.shares[CHANCE][2]
        return [name for name, (middle, _, _) in self.shares.items() if middle > bar]


def importances(study: Study) -> Importances | None:
    """Return how much of the score's variance each setting explains, or None for too few trials.

    Explained is the score after the last epoch that enough trials reached, so that those which were
    stopped count. Logarithms of numbers where the space is logarithmic. Each repetition draws the
    trials anew, with replacement, and adds a setting that does nothing: what it is given is what
    chance gives.
    """
    reached = [t for t in study.trials if t.epoch]
    wanted = min(_WANTED, len(reached))
    epochs = sorted({t.epoch for t in reached}, reverse=True)
    epoch = next((e for e in epochs if sum(t.epoch >= e for t in reached) >= wanted), 0)
    goal = study.objective
    judged = [t for t in reached if t.epoch >= epoch and math.isfinite(t.at(epoch, goal))]
    scores = np.array([t.at(epoch, goal) for t in judged])
    if len(judged) < FEWEST or not scores.std():
        return None
    columns = {path: _column(study, judged, path) for path in study.settings}
    used = {path: column for path, column in columns.items() if column is not None}
    if not used:
        return None
    shares = np.array([_forest(used, scores, seed) for seed in range(_REPEATS)])
    named = zip([*used, CHANCE], shares.T, strict=True)
    ranges = {name: (float(s.mean()), float(s.min()), float(s.max())) for name, s in named}
    return Importances(
        epoch,
        len(judged),
        dict(sorted(ranges.items(), key=lambda item: -item[1][0])),
        tuple(path for path in columns if path not in used),
    )


def _column(study: Study, trials: list[Trial], path: str) -> list[str] | list[float] | None:
    """Return a setting's values as names, or as numbers; None where some lack it, or all agree."""
    values = [t.settings.get(path) for t in trials]
    if None in values or len(set(values)) < 2:
        return None
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        numbers = [float(v) for v in values if isinstance(v, int | float)]
        by_magnitude = study.distribution(path)[1].get("log")
        return [math.log(v) for v in numbers] if by_magnitude else numbers
    return [str(v) for v in values]


def _forest(
    columns: Mapping[str, list[str] | list[float]], scores: np.ndarray, seed: int
) -> list[float]:
    """Return the shares of one forest, on trials drawn with replacement."""
    generator = np.random.default_rng(seed)
    count = len(scores)
    drawn = generator.integers(0, count, count)
    if np.ptp(scores[drawn]) == 0:
        drawn = np.arange(count)
    chance: list[float] = generator.random(count).tolist()
    every: dict[str, list[str] | list[float]] = {**columns, CHANCE: chance}
    kinds = {name: _distribution(values) for name, values in every.items()}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        found = optuna.create_study()
        for row in drawn:
            parameters = {name: values[row] for name, values in every.items()}
            found.add_trial(
                optuna.trial.create_trial(
                    params=parameters, distributions=kinds, value=float(scores[row])
                )
            )
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=seed)
        # By the main effects alone they need not sum to one; as shares they do.
        shares = optuna.importance.get_param_importances(found, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(before)
    return [shares[name] for name in every]


def _distribution(values: list[str] | list[float]) -> BaseDistribution:
    if isinstance(values[0], str):
        return CategoricalDistribution(sorted({str(v) for v in values}))
    numbers = [float(v) for v in values]
    return FloatDistribution(min(numbers), max(numbers))
