"""Means with 95 % intervals, by Student's t."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from jaxtyping import Float64

STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class Spread:
    """A mean, and half the width of its 95 % interval (None where nothing varies)."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        """Return both with three decimals."""
        return f"{self.mean:.3f}{self.interval}"

    @property
    def interval(self) -> str:
        """Return the half width after a sign, if there is one."""
        varies = self.half is not None and self.half >= 5e-4
        return f" +- {self.half:.3f}" if varies else ""

    @property
    def above_noise(self) -> bool:
        """Return whether the interval is known and leaves zero out."""
        return self.half is not None and abs(self.mean) > self.half

    def signed(self) -> str:
        """Return both, the mean with its sign."""
        return f"{self.mean:+.3f}{self.interval}"


def spread(values: Sequence[float]) -> Spread:
    """Return the mean of independent values with Student's interval."""
    if len(values) < 2:
        return Spread(mean(values), None)
    quantile = STUDENT[min(len(values) - 1, len(STUDENT)) - 1]
    return Spread(mean(values), quantile * stdev(values) / len(values) ** 0.5)


def spread_of_cells(cells: Float64[np.ndarray, "seeds folds"]) -> Spread:
    """Return the mean of a table of seeds by folds, with the wider of its two intervals.

    One is over the seeds, each averaged over the folds; the other over the folds, each averaged
    over the seeds. All cells as if they were independent would be too sure: cells of a fold share
    its domain, and those of a seed its draw. Where there is one seed, or one fold, the other
    interval is all there is.
    """
    over = [spread(cells.mean(axis).tolist()) for axis in (0, 1)]
    halves = [each.half for each in over if each.half is not None]
    return Spread(over[0].mean, max(halves, default=None))
