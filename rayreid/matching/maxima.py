"""Best matches of all positions of two maps: maxima of their correlation, which is never held.

Papers: Liao and Shao, "Interpretable and Generalizable Person Re-identification with
Query-Adaptive Convolution and Temporal Lifting", ECCV 2020 (QAConv); the same, "Graph Sampling
Based Deep Metric Learning", CVPR 2022.

Of Q x G pairs of maps of n positions the correlation has Q G n^2 numbers, of which 2 Q G n are
wanted. Here a piece of it is made that stays in a processor's cache, and both maxima are taken of
it there.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rayreid.matching.products import half_type, product

PIECE_BYTES = 1 << 20
"""Correlation made at a time and thread; measured: about what a core's own cache holds."""
DEVICE_PIECE_BYTES = 1 << 28
"""Correlation made at a time on a GPU."""

Maxima = Float[Tensor, "q g n"]


@torch.no_grad()
def correlation_maxima(
    queries: Float[Tensor, "q c n"], gallery: Float[Tensor, "g c n"]
) -> tuple[Maxima, Maxima]:
    """Return, for all pairs of maps of n positions, the best match of each position of either.

    ``S[p, g, r, s] = <G_g[:, r], P_p[:, s]>``, which is the 1x1 convolution of the gallery's map
    with the query's positions as kernels; the first result is ``max_r S`` for every s, the second
    ``max_s S`` for every r. In fp32; under autocast maps are rounded to its half precision, and so
    is S. Without gradients: `self_maxima` has them.
    """
    kind = half_type(queries.device) or torch.float32
    kernels, places = (x.transpose(1, 2).to(kind).contiguous() for x in (queries, gallery))
    (q, n, _), g = kernels.shape, len(places)
    forth, back = torch.empty(2, q, g, n, device=queries.device)
    step = _step(kernels, n)
    for left in range(0, g, step):
        block = places[left : left + step]
        right = left + len(block)
        for p in range(q):
            products = product(block.flatten(0, 1), kernels[p]).view(len(block), n, n)
            forth[p, left:right] = _largest(products, 1)
            back[p, left:right] = _largest(products, 2)
    return forth, back


def self_maxima(maps: Float[Tensor, "b c n"]) -> tuple[Maxima, Maxima]:
    """Return `correlation_maxima` of a batch with itself, with gradients, at half its work.

    The best match of p's positions in g is the best match of them when g and p change places:
    one maximum gives both directions, and each pair is correlated once. Of several best matches
    of a position one gets its gradient.
    """
    forth: Tensor = _BestMatches.apply(maps)
    return forth, forth.transpose(0, 1)


class _BestMatches(torch.autograd.Function):
    """``max_r S[p, g, r, s]`` of maps with themselves; keeps which r it was, not S."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        kind = half_type(maps.device) or maps.dtype
        kernels = maps.transpose(1, 2).to(kind).contiguous()
        b, n, _ = kernels.shape
        best = torch.empty(b, b, n, dtype=kind, device=maps.device)
        winners = torch.empty(b, b, n, dtype=torch.int32, device=maps.device)
        step = _step(kernels, n)
        for p in range(b):
            for left in range(p, b, step):
                block = kernels[left : left + step]
                right = left + len(block)
                products = product(block.flatten(0, 1), kernels[p]).view(len(block), n, n)
                best[p, left:right], winners[p, left:right] = products.max(1)
                best[left:right, p], winners[left:right, p] = products.max(2)
        ctx.save_for_backward(maps, winners)
        return best

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        maps, winners = ctx.saved_tensors
        b, c, n = maps.shape
        rows = maps.transpose(1, 2).reshape(b * n, c)
        weights = gradients[0].transpose(1, 2).reshape(b * n, b).to(rows.dtype)
        # Row p n + s of ``chosen`` holds the best match of p's position s in each g.
        first = torch.arange(0, b * n, n, device=maps.device)
        chosen = (first[:, None] + winners).transpose(1, 2).reshape(b * n, b)
        towards = F.embedding_bag(chosen, rows, mode="sum", per_sample_weights=weights)
        # The other factor of each product: by winner, those whose best match it was.
        won, order = chosen.flatten().sort()
        starts = torch.searchsorted(won, torch.arange(b * n, device=maps.device))
        away = F.embedding_bag(
            order // b, rows, starts, mode="sum", per_sample_weights=weights.flatten()[order]
        )
        return (towards + away).view(b, n, c).transpose(1, 2)


def _step(kernels: Tensor, n: int) -> int:
    """Return how many maps are correlated with one at a time."""
    device = kernels.device.type != "cpu"
    piece = DEVICE_PIECE_BYTES if device else PIECE_BYTES * torch.get_num_threads()
    return max(1, piece // (n * n * kernels.element_size()))


def _largest(products: Float[Tensor, "g r s"], dim: int) -> Float[Tensor, "g n"]:
    """Return the maximum along a dimension.

    As whole numbers, the bits of 16-bit floats have the floats' order where they are positive,
    and below all of those where they are negative: torch takes maxima of whole numbers ten times
    as fast. A maximum that is negative (or NaN) is looked for again among the floats.
    """
    if products.device.type != "cpu" or products.element_size() != 2:
        return products.amax(dim)
    bits = products.view(torch.int16).amax(dim)
    if bits.amin() < 0:
        return products.amax(dim)
    return bits.view(products.dtype)
