import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.matching import products
from rayreid.matching.products import WAYS, half_type, product

SIDES = st.integers(1, 70)


@given(m=SIDES, n=SIDES, k=st.integers(1, 9), seed=st.integers(0, 99), turned=st.booleans())
def test_every_way_is_the_product(m: int, n: int, k: int, seed: int, turned: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)
    if turned:
        a, b = (x.T.contiguous().T for x in (a, b))
    exact = a.double() @ b.double().T
    for way in (*WAYS, product):
        found = way(a, b)
        assert found.dtype == torch.float32
        assert torch.allclose(found.double(), exact, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_other_types_stay_what_they_are(kind: torch.dtype) -> None:
    a, b = torch.ones(40, 3, dtype=kind), torch.ones(20, 3, dtype=kind)
    assert torch.equal(product(a, b), torch.full((40, 20), 3.0, dtype=kind))


def test_products_without_rows_are_empty() -> None:
    assert product(torch.zeros(0, 3), torch.zeros(5, 3)).shape == (0, 5)
    assert product(torch.zeros(5, 3), torch.zeros(0, 3)).shape == (5, 0)


@pytest.mark.parametrize("quick", range(3))
def test_the_way_that_was_quickest_is_taken(quick: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [1.0] * 3
    taken[quick] = 0.5
    monkeypatch.setattr(products, "_seconds", lambda way, _a, _b: taken[WAYS.index(way)])
    assert products._fastest.__wrapped__((32, 32, 3), 1) is WAYS[quick]


def test_what_is_hardly_quicker_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [1.0, 0.95, 0.9]
    monkeypatch.setattr(products, "_seconds", lambda way, _a, _b: taken[WAYS.index(way)])
    assert products._fastest.__wrapped__((32, 32, 3), 1) is WAYS[0]


@given(m=st.integers(1, 10**6), n=st.integers(1, 10**6), k=st.integers(1, 10**4))
def test_shapes_that_are_timed_are_small(m: int, n: int, k: int) -> None:
    rows, columns, depth = products._alike(m, n, k)
    assert rows * columns * depth <= max(products.TIMED_PRODUCTS, k)
    assert 1 <= rows <= m
    assert 1 <= columns <= n
    assert depth == k


def test_half_precision_is_what_autocast_asks_for() -> None:
    cpu = torch.device("cpu")
    assert half_type(cpu) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert half_type(cpu) == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert half_type(cpu) is None
