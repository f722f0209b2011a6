"""k-reciprocal re-ranking against a transcription of its paper, a crop at a time."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.benchmark.reranking import people, published
from rayreid.ranking import rerank as module
from rayreid.ranking.rerank import RerankSettings, rerank, rerank_features, rerank_scores
from rayreid.settings import checked

PAPERS = RerankSettings()


def slow(scores: np.ndarray, queries: int, settings: RerankSettings) -> np.ndarray:
    """Re-rank by the scores of all crops with each other, in sets."""
    k1, k2, share = settings.neighbours, settings.expansion, settings.original
    n = len(scores)
    most, least = scores.max(1, keepdims=True), scores.min(1, keepdims=True)
    distance = (most - scores) / np.where(most == least, 1, most - least)
    known = distance.copy()
    np.fill_diagonal(known, 0)
    order = [sorted(range(n), key=lambda j, i=i: (j != i, -scores[i, j], j)) for i in range(n)]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    weights = np.zeros((n, n))
    for i in range(n):
        own = reciprocal(i, k1)
        joined = set(own)
        for j in own:
            others = reciprocal(j, round(k1 / 2))
            if len(own & others) > 2 / 3 * len(others):
                joined |= others
        for j in joined:
            weights[i, j] = math.exp(-known[i, j])
        weights[i] /= weights[i].sum()
    weights = np.stack([weights[order[i][:k2]].mean(0) for i in range(n)])
    found = np.empty((queries, n - queries))
    for i in range(queries):
        for j in range(queries, n):
            shared = np.minimum(weights[i], weights[j]).sum()
            jaccard = 1 - shared / np.maximum(weights[i], weights[j]).sum()
            found[i, j - queries] = 1 - (share * distance[i, j] + (1 - share) * jaccard)
    return found


@st.composite
def symmetric(draw: st.DrawFn) -> np.ndarray:
    """Scores of 2 to 80 crops, few of them different, or nearly all, exact in float32."""
    n = draw(st.one_of(st.integers(2, 12), st.integers(2, 80)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    levels = draw(st.sampled_from([1, 2, 5, 10**6]))
    half = np.tril(rng.integers(-levels, levels, (n, n)))
    return (half + np.tril(half, -1).T).astype(np.float64)


@st.composite
def all_settings(draw: st.DrawFn) -> RerankSettings:
    neighbours = draw(st.sampled_from([1, 2, 3, 5, 20, 100]))
    return RerankSettings(
        neighbours=neighbours,
        expansion=draw(st.integers(1, min(8, neighbours))),
        original=draw(st.sampled_from([0.0, 0.3, 1.0])),
    )


def by_blocks(scores: np.ndarray, queries: int, settings: RerankSettings) -> np.ndarray:
    of_all = torch.from_numpy(scores).float()
    q, g = of_all[:queries], of_all[queries:]
    return rerank_scores(q[:, :queries], q[:, queries:], g[:, queries:], settings)


@pytest.mark.parametrize(("block", "chunk", "rows"), [(1, 1, 1), (1500, 3, 5), (1 << 24, 32, 64)])
@given(scores=symmetric(), settings=all_settings(), part=st.floats(0, 1))
def test_equals_a_transcription_in_blocks_of_any_size(
    block: int, chunk: int, rows: int, scores: np.ndarray, settings: RerankSettings, part: float
) -> None:
    queries = 1 + round(part * (len(scores) - 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_BYTES", block)
        patch.setattr(module, "_CHUNK", chunk)
        patch.setattr(module, "_ROWS", rows)
        found = by_blocks(scores, queries, settings)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow(scores, queries, settings), rtol=0, atol=1e-6)


@given(seed=st.integers(0, 10**6), n=st.integers(2, 60), settings=all_settings())
def test_features_that_are_equal_are_ties(seed: int, n: int, settings: RerankSettings) -> None:
    # Whole numbers: their distances are exact, however they are computed.
    points = np.random.default_rng(seed).integers(-2, 3, (n, 3)).astype(np.float32)
    queries = max(1, n // 4)
    scores = -np.square(points[:, None] - points[None]).sum(2, dtype=np.float64)
    found = rerank_features(*torch.from_numpy(points).split([queries, n - queries]), settings)
    np.testing.assert_allclose(found, slow(scores, queries, settings), rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [60, 500])
@pytest.mark.parametrize("settings", [PAPERS, RerankSettings(neighbours=7, expansion=1)])
def test_equals_the_published_algorithm(count: int, settings: RerankSettings) -> None:
    vectors, _, _ = people(count, 32, seed=1)
    queries = count // 5
    found = rerank_features(*torch.from_numpy(vectors).split([queries, count - queries]), settings)
    expected = published(vectors[:queries], vectors[queries:], settings)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_scores_that_are_the_cosine_are_the_features() -> None:
    vectors = torch.from_numpy(people(300, 48, seed=2)[0])
    q, g = vectors[:70], vectors[70:]
    expected = rerank_features(q, g, PAPERS)
    by_scores = rerank_scores(q @ q.T, q @ g.T, g @ g.T, PAPERS)
    np.testing.assert_allclose(by_scores, expected, rtol=0, atol=1e-6)
    by_scorer = rerank(lambda rows, columns: vectors[rows] @ vectors[columns].T, 70, 230, PAPERS)
    np.testing.assert_allclose(by_scorer, expected, rtol=0, atol=1e-6)
    assert (expected >= -1e-6).all()
    assert (expected <= 1 + 1e-6).all()


@given(scores=symmetric(), gain=st.sampled_from([2**-9, 1.0, 64.0]), zero=st.integers(-999, 999))
def test_the_unit_and_zero_of_scores_do_not_matter(
    scores: np.ndarray, gain: float, zero: int
) -> None:
    # Where float32 holds them: else different scores become ties.
    small = scores % 1000
    small = np.tril(small) + np.tril(small, -1).T
    found = by_blocks(gain * (small + zero), 1, PAPERS)
    np.testing.assert_allclose(found, by_blocks(small, 1, PAPERS), rtol=0, atol=1e-6)


def test_any_rising_map_keeps_the_neighbours() -> None:
    scores = np.random.default_rng(3).normal(size=(90, 90))
    scores += scores.T
    seen = []
    for rising in (scores, np.exp(scores), scores**3):
        of_all = torch.from_numpy(rising).float()
        kept = module._nearest(
            lambda rows, columns, of_all=of_all: of_all[rows][:, columns],
            np.empty((9, 81), np.float32), 20,
        )  # fmt: skip
        seen.append(kept.nearest)
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], seen[2])


def test_the_scorers_block_is_left_as_it_was() -> None:
    of_all = torch.randn(40, 40, generator=torch.Generator().manual_seed(0))
    of_all += of_all.T.clone()
    before = of_all.clone()
    rerank(lambda rows, columns: of_all[rows][:, columns], 10, 30, PAPERS)
    assert torch.equal(of_all, before)


def test_all_pairs_are_scored_once_and_few_again() -> None:
    vectors = torch.from_numpy(people(2000, 32)[0])
    asked = []

    def score(rows: module.Chosen, columns: module.Chosen) -> torch.Tensor:
        found = vectors[rows] @ vectors[columns].T
        asked.append((isinstance(columns, slice), found.numel()))
        for chosen in (rows, columns):
            assert isinstance(chosen, slice) or (chosen.diff() > 0).all()
        return found

    rerank(score, 400, 1600, PAPERS)
    assert sum(pairs for whole, pairs in asked if whole) == 2000**2
    assert 0 < sum(pairs for whole, pairs in asked if not whole) < 2000**2 / 4


def test_a_crop_that_is_not_the_best_match_of_itself_is_still_its_nearest() -> None:
    scores = np.random.default_rng(5).integers(0, 50, (30, 30)).astype(np.float64)
    scores += scores.T
    np.fill_diagonal(scores, -7)
    found = by_blocks(scores, 6, PAPERS)
    np.testing.assert_allclose(found, slow(scores, 6, PAPERS), rtol=0, atol=1e-6)


def test_people_are_told_apart_better() -> None:
    vectors, identities, _ = people(1000, 64, seed=4)
    q, g = torch.from_numpy(vectors).split([200, 800])
    same = identities[:200, None] == identities[200:]

    def precision(scores: np.ndarray) -> float:
        best = np.argsort(-scores, axis=1)[:, :20]
        return float(np.take_along_axis(same, best, axis=1).mean())

    assert precision(rerank_features(q, g, PAPERS)) > precision((q @ g.T).numpy()) + 0.05


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"expansion": 21}, r"expansion \(k2\) 21 is over more crops than neighbours \(k1\) 20"),
        ({"original": 1.5}, "setting 'original': input should be less than or equal to 1"),
        ({"original": -0.1}, "setting 'original': input should be greater than or equal to 0"),
        ({"neighbours": 0}, "setting 'neighbours': input should be greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        checked(RerankSettings, values)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("crop", [0, 1, 4])
def test_scores_that_are_not_finite_are_refused(bad: float, crop: int) -> None:
    features = torch.eye(5)
    features[crop, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinite and cannot be re-ranked"):
        rerank_features(features[:2], features[2:], PAPERS)
    scores = np.zeros((5, 5))
    scores[crop, crop] = bad
    with pytest.raises(ValueError, match=rf"scores of crop {crop} \(queries first, from 0\) are"):
        by_blocks(scores, 2, PAPERS)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"crops against all 5 have the shape \(5, 4\)"):
        rerank(lambda _, __: torch.zeros(5, 4), 2, 3, PAPERS)
    for queries, gallery in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match=f"{queries} queries and {gallery} gallery crops"):
            rerank(lambda _, __: torch.zeros(3, 3), queries, gallery, PAPERS)
    # Under test, jaxtyping refuses shapes before the function's own checks are reached.
    unchecked = inspect.unwrap(rerank_scores)
    with pytest.raises(ValueError, match=r"among themselves, found \(2, 2\) and \(2, 3\)"):
        unchecked(torch.zeros(2, 2), torch.zeros(2, 3), torch.zeros(2, 3), PAPERS)
