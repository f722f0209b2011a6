"""What proposes settings: Optuna's samplers by name."""

import warnings

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, RandomSampler, TPESampler

from rayreid.search_space import Space, has_conditions
from rayreid.tune.settings import StudySettings


def refuse_unless_sampled(settings: StudySettings, space: Space) -> None:
    """Raise `ValueError` for a space that the sampler cannot search."""
    if settings.sampler != "cmaes":
        return
    chosen = [p for p, v in space.items() if isinstance(v.distribution, CategoricalDistribution)]
    if chosen:
        raise ValueError(
            f"sampler=cmaes searches numbers alone, and {', '.join(chosen)} are chosen from lists; "
            "fix them with --set and leave them out of the space, or take sampler=tpe"
        )
    if has_conditions(space):
        raise ValueError(
            "sampler=cmaes needs all parameters in all trials, and this space has conditions; "
            "leave out the parameters with when, or take sampler=tpe"
        )


def sampler_of(settings: StudySettings, space: Space, trials: int) -> BaseSampler:
    """Return the sampler of a study that has come to so many trials.

    Their number is part of the seed: after a resumption the same random points would come again.
    """
    seed = int(np.random.SeedSequence((settings.seed, trials)).generate_state(1)[0])
    match settings.sampler:
        case "random":
            return RandomSampler(seed=seed)
        case "nsga2":
            return NSGAIISampler(seed=seed)
        case "cmaes":
            return CmaEsSampler(seed=seed, warn_independent_sampling=False)
        case "tpe":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                # With conditions, parameters that exist together are modelled together.
                return TPESampler(
                    seed=seed, multivariate=True, group=has_conditions(space), constant_liar=True
                )
