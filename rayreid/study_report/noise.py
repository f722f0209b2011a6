"""Which of a study's differences are above the noise, and what luck alone would give."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from rayreid.spread import Spread, spread_of_cells
from rayreid.study_report.record import Study


@dataclass(frozen=True)
class Compared:
    """A trial beside the best, over the seeds and folds that both have."""

    trial: int
    own: Spread
    """Its mAP."""
    behind: Spread | None
    """The best's mAP less its own, paired by seed and fold; None for the best itself."""

    @property
    def told_apart(self) -> bool:
        """Return whether the difference to the best is above the noise."""
        return self.behind is not None and self.behind.above_noise


def search_compared(study: Study) -> list[Compared]:
    """Return the trials that ended beside the best of them: one run each, over the folds."""
    return _compared({t.number: study.folds(t) for t in study.ended})


def finals_compared(study: Study) -> list[Compared]:
    """Return the final stage's candidates beside the best of them, over fresh seeds and folds."""
    return _compared({number: study.cells(number) for number in study.candidates})


def _compared(cells: dict[int, np.ndarray]) -> list[Compared]:
    """Return candidates, of which the first is the best, each beside it."""
    best = next(iter(cells.values()), None)
    return [
        Compared(number, spread_of_cells(table), spread_of_cells(best - table) if place else None)
        for place, (number, table) in enumerate(cells.items())
        if best is not None
    ]


def tied(compared: Sequence[Compared]) -> list[int]:
    """Return the trials that cannot be told apart from the best."""
    return [each.trial for each in compared[1:] if not each.told_apart]


def seed_deviation(study: Study) -> float | None:
    """Return the standard deviation of a single run's mean mAP over seeds, pooled over candidates.

    None without a final stage of at least two seeds.
    """
    means = [study.cells(number).mean(axis=1) for number in study.candidates]
    variances = [m.var(ddof=1) for m in means if len(m) > 1]
    return float(np.mean(variances) ** 0.5) if variances else None


def luck(runs: int) -> float:
    """Return how far the best of some runs lies above their mean if they differ by chance alone.

    In standard deviations: the expected largest of so many normal values (Blom, 1958).
    """
    return NormalDist().inv_cdf((runs - 0.375) / (runs + 0.25)) if runs > 1 else 0.0
