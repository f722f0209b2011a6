"""Scores of all pairs, a tile at a time, in bounded memory."""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from rayreid.method import Method

TILE_BYTES = 256 * 2**20
"""Working memory of one tile."""

ROWS_BYTES = 128 * 2**20
"""Scores of the rows that come together where not all of them are kept."""


@torch.inference_mode()
def score_all(
    method: Method,
    queries: Float[Tensor, "q *e"],
    gallery: Float[Tensor, "g *e"],
    *,
    tile_bytes: int = TILE_BYTES,
    progress: Callable[[int], None] | None = None,
) -> Float[Tensor, "q g"]:
    """Return ``method.score`` of all pairs, in fp32 on the CPU.

    ``progress`` is called with the number of pairs scored since its last call.
    """
    pairs = max(1, tile_bytes // method.pair_bytes(tuple(gallery.shape[1:])))
    # Square: every tile reads its rows and its columns once.
    columns = min(len(gallery), max(1, math.isqrt(pairs)))
    rows = max(1, pairs // max(columns, 1))
    scores = torch.empty(len(queries), len(gallery))
    for top in range(0, len(queries), rows):
        for left in range(0, len(gallery), columns):
            tile = method.score(queries[top : top + rows], gallery[left : left + columns])
            scores[top : top + rows, left : left + columns] = tile
            if progress:
                progress(tile.numel())
    return scores


def score_rows(
    method: Method,
    queries: Float[Tensor, "q *e"],
    gallery: Float[Tensor, "g *e"],
    *,
    rows_bytes: int = ROWS_BYTES,
) -> Iterator[tuple[int, Float[Tensor, "r g"]]]:
    """Yield the number of a first query, and the scores of some queries from there on.

    In turn, so that scores which are dropped after use are never all held.
    """
    rows = max(1, rows_bytes // (4 * max(1, len(gallery))))
    for start in range(0, len(queries), rows):
        yield start, score_all(method, queries[start : start + rows], gallery)
