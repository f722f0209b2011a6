import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rayreid.batch import Census, Crops, Domain
from rayreid.checkpoint import build
from rayreid.data.loading import LoadingSettings, Pixels
from rayreid.data.synthetic import draw_domain
from rayreid.experiment import compose
from rayreid.gallery import Target, best_matches, embed_crops, ranked, reranked_scores
from rayreid.matching import tiles
from rayreid.matching.tiles import score_all
from rayreid.method import Method
from rayreid.methods import METHODS
from rayreid.ranking.rerank import RerankSettings, rerank_scores
from tests.miniature import MINIATURE

LOADING = LoadingSettings(height=64, width=32)


def crops(identities: list[int], cameras: list[int]) -> Crops:
    images = np.zeros((len(identities), 64, 32, 3), np.uint8)
    return Crops("d", images, np.array(identities, np.int64), np.array(cameras, np.int64))


def test_embedding_in_batches_is_embedding_at_once() -> None:
    made = compose("baseline", {"sources": ["synthetic=snow"], "trunk.name": "test_resnet",
                                "trunk.weights": "none"})  # fmt: skip
    method = build(made, Census({"snow": 3})).train()
    domain = draw_domain(
        "snow", train_people=2, test_people=3, cameras=2, crops=2, height=64, width=32
    )
    pixels = Pixels(domain.gallery.images, LOADING)
    done: list[int] = []
    parts = embed_crops(method, pixels, batch=2, progress=done.append)
    assert torch.allclose(parts, embed_crops(method, pixels), atol=1e-5)
    assert method.training, "put back as it was"
    assert sum(done) == len(pixels)


def test_ranking_by_rows_is_ranking_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    made = compose("baseline", {"sources": ["synthetic=snow"], "trunk.name": "test_resnet",
                                "trunk.weights": "none"})  # fmt: skip
    method = build(made, Census({"snow": 3})).eval()
    domain = draw_domain(
        "snow", train_people=2, test_people=6, cameras=2, crops=3, height=64, width=32
    )
    target = Target(domain, LOADING)
    scores = target.scores(method)
    blocks: list[int] = []
    score_all = tiles.score_all

    def seen(method: Method, queries: Tensor, gallery: Tensor, **rest: object) -> Tensor:
        blocks.append(len(queries))
        return score_all(method, queries, gallery, **rest)

    monkeypatch.setattr(tiles, "score_all", seen)
    row = 4 * len(target.gallery)
    parts = list(tiles.score_rows(method, *target.embeddings(method), rows_bytes=5 * row))
    assert [start for start, _ in parts] == list(range(0, len(scores), 5))
    np.testing.assert_allclose(np.concatenate([part for _, part in parts]), scores, atol=1e-6)
    assert max(blocks) == 5
    assert target.rank(method) == ranked(scores, target.query, target.gallery)


@pytest.mark.parametrize("part", ["query", "gallery"])
def test_a_domain_without_crops_to_rank_is_named(part: str) -> None:
    whole, empty = crops([1], [1]), crops([], [])
    domain = Domain("d", whole, *((empty, whole) if part == "query" else (whole, empty)))
    with pytest.raises(ValueError, match=f"d has no {part} crops to rank"):
        Target(domain, LOADING)


@given(
    gallery=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=8),
    seed=st.integers(0, 99),
    count=st.integers(1, 8),
)
def test_best_matches_are_the_highest_scores_of_other_views(
    gallery: list[tuple[int, int]], seed: int, count: int
) -> None:
    scores = np.random.default_rng(seed).integers(0, 4, (1, len(gallery))).astype(np.float32)
    query = crops([0], [0])
    (best,) = best_matches(scores, query, crops(*map(list, zip(*gallery, strict=True))), count)
    slow = sorted(
        (i for i in range(len(gallery)) if gallery[i] != (0, 0)), key=lambda i: (-scores[0, i], i)
    )[:count]
    assert best[: len(slow)].tolist() == slow
    assert (best[len(slow) :] == -1).all()


@pytest.mark.parametrize("name", METHODS)
def test_any_methods_scores_are_re_ranked(name: str) -> None:
    made = compose(name, MINIATURE, {"seed": 0})
    method = build(made, Census({"snow": 3, "subway": 3})).eval()
    images = torch.rand(13, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        queries, gallery = method.embed(images).split([4, 9])
    settings = RerankSettings(neighbours=4, expansion=2)
    found = reranked_scores(method, queries, gallery, settings)
    pairs = (queries, queries), (queries, gallery), (gallery, gallery)
    expected = rerank_scores(*(score_all(method, *pair) for pair in pairs), settings)
    assert found == pytest.approx(expected, abs=1e-4)
