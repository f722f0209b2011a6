"""Matrix products of scoring by the fastest of the ways that torch has."""

import functools
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CONVOLUTION_IMAGES = 16
"""Below so many images oneDNN's convolution falls back to a slower way."""
CLEARLY = 0.87
"""What share of `torch.mm`'s time another way may take to be preferred: less is noise."""
TIMED_PRODUCTS = 1 << 30
"""Largest product that is timed, in multiplications: some twenty milliseconds of a core."""

Way = Callable[[Tensor, Tensor], Tensor]


def half_type(device: torch.device) -> torch.dtype | None:
    """Return the half precision that autocast asks for on a device; None: fp32.

    Only what bears it takes products in half precision: query-adaptive maxima and the hidden
    layers of M-Net, whose inputs are rounded and whose sums are fp32 inside a product.
    """
    kind = device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def product(a: Float[Tensor, "m k"], b: Float[Tensor, "n k"]) -> Float[Tensor, "m n"]:
    """Return ``a @ b.T``, of the type of both.

    On a CPU `torch.mm` in fp32 is MKL's, which on some processors is much slower than oneDNN;
    oneDNN takes fp32 through a convolution of 1x1. Which is faster is timed once for each
    kind of shape and number of threads; either's rounding is that of a sum of k products.
    """
    if a.device.type != "cpu" or a.dtype != torch.float32 or not len(a) or not len(b):
        return a @ b.T
    return _fastest(_alike(len(a), len(b), a.shape[1]), torch.get_num_threads())(a, b)


def by_mm(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b.T`` as `torch.mm` does."""
    return a @ b.T


def by_convolution(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b.T``, rows of ``a`` as pixels of images and those of ``b`` as filters."""
    (m, k), n = a.shape, len(b)
    height = m // CONVOLUTION_IMAGES
    if not height:
        return a @ b.T
    whole = height * CONVOLUTION_IMAGES
    images = a[:whole].reshape(CONVOLUTION_IMAGES, height, 1, k).permute(0, 3, 1, 2)
    answers = F.conv2d(images, b.reshape(n, k, 1, 1))
    found = answers.permute(0, 2, 3, 1).reshape(whole, n)
    return found if whole == m else torch.cat([found, a[whole:] @ b.T])


def by_convolution_turned(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b.T``, rows of ``b`` as pixels and those of ``a`` as filters."""
    return by_convolution(b, a).T


WAYS: tuple[Way, ...] = (by_mm, by_convolution, by_convolution_turned)


def _alike(m: int, n: int, k: int) -> tuple[int, int, int]:
    """Return the shape that a shape is timed as: of powers of two, and small enough."""
    rows = [1 << (side.bit_length() - 1) for side in (m, n)]
    while rows[0] * rows[1] * k > TIMED_PRODUCTS and max(rows) > 1:
        rows[rows.index(max(rows))] //= 2
    return rows[0], rows[1], k


@functools.cache
def _fastest(shape: tuple[int, int, int], threads: int) -> Way:  # noqa: ARG001 - a key
    """Return the way to prefer for products of about a shape, by timing each on zeros."""
    m, n, k = shape
    a, b = torch.zeros(m, k), torch.zeros(n, k)
    best: Way = by_mm
    shortest = CLEARLY * _seconds(by_mm, a, b)
    for way in WAYS[1:]:
        if (taken := _seconds(way, a, b)) < shortest:
            best, shortest = way, taken
    return best


def _seconds(way: Way, a: Tensor, b: Tensor) -> float:
    """Return the shortest of a few times, after one to warm up."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        way(a, b)
        times.append(time.perf_counter() - started)
    return min(times[1:])
