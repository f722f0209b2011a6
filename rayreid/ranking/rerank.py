"""k-reciprocal re-ranking: crops are alike whose neighbours are the same crops.

Paper: Zhong, Zheng, Cao, Li, "Re-ranking Person Re-identification with k-reciprocal Encoding",
CVPR 2017. Query and gallery are one set of crops, i and j are any two of them. **Every score
depends on all crops, on the other queries too** (transductive): to be compared with what has seen
them as well, not with a scorer of pairs.

| equation                                                            | here           |
|---------------------------------------------------------------------|----------------|
| N(i, k): i and its k nearest others                                 | `_nearest`     |
| R(i, k): those of N(i, k) in whose N(., k) i is (eq. 3)             | `_reciprocal`  |
| R*(i): R(i, k1), and R(j, k1 / 2) of its j, if R(i, k1) has two thirds of it (eq. 5) | `_joined` |
| V_ij = exp(-d_ij) for j in R*(i), here scaled to a sum of 1 (eq. 7) | `_encoded`     |
| V_i = mean of V_j over j in N(i, k2 - 1) (eq. 11)                   | `_expanded`    |
| shared neighbours: sum_m min(V_im, V_jm) / sum_m max(V_im, V_jm) (eq. 10) | `_add_shared` |
| lambda d + (1 - lambda) (1 - shared) (eq. 12), as 1 - it            | `rerank`       |

The published d_ij is the squared Euclidean distance, as a rule of unit vectors, over the largest
of row i. Scores s of any range become d_ij = (max_i - s_ij) / (max_i - min_i), over row i: lower
for crops more alike, the same for scores of another unit or zero, and the published one where s is
the cosine of unit vectors, or minus a squared distance. Ties are ours: a crop is the nearest of
itself, at d = 0, and of others that score the same the earlier is nearer.

Crops' weights and neighbours are sparse; scores are asked for in blocks, all once, and once more
those within R*.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from pydantic import Field, model_validator
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor

from rayreid.settings import Settings

Chosen = slice | Int64[Tensor, " _"]
"""Rising numbers of crops, the gallery's after the queries': an index into all of them."""

Scorer = Callable[[Chosen, Chosen], Float[Tensor, "r c"]]
"""Scores of some crops against others: higher for more alike, of any range, symmetric."""

_BLOCK_BYTES = 16 * 2**20  # larger ones do not stay in a cache, and are mapped anew every time
_CHUNK = 32  # about sqrt(crops / k1): as many maxima of chunks as scores in the chunks chosen
_ROWS = 64  # neighbours of so many crops are scored at once


class RerankSettings(Settings):
    """Parameters of k-reciprocal re-ranking; the defaults are the paper's, chosen on Market-1501.

    Raises `ValueError` for k2 above k1.
    """

    neighbours: int = Field(20, ge=1)
    """k1: how many of the nearest crops may be neighbours; about as many as show a person."""
    expansion: int = Field(6, ge=1)
    """k2: over how many nearest crops, itself among them, weights are averaged; 1 leaves it out."""
    original: float = Field(0.3, ge=0, le=1)
    """lambda: the share of the original distance; the rest is that of the shared neighbours."""

    @model_validator(mode="after")
    def _within_neighbours(self) -> "RerankSettings":
        if self.expansion > self.neighbours:
            raise ValueError(
                f"expansion (k2) {self.expansion} is over more crops than neighbours (k1) "
                f"{self.neighbours} finds; make it that many or fewer"
            )
        return self


class _Rows(NamedTuple):
    """What is kept of the scores of each crop against all."""

    nearest: Int64[np.ndarray, "n k"]
    """The crop itself, then its nearest others."""
    distances: Float32[np.ndarray, "n k"]
    """d of them."""
    most: Float32[np.ndarray, " n"]
    span: Float32[np.ndarray, " n"]
    """How far the lowest is below the highest; not zero."""


@torch.inference_mode()
def rerank(
    score: Scorer, queries: int, gallery: int, settings: RerankSettings
) -> Float32[np.ndarray, "q g"]:
    """Return the re-ranked scores of all queries against all gallery crops, in [0, 1].

    ``score`` is asked on the device of its choice, which also finds the neighbours; in blocks of
    rows against all crops, and in smaller ones. Memory beyond the scores returned is bounded by
    some blocks of 16 MiB and by the neighbours, about a kilobyte a crop.

    Raises `ValueError` for a query or gallery without crops, and for scores of another shape than
    asked for, or not finite.
    """
    if queries < 1 or gallery < 1:
        raise ValueError(f"{queries} queries and {gallery} gallery crops cannot be ranked")
    scores = np.empty((queries, gallery), np.float32)
    rows = _nearest(score, scores, settings.neighbours)
    weights = _encoded(score, _joined(rows.nearest, settings.neighbours), rows)
    if settings.expansion > 1:
        weights = _expanded(weights, rows.nearest[:, : settings.expansion])
    scores *= settings.original
    _add_shared(scores, weights, 1 - settings.original)
    return scores


def rerank_features(
    queries: Float[Tensor, "q d"], gallery: Float[Tensor, "g d"], settings: RerankSettings
) -> Float32[np.ndarray, "q g"]:
    """Return the re-ranked scores of features, by their squared Euclidean distances.

    As published; of vectors at unit length it is re-ranking by their cosines. Products and
    neighbours are found on the features' device. Raises `ValueError` as `rerank` does.
    """
    crops = torch.cat([queries, gallery]).float()
    half_squares = crops.square().sum(1) / 2

    def score(rows: Chosen, columns: Chosen) -> Tensor:
        # Half of minus the squared distance, but for what is the same in a row.
        return torch.addmm(-half_squares[columns], crops[rows], crops[columns].T)

    with torch.autocast(crops.device.type, enabled=False):
        return rerank(score, len(queries), len(gallery), settings)


def rerank_scores(
    query_query: Float[Tensor, "q q"],
    query_gallery: Float[Tensor, "q g"],
    gallery_gallery: Float[Tensor, "g g"],
    settings: RerankSettings,
) -> Float32[np.ndarray, "q g"]:
    """Return the re-ranked scores of matrices of scores, of any range, symmetric.

    Raises `ValueError` for matrices that do not fit, and as `rerank` does.
    """
    queries, gallery = query_gallery.shape
    squares = tuple(query_query.shape), tuple(gallery_gallery.shape)
    if squares != ((queries, queries), (gallery, gallery)):
        raise ValueError(
            f"scores of {queries} queries against {gallery} gallery crops need those of the "
            f"queries and of the gallery among themselves, found {squares[0]} and {squares[1]}"
        )
    numbers = torch.arange(queries + gallery, device=query_gallery.device)

    def score(rows: Chosen, columns: Chosen) -> Tensor:
        (a, b), (c, d) = (
            (chosen[chosen < queries], chosen[chosen >= queries] - queries)
            for chosen in (numbers[rows], numbers[columns])
        )
        of_queries = query_query[a[:, None], c], query_gallery[a[:, None], d]
        of_gallery = query_gallery.T[b[:, None], c], gallery_gallery[b[:, None], d]
        return torch.cat([torch.cat(of_queries, 1), torch.cat(of_gallery, 1)])

    return rerank(score, queries, gallery, settings)


def _nearest(score: Scorer, scores: Float32[np.ndarray, "q g"], neighbours: int) -> _Rows:
    """Find every crop's nearest, and write 1 - d of the queries and the gallery into ``scores``."""
    queries, count = len(scores), sum(scores.shape)
    near = min(neighbours + 1, count)
    nearest, distances = torch.empty(count, near, dtype=torch.int64), torch.zeros(count, near)
    most, span = torch.empty(2, count)
    step = max(1, _BLOCK_BYTES // (4 * count))
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        block = score(rows, slice(None)).float()
        if block.shape != (rows.stop - start, count):
            raise ValueError(
                f"scores of {rows.stop - start} crops against all {count} have the shape "
                f"{tuple(block.shape)}"
            )
        high, low = block.amax(1, keepdim=True), block.amin(1, keepdim=True)
        _refuse_unbounded(high, low, start)
        # No row is all the same to rounding: it would be divided by zero.
        width = (high - low).clamp(min=torch.finfo(torch.float32).tiny)
        own = torch.arange(start, rows.stop, device=block.device)[:, None]
        others = _largest_others(block, own, near - 1)
        nearest[rows] = torch.cat([own, others], 1).cpu()
        distances[rows, 1:] = ((high - block.gather(1, others)) / width).cpu()
        most[rows], span[rows] = high[:, 0].cpu(), width[:, 0].cpu()
        if start < queries:
            here = slice(0, queries - start)
            apart = (high[here] - block[here, queries:]).div_(width[here])
            scores[start : rows.stop] = apart.neg_().add_(1).cpu().numpy()
    return _Rows(nearest.numpy(), distances.numpy(), most.numpy(), span.numpy())


def _refuse_unbounded(high: Float[Tensor, "r 1"], low: Float[Tensor, "r 1"], start: int) -> None:
    """Raise ValueError for rows, from ``start`` on, that have NaN or infinite scores."""
    unbounded = ~(high.isfinite() & low.isfinite())
    if unbounded.any():
        raise ValueError(
            f"scores of crop {start + int(unbounded.int().argmax())} (queries first, from 0) are "
            "NaN or infinite and cannot be re-ranked: look for them in the embeddings"
        )


def _largest_others(
    block: Float32[Tensor, "r n"], own: Int64[Tensor, "r 1"], count: int
) -> Int64[Tensor, "r k"]:
    """Return each row's columns of the largest scores, its own left out, by falling score.

    They lie in the chunks of the largest maxima: one chunk more than columns, as the maximum of
    one may be the row's own score. Of equal scores, and so of equal maxima, the earlier is taken.
    """
    rows, columns = block.shape
    whole = (columns - 1) // _CHUNK  # the last chunk is apart: it may be shorter
    parts = block[:, : whole * _CHUNK].unflatten(1, (whole, _CHUNK)).amax(2)
    maxima = torch.cat([parts, block[:, whole * _CHUNK :].amax(1, keepdim=True)], 1)
    numbers = torch.arange(whole + 1, device=block.device).expand(rows, -1)
    chosen = _largest(maxima, numbers, min(count + 1, whole + 1))
    within = torch.arange(_CHUNK, device=block.device)
    candidates = (chosen[:, :, None] * _CHUNK + within).flatten(1)
    values = block.gather(1, candidates.clamp(max=columns - 1))
    values.masked_fill_((candidates == own) | (candidates >= columns), -torch.inf)
    return _largest(values, candidates, count)


def _largest(
    values: Float32[Tensor, "r n"], numbers: Int64[Tensor, "r n"], count: int
) -> Int64[Tensor, "r k"]:
    """Return the numbers of the largest values by falling value, then by rising number."""
    # The bits of floats are in the order of the floats once those below 0 are turned over. With
    # the number as the lower half no two keys are equal; adding 0 makes one zero of the two.
    bits = (values + 0.0).view(torch.int32)
    keys = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) - numbers
    return numbers.gather(1, keys.topk(count, dim=1).indices)


def _reciprocal(nearest: Int64[np.ndarray, "n k"], count: int) -> csr_array:
    """Return who is among the ``count`` nearest others of whom (or itself), both ways, as ones."""
    near = _indicator(nearest[:, : count + 1])
    return near.multiply(near.T).tocsr()


def _indicator(columns: Int64[np.ndarray, "n k"]) -> csr_array:
    """Return a matrix of ones at each row's columns."""
    rows, each = columns.shape
    ones, starts = np.ones(columns.size, np.float32), np.arange(0, columns.size + 1, each)
    return csr_array((ones, columns.ravel(), starts), shape=(rows, rows))


def _joined(nearest: Int64[np.ndarray, "n k"], neighbours: int) -> csr_array:
    """Return R* of every crop, as ones in its row."""
    mutual = _reciprocal(nearest, neighbours)
    half = _reciprocal(nearest, round(neighbours / 2))
    # Symmetric: the product counts what R(i, k1) has of R(j, k1 / 2).
    overlap = (mutual @ half).multiply(mutual).tocsr()
    overlap.data = (3 * overlap.data > 2 * np.diff(half.indptr)[overlap.indices]).astype(np.float32)
    overlap.eliminate_zeros()
    joined = (mutual + overlap @ half).tocsr()
    joined.data[:] = 1
    return joined


def _encoded(score: Scorer, joined: csr_array, rows: _Rows) -> csr_array:
    """Return V: every crop's weights of its neighbours, of sum 1."""
    near = _indicator(rows.nearest)
    beyond = joined - joined.multiply(near)
    beyond.eliminate_zeros()
    # Crops of the same neighbours one after the other: a block of them has few columns.
    order = reverse_cuthill_mckee(beyond).astype(np.int64)
    blocks = [np.sort(order[at : at + _ROWS]) for at in range(0, len(order), _ROWS)]
    order = np.concatenate(blocks)
    beyond = beyond[order]
    start = 0
    for crops in blocks:
        each = np.diff(beyond.indptr[start : start + len(crops) + 1])
        here = slice(*beyond.indptr[[start, start + len(crops)]])
        start += len(crops)
        columns, column = np.unique(beyond.indices[here], return_inverse=True)
        if len(columns):
            block = score(torch.from_numpy(crops), torch.from_numpy(columns.astype(np.int64)))
            row = np.repeat(np.arange(len(crops)), each)
            scores = block[torch.from_numpy(row), torch.from_numpy(column)].float().cpu().numpy()
            beyond.data[here] = np.exp((scores - rows.most[crops[row]]) / rows.span[crops[row]])
    near.data = np.exp(-rows.distances.ravel())
    weights = joined.multiply(near) + beyond[np.argsort(order)]
    weights.data /= np.repeat(weights.sum(axis=1), np.diff(weights.indptr))
    return weights


def _expanded(weights: csr_array, nearest: Int64[np.ndarray, "n k"]) -> csr_array:
    """Return the mean weights of every crop's nearest."""
    near = _indicator(nearest)
    near.data /= nearest.shape[1]
    return near @ weights


def _add_shared(scores: Float32[np.ndarray, "q g"], weights: csr_array, share: float) -> None:
    """Add ``share`` of the weight that two crops' neighbours have in common, in [0, 1]."""
    queries, gallery = scores.shape
    having = weights[queries:].T.tocsr()
    step = max(1, _BLOCK_BYTES // (64 * gallery))  # there are several arrays of that length
    for start in range(0, queries, step):
        own = weights[start : min(start + step, queries)]
        # For every neighbour of a query the gallery crops that have it, one after the other.
        there = having[own.indices]
        each = np.diff(there.indptr)
        smaller = np.minimum(there.data, np.repeat(own.data, each))
        query = np.repeat(np.arange(own.shape[0]), np.diff(own.indptr))
        cells = np.repeat(query * gallery, each) + there.indices
        shared = np.bincount(cells, smaller, own.shape[0] * gallery).reshape(-1, gallery)
        # Rows of weights sum to 1, so that the sum of maxima is 2 - the sum of minima.
        scores[start : start + step] += share * shared / (2 - shared)
