"""TLift: scores lifted by when people walked by, at test time and without learning.

Liao and Shao, "Interpretable and Generalizable Person Re-Identification with Query-Adaptive
Convolution and Temporal Lifting", ECCV 2020. People who pass one camera together often pass the
next one together. So the best matches of a query's neighbours in time (the pivots) say at what
time the query's own match is likely to be found there.

For query i, seen by its camera at t_i, and one gallery camera:

| equation                                                      | here             |
|---------------------------------------------------------------|------------------|
| N_i = queries of i's camera with abs(t - t_i) < tau           | `_pivots`        |
| pivots: gallery crops of the K highest scores of N_i          | `_pivots`        |
| w_iy = mean over pivots z of exp(-(t_y - t_z)^2 / sigma^2)    | `_closeness`     |
| lifted score = (w_iy + alpha) p_iy                            | `temporal_lift`  |

A crop that is a pivot of several neighbours counts that often, and all ties of the K-th score are
pivots. p lies in (0, 1) with most mass near 0, which the paper has of its matcher; here it is made
of any score by `likelihoods`. Where fewer than K scores are pooled all of them are pivots, and a
camera without gallery crops plays no part (the authors' code stops there). Times are only compared
within a camera, so that cameras need no common clock.
"""

import numpy as np
from jaxtyping import Float, Float64, Int
from pydantic import Field

from rayreid.settings import Settings

_RARE = 3.5  # deviations above the mean at which two crops are as likely of one person as not
_LARGEST_EXPONENT = 700.0  # of a finite exponential
_BLOCK_CELLS = 1 << 22


class LiftSettings(Settings):
    """Parameters of TLift; the defaults are the paper's."""

    window: float = Field(100.0, gt=0)
    """tau: queries of one camera less than this apart, in seconds, are neighbours."""
    spread: float = Field(200.0, gt=0)
    """sigma: how fast the weight falls with the time to a pivot, in seconds."""
    neighbours: int = Field(10, ge=1)
    """K: how many of the highest scores of a query and its neighbours make the pivots."""
    alpha: float = Field(0.2, ge=0)
    """What a crop far in time from all pivots keeps of its score."""


def likelihoods(scores: Float[np.ndarray, "q g"]) -> Float64[np.ndarray, "q g"]:
    """Return scores of any range as numbers from 0 to 1, in their order, most of them near 0.

    A choice of ours: the logistic function of (score - mean) / deviation - 3.5. Scores that are
    normally distributed then have a mean of 0.05; the paper wants 0.01 to 0.1. It is increasing
    until rounding, some 30 deviations above the mean, makes everything 1. Without a deviation
    all scores are alike. Raises `ValueError` for scores that are not finite.
    """
    # In place: a matrix of Market-1501's size takes 0.4 GiB.
    x = scores.astype(np.float64)
    mean = x.mean()
    if not np.isfinite(mean):
        raise ValueError("scores that are infinite or NaN cannot be lifted: look for them first")
    x -= mean
    deviation = np.sqrt(np.vdot(x, x) / x.size)
    if deviation:
        x /= -deviation
    x += _RARE
    np.minimum(x, _LARGEST_EXPONENT, out=x)
    np.exp(x, out=x)
    x += 1
    likely: np.ndarray = np.reciprocal(x, out=x)
    return likely


def temporal_lift(
    scores: Float[np.ndarray, "q g"],
    query_cameras: Int[np.ndarray, " q"],
    query_times: Float[np.ndarray, " q"] | None,
    gallery_cameras: Int[np.ndarray, " g"],
    gallery_times: Float[np.ndarray, " g"] | None,
    settings: LiftSettings,
) -> Float64[np.ndarray, "q g"]:
    """Return scores lifted where a crop's time is near that of the neighbours' best matches.

    ``scores`` are higher for crops more alike, of any range; times are in seconds. Memory beyond
    the matrix returned is bounded by blocks and by the crops of two cameras.

    Raises `ValueError` where times are missing, columns do not fit or scores are not finite.
    """
    if query_times is None or gallery_times is None:
        raise ValueError(
            "temporal lifting needs the time of every crop, which this data set does not tell"
        )
    shapes = (query_cameras.shape, query_times.shape), (gallery_cameras.shape, gallery_times.shape)
    if scores.ndim != 2 or shapes != (2 * (scores.shape[:1],), 2 * (scores.shape[1:],)):
        raise ValueError(
            f"scores of shape {scores.shape} need one camera and one time per query (row) and per "
            f"gallery crop (column), found query {shapes[0]} and gallery {shapes[1]}"
        )
    lifted = likelihoods(scores)
    for query_camera in np.unique(query_cameras):
        (rows,) = np.nonzero(query_cameras == query_camera)
        for gallery_camera in np.unique(gallery_cameras):
            (columns,) = np.nonzero(gallery_cameras == gallery_camera)
            pivots = _pivots(scores[np.ix_(rows, columns)], query_times[rows], settings)
            weights = _closeness(pivots, gallery_times[columns], settings.spread)
            lifted[np.ix_(rows, columns)] *= weights + settings.alpha
    return lifted


def _pivots(
    scores: Float[np.ndarray, "q g"], times: Float[np.ndarray, " q"], settings: LiftSettings
) -> Float64[np.ndarray, "q g"]:
    """Return how often each gallery crop of one camera is a pivot of each query of one camera.

    What is among the K highest scores of a query and its neighbours is also among the K highest
    of its own row: only those candidates are looked at.
    """
    candidates = scores >= _largest(scores, settings.neighbours)[:, None]
    row, column = np.nonzero(candidates)
    values = scores[candidates]
    counts = np.zeros(scores.shape)
    step = max(1, _BLOCK_CELLS // len(values))
    for start in range(0, len(times), step):
        near = np.abs(times[start : start + step, None] - times) < settings.window
        near = near[:, row]
        pooled = np.where(near, values, -np.inf)
        # Where fewer than K are pooled the K-th is -inf, and all of them reach it.
        reached = near & (pooled >= _largest(pooled, settings.neighbours)[:, None])
        query, candidate = np.nonzero(reached)
        np.add.at(counts, (start + query, column[candidate]), 1)
    return counts


def _largest(values: Float[np.ndarray, "n m"], k: int) -> Float[np.ndarray, " n"]:
    """Return the k-th largest value of each row, or its smallest where it has fewer."""
    place = max(0, values.shape[1] - k)
    return np.partition(values, place, axis=1)[:, place]


def _closeness(
    pivots: Float64[np.ndarray, "q g"], times: Float[np.ndarray, " g"], spread: float
) -> Float64[np.ndarray, "q g"]:
    """Return the mean over each query's pivots of exp(-(t_y - t_z)^2 / sigma^2), for each crop."""
    weights = np.empty_like(pivots)
    step = max(1, _BLOCK_CELLS // len(times))
    for start in range(0, len(times), step):
        apart = (times[:, None] - times[start : start + step]) / spread
        weights[:, start : start + step] = pivots @ np.exp(-(apart**2))
    weights /= pivots.sum(axis=1, keepdims=True)
    return weights
