"""TLift against a transcription of section 4 of its paper, a pair at a time."""

import inspect
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayreid.ranking import temporal_lift as module
from rayreid.ranking.temporal_lift import LiftSettings, likelihoods, temporal_lift

Problem = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def slow(problem: Problem, settings: LiftSettings) -> np.ndarray:
    """One query, one gallery camera, one crop at a time."""
    scores, query_cameras, query_times, gallery_cameras, gallery_times = problem
    p = likelihoods(scores)
    lifted = np.empty_like(p)
    for i, (camera, time) in enumerate(zip(query_cameras, query_times, strict=True)):
        near = [
            j
            for j in range(len(query_times))
            if query_cameras[j] == camera and abs(query_times[j] - time) < settings.window
        ]
        assert i in near
        for there in set(gallery_cameras.tolist()):
            crops = [y for y in range(len(gallery_times)) if gallery_cameras[y] == there]
            pooled = sorted((scores[j, z] for j in near for z in crops), reverse=True)
            threshold = pooled[min(settings.neighbours, len(pooled)) - 1]
            pivots = [z for j in near for z in crops if scores[j, z] >= threshold]
            for y in crops:
                weight = statistics.fmean(
                    math.exp(-(((gallery_times[y] - gallery_times[z]) / settings.spread) ** 2))
                    for z in pivots
                )
                lifted[i, y] = (weight + settings.alpha) * p[i, y]
    return lifted


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Few scores, cameras and times, so that there are ties of every kind."""
    queries, crops = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    levels = draw(st.sampled_from([1, 3, 1000]))
    return (
        rng.integers(0, levels, (queries, crops)).astype(np.float32) / 7,
        rng.integers(1, 4, queries),
        rng.integers(0, 5, queries) * 50.0,
        rng.integers(2, 5, crops),
        rng.integers(0, 8, crops) * 60.0,
    )


SETTINGS = st.builds(
    LiftSettings,
    window=st.sampled_from([1.0, 50.0, 100.0, 1e4]),
    spread=st.sampled_from([40.0, 200.0]),
    neighbours=st.integers(1, 12),
    alpha=st.sampled_from([0.0, 0.2]),
)


@pytest.mark.parametrize("cells", [1, 13, 1 << 22])
@given(problem=problems(), settings=SETTINGS)
def test_equals_a_transcription(cells: int, problem: Problem, settings: LiftSettings) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_CELLS", cells)
        found = temporal_lift(*problem, settings)
    np.testing.assert_allclose(found, slow(problem, settings), rtol=1e-9)


@given(problem=problems(), settings=SETTINGS, seed=st.integers(0, 99))
def test_order_does_not_matter(problem: Problem, settings: LiftSettings, seed: int) -> None:
    scores, query_cameras, query_times, gallery_cameras, gallery_times = problem
    rng = np.random.default_rng(seed)
    q, g = rng.permutation(len(query_times)), rng.permutation(len(gallery_times))
    shuffled = temporal_lift(
        scores[q][:, g], query_cameras[q], query_times[q], gallery_cameras[g], gallery_times[g],
        settings,
    )  # fmt: skip
    np.testing.assert_allclose(shuffled, temporal_lift(*problem, settings)[q][:, g], rtol=1e-9)


@given(problem=problems(), settings=SETTINGS)
def test_without_differences_in_time_the_order_of_scores_stays(
    problem: Problem, settings: LiftSettings
) -> None:
    scores, query_cameras, query_times, gallery_cameras, gallery_times = problem
    at_once = np.full_like(gallery_times, 3.0)
    found = temporal_lift(scores, query_cameras, query_times, gallery_cameras, at_once, settings)
    np.testing.assert_allclose(found, (1 + settings.alpha) * likelihoods(scores))


def lift(scores: list[list[float]], cameras: list[int], times: list[float], **k: float) -> list:
    """Lift the scores of one query a row, all of one camera and time."""
    queries = len(scores)
    found = temporal_lift(
        np.array(scores, float), np.ones(queries, np.int64), np.zeros(queries), np.array(cameras),
        np.array(times, float), LiftSettings.model_validate(k),
    )  # fmt: skip
    weights: list = (found / likelihoods(np.array(scores, float)) - k.get("alpha", 0.2)).tolist()
    return weights


def test_a_pivot_of_two_neighbours_counts_twice() -> None:
    far = 1e6  # seconds between the crops: none has a part in another's weight
    weights = lift([[9, 1, 0], [8, 7, 0]], [2, 2, 2], [0, far, 2 * far], neighbours=3)
    assert weights[0] == pytest.approx([2 / 3, 1 / 3, 0])
    assert weights[1] == pytest.approx([2 / 3, 1 / 3, 0])


def test_all_ties_of_the_last_pivot_are_pivots() -> None:
    far = 1e6
    (weights,) = lift([[5, 5, 5, 1]], [2, 2, 2, 2], [0, far, 2 * far, 3 * far], neighbours=1)
    assert weights == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


def test_few_scores_are_all_pivots_and_a_camera_without_crops_plays_no_part() -> None:
    (weights,) = lift([[5, 1, 2]], [2, 2, 9], [0, 200, 7], neighbours=10)
    assert weights == pytest.approx([(1 + math.exp(-1)) / 2] * 2 + [1])


def test_cameras_clocks_are_their_own() -> None:
    scores = np.random.default_rng(0).normal(size=(6, 8))
    cameras = np.array([1, 1, 1, 2, 2, 2]), np.array([1, 1, 2, 2, 2, 2, 3, 3])
    times = np.arange(6) * 60.0, np.arange(8) * 90.0
    settings = LiftSettings(neighbours=2)
    there = temporal_lift(scores, cameras[0], times[0], cameras[1], times[1], settings)
    off = times[0] + 1e4 * cameras[0], times[1] - 3e3 * cameras[1]
    found = temporal_lift(scores, cameras[0], off[0], cameras[1], off[1], settings)
    np.testing.assert_allclose(found, there)


def test_a_neighbour_is_less_than_tau_away() -> None:
    scores, far = np.array([[9.0, 1.0], [0.0, 8.0]]), np.array([0.0, 1e6])
    columns = np.array([1, 1]), np.array([0.0, 100.0]), np.array([2, 2]), far
    alone = temporal_lift(scores, *columns, LiftSettings(neighbours=1))
    together = temporal_lift(scores, *columns, LiftSettings(neighbours=1, window=100.5))
    assert (alone / likelihoods(scores) - 0.2).ravel() == pytest.approx([1, 0, 0, 1])
    assert (together / likelihoods(scores) - 0.2).ravel() == pytest.approx([1, 0, 1, 0])


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=50, unique=True))
def test_likelihoods_rise_with_scores(values: list[int]) -> None:
    scores = np.array([values], np.float32) / 64
    found = likelihoods(scores)
    assert (np.diff(found[0, np.argsort(scores[0])]) > 0).all()
    assert ((found > 0) & (found < 1)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("gain", "shift"), [(1.0, 0.0), (1e-4, 100.0), (300.0, -5.0)])
def test_likelihoods_of_normal_scores_have_the_mean_that_tlift_needs(
    dtype: type, gain: float, shift: float
) -> None:
    normal = np.random.default_rng(0).normal(size=(50, 400))
    scores = (gain * normal + shift).astype(dtype)
    found = likelihoods(scores)
    assert 0.01 < found.mean() < 0.1
    assert found[0, 0] == pytest.approx(1 / (1 + math.exp(3.5 - normal[0, 0])), rel=0.1)


def test_likelihoods_of_one_score_and_of_extremes_are_finite() -> None:
    assert likelihoods(np.full((2, 3), 7.0)) == pytest.approx(1 / (1 + math.exp(3.5)))
    far = np.zeros((1, 2_000_000), np.float32)
    far[0, 0] = -1e9
    found = likelihoods(far)
    assert np.isfinite(found).all()
    assert found[0, 0] < found[0, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="infinite or NaN cannot be lifted"):
        likelihoods(np.array([[1.0, bad]]))


# Under test, jaxtyping refuses shapes before the function's own checks are reached.
unchecked = inspect.unwrap(temporal_lift)


@pytest.mark.parametrize("wrong", range(1, 5))
def test_columns_that_do_not_fit_are_refused(wrong: int) -> None:
    lengths = [2, 2, 3, 3]
    lengths[wrong - 1] += 1
    with pytest.raises(ValueError, match="need one camera and one time per query"):
        unchecked(np.ones((2, 3)), *map(np.ones, lengths), LiftSettings())


@pytest.mark.parametrize("part", [0, 1])
def test_missing_times_are_refused(part: int) -> None:
    times = [np.zeros(1), np.zeros(1)]
    one = np.ones(1, np.int64)
    query_times, gallery_times = (None if i == part else t for i, t in enumerate(times))
    with pytest.raises(ValueError, match="needs the time of every crop"):
        temporal_lift(np.ones((1, 1)), one, query_times, one, gallery_times, LiftSettings())
