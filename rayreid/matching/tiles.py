"""Scores of all pairs, a tile at a time, in bounded memory."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from rayreid.method import Method

TILE_BYTES = 256 * 2**20
"""Working memory of one tile."""


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
