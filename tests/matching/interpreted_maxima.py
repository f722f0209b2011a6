"""The kernels, run by triton's interpreter; started by `test_fused_maxima`.

bf16 is left out: the interpreter's products of it are wrong.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rayreid.benchmark.gpu_matching import CANDIDATES, plain_maxima, plain_scores
from rayreid.matching import fused_maxima, maxima, query_adaptive
from rayreid.matching.fused_maxima import (
    Tiling,
    correlation_maxima,
    weighted_maxima,
    winners,
)
from tests.matching.test_query_adaptive import MatchHead, random, spread

SEEDS = st.integers(0, 10**6)
# An example may take a second, and hundreds to shrink.
FEW = settings(max_examples=6, phases=[Phase.generate])
TILINGS = (
    Tiling(16, 1, 1, 32, held=True, warps=4, stages=2),
    Tiling(16, 2, 4, 32, held=True, warps=4, stages=2),
    Tiling(16, 4, 2, 16, held=False, warps=4, stages=2),
    None,
)


def alike(seed: int, q: int, g: int, c: int, n: int) -> tuple[Tensor, Tensor]:
    """Return normalised queries, and a gallery that is more and less like them."""
    queries, noise = random(seed, q, c, n), random(seed + 1, g, c, n)
    share = torch.linspace(0, 1, g)[:, None, None]
    gallery = share * queries[torch.arange(g) % q] + (1 - share) * noise
    return F.normalize(queries, dim=1), F.normalize(gallery, dim=1)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float16, 1e-3)])
@pytest.mark.parametrize(
    ("q", "g", "c", "n"), [(2, 5, 3, 7), (3, 4, 64, 50), (2, 3, 128, 192), (1, 2, 512, 192)]
)
def test_error_is_small_beside_the_deviation(
    dtype: torch.dtype, most: float, q: int, g: int, c: int, n: int
) -> None:
    maps = alike(1, q, g, c, n)
    weights = random(2, n).abs() / n
    rounded = [side.to(dtype) for side in maps]
    of_rounded = plain_maxima(*(side.double() for side in rounded))
    for found, wanted in zip(correlation_maxima(*rounded), of_rounded, strict=True):
        assert found.dtype == torch.float32
        assert (found - wanted).abs().max() < 1e-6, "sums in fp32"
    scores = weighted_maxima(*rounded, weights)
    wanted = plain_scores(*(side.double() for side in maps), weights.double())
    assert (scores - wanted).abs().max() < most * wanted.std()


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
@given(
    seed=SEEDS,
    q=st.integers(1, 5),
    g=st.integers(1, 9),
    c=st.integers(1, 32),
    n=st.integers(1, 40),
    programs=st.sampled_from([1, 2048]),
)
@FEW
def test_maxima_of_any_shape(
    tiling: Tiling | None, seed: int, q: int, g: int, c: int, n: int, programs: int
) -> None:
    queries, gallery = random(seed, q, c, n), random(seed + 1, g, c, n)
    weights = random(seed + 2, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_maxima, "PROGRAMS", programs)
        forth, back = correlation_maxima(queries, gallery, tiling)
        scores = weighted_maxima(queries, gallery, weights, tiling)
    for found, wanted in zip((forth, back), plain_maxima(queries, gallery), strict=True):
        assert torch.allclose(found, wanted, atol=1e-4)
    assert torch.allclose(scores, (forth + back) @ weights, atol=1e-3)


@pytest.mark.parametrize(
    "tiling", {t.queries * 8 + t.maps + 64 * t.held: t for t in CANDIDATES}.values(), ids=str
)
def test_tilings_that_are_measured_give_the_same(tiling: Tiling) -> None:
    queries, gallery = random(3, 3, 128, 70), random(4, 5, 128, 70)
    weights = random(5, 70)
    found = weighted_maxima(queries, gallery, weights, tiling)
    assert torch.allclose(found, plain_scores(queries, gallery, weights), atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_padding_does_not_win_over_negative_products(tiling: Tiling | None) -> None:
    queries, gallery = random(1, 2, 3, 7).abs() + 1, -random(2, 3, 3, 7).abs() - 1
    for found, wanted in zip(
        correlation_maxima(queries, gallery, tiling), plain_maxima(queries, gallery), strict=True
    ):
        assert found.max() < -2
        assert torch.allclose(found, wanted, atol=1e-5)


def test_slices_of_a_stack_of_maps() -> None:
    queries, gallery = random(1, 3, 2, 32, 16), random(2, 4, 2, 32, 16)
    for found, wanted in zip(
        correlation_maxima(queries[:, 1], gallery[:, 1]),
        plain_maxima(queries[:, 1], gallery[:, 1]),
        strict=True,
    ):
        assert torch.allclose(found, wanted, atol=1e-4)


def test_nothing_with_nothing() -> None:
    forth, back = correlation_maxima(random(1, 0, 4, 5), random(1, 3, 4, 5))
    assert forth.shape == back.shape == (0, 3, 5)


def test_gradients_are_not_lost_silently() -> None:
    maps = random(1, 2, 4, 5).requires_grad_()
    with pytest.raises(AssertionError):
        correlation_maxima(maps, maps)


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the kernels for maps that are on no GPU."""
    for module in (maxima, query_adaptive):
        monkeypatch.setattr(module, "on_kernels", lambda _: True)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("hidden", [0, 5])
def test_scores_are_those_of_the_folded_head(hidden: int) -> None:
    head = spread(MatchHead(20, hidden)).eval()
    queries, gallery = alike(7, 3, 4, 16, 20)
    with torch.no_grad():
        found = head.match(queries, gallery)
    wanted = head.frozen(*plain_maxima(queries, gallery))
    assert torch.allclose(found, wanted, atol=1e-4, rtol=1e-4)


@given(seed=SEEDS, b=st.integers(1, 3), c=st.integers(1, 20), n=st.integers(1, 40))
@FEW
def test_the_first_of_equal_matches_wins(seed: int, b: int, c: int, n: int) -> None:
    maps = random(seed, b, c, n).round()
    best, place = winners(maps)
    products = torch.einsum("pcs,gcr->pgsr", maps, maps)
    assert torch.equal(best, products.amax(3))
    assert torch.equal(place.long(), (products == best[..., None]).int().argmax(3))


@pytest.mark.usefixtures("everywhere")
@given(seed=SEEDS, b=st.integers(1, 3), n=st.integers(1, 40))
@FEW
def test_gradient_is_autograds_through_both_maxima(seed: int, b: int, n: int) -> None:
    maps = random(seed, b, 6, n).requires_grad_()
    exact = maps.detach().double().requires_grad_()
    weights = random(seed + 1, 2, b, b, n)
    forth, back = maxima.self_maxima(maps)
    (found,) = torch.autograd.grad((forth * weights[0] + back * weights[1]).sum(), maps)
    wanted_forth, wanted_back = plain_maxima(exact, exact)
    loss = (wanted_forth * weights[0] + wanted_back * weights[1]).sum()
    (wanted,) = torch.autograd.grad(loss, exact)
    assert torch.allclose(forth.double(), wanted_forth, atol=1e-4)
    assert torch.allclose(back.double(), wanted_back, atol=1e-4)
    assert torch.allclose(found.double(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("everywhere")
def test_autocast_rounds_the_maps() -> None:
    maps = F.normalize(random(2, 3, 16, 12), dim=1).requires_grad_()
    with torch.autocast("cpu", torch.float16):
        forth, back = maxima.self_maxima(maps)
    assert forth.dtype == back.dtype == torch.float32
    assert torch.allclose(forth, plain_maxima(maps, maps)[0], atol=2e-3)
    rounded = maps.detach().half().float().requires_grad_()
    gradients = [
        torch.autograd.grad(side.sum(), leaf)[0]
        for side, leaf in ((forth, maps), (plain_maxima(rounded, rounded)[0], rounded))
    ]
    assert gradients[0].dtype == torch.float32
    assert torch.allclose(*gradients, atol=1e-2)
