import math
import subprocess
import sys

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.matching import memory
from rayreid.matching.tiles import score_all, score_rows
from rayreid.method import Method


class Products(Method):
    """A scorer of known memory that notes the tiles it was asked for."""

    symmetric = True

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.tiles: list[int] = []

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)

    def pair_bytes(self, embedding: tuple[int, ...]) -> int:
        return 10 * embedding[0]

    def score(self, queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
        self.tiles.append(len(queries) * len(gallery))
        return queries @ gallery.T

    def forward(self, batch: object) -> dict[str, torch.Tensor]:
        raise AssertionError(f"scoring learns nothing from {batch}")


@given(q=st.integers(1, 9), g=st.integers(1, 9), pairs=st.integers(1, 100))
def test_tiles_cover_every_pair_once_within_the_memory(q: int, g: int, pairs: int) -> None:
    method, queries, gallery = Products(), torch.randn(q, 3), torch.randn(g, 3)
    done: list[int] = []
    scores = score_all(method, queries, gallery, tile_bytes=30 * pairs, progress=done.append)
    assert torch.allclose(scores, queries @ gallery.T, atol=1e-6)
    assert max(method.tiles) <= pairs
    assert sum(method.tiles) == sum(done) == q * g


@given(n=st.integers(1, 12), pairs=st.integers(1, 100))
def test_a_set_with_itself_is_scored_once_a_pair(n: int, pairs: int) -> None:
    method, crops = Products(), torch.randn(n, 3)
    done: list[int] = []
    scores = score_all(method, crops, crops, tile_bytes=30 * pairs, progress=done.append)
    assert torch.allclose(scores, crops @ crops.T, atol=1e-6)
    assert sum(done) == n * n
    diagonal = max(method.tiles)
    assert sum(method.tiles) <= n * (n + 1) / 2 + n * max(1, pairs // max(1, math.isqrt(pairs)))
    assert diagonal <= pairs


def test_a_scorer_that_is_not_symmetric_is_asked_for_all_pairs() -> None:
    method, crops = Products(), torch.randn(8, 3)
    method.symmetric = False
    score_all(method, crops, crops, tile_bytes=30)
    assert sum(method.tiles) == 64


@given(q=st.integers(0, 9), g=st.integers(1, 9), rows=st.integers(1, 9))
def test_rows_come_in_turn(q: int, g: int, rows: int) -> None:
    method, queries, gallery = Products(), torch.randn(q, 3), torch.randn(g, 3)
    blocks = list(score_rows(method, queries, gallery, rows_bytes=4 * g * rows))
    assert [start for start, _ in blocks] == list(range(0, q, rows))
    if blocks:
        found = torch.cat([scores for _, scores in blocks])
        assert torch.allclose(found, queries @ gallery.T, atol=1e-6)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_tile_that_does_not_fit_is_made_smaller(error: Exception) -> None:
    class Large(Products):
        def score(self, queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
            if len(queries) * len(gallery) > 7:
                raise error
            return super().score(queries, gallery)

    method, queries, gallery = Large(), torch.randn(9, 3), torch.randn(11, 3)
    done: list[int] = []
    scores = score_all(method, queries, gallery, tile_bytes=3000, progress=done.append)
    assert torch.allclose(scores, queries @ gallery.T, atol=1e-6)
    assert sum(done) == 99
    assert 7 >= max(method.tiles) >= 3


@pytest.mark.parametrize("message", ["can't allocate memory", "a shape is wrong"])
def test_what_does_not_fit_at_all_or_is_no_matter_of_memory_is_raised(message: str) -> None:
    class Broken(Products):
        def score(self, queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
            self.tiles.append(len(queries) * len(gallery))
            raise RuntimeError(message)

    method = Broken()
    with pytest.raises(RuntimeError, match=message):
        score_all(method, torch.randn(4, 3), torch.randn(4, 3), tile_bytes=480)
    assert method.tiles == ([16, 8, 4, 2, 1] if "memory" in message else [16])


def test_memory_that_there_is_not_is_survived() -> None:
    # The limit is real: a tile of a gigabyte under an address space of half of that to spare.
    answer = subprocess.run(
        [sys.executable, "-c", SCARCE], capture_output=True, text=True, timeout=100, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "did not fit" in answer.stderr


SCARCE = """
import logging, resource
import torch
from rayreid.matching import memory
from rayreid.matching.tiles import score_all, score_rows
from tests.matching.test_tiles import Products

logging.basicConfig(level=logging.INFO)
torch.set_num_threads(1)

class Wide(Products):
    def score(self, queries, gallery):
        pairs = queries[:, None] * gallery[None].expand(-1, -1, 3)
        return pairs.repeat(1, 1, 16).sum(2)[:, :] * 0 + queries @ gallery.T

method, x, y = Wide(), torch.randn(3000, 3), torch.randn(2000, 3)
expected = x @ y.T
score_all(method, x[:9], y[:9])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
scores = score_all(method, x, y, tile_bytes=30 * 3000 * 2000)
assert torch.allclose(scores, expected, atol=1e-5)
"""


# Memory.


def test_working_memory_is_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for free, share in ((0, 2**24), (2**30, 2**27), (2**40, 2**30)):
        monkeypatch.setattr(memory, "free_memory", lambda _, free=free: free)
        assert memory.working_memory(cpu) == share


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert 2**20 < memory.free_memory(cpu) <= psutil.virtual_memory().total
    monkeypatch.setattr(memory, "_of_machine", lambda: 1000)
    monkeypatch.setattr(memory, "_of_container", lambda: 70)
    assert memory.free_memory(cpu) == 70
    monkeypatch.setattr(memory, "_of_machine", lambda: None)
    monkeypatch.setattr(memory, "_of_container", lambda: None)
    assert memory.free_memory(cpu) == 0
