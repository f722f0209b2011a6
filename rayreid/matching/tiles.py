"""Scores of all pairs, a tile at a time, in bounded memory."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float
from torch import Tensor

from rayreid.matching.memory import working_memory
from rayreid.method import Method

log = logging.getLogger(__name__)

ROWS_BYTES = 128 * 2**20
"""Scores of the rows that come together where not all of them are kept."""

Progress = Callable[[int], None]


@torch.inference_mode()
def score_all(
    method: Method,
    queries: Float[Tensor, "q *e"],
    gallery: Float[Tensor, "g *e"],
    *,
    half: bool = False,
    tile_bytes: int = 0,
    progress: Progress | None = None,
) -> Float[Tensor, "q g"]:
    """Return ``method.score`` of all pairs, in fp32 on the CPU.

    A tile of pairs is as large as the memory at hand allows (``tile_bytes``; 0: a share of what
    is free) given the method's own cost of a pair; where there is not enough after all, smaller
    ones are tried. ``half`` lets scorers that bear it round the factors of their products to half
    precision. A set with itself (the same tensor twice) costs half where scores are symmetric.
    ``progress`` is called with the number of pairs that have their scores since its last call.

    Raises what the device does (`torch.OutOfMemoryError`, or `RuntimeError` on a CPU) where not
    even the scores of a pair find room.
    """
    scores = torch.empty(len(queries), len(gallery))
    cosine = type(method).score is Method.score and type(method).rough is Method.rough
    both = queries is gallery and (method.symmetric or cosine)
    pairs = _pairs(method, gallery, tile_bytes)
    with precision_of(queries.device, half):
        row = 0
        while row < len(queries):
            # Square: every tile reads its rows and its columns once.
            columns = max(1, min(len(gallery), math.isqrt(pairs)))
            rows = min(len(queries) - row, max(1, pairs // columns))
            try:
                done = _score_rows(method, queries, gallery, scores, row, rows, columns, both)
            except RuntimeError as error:
                if not _out_of_memory(error) or pairs == 1:
                    raise
                pairs = max(1, pairs // 2)
                log.info("a tile of scores did not fit the memory; now %d pairs at a time", pairs)
                continue
            row += rows
            if progress:
                progress(done)
    return scores


def score_rows(
    method: Method,
    queries: Float[Tensor, "q *e"],
    gallery: Float[Tensor, "g *e"],
    *,
    half: bool = False,
    rows_bytes: int = 0,
    progress: Progress | None = None,
) -> Iterator[tuple[int, Float[Tensor, "r g"]]]:
    """Yield the number of a first query, and the scores of some queries from there on.

    In turn, so that scores which are dropped after use are never all held: at most ``rows_bytes``
    of them (0: `ROWS_BYTES`, or less where memory is short) and a tile at a time. The rest is
    `score_all`'s.
    """
    there = rows_bytes or min(ROWS_BYTES, working_memory(torch.device("cpu")))
    rows = max(1, there // (4 * max(1, len(gallery))))
    for start in range(0, len(queries), rows):
        few = queries[start : start + rows]
        yield start, score_all(method, few, gallery, half=half, progress=progress)


def _pairs(method: Method, gallery: Tensor, tile_bytes: int) -> int:
    """Return how many pairs a tile may have."""
    there = tile_bytes or working_memory(gallery.device)
    return max(1, there // method.pair_bytes(tuple(gallery.shape[1:])))


def _score_rows(
    method: Method,
    queries: Tensor,
    gallery: Tensor,
    scores: Tensor,
    row: int,
    rows: int,
    columns: int,
    both: bool,
) -> int:
    """Fill some rows of the scores; return how many scores are new.

    With ``both`` those left of the diagonal are there already, and those to its right are also
    put below it.
    """
    few = queries[row : row + rows]
    first = row if both else 0
    for left in range(first, len(gallery), columns):
        block = gallery[left : left + columns]
        tile = method.score(few, block).cpu()
        scores[row : row + rows, left : left + columns] = tile
        if both:
            scores[left : left + columns, row : row + rows] = tile.T
    later = len(gallery) - first
    return len(few) * (2 * later - len(few) if both else later)


def precision_of(device: torch.device, half: bool) -> AbstractContextManager[None]:
    """Return the context that asks for half precision in products, or for none."""
    kind = torch.float16 if device.type == "cuda" else torch.bfloat16
    context: AbstractContextManager[None] = torch.autocast(device.type, kind, enabled=half)
    return context


def _out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory did not suffice; a CPU's has no type of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
