"""Triton kernels for maxima of correlations, which never leave the registers of a GPU.

Imported by `rayreid.matching.fused_maxima` alone, and only when a kernel is launched: triton is not
everywhere where torch is. ``TRITON_INTERPRET=1``, set before triton is imported, runs them in
numpy on a CPU; that interpreter's products of bf16 are wrong, those of fp16 and fp32 right.

The caller pads maps to whole blocks: positions with copies of the last, which change no maximum,
and channels with zeros, which change no product. So nothing that is read here is masked.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["q", "g", "span"])
def pair_maxima(
    queries, gallery, weights, forth, back, q, g, c, query_stride, gallery_stride, span,
    POSITIONS: tl.constexpr, COUNTED: tl.constexpr, BLOCK: tl.constexpr,
    QUERIES: tl.constexpr, MAPS: tl.constexpr, CHANNELS: tl.constexpr,
    HELD: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Write both maxima of the pairs of QUERIES queries and ``span`` maps of the gallery.

    A step takes one block of positions of MAPS maps and goes through all blocks of the queries:
    its columns' maxima are then final, the rows' when a map's last block is through. WEIGHTED
    writes one number a pair, ``weights . (forth + back)``, to ``forth``. HELD keeps the queries on
    the chip, which asks for CHANNELS == c; otherwise both sides come in slices of CHANNELS.
    Programs that run at a time have different queries and the same maps, which so stay in the L2.
    """
    BLOCKS: tl.constexpr = POSITIONS // BLOCK
    ROWS: tl.constexpr = QUERIES * BLOCK
    COLUMNS: tl.constexpr = MAPS * BLOCK
    top = tl.program_id(0) % tl.cdiv(q, QUERIES) * QUERIES
    left = tl.program_id(0) // tl.cdiv(q, QUERIES) * span
    depth = tl.arange(0, CHANNELS)[:, None] * POSITIONS
    # Where there are too few queries or maps, the last is computed again.
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    query = tl.minimum(row // BLOCK, q - 1 - top)
    query_at = (query * query_stride + row % BLOCK)[None, :] + depth
    queries += top.to(tl.int64) * query_stride
    held, highest = (), ()
    for i in tl.static_range(BLOCKS):
        if HELD:
            held = held + (tl.load(queries + query_at + i * BLOCK),)
        highest = highest + (tl.full((ROWS, MAPS), float("-inf"), tl.float32),)
    score = tl.zeros((QUERIES, MAPS), tl.float32)
    groups = tl.cdiv(tl.minimum(span, g - left), MAPS)
    # One loop over maps and their blocks: a loop within a loop would wait for its first loads.
    for step in range(groups * BLOCKS):
        first = left + step // BLOCKS * MAPS
        j = step % BLOCKS
        other = tl.minimum(column // BLOCK, g - 1 - first)
        other_at = (other * gallery_stride + column % BLOCK)[None, :] + depth
        maps = gallery + first.to(tl.int64) * gallery_stride + j * BLOCK
        if HELD:
            tile = tl.load(maps + other_at)
        risen = ()
        for i in tl.static_range(BLOCKS):
            if HELD:
                products = tl.dot(tl.trans(held[i]), tile, input_precision="ieee")
            else:
                products = tl.zeros((ROWS, COLUMNS), tl.float32)
                # c is no constant on purpose: unrolled, this loop spills registers.
                for k in range(0, c, CHANNELS):
                    kernels = tl.load(queries + (k * POSITIONS + i * BLOCK) + query_at)
                    tile = tl.load(maps + k * POSITIONS + other_at)
                    products = tl.dot(tl.trans(kernels), tile, products, input_precision="ieee")
            best = tl.max(tl.reshape(products, (ROWS, MAPS, BLOCK)), 2)
            risen = risen + (tl.where(j == 0, best, tl.maximum(highest[i], best)),)
            # A reduction over rows crosses the warps: once a step, where registers are left.
            if not HELD:
                products = tl.max(tl.reshape(products, (QUERIES, BLOCK, COLUMNS)), 1)
            across = products if i == 0 else tl.maximum(across, products)
        highest = risen
        if HELD:
            across = tl.max(tl.reshape(across, (QUERIES, BLOCK, COLUMNS)), 1)
        if WEIGHTED:
            # Summed in each step: a vector of sums would stay in registers that are short.
            weighted = tl.load(weights + j * BLOCK + column % BLOCK)[None, :] * across
            part = tl.sum(tl.reshape(weighted, (QUERIES, MAPS, BLOCK)), 2)
            score = tl.where(j == 0, 0.0, score) + part
        else:
            pair = _clipped(top, q, QUERIES)[:, None] * g + (first + other)[None, :]
            place = j * BLOCK + column % BLOCK
            tl.store(back + pair * COUNTED + place[None, :], across, (place < COUNTED)[None, :])
        if j == BLOCKS - 1:
            if WEIGHTED:
                for i in tl.static_range(BLOCKS):
                    of_rows = tl.load(weights + i * BLOCK + row % BLOCK)[:, None] * highest[i]
                    score += tl.sum(tl.reshape(of_rows, (QUERIES, BLOCK, MAPS)), 1)
                of = _clipped(top, q, QUERIES)[:, None] * g + _clipped(first, g, MAPS)[None, :]
                tl.store(forth + of, score)
            else:
                of = (top + query).to(tl.int64)[:, None] * g + _clipped(first, g, MAPS)[None, :]
                for i in tl.static_range(BLOCKS):
                    at = (i * BLOCK + row % BLOCK)[:, None]
                    tl.store(forth + of * COUNTED + at, highest[i], at < COUNTED)


@triton.jit
def _clipped(first, size, COUNT: tl.constexpr):
    """Return ``first, first + 1, ...``, none of them past the last of ``size``."""
    return tl.minimum(first + tl.arange(0, COUNT), size - 1).to(tl.int64)


@triton.jit
def winners(
    maps, best, place, b, c, stride,
    POSITIONS: tl.constexpr, COUNTED: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write, for a block of positions of one map and another map, its best matches and where.

    Of equal matches the first is the winner.
    """
    BLOCKS: tl.constexpr = POSITIONS // BLOCK
    one, i = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    other = tl.program_id(1)
    depth = tl.arange(0, CHANNELS)[:, None] * POSITIONS
    column = tl.arange(0, BLOCK)
    at = depth + column[None, :]
    ones = maps + one.to(tl.int64) * stride + i * BLOCK
    others = maps + other.to(tl.int64) * stride
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    winner = tl.zeros((BLOCK,), tl.int32)
    for j in range(BLOCKS):
        products = tl.zeros((BLOCK, BLOCK), tl.float32)
        for k in range(0, c, CHANNELS):
            kernels = tl.load(ones + k * POSITIONS + at)
            tile = tl.load(others + k * POSITIONS + j * BLOCK + at)
            products = tl.dot(tl.trans(kernels), tile, products, input_precision="ieee")
        found, where = tl.max(products, 1, return_indices=True)
        better = found > highest
        winner = tl.where(better, j * BLOCK + where, winner)
        highest = tl.where(better, found, highest)
    to = i * BLOCK + column
    pair = (one.to(tl.int64) * b + other) * COUNTED
    tl.store(best + pair + to, highest, to < COUNTED)
    # A copy of the last position wins nothing that the last does not: the first winner counts.
    tl.store(place + pair + to, winner, to < COUNTED)
