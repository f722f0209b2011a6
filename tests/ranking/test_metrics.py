import inspect
import logging
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rayreid.ranking import metrics
from rayreid.ranking.metrics import Ranking, rank

EVALUATOR = Path(__file__).resolve().parents[3] / "shared" / "data" / "evaluator"

# Under test, jaxtyping refuses shapes and dtypes before the function's own checks are reached.
unchecked_rank = inspect.unwrap(rank)

Problem = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def known(name: str) -> dict[str, np.ndarray]:
    path = EVALUATOR / name
    if not path.is_file():
        pytest.skip(f"no known answers at {path}")
    with np.load(path) as arrays:
        return dict(arrays)


def toy(scores: list[list[float]], identities: list[int], query: int = 1) -> Ranking:
    """Queries of one identity on camera 0, the gallery on camera 1."""
    matrix = np.array(scores)
    return rank(
        matrix,
        np.full(len(matrix), query),
        np.array(identities),
        np.zeros(len(matrix), dtype=int),
        np.ones(len(identities), dtype=int),
    )


def by_sorting(problem: Problem, max_rank: int, *, optimistic: bool) -> Ranking | None:
    """Rank by sorting (score, tie, gallery order) tuples in plain Python."""
    scores, query_identities, gallery_identities, query_cameras, gallery_cameras = problem
    precisions, penalties, firsts = [], [], []
    for q, row in enumerate(scores.tolist()):
        kept = []
        for g, score in enumerate(row):
            same = bool(gallery_identities[g] == query_identities[q])
            if not (same and gallery_cameras[g] == query_cameras[q]):
                kept.append((-score, same != optimistic, g, same))
        hits = [place for place, crop in enumerate(sorted(kept), start=1) if crop[3]]
        if hits:
            precisions.append(sum(m / r for m, r in enumerate(hits, start=1)) / len(hits))
            penalties.append(len(hits) / hits[-1])
            firsts.append(hits[0])
    if not firsts:
        return None
    count = len(firsts)
    return Ranking(
        map=sum(precisions) / count,
        minp=sum(penalties) / count,
        cmc=tuple(sum(first <= r for first in firsts) / count for r in range(1, max_rank + 1)),
        queries=count,
        unmatched=len(scores) - count,
        optimistic_map=math.nan,
    )


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    queries, gallery = draw(st.integers(1, 6)), draw(st.integers(1, 14))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    levels = draw(
        st.sampled_from(
            [
                st.sampled_from([0.0, 0.5, 1.0]),
                st.sampled_from([-np.inf, -1.0, -0.0, 0.0, np.inf]),
                st.floats(allow_nan=False, width=32),
            ]
        )
    )
    scores = draw(hnp.arrays(dtype, (queries, gallery), elements=levels))
    if draw(st.booleans()):  # duplicate crops: the same scores, whoever they show
        scores[:, -1] = scores[:, 0]
    people, places = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    identities, cameras = st.integers(0, people), st.integers(1, places)
    return (
        scores,
        draw(hnp.arrays(np.int64, queries, elements=identities)),
        draw(hnp.arrays(np.int64, gallery, elements=identities)),
        draw(hnp.arrays(np.int64, queries, elements=cameras)),
        draw(hnp.arrays(np.int64, gallery, elements=cameras)),
    )


@pytest.mark.parametrize(("split", "expected"), [(1, 0.5456811), (2, 0.5600945), (3, 0.5510972)])
def test_equidml_published_cmc_is_met_exactly(split: int, expected: float) -> None:
    arrays = known(f"equidml_viper_{split}.npz")
    people = np.arange(len(arrays["distance"]))
    cameras = np.zeros_like(people)
    ranking = rank(-arrays["distance"], people, people, cameras, cameras + 1, max_rank=100)
    np.testing.assert_array_equal(ranking.cmc, arrays["published_cmc"])
    assert ranking.map == pytest.approx(expected, abs=5e-8)
    assert ranking.minp == pytest.approx(ranking.map, abs=1e-12)


def test_fedreid_ilids_features() -> None:
    arrays = known("fedreid_ilids.npz")
    query, gallery = (
        arrays[name] / np.linalg.norm(arrays[name], axis=1, keepdims=True)
        for name in ("query_f", "gallery_f")
    )
    ranking = rank(
        query @ gallery.T,
        arrays["query_label"],
        arrays["gallery_label"],
        arrays["query_cam"],
        arrays["gallery_cam"],
    )
    assert 100 * ranking.rank1 == 75.0
    assert 100 * ranking.map == pytest.approx(79.19175, abs=1e-5)
    assert 100 * ranking.minp == pytest.approx(79.19175, abs=1e-5)


@pytest.mark.parametrize("sort_from", [0, 3, 40])
@settings(max_examples=150, deadline=None)
@given(problem=problems(), max_rank=st.integers(1, 20))
def test_equals_sorting(sort_from: int, problem: Problem, max_rank: int) -> None:
    expected = by_sorting(problem, max_rank, optimistic=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_SORT_FROM", sort_from)
        if expected is None:
            with pytest.raises(ValueError, match="none of the"):
                rank(*problem, max_rank=max_rank)
            return
        ranking = rank(*problem, max_rank=max_rank)
    optimistic = by_sorting(problem, max_rank, optimistic=True)
    assert optimistic is not None
    assert ranking.map == pytest.approx(expected.map, abs=1e-12)
    assert ranking.minp == pytest.approx(expected.minp, abs=1e-12)
    assert ranking.cmc == pytest.approx(expected.cmc, abs=1e-12)
    assert (ranking.queries, ranking.unmatched) == (expected.queries, expected.unmatched)
    assert ranking.optimistic_map == pytest.approx(optimistic.map, abs=1e-12)
    assert ranking.optimistic_map >= ranking.map
    assert list(ranking.cmc) == sorted(ranking.cmc)


@settings(max_examples=50, deadline=None)
@given(problem=problems(), scale=st.sampled_from([0.25, 2.0, 8.0]))
def test_increasing_maps_of_the_scores_change_nothing(problem: Problem, scale: float) -> None:
    scores, *labels = problem
    # Ranks of the distinct values: strictly increasing, and exact where arithmetic rounds.
    order = np.unique(scores, return_inverse=True)[1].reshape(scores.shape)
    try:
        ranking = rank(scores, *labels)
    except ValueError:
        return
    assert rank(order.astype(np.float32), *labels) == ranking
    assert rank(np.exp(order * scale / 16) - 3, *labels) == ranking


@settings(max_examples=50, deadline=None)
@given(problem=problems(), seed=st.integers(0, 99))
def test_order_of_the_gallery_changes_nothing(problem: Problem, seed: int) -> None:
    scores, query_identities, gallery_identities, query_cameras, gallery_cameras = problem
    order = np.random.default_rng(seed).permutation(scores.shape[1])
    moved = (
        scores[:, order],
        query_identities,
        gallery_identities[order],
        query_cameras,
        gallery_cameras[order],
    )
    try:
        ranking = rank(*problem)
    except ValueError:
        return
    assert rank(*moved) == ranking


def test_average_precision_by_hand() -> None:
    ranking = toy([[0.9, 0.8, 0.7, 0.6]], [1, 2, 1, 3])
    assert ranking.map == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert ranking.minp == pytest.approx(2 / 3)
    assert ranking.cmc == (1.0,) * 50
    assert ranking == toy([[0.9, 0.8, 0.7, 0.6]], [1, 2, 1, 3])


def test_a_constant_scorer_earns_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ranking = toy([[0.5, 0.5, 0.5, 0.5]], [1, 2, 3, 4])
    assert (ranking.map, ranking.rank1, ranking.optimistic_map) == (0.25, 0.0, 1.0)
    (record,) = caplog.records
    assert "tie" in record.message
    assert "0.2500" in record.message
    assert "1.0000" in record.message


def test_ties_among_positives_are_no_ties(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ranking = toy([[0.5, 0.5, 0.1, 0.1]], [1, 1, 2, 3])
    assert ranking.map == ranking.optimistic_map == ranking.minp == 1.0
    assert not caplog.records


def test_same_identity_on_the_same_camera_is_removed_and_other_cameras_are_not() -> None:
    ranking = rank(
        np.array([[0.9, 0.8, 0.7, 0.6]]),
        np.array([1]),
        np.array([1, 2, 1, 2]),
        np.array([5]),
        np.array([5, 5, 6, 6]),
    )
    assert ranking.map == ranking.minp == 0.5
    assert ranking.cmc[:3] == (0.0, 1.0, 1.0)


def test_short_galleries_of_different_length_keep_cmc_monotone() -> None:
    ranking = rank(
        np.array([[0.1, 0.9, 0.8], [0.9, 0.1, 0.2]]),
        np.array([1, 2]),
        np.array([1, 2, 1]),
        np.array([0, 0]),
        np.array([1, 1, 0]),
        max_rank=6,
    )
    assert ranking.cmc == (0.0, 0.5, 1.0, 1.0, 1.0, 1.0)


def test_unmatched_queries_are_skipped_and_counted() -> None:
    ranking = rank(
        np.array([[0.9, 0.8], [0.1, 0.9], [0.9, 0.1]], dtype=np.float32),
        np.array([1, 7, 2]),
        np.array([1, 2]),
        np.array([0, 0, 1]),
        np.array([1, 1]),
    )
    assert (ranking.queries, ranking.unmatched, ranking.map) == (1, 2, 1.0)


@pytest.mark.parametrize("gallery", [[], [2, 3]])
def test_nothing_to_measure_is_an_error(gallery: list[int]) -> None:
    identities = np.array(gallery, dtype=np.int64)
    with pytest.raises(ValueError, match="none of the 2 queries"):
        rank(
            np.zeros((2, len(gallery))), np.array([1, 1]), identities, np.zeros(2, int), identities
        )


@pytest.mark.parametrize("cells", [1, 5, 1 << 24])
def test_nan_is_refused_saying_where(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    monkeypatch.setattr(metrics, "_NAN_CHECK_CELLS", cells)
    scores = [[0.1, 0.2, 0.3], [0.1, 0.2, math.nan], [math.nan, math.nan, 0.1]]
    with pytest.raises(ValueError, match=r"3 of 9 scores are NaN, the first at query 1, .*crop 2"):
        toy(scores, [1, 2, 3])


def test_infinite_scores_order_like_any_other() -> None:
    assert toy([[math.inf, 1.0, -math.inf]], [1, 2, 3]).map == 1.0
    assert toy([[-math.inf, 1.0, math.inf]], [1, 2, 3]).map == pytest.approx(1 / 3)


@pytest.mark.parametrize("dtype", [np.float16, np.int64])
def test_other_precisions_are_refused_with_the_reason(dtype: type) -> None:
    one, scores = np.array([1]), np.ones((1, 1), dtype=dtype)
    with pytest.raises(ValueError, match=rf"{scores.dtype}.*float32 or float64.*ties"):
        unchecked_rank(scores, one, one, one, one + 1)


@pytest.mark.parametrize("wrong", range(5))
def test_shapes_that_do_not_fit_are_refused(wrong: int) -> None:
    shapes: list[tuple[int, ...]] = [(2, 3), (2,), (3,), (2,), (3,)]
    shapes[wrong] = (*shapes[wrong], 1)
    scores, *labels = (np.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match="need one identity and one camera"):
        unchecked_rank(scores, *(label.astype(int) for label in labels))


def test_max_rank_below_one_is_refused() -> None:
    one = np.array([1])
    with pytest.raises(ValueError, match="max_rank must be 1 or more, not 0"):
        rank(np.ones((1, 1)), one, one, one, one + 1, max_rank=0)


def test_scores_need_not_be_contiguous() -> None:
    scores = np.random.default_rng(0).standard_normal((6, 8))
    labels = np.arange(6) % 3, np.arange(8) % 3, np.zeros(6, dtype=int), np.ones(8, dtype=int)
    expected = rank(scores, *labels)
    assert rank(np.asfortranarray(scores), *labels) == expected
    assert rank(scores.repeat(2, axis=1)[:, ::2], *labels) == expected
