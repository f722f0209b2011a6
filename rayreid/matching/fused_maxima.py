"""Query-adaptive matching on a GPU: maxima of correlations that are never written to memory.

What `rayreid.matching.maxima` computes, by the kernels in `rayreid.matching.maxima_kernels`, where
`available` says so. For scoring: `correlation_maxima`, and `weighted_maxima` where all that is made
of them is a weighted sum; for learning: `winners`.
"""

import importlib.util
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SHARED_BYTES = 227 * 2**10
"""Shared memory that a program may have on a Hopper."""

HELD_BYTES = 96 * 2**10
"""Largest maps of a program's queries that it holds: some compilers hold them in registers."""

REDUCTION_BYTES = 8 * 2**10
"""More than the compilers tried take for maxima across warps."""

PROGRAMS = 2048
"""Programs that keep a large GPU busy: some for each of about 130 multiprocessors."""


def available() -> bool:
    """Return whether triton is installed and the current CUDA device can run it."""
    return (
        importlib.util.find_spec("triton") is not None
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability() >= (7, 0)
    )


@dataclass(frozen=True)
class Tiling:
    """How a kernel divides the work; the default of each shape is `tiling_of`."""

    block: int
    """Positions in a block; 64 rows are what Hopper's matrix unit takes."""
    queries: int
    """Queries of a program."""
    maps: int
    """Maps of the gallery in a step."""
    channels: int
    """Channels in a slice; all of them where the queries are held."""
    held: bool
    """Whether the queries stay on the chip."""
    warps: int
    stages: int
    """Slices that are on their way at a time."""

    def held_bytes(self, n: int) -> int:
        """Return the size of the held queries, of n positions in half precision."""
        return 2 * self.queries * -(-n // self.block) * self.block * self.channels * self.held

    def shared_bytes(self, n: int) -> int:
        """Return the shared memory of a program, at most, for maps in half precision."""
        sides = self.maps + self.queries * (not self.held)
        sliced = 2 * self.stages * sides * self.block * self.channels
        return self.held_bytes(n) + sliced + REDUCTION_BYTES


def tiling_of(c: int, n: int, dtype: torch.dtype, shared: int = SHARED_BYTES) -> Tiling:
    """Return the tiling for maps of c channels and n positions, of programs with so many bytes.

    By arithmetic for an H200, and by what the compiler says of registers and shared memory; not
    tuned on one: ``python -m rayreid.benchmark.gpu_matching --tune`` measures others.
    """
    # The block with the fewest padded positions, the largest of those; long maps keep the largest,
    # as the kernel is unrolled over a query's blocks.
    blocks = [size for size in (64, 32, 16) if size == 64 or -(-n // size) <= 3]
    block = min(blocks, key=lambda size: (-(-n // size) * size, -size))
    several = 64 // block
    if dtype == torch.float32:
        # No matrix unit computes fp32 exactly: small slices in registers.
        return Tiling(block, several, several, 32, held=False, warps=4, stages=2)
    whole = max(16, 1 << (c - 1).bit_length())
    held = Tiling(block, several, several, whole, held=True, warps=4, stages=2)
    # Blocks of 128 x 128 read half of what 64 x 64 would, and the L2 is the limit here.
    wide = Tiling(block, 2 * several, 2 * several, 64, held=False, warps=8, stages=3)
    small = Tiling(block, several, several, 64, held=False, warps=4, stages=2)
    if held.held_bytes(n) <= HELD_BYTES and held.shared_bytes(n) <= shared:
        return held
    return wide if wide.shared_bytes(n) <= shared else small


def correlation_maxima(
    queries: Float[Tensor, "q c n"],
    gallery: Float[Tensor, "g c n"],
    tiling: Tiling | None = None,
) -> tuple[Float[Tensor, "q g n"], Float[Tensor, "q g n"]]:
    """Return `rayreid.matching.maxima.correlation_maxima` in fp32, without a gradient.

    Products are of the type given, sums in fp32. fp16 runs on the matrix unit, and rounds maps
    that are normalised over channels less than bf16 would; fp32 does not.
    """
    q, g, n = len(queries), len(gallery), queries.shape[2]
    forth = torch.empty(q, g, n, device=queries.device)
    back = torch.empty_like(forth)
    _launch(queries, gallery, None, forth, back, tiling)
    return forth, back


def weighted_maxima(
    queries: Float[Tensor, "q c n"],
    gallery: Float[Tensor, "g c n"],
    weights: Float[Tensor, " n"],
    tiling: Tiling | None = None,
) -> Float[Tensor, "q g"]:
    """Return ``sum_s w_s (forth_s + back_s)`` of `correlation_maxima`, which is never stored."""
    scores = torch.empty(len(queries), len(gallery), device=queries.device)
    _launch(queries, gallery, weights, scores, scores, tiling)
    return scores


def winners(maps: Float[Tensor, "b c n"]) -> tuple[Tensor, Tensor]:
    """Return the best match of each position s of map p in map g, and at which r: [p, g, s].

    The first of equal ones; places are int16.
    """
    from rayreid.matching import maxima_kernels

    b, _, n = maps.shape
    tiling = tiling_of(64, n, maps.dtype)
    channels = min(tiling.channels, 64)
    padded = _padded(maps, tiling.block, channels)
    best = torch.empty(b, b, n, device=maps.device)
    place = torch.empty(b, b, n, device=maps.device, dtype=torch.int16)
    positions = padded.shape[2]
    with _device_of(maps):
        maxima_kernels.winners[b * positions // tiling.block, b](
            padded, best, place, b, padded.shape[1], padded.stride(0),
            POSITIONS=positions, COUNTED=n, BLOCK=tiling.block, CHANNELS=channels,
            num_warps=4, num_stages=3,
        )  # fmt: skip
    return best, place


def _launch(
    queries: Tensor,
    gallery: Tensor,
    weights: Tensor | None,
    forth: Tensor,
    back: Tensor,
    tiling: Tiling | None,
) -> None:
    """Run the kernel for all pairs."""
    from rayreid.matching import maxima_kernels

    assert not (torch.is_grad_enabled() and (queries.requires_grad or gallery.requires_grad))
    (q, c, n), g = queries.shape, len(gallery)
    if not q * g:
        return
    if tiling is None:
        shared = SHARED_BYTES
        if queries.is_cuda:
            device = torch.cuda.get_device_properties(queries.device)
            # Releases of torch before 2.15 do not tell.
            shared = int(getattr(device, "shared_memory_per_block_optin", SHARED_BYTES))
        tiling = tiling_of(c, n, queries.dtype, shared)
    queries = _padded(queries, tiling.block, tiling.channels)
    gallery = _padded(gallery, tiling.block, tiling.channels)
    positions = queries.shape[2]
    if weights is not None:
        weights = F.pad(weights.detach().float(), (0, positions - n)).contiguous()
    blocks = -(-q // tiling.queries)
    groups = min(64, max(1, blocks * g // (tiling.maps * PROGRAMS)))
    span = groups * tiling.maps
    constants = {
        "POSITIONS": positions, "COUNTED": n, "BLOCK": tiling.block, "QUERIES": tiling.queries,
        "MAPS": tiling.maps, "CHANNELS": tiling.channels, "WEIGHTED": weights is not None,
        "num_warps": tiling.warps, "num_stages": tiling.stages,
    }  # fmt: skip
    kernel = maxima_kernels.held_maxima
    if not tiling.held:
        kernel = maxima_kernels.sliced_maxima
        constants["SLICES"] = queries.shape[1] // tiling.channels
        constants["ROOM"] = 1 << (positions // tiling.block - 1).bit_length()
    with _device_of(queries):
        kernel[(blocks * -(-g // span),)](
            queries, gallery, forth if weights is None else weights, forth, back,
            q, g, queries.stride(0), gallery.stride(0), span, **constants,
        )  # fmt: skip


def _padded(maps: Tensor, block: int, channels: int) -> Tensor:
    """Return the maps with whole blocks of positions and slices of channels, each map dense."""
    _, c, n = maps.shape
    more, deeper = -n % block, -c % channels
    if more:
        maps = torch.cat([maps, maps[:, :, -1:].expand(-1, -1, more)], 2)
    if deeper:
        maps = F.pad(maps, (0, 0, 0, deeper))
    return maps if maps.stride()[1:] == (n + more, 1) else maps.contiguous()


def _device_of(maps: Tensor) -> AbstractContextManager[object]:
    """Return the context in which triton launches where the maps are."""
    return torch.cuda.device_of(maps)
