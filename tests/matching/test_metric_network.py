import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.matching.metric_network import (
    NEAR,
    MetricNetwork,
    _linear_scores,
    squared_difference,
)

DEPTHS = st.sampled_from([0, 1, 2])


def network(depth: int, seed: int = 0, channels: int = 6) -> MetricNetwork:
    """Return an M-Net whose statistics are those of some training, not their start values."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = MetricNetwork(channels, 8, depth)
        for _ in range(5):
            net.train()(squared_difference(torch.randn(64, channels), torch.randn(64, channels)))
        for parameter in net.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return net.eval()


def embeddings(seed: int, size: int) -> torch.Tensor:
    return torch.randn(size, 6, generator=torch.Generator().manual_seed(seed))


@given(depth=DEPTHS, seed=st.integers(0, 999))
def test_folded_scores_are_the_network_on_every_pair(depth: int, seed: int) -> None:
    net, q, g = network(depth, seed), embeddings(seed, 3), embeddings(seed + 1, 4)
    scores = net.score(q, g)
    with torch.no_grad():
        for i in range(3):
            for j in range(4):
                pair = ((q[i] - g[j]) * (q[i] - g[j]))[None]
                assert scores[i, j].item() == pytest.approx(net(pair).item(), abs=2e-5)
    assert scores.dtype == torch.float32


@given(depth=DEPTHS, seed=st.integers(0, 999))
def test_scores_are_symmetric(depth: int, seed: int) -> None:
    net, q, g = network(depth), embeddings(seed, 3), embeddings(seed + 1, 4)
    assert torch.allclose(net.score(q, g), net.score(g, q).T, atol=1e-5)


@given(depth=DEPTHS, seed=st.integers(0, 999))
def test_every_crop_with_itself_has_one_score(depth: int, seed: int) -> None:
    net, x = network(depth), embeddings(seed, 5)
    own = net.score(x, x).diagonal()
    assert torch.allclose(own, own[:1].expand(5), atol=1e-5)


@given(depth=DEPTHS, seed=st.integers(0, 999))
def test_scores_ignore_a_common_translation(depth: int, seed: int) -> None:
    net, q, g = network(depth), embeddings(seed, 3), embeddings(seed + 1, 4)
    shift = embeddings(seed + 2, 1)
    assert torch.allclose(net.score(q, g), net.score(q + shift, g + shift), atol=1e-4)


def test_expanded_and_direct_forms_agree_to_rounding_in_float64() -> None:
    net = network(0).double()
    q, g = embeddings(1, 30), embeddings(2, 40)
    with torch.no_grad():
        pairs = (q.double()[:, None] - g.double()[None]).square().flatten(0, 1)
        direct = net(pairs).view(30, 40)
    error = (network(0).score(q, g).double() - direct).abs().max()
    assert error < 1e-5 * direct.std()


@given(depth=DEPTHS, seed=st.integers(0, 99))
def test_products_of_linear_vectors_are_the_tangent_at_a_near_pair(depth: int, seed: int) -> None:
    net, q, g = network(depth, seed), embeddings(seed, 3), embeddings(seed + 1, 4)
    at = (NEAR * net.norm.running_mean).double().requires_grad_()
    value = net.double()(at[None])[0]
    (slope,) = torch.autograd.grad(value, at)
    pairs = (q[:, None] - g[None]).double().square()
    expected = value.item() + (pairs - at.detach()) @ slope
    with torch.no_grad():
        vectors = net.float().linear_vectors
        found = vectors(q, queries=True) @ vectors(g, queries=False).T
        if not depth:
            assert torch.allclose(found, net.score(q, g), atol=1e-4)
    assert torch.allclose(found.double(), expected, atol=1e-3, rtol=1e-3)


@given(depth=DEPTHS, seed=st.integers(0, 99), scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_vectors_cost_no_more_than_the_expanded_form(depth: int, seed: int, scale: float) -> None:
    net = network(depth, seed, 512)
    draws = torch.Generator().manual_seed(seed)
    # Near pairs beside large norms, where the expanded square cancels.
    q = scale * torch.randn(5, 512, generator=draws)
    g = q + 0.05 * scale * torch.randn(5, 512, generator=draws)
    with torch.no_grad():
        slope, shift = net.tangent(NEAR * net.norm.running_mean)
        vectors = net.linear_vectors(q, queries=True), net.linear_vectors(g, queries=False)
        found = vectors[0] @ vectors[1].T
        expanded = _linear_scores(q, g, slope, shift)
    squares = (q[:, None] - g[None]).double().square()
    direct = squares @ slope[0].double() + shift.double()
    norms = (q.square() @ slope[0].abs())[:, None] + g.square() @ slope[0].abs()
    rounding = torch.finfo(torch.float32).eps * (norms + shift.abs())
    assert ((found - direct).abs() <= 4 * rounding).all()
    assert ((expanded - direct).abs() <= 4 * rounding).all()


def test_frozen_is_eval_mode_in_training() -> None:
    net = network(1)
    pairs = squared_difference(embeddings(3, 7), embeddings(4, 7))
    expected = net(pairs)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert torch.allclose(net.frozen(pairs), expected, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_difference_is_formed_in_fp32() -> None:
    a = torch.tensor([[1.0]]).bfloat16()
    b = torch.tensor([[1.0078125]]).bfloat16()
    assert squared_difference(a, b).dtype == torch.float32
    assert squared_difference(a, b).item() == pytest.approx(0.0078125**2)
