"""How good a ranking is: mAP, CMC, mINP and ROC under the cross-camera protocol.

The protocol is Market-1501's (Zheng et al., ICCV 2015): for each query the gallery crops
that show the same identity through the same camera are removed, what is left is ranked by
score, and every other crop of the identity is a positive. Fractions in [0, 1] throughout.
"""

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64, Shaped
from pydantic import Field

from rayreid.ranking.counting import counts_at
from rayreid.ranking.roc import RATES, Highest, Point, passing, roc_points
from rayreid.ranking.single_shot import SingleShot
from rayreid.settings import Settings

logger = logging.getLogger(__name__)

TIES_MATTER = 1e-4
"""How far the two ways of breaking ties may pull mAP apart before it is worth a warning."""

Scores = Float32[np.ndarray, "q g"] | Float64[np.ndarray, "q g"]

_CELLS = 1 << 18  # of scores looked at together: they stay in a core's cache


class RankingSettings(Settings):
    """What published evaluators differ in."""

    average_precision: Literal["step", "trapezoid"] = "step"
    """`step` averages the precision at every positive; `trapezoid`, Market-1501's MATLAB rule,
    averages it with the precision one rank before: lower by 0.6 to 2.6 points."""
    single_gallery_shot: bool = False
    """CMC of CUHK03's classic protocol: one gallery crop an identity, drawn at random. mAP, mINP
    and ROC are of all crops all the same, as in published code."""
    repeats: int = Field(10, ge=1)
    """Draws that such a CMC is the mean over."""
    seed: int = Field(0, ge=0)
    """Of the draws."""
    max_rank: int = Field(50, ge=1)
    """Entries of the CMC."""


STANDARD = RankingSettings()
"""Market-1501's protocol, with the average precision that papers report."""


@dataclass(frozen=True)
class Ranking:
    """How well a gallery was ranked, averaged over the queries that have a positive.

    ``map`` (mAP) averages the precision at every positive, by the rule that was asked for.
    ``minp`` (Ye et al., TPAMI 2021) averages positives / rank of the last positive.
    ``cmc[r - 1]`` is the fraction of queries with a positive among the first r crops.
    ``unmatched`` queries have no positive: they are left out of every average, and are
    not among ``queries``. ``optimistic_map`` is the mAP with every tie broken in favour of
    the positive; `map` breaks them against it, so equality means that ties do not matter.
    ``roc`` are exact points (FPR, TPR) of the curve over all pairs of these queries, none of them
    junk, one for each of `rayreid.ranking.roc.RATES`, at whose FPR it is or the next below.
    """

    map: float
    minp: float
    cmc: tuple[float, ...]
    queries: int
    unmatched: int
    optimistic_map: float
    roc: tuple[Point, ...] = ()

    @property
    def rank1(self) -> float:
        """Return the fraction of queries whose first crop is a positive."""
        return self.cmc[0]

    def tpr_at(self, rate: float) -> float:
        """Return the largest TPR of the points whose FPR is at most ``rate``; 0 without any."""
        return max((tpr for fpr, tpr in self.roc if fpr <= rate), default=0.0)


def rank(
    scores: Scores,
    query_identities: Int[np.ndarray, " q"],
    gallery_identities: Int[np.ndarray, " g"],
    query_cameras: Int[np.ndarray, " q"],
    gallery_cameras: Int[np.ndarray, " g"],
    settings: RankingSettings = STANDARD,
) -> Ranking:
    """Rank the gallery for every query and measure the ranking.

    ``scores`` are higher for crops more alike, [query, gallery], float32 or float64, and
    are compared at that precision; infinite scores order like any other.

    Ties are broken pessimistically and stably: a negative that ties a positive ranks before
    it, so a scorer that answers a constant earns nothing, and positives that tie keep the
    gallery's order, which no metric can see. When breaking ties the other way would change
    mAP by more than `TIES_MATTER`, a warning is logged.

    Raises ValueError for shapes that do not fit, half-precision or NaN scores, and when no
    query has a positive.
    """
    ranker = Ranker(query_identities, gallery_identities, query_cameras, gallery_cameras, settings)
    ranker.add(0, scores)
    return ranker.ranking()


class Ranker:
    """What `rank` measures, of scores that come a block of queries after another.

    The m-th positive, by falling score, is at rank r_m = m + (negatives that score as much
    or more). With K positives, AP = (1 / K) sum_m m / r_m and INP = K / r_K. Nothing else
    needs a rank, so crops are counted, not sorted. Memory beyond a block is a few numbers for
    each positive pair, and a fiftieth of the scores for the ROC.

    Which rows come together, and in which order, changes nothing.
    """

    def __init__(
        self,
        query_identities: Int[np.ndarray, " q"],
        gallery_identities: Int[np.ndarray, " g"],
        query_cameras: Int[np.ndarray, " q"],
        gallery_cameras: Int[np.ndarray, " g"],
        settings: RankingSettings = STANDARD,
    ):
        """Find the pairs of one identity.

        Raises ValueError for shapes that do not fit, and when no query has a positive.
        """
        columns = (query_identities, query_cameras, gallery_identities, gallery_cameras)
        self._shapes = tuple(column.shape for column in columns)
        queries, crops = len(query_identities), len(gallery_identities)
        if self._shapes != 2 * ((queries,),) + 2 * ((crops,),):
            raise _misfit((queries, crops), self._shapes)
        self._size, self._settings = (queries, crops), settings

        by_identity = np.argsort(gallery_identities, kind="stable")
        gallery_sorted = gallery_identities[by_identity]
        starts = np.searchsorted(gallery_sorted, query_identities, side="left")
        same = np.searchsorted(gallery_sorted, query_identities, side="right") - starts
        # The pairs of one identity: those of query q at _pairs[q] to _pairs[q + 1].
        self._pairs = _offsets(same)
        self._query = np.repeat(np.arange(queries), same)
        places = np.arange(len(self._query)) - np.repeat(self._pairs[:-1] - starts, same)
        self._crop = by_identity[places]
        self._positive = gallery_cameras[self._crop] != query_cameras[self._query]

        self._positives = np.bincount(self._query[self._positive], minlength=queries)
        self._matched = self._positives > 0
        if not self._matched.any():
            raise ValueError(
                f"none of the {queries} queries has a gallery crop of its identity from another "
                f"camera, so there is nothing to measure: check the identities and cameras of the "
                f"query and the gallery ({crops} crops)"
            )
        # Of each positive, by falling score: those of query q from _first[q].
        self._first = _offsets(self._positives)
        self._levels = np.empty(self._first[-1])
        self._at_least = np.empty(self._first[-1], np.int64)
        self._above = np.empty(self._first[-1], np.int64)

        self._negatives = int((crops - same)[self._matched].sum())
        self._highest = Highest(passing(max(RATES), self._negatives) + 1)
        self._added = np.zeros(queries, bool)
        self._shot = None
        if settings.single_gallery_shot:
            self._identities = query_identities
            self._shot = SingleShot(gallery_identities, settings.repeats, settings.seed)
            self._shot_ranks = np.zeros((queries, settings.repeats), np.int64)

    def add(self, start: int, scores: Scores) -> None:
        """Take the scores of the queries from number ``start`` on.

        Raises ValueError for shapes that do not fit, half-precision or NaN scores, and queries
        that have been added before.
        """
        stop = start + len(scores)
        if scores.ndim != 2 or scores.shape[1] != self._size[1] or stop > self._size[0]:
            raise _misfit(scores.shape, self._shapes)
        if scores.dtype not in (np.float32, np.float64):
            raise ValueError(
                f"scores are {scores.dtype}, must be float32 or float64: at lower precision "
                "different scores become ties; compute the scores in float32"
            )
        if self._added[start:stop].any():
            raise ValueError(f"some of queries {start} to {stop - 1} have been added before")
        rows = max(1, _CELLS // self._size[1])
        for top in range(0, len(scores), rows):
            block = scores[top : top + rows]
            if np.isnan(block.min()):
                raise _missing(scores, start)
            self._count(start + top, block)
        self._added[start:stop] = True

    def _count(self, start: int, block: Scores) -> None:
        """Count the negatives at and above each positive."""
        stop = start + len(block)
        pairs = slice(self._pairs[start], self._pairs[stop])
        cells = self._query[pairs] - start, self._crop[pairs]
        same_scores, floor = block[cells], self._highest.floor
        high = block > floor
        high[cells] = False
        high[~self._matched[start:stop]] = False
        highest = [row.compress(kept) for row, kept in zip(block, high, strict=True)]
        self._highest.add(np.concatenate(highest))
        for query in np.flatnonzero(self._matched[start:stop]):
            own = slice(*(self._pairs[start + query : start + query + 2] - pairs.start))
            positive = self._positive[pairs][own]
            levels = np.sort(same_scores[own][positive])
            # Positives above the floor are beaten by the highest negatives alone. In whole rows,
            # crops of the identity are counted too; they are no negatives, so taken off again.
            low = int(levels.searchsorted(floor, side="right"))
            in_row = counts_at(block[query], levels[:low])
            in_same = counts_at(same_scores[own], levels[:low])
            in_highest = counts_at(highest[query], levels[low:])
            into = slice(self._first[start + query], self._first[start + query + 1])
            self._levels[into] = levels[::-1]
            for found, row, same, tail in zip(
                (self._at_least, self._above), in_row, in_same, in_highest, strict=True
            ):
                found[into] = np.concatenate([row - same, tail])[::-1]
            if self._shot:
                identity, crops = self._identities[start + query], cells[1][own][positive]
                ranks = self._shot.first_ranks(block[query], int(identity), crops)
                self._shot_ranks[start + query] = ranks

    def ranking(self) -> Ranking:
        """Return the metrics.

        Raises ValueError where scores of a query are missing.
        """
        if not self._added.all():
            raise ValueError(
                f"the scores of {np.count_nonzero(~self._added)} of {self._size[0]} queries were "
                f"not added, the first query {np.argmin(self._added)}: add them before ranking"
            )
        hits = 1 + np.arange(len(self._levels)) - np.repeat(self._first[:-1], self._positives)
        ranks = hits + self._at_least
        positives, first = self._positives[self._matched], self._first[:-1][self._matched]
        last = first + positives - 1
        firsts = self._shot_ranks[self._matched] if self._shot else ranks[first]
        ranking = Ranking(
            map=self._mean_average_precision(hits, ranks),
            minp=float(np.mean(positives / ranks[last])),
            cmc=_cmc(firsts.ravel(), self._settings.max_rank),
            queries=len(positives),
            unmatched=self._size[0] - len(positives),
            optimistic_map=self._mean_average_precision(hits, hits + self._above),
            roc=roc_points(self._levels, self._highest, self._negatives),
        )
        if ranking.optimistic_map - ranking.map > TIES_MATTER:
            logger.warning(
                "positives and negatives tie in score: mAP is %.4f with ties broken against the "
                "positives, as reported, and would be %.4f with ties broken for them",
                ranking.map,
                ranking.optimistic_map,
            )
        return ranking

    def _mean_average_precision(
        self, hits: Int64[np.ndarray, " p"], ranks: Int64[np.ndarray, " p"]
    ) -> float:
        precision = hits / ranks
        if self._settings.average_precision == "trapezoid":
            # Before the first rank, precision is 1.
            before = np.divide(hits - 1, ranks - 1, out=np.ones(len(hits)), where=ranks > 1)
            precision = (precision + before) / 2
        query = np.repeat(np.arange(len(self._positives)), self._positives)
        total = np.bincount(query, precision, minlength=len(self._positives))
        return float(np.mean(total[self._matched] / self._positives[self._matched]))


def _offsets(lengths: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n+1"]:
    return np.concatenate([[0], np.cumsum(lengths)])


def _cmc(ranks: Int64[np.ndarray, " n"], max_rank: int) -> tuple[float, ...]:
    """Return the fraction of ranks up to each; it stays at its last value in a short gallery."""
    counts = np.bincount(np.minimum(ranks, max_rank + 1), minlength=max_rank + 2)
    return tuple((np.cumsum(counts[1 : max_rank + 1]) / len(ranks)).tolist())


def _misfit(scores: tuple[int, ...], shapes: tuple[tuple[int, ...], ...]) -> ValueError:
    return ValueError(
        f"scores of shape {scores} need one identity and one camera per query (row) "
        f"and per gallery crop (column), found query {shapes[0]} and {shapes[1]}, gallery "
        f"{shapes[2]} and {shapes[3]}"
    )


def _missing(scores: Shaped[np.ndarray, "r g"], start: int) -> ValueError:
    """Return the error that says where NaN are in scores of the queries from ``start`` on."""
    found = sum(int(np.count_nonzero(np.isnan(row))) for row in scores)
    query = next(number for number, row in enumerate(scores) if np.isnan(row).any())
    return ValueError(
        f"{found} of {scores.size} scores are NaN, the first at query {start + query}, gallery "
        f"crop {np.argmax(np.isnan(scores[query]))}, and cannot be ranked: look for NaN in the "
        "embeddings"
    )
