import inspect
import logging
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rayreid.ranking import counting, metrics, roc
from rayreid.ranking.metrics import Ranker, Ranking, RankingSettings, rank
from rayreid.ranking.roc import RATES
from rayreid.settings import checked

EVALUATOR = Path(__file__).resolve().parents[3] / "shared" / "data" / "evaluator"

Problem = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def known(name: str) -> dict[str, np.ndarray]:
    path = EVALUATOR / name
    if not path.is_file():
        pytest.skip(f"no known answers at {path}")
    with np.load(path) as arrays:
        return dict(arrays)


def unchecked_rank(scores: np.ndarray, *labels: np.ndarray) -> None:
    """Rank without jaxtyping, which would refuse shapes and dtypes before Ranker's own checks."""
    ranker = object.__new__(Ranker)
    inspect.unwrap(Ranker.__init__)(ranker, *labels)
    inspect.unwrap(Ranker.add)(ranker, 0, scores)


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


def by_trapezoids(hits: list[int]) -> float:
    """Transcribe Market-1501's compute_AP.m, for the ranks of the good crops."""
    area, old_recall, old_precision, found = 0.0, 0.0, 1.0, 0
    for place in range(1, hits[-1] + 1):
        found += place in hits
        recall, precision = found / len(hits), found / place
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def by_sorting(
    problem: Problem, max_rank: int, *, optimistic: bool, trapezoid: bool = False
) -> Ranking | None:
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
            steps = sum(m / r for m, r in enumerate(hits, start=1)) / len(hits)
            precisions.append(by_trapezoids(hits) if trapezoid else steps)
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


def by_thresholds(problem: Problem) -> tuple[tuple[float, float], ...]:
    """Try every score as a threshold that pairs have to exceed."""
    scores, query_identities, gallery_identities, query_cameras, gallery_cameras = problem
    same = query_identities[:, None] == gallery_identities
    positive = same & (query_cameras[:, None] != gallery_cameras)
    matched = positive.any(axis=1)[:, None]
    positives, negatives = scores[positive], scores[~same & matched]
    points = []
    for rate in RATES:
        lowest: list[tuple[float, float]] = []
        for threshold in sorted({-np.inf, *scores.ravel().tolist()}):
            false = (negatives > threshold).sum() / max(1, len(negatives))
            if false <= rate and not lowest:
                lowest = [(float(false), float((positives > threshold).mean()))]
        points += lowest
    return tuple(points)


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
    ranking = rank(
        -arrays["distance"], people, people, cameras, cameras + 1, RankingSettings(max_rank=100)
    )
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


@pytest.mark.parametrize("counted_to", [1, 3, 100])
@settings(max_examples=150, deadline=None)
@given(
    problem=problems(),
    max_rank=st.integers(1, 20),
    trapezoid=st.booleans(),
    rows=st.integers(1, 6),
    sorted_to=st.sampled_from([0, 4, 2048]),
)
def test_equals_sorting_whatever_rows_come_together(
    counted_to: int, problem: Problem, max_rank: int, trapezoid: bool, rows: int, sorted_to: int
) -> None:
    scores, *columns = problem
    wanted = RankingSettings(
        max_rank=max_rank, average_precision="trapezoid" if trapezoid else "step"
    )
    expected = by_sorting(problem, max_rank, optimistic=False, trapezoid=trapezoid)
    if expected is None:
        with pytest.raises(ValueError, match="none of the"):
            Ranker(*columns, wanted)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_COUNTED_TO", counted_to)
        patch.setattr(counting, "_SORTED_TO", sorted_to)
        patch.setattr(metrics, "_CELLS", 20)
        patch.setattr(roc, "_SLACK", 0)
        ranker = Ranker(*columns, wanted)
        for start in reversed(range(0, len(scores), rows)):
            ranker.add(start, scores[start : start + rows])
        ranking = ranker.ranking()
    optimistic = by_sorting(problem, max_rank, optimistic=True, trapezoid=trapezoid)
    assert optimistic is not None
    assert ranking.map == pytest.approx(expected.map, abs=1e-12)
    assert ranking.minp == pytest.approx(expected.minp, abs=1e-12)
    assert ranking.cmc == pytest.approx(expected.cmc, abs=1e-12)
    assert (ranking.queries, ranking.unmatched) == (expected.queries, expected.unmatched)
    assert ranking.optimistic_map == pytest.approx(optimistic.map, abs=1e-12)
    assert ranking.optimistic_map >= ranking.map
    assert list(ranking.cmc) == sorted(ranking.cmc)
    assert ranking.roc == by_thresholds(problem)
    assert rank(*problem, wanted) == ranking


@pytest.mark.parametrize("levels", [4, 50, 10**6])
def test_many_scores_stream_as_sorting_and_thresholds_say(levels: int) -> None:
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, (40, 5000)).astype(np.float32)
    identities, cameras = rng.integers(0, 60, 5000), rng.integers(0, 3, 5000)
    queries = rng.integers(0, 60, 40)
    scores += (levels // 3) * (queries[:, None] == identities)
    problem = scores, queries, identities, np.zeros(40, np.int64), cameras
    expected = by_sorting(problem, 50, optimistic=False)
    assert expected is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roc, "_SLACK", 0)
        ranking = rank(*problem)
    assert ranking.map == pytest.approx(expected.map, abs=1e-12)
    assert ranking.cmc == pytest.approx(expected.cmc, abs=1e-12)
    same = queries[:, None] == identities
    positives, negatives = scores[same & (cameras > 0)], scores[~same]
    ordered = np.sort(negatives)[::-1]
    for rate, (fpr, tpr) in zip(RATES, ranking.roc, strict=True):
        threshold = ordered[int(rate * len(negatives) + 1e-9)]
        assert fpr == (negatives > threshold).mean() <= rate
        assert tpr == (positives > threshold).mean()
        assert ranking.tpr_at(rate) == tpr


def test_a_query_added_twice_or_never_is_refused() -> None:
    one, two = np.array([1]), np.array([1, 1])
    ranker = Ranker(two, one, two, one + 1)
    ranker.add(0, np.zeros((1, 1)))
    with pytest.raises(ValueError, match="1 of 2 queries were not added, the first query 1"):
        ranker.ranking()
    with pytest.raises(ValueError, match="have been added before"):
        ranker.add(0, np.zeros((1, 1)))
    with pytest.raises(ValueError, match="need one identity and one camera"):
        ranker.add(1, np.zeros((2, 1)))


def test_the_trapezoid_by_hand() -> None:
    wanted = RankingSettings(average_precision="trapezoid")
    identities, cameras = np.array([1, 2, 1, 3]), np.ones(4, int)
    one, scores = np.array([1]), np.array([[0.9, 0.8, 0.7, 0.6]])
    ranking = rank(scores, one, identities, one - 1, cameras, wanted)
    assert ranking.map == pytest.approx(((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2)


@settings(max_examples=60, deadline=None)
@given(problem=problems(), repeats=st.integers(1, 4), seed=st.integers(0, 9))
def test_single_shot_is_ranking_galleries_of_one_crop_an_identity(
    problem: Problem, repeats: int, seed: int
) -> None:
    scores, query_identities, gallery_identities, query_cameras, gallery_cameras = problem
    wanted = RankingSettings(single_gallery_shot=True, repeats=repeats, seed=seed)
    try:
        whole = rank(*problem)
    except ValueError:
        return
    firsts = []
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        order = rng.permutation(len(gallery_identities)).tolist()
        for q, row in enumerate(scores):
            drawn: dict[int, int] = {}
            for g in order:
                own = gallery_identities[g] == query_identities[q]
                if not (own and gallery_cameras[g] == query_cameras[q]):
                    drawn.setdefault(int(gallery_identities[g]), g)
            match = drawn.pop(int(query_identities[q]), None)
            if match is not None:
                firsts.append(1 + sum(row[g] >= row[match] for g in drawn.values()))
    found = rank(*problem, wanted)
    assert found.cmc == pytest.approx([np.mean(np.array(firsts) <= r) for r in range(1, 51)])
    assert (found.map, found.minp, found.roc) == (whole.map, whole.minp, whole.roc)


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
        RankingSettings(max_rank=6),
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
    monkeypatch.setattr(metrics, "_CELLS", cells)
    scores = [[0.1, 0.2, 0.3], [0.1, 0.2, math.nan], [math.nan, math.nan, 0.1]]
    with pytest.raises(ValueError, match=r"3 of 9 scores are NaN, the first at query 1, .*crop 2"):
        toy(scores, [1, 2, 3])
    ranker = Ranker(np.ones(3, int), np.array([1, 2, 3]), np.zeros(3, int), np.ones(3, int))
    ranker.add(0, np.array(scores[:1]))
    with pytest.raises(ValueError, match=r"3 of 6 scores are NaN, the first at query 1, .*crop 2"):
        ranker.add(1, np.array(scores[1:]))


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
    labels[3] += 1
    with pytest.raises(ValueError, match="need one identity and one camera"):
        unchecked_rank(scores, *(label.astype(int) for label in labels))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="'max_rank': input should be greater than or equal to 1"):
        checked(RankingSettings, {"max_rank": 0})


def test_scores_need_not_be_contiguous() -> None:
    scores = np.random.default_rng(0).standard_normal((6, 8))
    labels = np.arange(6) % 3, np.arange(8) % 3, np.zeros(6, dtype=int), np.ones(8, dtype=int)
    expected = rank(scores, *labels)
    assert rank(np.asfortranarray(scores), *labels) == expected
    assert rank(scores.repeat(2, axis=1)[:, ::2], *labels) == expected
