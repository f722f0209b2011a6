import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from rayreid.ranking import impostors
from rayreid.ranking.confidence import by_person, clopper_pearson, drawn_people
from rayreid.ranking.impostors import GridScores, OwnedHighest, PairScores
from rayreid.ranking.thresholds import NotEnough, PairThreshold

VALUES = st.lists(st.integers(-3, 3) | st.integers(-1000, 1000), max_size=30)


@given(parts=st.lists(VALUES, max_size=8), count=st.integers(1, 12))
def test_the_highest_are_those_of_sorting_with_their_owners(
    parts: list[list[int]], count: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(impostors, "_SLACK", 0)
        highest = OwnedHighest(count)
        for part in parts:
            values = np.array(part, np.float32)
            values = values[values > highest.floor]
            highest.add(values, (values + 5000).astype(np.uint32))
            assert highest._held <= 2 * count
    scores, owners = highest.descending()
    ordered = sorted((value for part in parts for value in part), reverse=True)
    assert scores.tolist() == [v for v in ordered if v > highest.floor]
    assert (owners == scores + 5000).all()
    if len(scores) < min(count, len(ordered)):
        assert set(ordered[len(scores) : count]) == {highest.floor}


People = tuple[np.ndarray, np.ndarray]
"""Who is on each crop, and by which camera."""


def people(count: int, crops: int) -> People:
    return np.repeat(np.arange(count), crops), np.tile(np.arange(crops), count)


def grid(
    scores: np.ndarray,
    query: People,
    gallery: People,
    rates: tuple[float, ...],
    rows: int,
    enrolled: np.ndarray | None = None,
) -> tuple[PairScores, GridScores]:
    number = int(max(query[0].max(), gallery[0].max())) + 1
    pairs = PairScores(number, int((query[0][:, None] != gallery[0]).sum()), rates)
    kept = np.ones(len(gallery[0]), bool) if enrolled is None else enrolled
    found = GridScores(pairs, query, gallery, kept)
    for start in range(0, len(scores), rows):
        found.add(start, scores[start : start + rows])
    return pairs, found


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("rows", "cells"), [(1, 1), (7, 100), (1000, 1 << 18)])
def test_thresholds_of_a_stream_are_those_of_all_pairs_sorted(
    rows: int, cells: int, ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(impostors, "_CELLS", cells)
    monkeypatch.setattr(impostors, "_SLACK", 50)
    random = np.random.default_rng(0)
    query, gallery = people(20, 2), people(30, 3)
    scores = random.standard_normal((40, 90)).astype(np.float32)
    scores = np.round(scores, 1) if ties else scores
    rates = (0.1, 0.02, 1e-4)
    pairs, found = grid(scores, query, gallery, rates, rows)
    number = 30
    held = by_person(query[0], number), by_person(gallery[0], number)
    told = pairs.thresholds(rates, drawn_people(number, 50), held)
    same = query[0][:, None] == gallery[0]
    genuine = scores[same & (query[1][:, None] != gallery[1])]
    negative = np.sort(scores[~same])[::-1]
    assert np.array_equal(np.sort(pairs.genuine()[0]), np.sort(genuine))
    for rate, one in zip(rates[:2], told[:2], strict=True):
        assert isinstance(one, PairThreshold)
        assert one.threshold == negative[int(rate * len(negative))]
        assert one.measured == (negative > one.threshold).mean() <= rate
        lower = negative[negative < one.threshold].max()
        assert (negative > lower).mean() > rate
        assert one.true_accept_rate == (genuine > one.threshold).mean()
        assert one.threshold_bounds[0] <= one.threshold <= one.threshold_bounds[1]
        assert one.people_bounds is not None
    assert told[2] == NotEnough(rate=1e-4, found=len(negative), needed=100_000)
    assert "takes 100,000" in str(told[2])
    best = np.array([[scores[q, gallery[0] == p].max() for p in range(30)] for q in range(40)])
    own = np.where(same & (query[1][:, None] != gallery[1]), scores, -np.inf).max(1)
    assert np.array_equal(found.own, own)
    assert np.array_equal(found.best[best != found.best], np.full(40, -np.inf))
    assert (np.isinf(found.best).argmax(1) == query[0]).all()


@given(data=st.data())
def test_a_search_knows_the_crops_that_are_enrolled_and_no_others(data: st.DataObject) -> None:
    def drawn(crops: int) -> People:
        whole = st.lists(st.integers(0, 3), min_size=crops, max_size=crops)
        return np.array(data.draw(whole)), np.array(data.draw(whole)) % 2

    query, gallery = drawn(data.draw(st.integers(1, 4))), drawn(data.draw(st.integers(1, 8)))
    enrolled = np.array(data.draw(st.lists(st.booleans(), min_size=len(gallery[0]),
                                           max_size=len(gallery[0]))))  # fmt: skip
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    scores = random.standard_normal((len(query[0]), len(gallery[0]))).astype(np.float32)
    _, found = grid(scores, query, gallery, (0.1,), 3, enrolled)
    for q, (person, camera) in enumerate(zip(*query, strict=True)):
        held: dict[int, float] = {}
        own = -np.inf
        for g, (other, by) in enumerate(zip(*gallery, strict=True)):
            if not enrolled[g]:
                continue
            if other != person:
                held[other] = max(held.get(other, -np.inf), scores[q, g])
            elif by != camera:
                own = max(own, scores[q, g])
        assert found.own[q] == own
        best = dict(zip(found.persons.tolist(), found.best[q].tolist(), strict=True))
        assert best.pop(person, -np.inf) == -np.inf
        assert best == held


def told_of_pairs(genuine: np.ndarray, impostor: np.ndarray, scored: int) -> PairThreshold:
    """Return the threshold of 0.1 of pairs whose scores, one a direction, are [pairs, scored]."""
    pairs = PairScores(4, impostor.size, (0.1,))
    first = np.arange(impostor.size) % 3
    pairs.add_genuine(genuine.ravel(), np.arange(genuine.size) % 4)
    pairs.add_impostors(impostor.ravel(), first, first + 1)
    listed = pairs.owners(first, first + 1)
    (told,) = pairs.thresholds((0.1,), drawn_people(4, 2), None, listed, scored=scored)
    assert isinstance(told, PairThreshold)
    return told


@given(genuine=st.integers(1, 60), seed=st.integers(0, 99))
def test_a_pair_that_was_scored_twice_alike_is_one_pair(genuine: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    same = random.standard_normal((genuine, 1)).astype(np.float32) + 1
    different = random.standard_normal((200, 1)).astype(np.float32)
    once = told_of_pairs(same, different, 1)
    twice = told_of_pairs(np.repeat(same, 2, 1), np.repeat(different, 2, 1), 2)
    assert (once.threshold, once.true_accept_rate) == (twice.threshold, twice.true_accept_rate)
    assert once.bounds == twice.bounds
    assert once.true_accept_bounds == twice.true_accept_bounds
    passed = int((same > once.threshold).sum())
    assert once.true_accept_bounds == clopper_pearson(passed, genuine)


def test_bounds_hold_the_true_rates_where_each_pair_was_scored_in_both_directions() -> None:
    random = np.random.default_rng(0)
    trials, noise = 300, 0.1
    held = {"true accept": 0, "false accept": 0}
    for _ in range(trials):
        same, different = (
            (mean + random.standard_normal((n, 1)) + noise * random.standard_normal((n, 2))).astype(
                np.float32
            )
            for mean, n in ((1, 200), (0, 1000))
        )
        told = told_of_pairs(same, different, 2)
        above = norm.sf(told.threshold, (1, 0), (1 + noise**2) ** 0.5)
        kinds = zip(held, (told.true_accept_bounds, told.bounds), above, strict=True)
        for kind, bounds, true in kinds:
            held[kind] += bounds[0] <= true <= bounds[1]
    # 95 % of 300, less three standard deviations; all scores as pairs hold it in 87 %.
    assert min(held.values()) >= trials * 0.95 - 3 * (trials * 0.05 * 0.95) ** 0.5, held


def test_the_sample_is_of_impostors_alone_and_even() -> None:
    query, gallery = people(20, 2), people(30, 3)
    scores = np.arange(40 * 90, dtype=np.float32).reshape(40, 90)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(impostors, "_SAMPLE", 100)
        _, found = grid(scores, query, gallery, (0.1,), 7)
    sampled = found.sampled()
    stride = found._stride
    assert stride >= 36
    kept = np.arange(0, 3600, stride)
    kept = kept[query[0][kept // 90] != gallery[0][kept % 90]]
    assert np.array_equal(sampled, kept)


def test_scores_that_are_no_numbers_are_refused() -> None:
    query, gallery = people(2, 2), people(2, 2)
    scores = np.zeros((4, 4), np.float32)
    scores[2, 1] = np.nan
    with pytest.raises(ValueError, match="no finite numbers"):
        grid(scores, query, gallery, (0.1,), 4)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_set_of_market_1501s_size_streams_by_in_bounded_memory() -> None:
    random = np.random.default_rng(0)
    query = random.integers(0, 750, 3368), random.integers(0, 6, 3368)
    gallery = random.integers(0, 751, 15_913), random.integers(0, 6, 15_913)
    held = by_person(query[0], 751), by_person(gallery[0], 751)
    rates = (0.1, 1e-2, 1e-3, 1e-4)
    tracemalloc.start()
    pairs = PairScores(751, int(3368 * 15_913 - held[0] @ held[1]), rates)
    found = GridScores(pairs, query, gallery, np.ones(15_913, bool))
    for start in range(0, 3368, 500):
        rows = min(500, 3368 - start)
        found.add(start, random.standard_normal((rows, 15_913), np.float32))
    told = pairs.thresholds(rates, drawn_people(751), held)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All scores are 204 MiB, in float32; with whom they are of, and in order, they would be 800.
    assert peak < 450 * 2**20, f"{peak / 2**20:.0f} MiB"
    for rate, one in zip(rates, told, strict=True):
        assert isinstance(one, PairThreshold)
        assert one.threshold == pytest.approx(norm.isf(rate), abs=0.02)
        assert one.threshold_bounds[0] < norm.isf(rate) < one.threshold_bounds[1]
