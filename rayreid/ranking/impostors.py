"""Pairs of one person and of two, while their scores stream by: what thresholds are made of.

Of the impostors, who may be a billion, the highest are kept, with who they are, and an even sample
of all for a picture; of the genuine pairs everything.
"""

from math import gcd

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, Shaped

from rayreid.ranking.confidence import (
    Drawn,
    by_person,
    clopper_pearson,
    listed_share_bounds,
    order_bounds,
    pair_share_bounds,
    share_bounds,
)
from rayreid.ranking.roc import passing
from rayreid.ranking.thresholds import BEYOND, NotEnough, PairThreshold

_SLACK = 1 << 16
_SAMPLE = 200_000
_CELLS = 1 << 18  # of scores looked at together: they stay in a core's cache


class OwnedHighest:
    """The ``count`` highest of scores that come in parts, with who each pair is of.

    Scores up to ``floor`` need not be added. Twice as many are held, in the end no more.
    """

    def __init__(self, count: int):
        self.count = count
        self.floor = -np.inf
        self._scores = [np.empty(0, np.float32)]
        self._owners = [np.empty(0, np.uint32)]
        self._held = 0

    def add(self, scores: Float32[np.ndarray, " n"], owners: Shaped[np.ndarray, " n"]) -> None:
        """Take scores, all above ``floor``."""
        self._scores.append(scores)
        self._owners.append(owners)
        self._held += len(scores)
        if self._held > 2 * self.count + _SLACK:
            self._raise_floor()

    def _raise_floor(self) -> None:
        """Let go of what cannot be among the highest."""
        scores, owners = np.concatenate(self._scores), np.concatenate(self._owners)
        place = len(scores) - self.count
        self.floor = float(np.partition(scores, place)[place])
        kept = scores > self.floor
        self._scores, self._owners = [scores[kept]], [owners[kept]]
        self._held = len(self._scores[0])

    def descending(self) -> tuple[Float32[np.ndarray, " n"], Shaped[np.ndarray, " n"]]:
        """Return the scores above ``floor``, highest first, and whose they are.

        At places after them, up to ``count``, the score is ``floor``.
        """
        scores, owners = np.concatenate(self._scores), np.concatenate(self._owners)
        order = np.argsort(-scores, kind="stable")
        return scores[order], owners[order]


class PairScores:
    """Genuine and impostor pairs of numbered people, and the thresholds that they give.

    ``impostors`` is how many there will be of them, and ``rates`` those that will be asked for.
    """

    def __init__(self, people: int, impostors: int, rates: tuple[float, ...]):
        self.people, self.impostors = people, impostors
        lowest = order_bounds(max(rates), impostors)[0] + 1 if impostors else 0
        self.highest = OwnedHighest(max(1, min(lowest, impostors)))
        self._kind = np.uint32 if people**2 < 2**32 else np.uint64
        self._scores: list[np.ndarray] = []
        self._people: list[np.ndarray] = []

    def owners(
        self, first: Int64[np.ndarray, " n"], second: Int64[np.ndarray, " n"]
    ) -> Shaped[np.ndarray, " n"]:
        """Return one number for the people of each pair."""
        return np.asarray(first * self.people + second, self._kind)

    def add_genuine(
        self, scores: Float32[np.ndarray, " n"], people: Int64[np.ndarray, " n"]
    ) -> None:
        """Take pairs of one person."""
        self._scores.append(scores)
        self._people.append(people)

    def add_impostors(
        self,
        scores: Float32[np.ndarray, " n"],
        first: Int64[np.ndarray, " n"],
        second: Int64[np.ndarray, " n"],
    ) -> None:
        """Take pairs of two people; those up to ``highest.floor`` may be left out."""
        high = scores > self.highest.floor
        self.highest.add(scores[high], self.owners(first[high], second[high]))

    def genuine(self) -> tuple[Float32[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Return the scores of the pairs of one person, and who that is."""
        if not self._scores:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        return np.concatenate(self._scores), np.concatenate(self._people)

    def thresholds(
        self,
        rates: tuple[float, ...],
        drawn: Drawn,
        crops: tuple[Float64[np.ndarray, " people"], Float64[np.ndarray, " people"]] | None,
        listed: Shaped[np.ndarray, " m"] | None = None,
        scored: int = 1,
    ) -> tuple[PairThreshold | NotEnough, ...]:
        """Return the threshold of each false accept rate, or that there are too few impostors.

        ``crops`` are those of each person on either side where all were paired with all, else
        ``listed`` are the owners of all impostors. Where each pair was ``scored`` twice, in both
        directions, its two scores are no two pairs.
        """
        scores, owners = self.highest.descending()
        genuine, whose = self.genuine()
        pairs = self.impostors // scored

        def at(place: int) -> float:
            return float(scores[place] if place < len(scores) else self.highest.floor)

        found: list[PairThreshold | NotEnough] = []
        for rate in rates:
            if pairs * rate < BEYOND * (1 - 1e-9):
                needed = int(np.ceil(BEYOND / rate - 1e-9))
                found.append(NotEnough(rate=rate, found=pairs, needed=needed))
                continue
            threshold = at(passing(rate, self.impostors))
            above = int(np.searchsorted(-scores, -threshold, side="left"))
            low, high = order_bounds(rate, pairs)
            if crops is not None:
                bounds = pair_share_bounds(owners[:above], *crops, drawn, scored)
            else:
                assert listed is not None
                bounds = listed_share_bounds(owners[:above], listed, drawn)
            passed = genuine > threshold
            found.append(
                PairThreshold(
                    false_accept_rate=rate,
                    threshold=threshold,
                    threshold_bounds=(at(low * scored), at(high * scored)),
                    measured=above / self.impostors,
                    bounds=clopper_pearson(above // scored, pairs),
                    people_bounds=bounds,
                    true_accept_rate=float(passed.mean()),
                    true_accept_bounds=clopper_pearson(
                        int(passed.sum()) // scored, len(passed) // scored
                    ),
                    true_accept_people_bounds=share_bounds(
                        by_person(whose, self.people, passed),
                        by_person(whose, self.people),
                        drawn,
                    ),
                )
            )
        return tuple(found)


class GridScores:
    """Scores of queries against a gallery, a block of queries after another.

    People are numbered from 0, the same on either side; crops of a person by the same camera are
    no pair. Of each query the best score of each person enrolled is kept, and that of the own one.
    ``enrolled`` says which crops of the gallery searches go through, those for the own person as
    well: distractors are nobody, and of a person only some crops may be enrolled.
    """

    def __init__(
        self,
        pairs: PairScores,
        query: tuple[Int64[np.ndarray, " q"], Int64[np.ndarray, " q"]],
        gallery: tuple[Int64[np.ndarray, " g"], Int64[np.ndarray, " g"]],
        enrolled: Bool[np.ndarray, " g"],
    ):
        self.pairs, self._query, self._gallery, self._enrolled = pairs, query, gallery, enrolled
        columns = np.flatnonzero(enrolled)
        order = np.argsort(gallery[0][columns], kind="stable")
        self._columns = columns[order]
        persons, self._starts = np.unique(gallery[0][self._columns], return_index=True)
        self.persons = persons
        self.best = np.full((len(query[0]), len(persons)), -np.inf, np.float32)
        """Of each query and person enrolled; -inf of the person who is searched for."""
        self.own = np.full(len(query[0]), -np.inf, np.float32)
        """Of each query, of the crops of the person who is searched for that are enrolled and by
        other cameras; -inf where there are none."""
        cells = len(query[0]) * len(gallery[0])
        stride = max(1, cells // _SAMPLE)
        while gcd(stride, len(gallery[0])) > 1:
            stride += 1
        self._stride = stride
        self._sampled: list[np.ndarray] = []

    def add(self, start: int, scores: Float32[np.ndarray, "r g"]) -> None:
        """Take the scores of the queries from number ``start`` on.

        Raises `ValueError` for scores that are no finite numbers.
        """
        if not np.isfinite(scores).all():
            raise ValueError(
                "some scores are no finite numbers and can have no threshold: look for NaN in the "
                "embeddings, or for a run that diverged"
            )
        rows = max(1, _CELLS // scores.shape[1])
        for top in range(0, len(scores), rows):
            self._add(start + top, scores[top : top + rows])

    def _add(self, start: int, block: Float32[np.ndarray, "r g"]) -> None:
        people, cameras = (each[start : start + len(block)] for each in self._query)
        same = people[:, None] == self._gallery[0]
        genuine = same & (cameras[:, None] != self._gallery[1])
        self.pairs.add_genuine(block[genuine], people[genuine.nonzero()[0]])
        high = (block > self.pairs.highest.floor) & ~same
        row, column = high.nonzero()
        self.pairs.add_impostors(block[row, column], people[row], self._gallery[0][column])
        first = -(start * block.shape[1]) % self._stride
        sampled = slice(first, None, self._stride)
        self._sampled.append(block.ravel()[sampled][~same.ravel()[sampled]])
        rows = slice(start, start + len(block))
        self.own[rows] = np.where(genuine & self._enrolled, block, -np.inf).max(1)
        if len(self.persons):
            best = np.maximum.reduceat(block[:, self._columns], self._starts, axis=1)
            self.best[rows] = np.where(people[:, None] == self.persons, -np.inf, best)

    def sampled(self) -> Float32[np.ndarray, " n"]:
        """Return an even sample of the impostors' scores."""
        return np.concatenate(self._sampled)
