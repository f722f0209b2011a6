import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.nn.losses import batch_hard_triplet_loss, identity_loss, squared_distances


def features(seed: int, size: int, channels: int = 5) -> torch.Tensor:
    return torch.randn(size, channels, generator=torch.Generator().manual_seed(seed)).double()


def slow_triplet(x: torch.Tensor, y: list[int], margin: float) -> float:
    """Transcribe Hermans et al. (2017), eq. 5, anchor by anchor."""
    terms = []
    for a in range(len(y)):
        own = [math.dist(x[a], x[p]) for p in range(len(y)) if y[p] == y[a] and p != a]
        other = [math.dist(x[a], x[n]) for n in range(len(y)) if y[n] != y[a]]
        if own and other:
            gap = max(own) - min(other)
            terms.append(max(0.0, margin + gap) if margin else math.log1p(math.exp(gap)))
    return sum(terms) / len(terms) if terms else 0.0


@given(
    seed=st.integers(0, 10**6),
    identities=st.lists(st.integers(0, 3), min_size=2, max_size=9),
    margin=st.sampled_from([0.0, 0.3, 2.0]),
)
def test_triplet_is_its_equation(seed: int, identities: list[int], margin: float) -> None:
    x = features(seed, len(identities))
    loss = batch_hard_triplet_loss(x.float(), torch.tensor(identities), margin)
    assert loss.item() == pytest.approx(slow_triplet(x.float(), identities, margin), abs=1e-5)


def test_triplet_of_equal_crops_has_a_finite_gradient() -> None:
    x = torch.zeros(4, 3, requires_grad=True)
    batch_hard_triplet_loss(x, torch.tensor([0, 0, 1, 1]), 0.3).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@given(seed=st.integers(0, 10**6))
def test_distances_are_squared_euclidean(seed: int) -> None:
    a, b = features(seed, 4), features(seed + 1, 3)
    slow = torch.tensor([[math.dist(p, q) ** 2 for q in b] for p in a])
    assert torch.allclose(squared_distances(a, b), slow.float(), atol=1e-4)


def test_identity_loss_is_smoothed_cross_entropy() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    log_p = torch.log_softmax(logits, 1)[0]
    target = torch.tensor([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])
    loss = identity_loss(logits, torch.tensor([0]), 0.1)
    assert loss.item() == pytest.approx(-(target * log_p).sum().item(), abs=1e-6)
