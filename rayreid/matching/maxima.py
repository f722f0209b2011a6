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

from rayreid.matching import fused_maxima
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
    if on_kernels(queries):
        return fused_maxima.correlation_maxima(queries.to(kind), gallery.to(kind))
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
        rounded = maps.to(half_type(maps.device) or maps.dtype)
        best, places = (fused_maxima.winners if on_kernels(maps) else _winners)(rounded)
        ctx.save_for_backward(maps, places)
        return best

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        maps, places = ctx.saved_tensors
        found: Tensor = scattered(maps, places, gradients[0])
        return found


def _winners(maps: Float[Tensor, "b c n"]) -> tuple[Tensor, Tensor]:
    """Return the best match of each position s of map p in map g, and at which r: [p, g, s]."""
    kernels = maps.transpose(1, 2).contiguous()
    b, n, _ = kernels.shape
    best = torch.empty(b, b, n, dtype=maps.dtype, device=maps.device)
    places = torch.empty(b, b, n, dtype=torch.int16, device=maps.device)
    step = _step(kernels, n)
    for p in range(b):
        for left in range(p, b, step):
            block = kernels[left : left + step]
            right = left + len(block)
            products = product(block.flatten(0, 1), kernels[p]).view(len(block), n, n)
            best[p, left:right], places[p, left:right] = products.max(1)
            best[left:right, p], places[left:right, p] = products.max(2)
    return best, places


def scattered(
    maps: Float[Tensor, "b c n"], places: Tensor, gradient: Float[Tensor, "b b n"]
) -> Float[Tensor, "b c n"]:
    """Return the gradient in the maps of best matches, from their places, each [p, g, s].

    Match (p, s) -> (g, r) moves p's position s towards g's r, and r towards s: each position is
    moved by the sum of what it chose and of what chose it, each weighed by the gradient. Sums are
    in the maps' own precision and a fixed order; nothing is as large as ``b^2 n c``.
    """
    b, c, n = maps.shape
    kernels = maps.transpose(1, 2).reshape(b * n, c)
    weights = gradient.to(kernels.dtype)
    positions = torch.arange(b * n, device=maps.device, dtype=torch.int32)
    chosen = places + positions[::n, None]
    moved = F.embedding_bag(
        chosen.transpose(1, 2).reshape(b * n, b),
        kernels,
        mode="sum",
        per_sample_weights=weights.transpose(1, 2).reshape(b * n, b),
    )
    # Sorting brings together all that chose one position; in a fixed order, unlike atomic sums.
    found, order = chosen.flatten().sort(stable=True)
    chooser = positions.view(b, 1, n).expand(b, b, n)
    moved += F.embedding_bag(
        chooser.flatten()[order],
        kernels,
        torch.searchsorted(found, positions, out_int32=True),
        mode="sum",
        per_sample_weights=weights.flatten()[order],
    )
    return moved.view(b, n, c).transpose(1, 2)


def on_kernels(maps: Tensor) -> bool:
    """Return whether maps are where the GPU's own kernels can be had."""
    return maps.is_cuda and fused_maxima.available()


def _step(kernels: Tensor, n: int) -> int:
    """Return how many maps are correlated with one at a time."""
    device = kernels.device.type != "cpu"
    piece = DEVICE_PIECE_BYTES if device else PIECE_BYTES * torch.get_num_threads()
    return max(1, piece // (n * n * kernels.element_size()))


def _largest(products: Float[Tensor, "g r s"], dim: int) -> Float[Tensor, "g n"]:
    """Return the maximum along a dimension.

    As whole numbers, the bits of 16-bit floats have the floats' order where they are positive,
    and below all of those where they are negative: torch takes maxima of whole numbers many
    times as fast. A maximum that is negative (or NaN) is looked for again among the floats.
    """
    if products.device.type != "cpu" or products.element_size() != 2:
        return products.amax(dim)
    bits = products.view(torch.int16).amax(dim)
    if bits.amin() < 0:
        return products.amax(dim)
    return bits.view(products.dtype)
