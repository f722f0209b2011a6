import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.nn.reciprocal import jaccard_distances


def slow(points: torch.Tensor, k1: int, k2: int) -> torch.Tensor:
    """Transcribe the paper's sets, crop by crop."""
    n = len(points)
    squared = [[(a - b).square().sum().item() for b in points] for a in points]
    order = [sorted(range(n), key=lambda j, i=i: squared[i][j]) for i in range(n)]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    weights = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        own = reciprocal(i, k1)
        joined = set(own)
        for q in own:
            others = reciprocal(q, round(k1 / 2))
            if len(own & others) > 2 / 3 * len(others):
                joined |= others
        for j in joined:
            weights[i, j] = torch.tensor(-squared[i][j]).exp()
        weights[i] /= weights[i].sum()
    expanded = torch.stack([weights[order[i][:k2]].mean(0) for i in range(n)])
    found = torch.empty(n, n)
    for i in range(n):
        for j in range(n):
            low, high = torch.stack([expanded[i], expanded[j]]).aminmax(dim=0)
            found[i, j] = 1 - low.sum() / high.sum()
    return found


@given(seed=st.integers(0, 999), n=st.integers(2, 14), k1=st.integers(1, 6), k2=st.integers(1, 3))
def test_distances_are_the_papers(seed: int, n: int, k1: int, k2: int) -> None:
    points = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    assert jaccard_distances(points, k1, k2) == pytest.approx(slow(points, k1, k2), abs=1e-4)


def test_distances_are_symmetric_and_zero_to_oneself() -> None:
    points = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    found = jaccard_distances(points)
    assert torch.allclose(found, found.T, atol=1e-6)
    assert found.diagonal().abs().max() < 1e-5
    assert found.min() > -1e-5
    assert found.max() <= 1


def test_groups_apart_share_no_neighbours() -> None:
    generator = torch.Generator().manual_seed(2)
    centres = 20 * torch.eye(3).repeat_interleave(8, 0)
    found = jaccard_distances(centres + 0.1 * torch.randn(24, 3, generator=generator), 5, 2)
    same = torch.arange(24)[:, None] // 8 == torch.arange(24) // 8
    assert (found[~same] == 1).all()
    assert found[same].max() < 1
