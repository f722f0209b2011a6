import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.matching import shortlist
from rayreid.matching.shortlist import measured, shortlisted_rows
from rayreid.matching.tiles import score_all
from tests.matching.test_tiles import Products


class Rough(Products):
    """A scorer with an approximation that is off by some noise."""

    noise = 0.3

    def rough(self, embeddings: torch.Tensor, *, queries: bool) -> torch.Tensor:
        drawn = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(3))
        return embeddings + (0 if queries else self.noise * drawn)


def crops(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


@given(
    seed=st.integers(0, 999), q=st.integers(1, 6), g=st.integers(1, 12),
    length=st.integers(1, 14), rows=st.integers(1, 7),
)  # fmt: skip
def test_scores_on_the_list_are_exact_and_the_others_lie_below_in_rough_order(
    seed: int, q: int, g: int, length: int, rows: int
) -> None:
    method, queries, gallery = Rough(), crops(seed, q), crops(seed + 1, g)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortlist, "ROWS_BYTES", 4 * g * rows)
        done: list[int] = []
        parts = list(shortlisted_rows(method, queries, gallery, length, progress=done.append))
    assert [start for start, _ in parts] == list(range(0, q, rows))
    assert sum(done) == q * g
    scores, exact = torch.cat([part for _, part in parts]), queries @ gallery.T
    k = min(length, g)
    for start in range(0, q, rows):
        few = slice(start, start + rows)
        rough = method.approximate(queries[few], gallery)
        listed = torch.zeros_like(rough, dtype=torch.bool)
        listed.scatter_(1, rough.topk(k, dim=1).indices, True)
        for own, found, true, estimate in zip(listed, scores[few], exact[few], rough, strict=True):
            assert torch.allclose(found[own], true[own], atol=1e-6)
            if not own.all():
                assert found[~own].max() < found[own].min()
                order = estimate[~own].argsort()
                assert (found[~own][order].diff() >= 0).all()
    assert max(method.tiles) <= k


def test_a_list_of_all_is_the_full_matrix() -> None:
    method, queries, gallery = Rough(), crops(1, 5), crops(2, 9)
    ((_, scores),) = shortlisted_rows(method, queries, gallery, 100)
    assert torch.allclose(scores, score_all(method, queries, gallery), atol=1e-6)


@pytest.mark.parametrize(("noise", "kept"), [(0.0, 1.0), (0.3, 0.8), (100.0, 0.1)])
def test_what_is_lost_is_measured(noise: float, kept: float) -> None:
    method, queries, gallery = Rough(), crops(1, 300), crops(2, 200)
    method.noise = noise
    found = measured(method, queries, gallery, 20)
    assert found.queries == 60
    assert found.length == 20
    assert found.recall == pytest.approx(kept, abs=0.12)
    assert found.first >= found.recall - 0.1
    assert found.faster > 0
    # By hand, for the queries that are asked.
    few = queries[::5]
    rough, full = method.approximate(few, gallery), few @ gallery.T
    both = [
        len({*a.tolist()} & {*b.tolist()}) / 20
        for a, b in zip(rough.topk(20).indices, full.topk(20).indices, strict=True)
    ]
    assert found.recall == pytest.approx(sum(both) / len(both), abs=1e-6)
