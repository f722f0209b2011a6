import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.matching.tiles import score_all
from rayreid.method import Method


class Products(Method):
    """A scorer of known memory that notes the tiles it was asked for."""

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
    assert sum(done) == q * g
