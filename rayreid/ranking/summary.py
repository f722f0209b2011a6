"""Headline figures of a ranking, or of one ranking a split: mean and standard deviation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from rayreid.ranking.metrics import Ranking

RATES = {"TPR@FPR=1e-4": 1e-4, "TPR@FPR=1e-3": 1e-3, "TPR@FPR=1e-2": 1e-2}
"""The points of the ROC curve that are told."""

AVERAGED = ("mAP", "rank1", "mINP", *RATES)


def figures(ranking: Ranking) -> dict[str, float]:
    """Return a ranking's headline figures by name."""
    return {
        "mAP": ranking.map,
        "rank1": ranking.rank1,
        "mINP": ranking.minp,
        **{name: ranking.tpr_at(rate) for name, rate in RATES.items()},
        "queries": ranking.queries,
        "unmatched": ranking.unmatched,
    }


@dataclass(frozen=True)
class Summary:
    """Figures over the splits of a set, or of its only one."""

    mean: Mapping[str, float]
    """By name; queries, with a match and without, are counted over all splits."""
    deviation: Mapping[str, float]
    """Sample standard deviation over the splits; empty for one."""
    splits: int

    def shown(self, name: str) -> float | str:
        """Return a figure for a table."""
        if not self.deviation:
            return self.mean[name]
        return f"{self.mean[name]:.3f} +- {self.deviation[name]:.3f}"

    def as_figures(self) -> dict[str, object]:
        """Return the figures by name, to be written down."""
        if not self.deviation:
            return dict(self.mean)
        return {**self.mean, "splits": self.splits, "deviation": dict(self.deviation)}


def summary(rankings: Sequence[Ranking]) -> Summary:
    """Return the figures of rankings of one set, one a split, at least one."""
    each = [figures(ranking) for ranking in rankings]
    means = {name: mean(one[name] for one in each) for name in AVERAGED}
    counts = {name: sum(one[name] for one in each) for name in ("queries", "unmatched")}
    several = len(each) > 1
    deviation = {name: stdev(one[name] for one in each) for name in AVERAGED} if several else {}
    return Summary(means | counts, deviation, len(each))
