"""What a study looks for: figures of a trial, and whether high or low ones are wanted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

METRIC = "mean_mAP"
"""Mean over the folds of the held-out domain's mAP."""
WORST = "worst_mAP"
"""Lowest of the folds' mAPs."""
COST = "cost_us_per_pair"
"""Microseconds to score a pair."""


@dataclass(frozen=True)
class Objective:
    """Figures of trials.parquet and their directions; the first decides on stopping and "best"."""

    figures: tuple[str, ...]
    directions: tuple[Literal["maximize", "minimize"], ...]

    @property
    def metric(self) -> str:
        """Return the figure that says which trial is best, and which is stopped early."""
        return self.figures[0]

    @property
    def costs(self) -> bool:
        """Return whether the cost of a pair is to be measured."""
        return COST in self.figures

    def values(self, row: Mapping[str, Any]) -> list[float]:
        """Return the figures of a row."""
        return [float(row[name]) for name in self.figures]

    def gains(self, row: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the figures of a row, signed so that more is better."""
        signs = (1 if direction == "maximize" else -1 for direction in self.directions)
        return tuple(s * v for s, v in zip(signs, self.values(row), strict=True))


OBJECTIVES: Mapping[str, Objective] = {
    "mean": Objective((METRIC,), ("maximize",)),
    "worst": Objective((WORST,), ("maximize",)),
    "mean+cost": Objective((METRIC, COST), ("maximize", "minimize")),
}


def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Return whether gains are better in something and worse in nothing (Pareto dominance)."""
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
