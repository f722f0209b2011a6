"""Heads of query-adaptive matching against row by row transcriptions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rayreid.matching.query_adaptive import MatchHead

SEEDS = st.integers(0, 10**6)
SMALL = st.integers(1, 4)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch_norm(x: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """Return what training makes of [rows, channels, ...], by the statistics of this batch."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    mean = x.mean(axes, keepdim=True)
    variance = ((x - mean) ** 2).mean(axes, keepdim=True)
    shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
    gain, shift = norm.weight.view(shape), norm.bias.view(shape)
    return (x - mean) / (variance + norm.eps).sqrt() * gain + shift


def slow_head(head: MatchHead, forth: Tensor, back: Tensor) -> Tensor:
    """Return a head's scores in training, row by row of [p * g * 2, 1, n]."""
    q, g, n = forth.shape
    rows = [side[i, j] for i in range(q) for j in range(g) for side in (forth, back)]
    x = batch_norm(torch.stack(rows).view(q * g * 2, 1, n), head.norm)[:, 0]
    if head.hidden is not None:
        x = batch_norm(x @ head.hidden.weight.T, head.hidden_norm).clamp(min=0)
    logits = x @ head.logit.weight[0]
    summed = torch.stack([logits[i] + logits[i + 1] for i in range(0, 2 * q * g, 2)])
    return batch_norm(summed[:, None], head.score_norm).view(q, g)


def spread(head: MatchHead) -> MatchHead:
    """Put every weight and statistic far from its plain initial value."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        for parameter in head.parameters():
            parameter.normal_()
        for norm in head.modules():
            if isinstance(norm, nn.BatchNorm1d):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    return head


@given(seed=SEEDS, hidden=st.sampled_from([0, 1, 7]), q=st.integers(2, 4), n=st.integers(2, 5))
def test_head_is_its_equation_in_training(seed: int, hidden: int, q: int, n: int) -> None:
    head = spread(MatchHead(n, hidden)).train()
    maxima = random(seed, q, 3, n), random(seed + 1, q, 3, n)
    assert torch.allclose(head(*maxima), slow_head(head, *maxima), atol=1e-3, rtol=1e-3)


@given(seed=SEEDS, hidden=st.sampled_from([0, 1, 7]), b=st.integers(2, 4), n=st.integers(2, 5))
def test_a_set_with_itself_is_the_head_of_both_directions(
    seed: int, hidden: int, b: int, n: int
) -> None:
    found: list[list[Tensor]] = []
    for at_half_the_work in (False, True):
        head = spread(MatchHead(n, hidden)).train().double()
        forth = random(seed, b, b, n).double().requires_grad_()
        back = forth.transpose(0, 1)
        scores = head.with_itself(forth) if at_half_the_work else head(forth, back)
        (scores * random(seed + 1, b, b)).sum().backward()
        means = [m.running_mean for m in head.modules() if isinstance(m, nn.BatchNorm1d)]
        found.append([scores, forth.grad, *(p.grad for p in head.parameters()), *means])
    for whole, half in zip(*found, strict=True):
        assert torch.allclose(whole, half, atol=1e-7, rtol=1e-5)


@given(seed=SEEDS, hidden=st.sampled_from([0, 1, 7]), q=SMALL, g=SMALL)
def test_folded_head_is_the_head_with_frozen_statistics(
    seed: int, hidden: int, q: int, g: int
) -> None:
    head = spread(MatchHead(6, hidden)).eval()
    maxima = random(seed, q, g, 6), random(seed + 1, q, g, 6)
    assert torch.allclose(head.frozen(*maxima), head(*maxima), atol=1e-4, rtol=1e-4)


@given(seed=SEEDS)
def test_without_a_hidden_layer_a_score_is_affine_in_the_weighted_maxima(seed: int) -> None:
    head = spread(MatchHead(6, 0)).eval()
    forth, back = random(seed, 2, 3, 6), random(seed + 1, 2, 3, 6)
    k = [
        (norm.weight / (norm.running_var + norm.eps).sqrt()).item()
        for norm in (head.norm, head.score_norm)
    ]
    w, alpha = head.logit.weight[0], k[0] * k[1]
    # What a pair without any match comes to.
    centred = head.norm.bias.item() - k[0] * head.norm.running_mean.item()
    beta = k[1] * (2 * centred * w.sum() - head.score_norm.running_mean) + head.score_norm.bias
    for p in range(2):
        for g in range(3):
            total = sum(w[s] * (forth[p, g, s] + back[p, g, s]) for s in range(6))
            expected = (alpha * total + beta).item()
            assert head.frozen(forth, back)[p, g].item() == pytest.approx(expected, abs=1e-4)


@given(seed=SEEDS, hidden=st.sampled_from([0, 5]), training=st.booleans())
def test_directions_may_change_places(seed: int, hidden: int, training: bool) -> None:
    head = spread(MatchHead(6, hidden)).train(training)
    forth, back = random(seed, 3, 3, 6), random(seed + 1, 3, 3, 6)
    assert torch.allclose(head(forth, back), head(back, forth), atol=1e-4)
    assert torch.allclose(head.frozen(forth, back), head.frozen(back, forth), atol=1e-4)


def test_without_a_hidden_layer_a_head_starts_as_the_mean_over_positions() -> None:
    assert torch.equal(MatchHead(8, 0).logit.weight, torch.full((1, 8), 1 / 8))
    assert not torch.equal(MatchHead(8, 4).logit.weight, torch.full((1, 4), 1 / 4))


@pytest.mark.parametrize("hidden", [0, 4])
def test_head_passes_gradcheck(hidden: int) -> None:
    head = spread(MatchHead(5, hidden)).double().eval()
    maxima = [random(seed, 2, 3, 5).double().requires_grad_() for seed in (3, 4)]
    assert torch.autograd.gradcheck(head, maxima)
    weights = tuple(head.parameters())
    assert torch.autograd.gradcheck(lambda *_: head(*maxima), weights)
