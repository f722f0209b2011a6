"""Thresholds of a trained method: its decisions, and the file that holds what they rest on.

A pair *matches* above the threshold of a false accept rate: of pairs of two people, at most that
share scores higher. It is *no match* at or below the score that at most a twentieth of the pairs of
one person stay under; between the two lies *review*, for a person to look at. Where the two change
places there is nothing to review. Searches are decided alike, by the thresholds of a false-positive
identification rate and of the gallery's size.
"""

import json
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from pydantic import PositiveInt

from rayreid.ranking.thresholds import NotEnough, PairThreshold, SearchTable, SearchThreshold
from rayreid.settings import Settings, checked

CALIBRATION = "calibration.json"
"""The file's name, beside the weights that it is of."""
Decision = Literal["match", "review", "no_match", "uncalibrated"]


class PairDecisions(NamedTuple):
    """A decision for each score, and the thresholds that they are by."""

    decisions: list[Decision]
    match: float | None
    """Scores above it are matches."""
    review: float | None
    """Other scores above it are for review; where there is none, nothing is."""
    reason: str = ""
    """Why nothing is decided, where it is not."""


class Distributions(Settings):
    """Scores of the pairs of one person and of two people: shares in bins, for a picture."""

    edges: tuple[float, ...]
    genuine: tuple[float, ...]
    impostor: tuple[float, ...]


class Calibration(Settings):
    """What a trained method's scores mean, on people it has not learnt from."""

    format: Literal[1] = 1
    method: str
    fingerprint: str
    """Of the weights; scores of others are not these."""
    preprocessing: str
    """Fingerprint of what images become before they are embedded."""
    source: str
    """Where the pairs are from."""
    data: str
    """Fingerprint of that."""
    genuine: PositiveInt
    """Pairs of one person, by different cameras."""
    impostors: PositiveInt
    """Pairs of two people."""
    people: PositiveInt
    directions: Literal["one", "both"]
    """``both``: the method is not symmetric, and each pair was scored with either crop as the
    query; both scores count. ``one``: it is, or the order was given."""
    pairs: tuple[PairThreshold | NotEnough, ...]
    review: float | None
    """At or below it lie at most `REJECTED` of the pairs of one person."""
    search: SearchTable | None
    """None where the pairs came without people to search for."""
    distributions: Distributions
    written: str

    @classmethod
    def load(
        cls, folder: Path, *, fingerprint: str | None = None, preprocessing: str | None = None
    ) -> "Calibration":
        """Return the calibration in a trained method's folder, or in its ``best`` subfolder.

        Raises `FileNotFoundError` where there is none; `ValueError` where it is broken, or of
        other weights or another preprocessing than those named.
        """
        path = calibration_path(folder)
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no {CALIBRATION} in {path.parent}; make one with rayreid calibrate"
            )
        try:
            found = checked(cls, json.loads(path.read_text()))
        except ValueError as error:
            raise ValueError(f"{path} is broken ({error}); calibrate again") from None
        for what, of, wanted in (
            ("weights", found.fingerprint, fingerprint),
            ("a preprocessing", found.preprocessing, preprocessing),
        ):
            if wanted is not None and of != wanted:
                raise ValueError(
                    f"{path} is of {what} with the fingerprint {of}, not {wanted}: its thresholds "
                    "mean nothing here; calibrate again"
                )
        return found

    def save(self, folder: Path) -> Path:
        """Write it beside the weights, whole or not at all; return where."""
        path = calibration_path(folder)
        draft = path.with_suffix(".tmp")
        draft.write_text(self.model_dump_json(indent=1) + "\n")
        draft.replace(path)
        return path

    def pair_threshold(self, false_accept_rate: float) -> PairThreshold | NotEnough:
        """Return what is known of a false accept rate.

        Raises `ValueError` for one that was not asked for when calibrating.
        """
        for known in self.pairs:
            rate = known.rate if isinstance(known, NotEnough) else known.false_accept_rate
            if rate == false_accept_rate:
                return known
        rates = ", ".join(
            f"{k.rate if isinstance(k, NotEnough) else k.false_accept_rate:g}" for k in self.pairs
        )
        raise ValueError(
            f"pairs are not calibrated at a false accept rate of {false_accept_rate:g}; "
            f"there are {rates}"
        )

    def pair_decision(
        self, scores: Sequence[float] | Float[np.ndarray, " p"], false_accept_rate: float
    ) -> PairDecisions:
        """Return a decision for each score of a pair, at a false accept rate.

        Raises `ValueError` as `pair_threshold` does.
        """
        known = self.pair_threshold(false_accept_rate)
        if isinstance(known, NotEnough):
            return PairDecisions(["uncalibrated"] * len(scores), None, None, str(known))
        review = _below(self.review, known.threshold)
        decided = [_decision(float(score), known.threshold, review) for score in scores]
        return PairDecisions(decided, known.threshold, review)

    def search_threshold(
        self, n_enrolled: int, fpir: float, *, samples: int = 0, crops: int = 1
    ) -> SearchThreshold | NotEnough:
        """Return the threshold of a false-positive identification rate in a gallery of so many.

        ``n_enrolled`` counts people, not crops. Between sizes that were measured the next larger
        one counts. Where they have more ``samples`` than those of the calibration, they count as
        so many more people; ``crops`` are a query's. Raises `ValueError` for a rate that was not
        asked for when calibrating, or where searches were not calibrated at all.
        """
        if self.search is None:
            raise ValueError(
                f"{self.source} has pairs without people to search for; calibrate on a domain "
                "(layout=location) for thresholds of searches"
            )
        people = max(n_enrolled, ceil(samples / self.search.samples))
        return self.search.threshold(people, fpir, crops)

    def search_decision(
        self,
        scores: Sequence[float] | Float[np.ndarray, " m"],
        n_enrolled: int,
        fpir: float,
        *,
        samples: int = 0,
        crops: int = 1,
    ) -> PairDecisions:
        """Return a decision for each person that a search found, by that person's score.

        The search's own decision is that of its first. Raises `ValueError` as `search_threshold`.
        """
        found = self.search_threshold(n_enrolled, fpir, samples=samples, crops=crops)
        if isinstance(found, NotEnough):
            return PairDecisions(["uncalibrated"] * len(scores), None, None, str(found))
        assert self.search is not None
        review = _below(self.search.review, found.threshold)
        decided = [_decision(float(score), found.threshold, review) for score in scores]
        return PairDecisions(decided, found.threshold, review)

    @property
    def default_rate(self) -> float | None:
        """Return the strictest false accept rate that there is a threshold of."""
        known = [one.false_accept_rate for one in self.pairs if isinstance(one, PairThreshold)]
        return min(known, default=None)

    @property
    def default_search_rate(self) -> float | None:
        """Return the strictest identification rate that all people at hand have a threshold of."""
        known = self.search.rates if self.search else ()
        return min((one.rate for one in known if one.thresholds[-1] is not None), default=None)

    def summary(self) -> Mapping[str, object]:
        """Return what a service tells of it, as JSON has it."""
        told: dict[str, object] = {
            "source": self.source,
            "people": self.people,
            "genuine": self.genuine,
            "impostors": self.impostors,
            "written": self.written,
            "pairs": [
                {"false_accept_rate": one.rate, "reason": str(one)}
                if isinstance(one, NotEnough)
                else one.model_dump(
                    include={"false_accept_rate", "threshold", "people_bounds", "true_accept_rate"}
                )
                for one in self.pairs
            ],
            "default_false_accept_rate": self.default_rate,
            "default_false_positive_identification_rate": self.default_search_rate,
        }
        if self.search:
            rates = [one.rate for one in self.search.rates]
            told["search"] = {"rates": rates, "people": self.search.sizes[-1]}
        return told


def calibration_path(folder: Path) -> Path:
    """Return where the calibration of a trained method is: in its folder, or in its ``best``."""
    best = folder / "best"
    return (best if best.is_dir() else folder) / CALIBRATION


def _below(review: float | None, match: float) -> float | None:
    return review if review is not None and review < match else None


def _decision(score: float, match: float, review: float | None) -> Decision:
    if score > match:
        return "match"
    return "review" if review is not None and score > review else "no_match"
