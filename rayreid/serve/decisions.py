"""Decisions about pairs, by the thresholds that a served model was calibrated to."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict

from rayreid.ranking.calibration import Calibration, Decision
from rayreid.ranking.thresholds import NotEnough
from rayreid.serve.galleries.records import Gallery
from rayreid.serve.models import Served
from rayreid.serve.refusals import RefusalError


class Thresholds(BaseModel):
    """What decisions are by."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    false_accept_rate: float | None = None
    """Of pairs of two people, the share that may match."""
    false_positive_identification_rate: float | None = None
    """Of searches for people who are not enrolled, the share that may match somebody."""
    match: float | None = None
    """Scores above it are matches."""
    review: float | None = None
    """Other scores above it are for a person to look at; where there is none, nothing is."""
    rate_bounds: tuple[float, float] | None = None
    """95 % bounds of the rate, by drawing the people of the calibration again."""
    reason: str = ""
    """Why nothing is decided, where it is not."""


class Decided(NamedTuple):
    """A decision for each pair, and what they are by."""

    decisions: list[Decision]
    thresholds: Thresholds


def refuse_unless_calibrated(served: Served, rate: float | None) -> None:
    """Raise `RefusalError` 422 for a rate that a model has no threshold of.

    Before anything is computed; a model without calibration decides nothing, and says so.
    """
    if rate is not None and served.calibration is not None:
        try:
            served.calibration.pair_threshold(rate)
        except ValueError as error:
            raise RefusalError(422, f"model {served.name!r}: {error}") from None


def decide(served: Served, scores: Float32[np.ndarray, " p"], rate: float | None) -> Decided:
    """Return what a model's scores of pairs mean, at a false accept rate or at its strictest."""
    calibration = served.calibration
    if calibration is None:
        return _undecided(scores, rate, f"model {served.name!r} is not calibrated")
    rate = calibration.default_rate if rate is None else rate
    if rate is None:
        return _undecided(scores, None, "; ".join(map(str, calibration.pairs)))
    found = calibration.pair_decision(scores, rate)
    return Decided(
        found.decisions,
        Thresholds(
            false_accept_rate=rate,
            match=found.match,
            review=found.review,
            rate_bounds=_bounds(calibration, rate),
            reason=found.reason,
        ),
    )


def decide_search(
    served: Served, scores: Sequence[float], gallery: Gallery, crops: int, rate: float | None
) -> Decided:
    """Return what the scores of the people that a search found mean.

    ``gallery`` is what was searched, ``crops`` how many the query has; the rate is that of false
    identifications, by default the strictest that the calibration tells. Raises `RefusalError` 422
    for one that it does not know.
    """
    calibration = served.calibration
    if calibration is None or calibration.search is None:
        reason = f"model {served.name!r} is not calibrated for searches"
        return Decided(["uncalibrated"] * len(scores), Thresholds(reason=reason))
    rate = calibration.default_search_rate if rate is None else rate
    if rate is None:
        reason = "too few searches were calibrated"
        return Decided(["uncalibrated"] * len(scores), Thresholds(reason=reason))
    people, samples = gallery.identities, gallery.samples
    try:
        found = calibration.search_decision(scores, people, rate, samples=samples, crops=crops)
    except ValueError as error:
        raise RefusalError(422, f"model {served.name!r}: {error}") from None
    return Decided(
        found.decisions,
        Thresholds(
            false_positive_identification_rate=rate,
            match=found.match,
            review=found.review,
            reason=found.reason,
        ),
    )


def _bounds(calibration: Calibration, rate: float) -> tuple[float, float] | None:
    known = calibration.pair_threshold(rate)
    return None if isinstance(known, NotEnough) else known.people_bounds


def _undecided(
    scores: Sequence[float] | Float32[np.ndarray, " p"], rate: float | None, reason: str
) -> Decided:
    thresholds = Thresholds(false_accept_rate=rate, reason=reason)
    return Decided(["uncalibrated"] * len(scores), thresholds)
