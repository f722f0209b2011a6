"""Scoring sparse pairs, and embedding what is distinct."""

import numpy as np
import pytest
import torch

from rayreid.checkpoint import Trained
from rayreid.method import Method
from rayreid.serve.pairs import (
    WASTE,
    Comparison,
    blocks,
    call_cost,
    embed_distinct,
    score_pairs,
    score_together,
)
from tests.serve.pictures import decoded, picture


class Counting(Method):
    """Scores by the sum of an image's pixels, and counts what it is asked."""

    def __init__(self, bytes_of_pair: int = 4):
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.embedded: list[int] = []
        self.scored: list[int] = []
        self.bytes_of_pair = bytes_of_pair

    def embed(self, images):
        self.embedded.append(len(images))
        return images.flatten(1).sum(1, keepdim=True)

    def score(self, queries, gallery):
        self.scored.append(len(queries) * len(gallery))
        return queries - gallery.T / 2

    def pair_bytes(self, _embedding):
        return self.bytes_of_pair

    def forward(self, _batch):
        return {}


def some_pairs() -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    return {
        "one": np.array([[3, 4]]),
        "itself": np.array([[3, 3]]),
        "disjoint": np.arange(40).reshape(20, 2),
        "one to all": np.stack([np.full(40, 7), np.arange(40)], 1),
        "all": np.stack(np.meshgrid(np.arange(40), np.arange(40)), -1).reshape(-1, 2),
        "each with each": np.stack(np.triu_indices(40, 1), 1),
        "random": draws.integers(0, 40, (300, 2)),
        "repeated": draws.integers(0, 3, (50, 2)),
        "none": np.zeros((0, 2), np.int64),
    }


@pytest.mark.parametrize("free", [1, 30, 4096])
@pytest.mark.parametrize("kind", some_pairs())
def test_pairs_score_as_in_the_matrix_of_all(trained: Trained, kind: str, free: int) -> None:
    pairs = some_pairs()[kind]
    channels = trained.method.metric.norm.num_features
    embeddings = torch.randn(40, channels, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        matrix = trained.method.score(embeddings, embeddings).numpy()
    scores = score_pairs(trained.method, list(embeddings), pairs, free=free)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, matrix[pairs[:, 0], pairs[:, 1]], atol=1e-5)


@pytest.mark.parametrize("free", [1, 30, 4096])
@pytest.mark.parametrize("kind", some_pairs())
def test_blocks_hold_every_pair_once_and_little_else(kind: str, free: int) -> None:
    pairs = some_pairs()[kind]
    seen: list[int] = []
    for lefts, rights, asked in blocks(pairs, free):
        assert len(set(lefts)) == len(lefts)
        assert len(set(rights)) == len(rights)
        assert set(pairs[asked, 0]) == set(lefts)
        assert set(pairs[asked, 1]) == set(rights)
        distinct = len(np.unique(pairs[asked], axis=0))
        assert len(lefts) * len(rights) <= max(free, WASTE * distinct)
        seen += asked
    assert sorted(seen) == list(range(len(pairs)))


def test_pairs_are_scored_in_tiles_of_bounded_memory() -> None:
    # A tile takes a gigabyte at most.
    method = Counting(bytes_of_pair=256 * 2**20)
    embeddings = [torch.full((1,), float(i)) for i in range(40)]
    scores = score_pairs(method, embeddings, some_pairs()["all"])
    assert max(method.scored) <= 4
    np.testing.assert_array_equal(scores, [a - b / 2 for a, b in some_pairs()["all"]])


def test_disjoint_pairs_do_not_cost_the_matrix_of_all() -> None:
    method = Counting()
    score_pairs(method, [torch.zeros(1)] * 40, some_pairs()["disjoint"], free=16)
    assert sum(method.scored) == 5 * 16


def test_a_call_costs_a_bounded_number_of_pairs(trained: Trained) -> None:
    channels = trained.method.metric.norm.num_features
    assert 1 <= call_cost(trained.method, torch.zeros(channels)) <= 4096


def test_images_of_one_key_are_embedded_once() -> None:
    method = Counting()
    a, b = decoded(picture(0)), decoded(picture(1))
    embeddings = embed_distinct(method, ["a", "b", "a", "b", "a"], [a, b, a, b, a])
    assert method.embedded == [2]
    sums = [float(pixels.astype(float).sum() / 255) for pixels in (a, b)]
    assert [e.item() for e in embeddings] == pytest.approx([*sums, *sums, sums[0]], rel=1e-5)


def test_requests_scored_together_get_their_own_scores() -> None:
    method = Counting()
    one = Comparison(["a", "b"], [torch.tensor([1.0]), torch.tensor([2.0])], np.array([[0, 1]]))
    two = Comparison(
        ["c", "b", "a"],
        [torch.tensor([3.0]), torch.tensor([2.0]), torch.tensor([1.0])],
        np.array([[2, 1], [0, 0], [0, 1]]),
    )
    first, second = score_together(method, [one, two], free=1)
    assert first.tolist() == [1 - 2 / 2]
    assert second.tolist() == [1 - 2 / 2, 3 - 3 / 2, 3 - 2 / 2]
    # (a, b), (c, c), (c, b): the pair that both asked for is scored once.
    assert sum(method.scored) == 3
