"""Maxima of correlations against loops over pairs and positions."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from rayreid.matching import maxima
from rayreid.matching.maxima import correlation_maxima, self_maxima

SEEDS = st.integers(0, 10**6)
SMALL = st.integers(1, 4)
SHIFTS = st.sampled_from([-1.0, 0.0, 1.0])


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_maxima(queries: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Return a[p, g, s] = max_r S[p, g, r, s] and b[p, g, r] = max_s S[p, g, r, s]."""
    n = queries.shape[2]
    correlation = queries.new_empty(len(queries), len(gallery), n, n)
    for p in range(len(queries)):
        for g in range(len(gallery)):
            for r in range(n):
                for s in range(n):
                    correlation[p, g, r, s] = (gallery[g, :, r] * queries[p, :, s]).sum()
    return correlation.amax(2), correlation.amax(3)


def plain_maxima(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `self_maxima` does, with the whole correlation and autograd's own gradient."""
    correlation = torch.einsum("pcs,gcr->pgrs", maps, maps)
    return correlation.amax(2), correlation.amax(3)


@given(seed=SEEDS, q=SMALL, g=SMALL, c=SMALL, n=SMALL)
def test_maxima_are_best_matches_of_positions(seed: int, q: int, g: int, c: int, n: int) -> None:
    queries, gallery = random(seed, q, c, n), random(seed + 1, g, c, n)
    for found, slow in zip(
        correlation_maxima(queries, gallery), slow_maxima(queries, gallery), strict=True
    ):
        assert torch.allclose(found, slow, atol=1e-5)


@given(seed=SEEDS, b=SMALL, c=SMALL, n=SMALL)
def test_maxima_of_a_batch_with_itself_are_the_same(seed: int, b: int, c: int, n: int) -> None:
    maps = random(seed, b, c, n)
    for found, slow in zip(self_maxima(maps), slow_maxima(maps, maps), strict=True):
        assert torch.allclose(found, slow, atol=1e-5)


@pytest.mark.parametrize("piece", [1, 2 * 4 * 25, 3 * 4 * 25])
def test_pieces_of_any_size_give_the_same(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, others = random(1, 7, 6, 5), random(2, 4, 6, 5)
    whole, itself = correlation_maxima(others, maps), self_maxima(maps)
    monkeypatch.setattr(maxima, "PIECE_BYTES", piece)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for found, expected in (
        *zip(correlation_maxima(others, maps), whole, strict=True),
        *zip(self_maxima(maps), itself, strict=True),
    ):
        assert torch.allclose(found, expected, atol=1e-6)


@given(seed=SEEDS, b=SMALL, c=SMALL, n=SMALL)
def test_gradient_is_that_of_autograd_through_both_maxima(
    seed: int, b: int, c: int, n: int
) -> None:
    maps = random(seed, b, c, n).double().requires_grad_()
    weights = random(seed + 1, 2, b, b, n).double()
    gradients = []
    for forth, back in (self_maxima(maps), plain_maxima(maps)):
        loss = (forth * weights[0] + back * weights[1]).sum()
        gradients.append(torch.autograd.grad(loss, maps)[0])
    assert torch.allclose(*gradients, atol=1e-10)


@given(seed=SEEDS, b=SMALL, n=SMALL)
def test_of_equal_best_matches_one_has_the_gradient(seed: int, b: int, n: int) -> None:
    # Maps of small whole numbers have many ties. Maxima of products are of degree 2 in the maps,
    # so whichever is chosen <x, gradient> is twice the loss; a tie counted twice is more.
    maps = random(seed, b, 2, n).double().round().requires_grad_()
    forth, back = self_maxima(maps)
    weights = random(seed + 1, 2, b, b, n).double()
    loss = (forth * weights[0] + back * weights[1]).sum()
    (gradient,) = torch.autograd.grad(loss, maps)
    assert (gradient * maps).sum().item() == pytest.approx(2 * loss.item(), abs=1e-9)


def test_gradient_of_maxima_passes_gradcheck() -> None:
    maps = random(1, 3, 4, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(self_maxima, maps)


def test_training_keeps_no_correlation() -> None:
    # Of 12 maps of 40 positions: a correlation of 900 KiB, winners and maps of 31 KiB.
    kept: list[int] = []
    maps = random(3, 12, 8, 40).requires_grad_()

    def packed(x: Tensor) -> Tensor:
        kept.append(x.nbytes)
        return x

    with torch.autograd.graph.saved_tensors_hooks(packed, lambda x: x):
        self_maxima(maps)
    assert sum(kept) < 64 * 1024 < 12 * 12 * 40 * 40 * 4


# Half precision.


@given(seed=SEEDS, q=SMALL, g=SMALL, n=st.integers(1, 9), shift=SHIFTS)
@example(seed=0, q=2, g=2, n=3, shift=-1.0)
def test_half_precision_is_the_rounded_product_of_rounded_maps(
    seed: int, q: int, g: int, n: int, shift: float
) -> None:
    # A shift of the queries' sign makes all products of some positions negative.
    queries, gallery = random(seed, q, 3, n), random(seed + 1, g, 3, n).abs()
    queries = queries.abs() * shift if shift else queries
    with torch.autocast("cpu", torch.bfloat16):
        found = correlation_maxima(queries, gallery)
    slow = slow_maxima(queries.bfloat16().double(), gallery.bfloat16().double())
    for one, other in zip(found, slow, strict=True):
        assert one.dtype == torch.float32
        assert torch.allclose(one.double(), other, rtol=2**-8, atol=1e-6)


@given(
    values=st.lists(
        st.floats(width=16, allow_subnormal=False) | st.just(-0.0), min_size=8, max_size=8
    )
)
def test_bits_are_compared_as_the_floats_they_are(values: list[float]) -> None:
    products = torch.tensor(values).view(2, 2, 2).bfloat16()
    for dim in (1, 2):
        expected = products.amax(dim)
        found = maxima._largest(products, dim)
        nan = expected.isnan()
        # A NaN beside a number may be lost along one side, where the other side has it alone.
        assert torch.equal(found[~nan], expected[~nan])


def test_nan_is_not_lost() -> None:
    maps = random(4, 3, 4, 5)
    maps[1, 0, 2] = torch.nan
    for context in (torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)):
        with context:
            forth, back = correlation_maxima(maps, random(5, 2, 4, 5))
        assert forth[1].isnan().any() or back[1].isnan().any()
        assert forth[[0, 2]].isfinite().all()


def test_training_in_bf16_is_near_fp32() -> None:
    maps = nn.functional.normalize(random(2, 4, 16, 12), dim=1).requires_grad_()
    exact = self_maxima(maps)
    with torch.autocast("cpu", torch.bfloat16):
        rough = self_maxima(maps)
    assert rough[0].dtype == torch.bfloat16
    for one, other in zip(exact, rough, strict=True):
        assert torch.allclose(one, other.float(), atol=0.02)
    (wanted,) = torch.autograd.grad(sum(side.sum() for side in exact), maps)
    (found,) = torch.autograd.grad(sum(side.float().sum() for side in rough), maps)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    # Near ties fall differently in bf16, so single positions may differ.
    assert nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.9
