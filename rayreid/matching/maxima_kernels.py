"""Triton kernels for maxima of correlations, which never leave the registers of a GPU.

Imported by `rayreid.matching.fused_maxima` alone, and only when a kernel is launched: triton is not
everywhere where torch is. ``TRITON_INTERPRET=1``, set before triton is imported, runs them in
numpy on a CPU; that interpreter's products of bf16 are wrong, those of fp16 and fp32 right.

A program has QUERIES queries and ``span`` maps of the gallery, MAPS of them at a time, in blocks of
BLOCK positions; programs that run at a time have different queries and the same maps, which so stay
in the L2. The caller pads maps to whole blocks: positions with copies of the last, which change no
maximum, and channels with zeros, which change no product. So nothing that is read is masked. Where
there are too few queries or maps, the last is computed again. WEIGHTED writes one number a pair,
``weights . (forth + back)``, to ``forth``.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["q", "g", "span"])
def held_maxima(
    queries, gallery, weights, forth, back, q, g, query_stride, gallery_stride, span,
    POSITIONS: tl.constexpr, COUNTED: tl.constexpr, BLOCK: tl.constexpr,
    QUERIES: tl.constexpr, MAPS: tl.constexpr, CHANNELS: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Write both maxima of pairs, the queries held on the chip, of CHANNELS channels in all.

    A step takes one block of the gallery's positions through all blocks of the queries: its
    columns' maxima are then final, the rows' when a map's last block is through.
    """
    BLOCKS: tl.constexpr = POSITIONS // BLOCK
    ROWS: tl.constexpr = QUERIES * BLOCK
    COLUMNS: tl.constexpr = MAPS * BLOCK
    top = tl.program_id(0) % tl.cdiv(q, QUERIES) * QUERIES
    left = tl.program_id(0) // tl.cdiv(q, QUERIES) * span
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    depth = tl.arange(0, CHANNELS)[:, None] * POSITIONS
    query = tl.minimum(row // BLOCK, q - 1 - top)
    query_at = (query * query_stride + row % BLOCK)[None, :] + depth
    queries += top.to(tl.int64) * query_stride
    held, highest = (), ()
    for i in tl.static_range(BLOCKS):
        held = held + (tl.load(queries + query_at + i * BLOCK),)
        highest = highest + (tl.full((ROWS, MAPS), float("-inf"), tl.float32),)
    score = tl.zeros((QUERIES, MAPS), tl.float32)
    # One loop over maps and blocks: each of several within a loop would wait for its first loads.
    for step in range(tl.cdiv(tl.minimum(span, g - left), MAPS) * BLOCKS):
        j = step % BLOCKS
        first = left + step // BLOCKS * MAPS
        other = tl.minimum(column // BLOCK, g - 1 - first)
        maps = gallery + first.to(tl.int64) * gallery_stride + j * BLOCK
        tile = tl.load(maps + (other * gallery_stride + column % BLOCK)[None, :] + depth)
        risen = ()
        for i in tl.static_range(BLOCKS):
            products = tl.dot(tl.trans(held[i]), tile, input_precision="ieee")
            best = tl.max(tl.reshape(products, (ROWS, MAPS, BLOCK)), 2)
            risen = risen + (tl.where(j == 0, best, tl.maximum(highest[i], best)),)
            # A reduction over rows crosses the warps: once a step.
            tallest = products if i == 0 else tl.maximum(tallest, products)
        highest = risen
        across = tl.max(tl.reshape(tallest, (QUERIES, BLOCK, COLUMNS)), 1)
        at = j * BLOCK + column % BLOCK
        if WEIGHTED:
            part = _weighted_columns(weights + at, across, QUERIES, MAPS, BLOCK)
            score = tl.where(j == 0, 0.0, score) + part
        else:
            pair = _clipped(top, q, QUERIES)[:, None] * g + (first + other)[None, :]
            tl.store(back + pair * COUNTED + at[None, :], across, (at < COUNTED)[None, :])
        if j == BLOCKS - 1:
            of_map = _clipped(first, g, MAPS)[None, :]
            if WEIGHTED:
                for i in tl.static_range(BLOCKS):
                    of_rows = tl.load(weights + i * BLOCK + row % BLOCK)[:, None] * highest[i]
                    score += tl.sum(tl.reshape(of_rows, (QUERIES, BLOCK, MAPS)), 1)
                tl.store(forth + _clipped(top, q, QUERIES)[:, None] * g + of_map, score)
            else:
                of_pair = ((top + query).to(tl.int64)[:, None] * g + of_map) * COUNTED
                for i in tl.static_range(BLOCKS):
                    place = (i * BLOCK + row % BLOCK)[:, None]
                    tl.store(forth + of_pair + place, highest[i], place < COUNTED)


@triton.jit(do_not_specialize=["q", "g", "span"])
def sliced_maxima(
    queries, gallery, weights, forth, back, q, g, query_stride, gallery_stride, span,
    POSITIONS: tl.constexpr, COUNTED: tl.constexpr, BLOCK: tl.constexpr,
    QUERIES: tl.constexpr, MAPS: tl.constexpr, CHANNELS: tl.constexpr, SLICES: tl.constexpr,
    ROOM: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Write both maxima of pairs, for SLICES times CHANNELS channels, too many to be held.

    ROOM is a power of two, at least the number of blocks: rows' maxima of all of them are kept.
    """
    BLOCKS: tl.constexpr = POSITIONS // BLOCK
    ROWS: tl.constexpr = QUERIES * BLOCK
    COLUMNS: tl.constexpr = MAPS * BLOCK
    top = tl.program_id(0) % tl.cdiv(q, QUERIES) * QUERIES
    left = tl.program_id(0) // tl.cdiv(q, QUERIES) * span
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    block = tl.arange(0, ROOM)[:, None, None]
    depth = tl.arange(0, CHANNELS)[:, None] * POSITIONS
    query = tl.minimum(row // BLOCK, q - 1 - top)
    query_at = (query * query_stride + row % BLOCK)[None, :] + depth
    queries += top.to(tl.int64) * query_stride
    products = tl.zeros((ROWS, COLUMNS), tl.float32)
    highest = tl.full((ROOM, ROWS, MAPS), float("-inf"), tl.float32)
    across = tl.full((QUERIES, COLUMNS), float("-inf"), tl.float32)
    score = tl.zeros((QUERIES, MAPS), tl.float32)
    # One loop over all there is: slices of the next blocks come while the last maxima are taken.
    groups = tl.cdiv(tl.minimum(span, g - left), MAPS)
    for step in range(groups * BLOCKS * BLOCKS * SLICES):
        k = step % SLICES
        i = step // SLICES % BLOCKS
        j = step // (SLICES * BLOCKS) % BLOCKS
        first = left + step // (SLICES * BLOCKS * BLOCKS) * MAPS
        other = tl.minimum(column // BLOCK, g - 1 - first)
        deep = k * CHANNELS * POSITIONS
        kernels = tl.load(queries + (deep + i * BLOCK) + query_at)
        maps = gallery + first.to(tl.int64) * gallery_stride + (deep + j * BLOCK)
        tile = tl.load(maps + (other * gallery_stride + column % BLOCK)[None, :] + depth)
        products = tl.dot(tl.trans(kernels), tile, products, input_precision="ieee")
        if k == SLICES - 1:
            best = tl.max(tl.reshape(products, (ROWS, MAPS, BLOCK)), 2)[None]
            risen = tl.where(j == 0, best, tl.maximum(highest, best))
            highest = tl.where(block == i, risen, highest)
            found = tl.max(tl.reshape(products, (QUERIES, BLOCK, COLUMNS)), 1)
            across = tl.where(i == 0, found, tl.maximum(across, found))
            products = tl.zeros((ROWS, COLUMNS), tl.float32)
            if i == BLOCKS - 1:
                at = j * BLOCK + column % BLOCK
                place = block * BLOCK + (row % BLOCK)[None, :, None]
                of_map = _clipped(first, g, MAPS)
                if WEIGHTED:
                    part = _weighted_columns(weights + at, across, QUERIES, MAPS, BLOCK)
                    score = tl.where(j == 0, 0.0, score) + part
                else:
                    pair = _clipped(top, q, QUERIES)[:, None] * g + (first + other)[None, :]
                    tl.store(back + pair * COUNTED + at[None, :], across, (at < COUNTED)[None, :])
                if j == BLOCKS - 1:
                    if WEIGHTED:
                        weight = tl.load(weights + place, place < POSITIONS, 0.0)
                        of_rows = weight * tl.where(place < POSITIONS, highest, 0.0)
                        of_rows = tl.reshape(tl.sum(of_rows, 0), (QUERIES, BLOCK, MAPS))
                        of_query = _clipped(top, q, QUERIES)[:, None] * g
                        tl.store(forth + of_query + of_map[None, :], score + tl.sum(of_rows, 1))
                    else:
                        of_query = (top + query).to(tl.int64)[None, :, None] * g
                        of_pair = (of_query + of_map[None, None, :]) * COUNTED
                        tl.store(forth + of_pair + place, highest, place < COUNTED)


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
    column = tl.arange(0, BLOCK)
    at = tl.arange(0, CHANNELS)[:, None] * POSITIONS + column[None, :]
    ones = maps + one.to(tl.int64) * stride + i * BLOCK
    others = maps + other.to(tl.int64) * stride
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    winner = tl.zeros((BLOCK,), tl.int32)
    for j in range(BLOCKS):
        products = tl.zeros((BLOCK, BLOCK), tl.float32)
        # c is no constant on purpose: unrolled, such a loop spills registers.
        for k in range(0, c, CHANNELS):
            kernels = tl.load(ones + k * POSITIONS + at)
            tile = tl.load(others + k * POSITIONS + j * BLOCK + at)
            products = tl.dot(tl.trans(kernels), tile, products, input_precision="ieee")
        found, where = tl.max(products, 1, return_indices=True)
        winner = tl.where(found > highest, j * BLOCK + where, winner)
        highest = tl.maximum(highest, found)
    to = i * BLOCK + column
    pair = (one.to(tl.int64) * b + other) * COUNTED
    tl.store(best + pair + to, highest, to < COUNTED)
    tl.store(place + pair + to, winner, to < COUNTED)


@triton.jit
def _weighted_columns(
    weights, across, QUERIES: tl.constexpr, MAPS: tl.constexpr, BLOCK: tl.constexpr
):
    """Return the columns' share of the scores; a vector of sums would need many registers."""
    weighted = tl.load(weights)[None, :] * across
    return tl.sum(tl.reshape(weighted, (QUERIES, MAPS, BLOCK)), 2)


@triton.jit
def _clipped(first, size, COUNT: tl.constexpr):
    """Return ``first, first + 1, ...``, none of them past the last of ``size``."""
    return tl.minimum(first + tl.arange(0, COUNT), size - 1).to(tl.int64)
