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
    """Return the candidates, best first; only seeds that all folds have count."""
    found: list[Compared] = []
    best: np.ndarray | None = None
    for number, table in cells.items():
        whole = ~np.isnan(table).any(axis=1)
        if not whole.any():
            continue
        behind = None
        if best is None:
            best = table
        else:
            both = whole & ~np.isnan(best).any(axis=1)
            behind = spread_of_cells((best - table)[both]) if both.any() else None
        found.append(Compared(number, spread_of_cells(table[whole]), behind))
    return found


def tied(compared: Sequence[Compared]) -> list[int]:
    """Return the trials that cannot be told apart from the best."""
    return [each.trial for each in compared[1:] if not each.told_apart]


def seed_deviation(study: Study) -> float | None:
    """Return the standard deviation of a single run's mean mAP over seeds, pooled over candidates.

    None without a final stage of at least two seeds.
    """
    means = [study.cells(number).mean(axis=1) for number in study.candidates]
    variances = [m[~np.isnan(m)].var(ddof=1) for m in means if (~np.isnan(m)).sum() > 1]
    return float(np.mean(variances) ** 0.5) if variances else None


def luck(runs: int) -> float:
    """Return how far the best of some runs lies above their mean if they differ by chance alone.

    In standard deviations: the expected largest of so many normal values (Blom, 1958).
    """
    return NormalDist().inv_cdf((runs - 0.375) / (runs + 0.25)) if runs > 1 else 0.0
