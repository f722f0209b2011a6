"""Small plots as inline SVG, which take the colours of the page that they are in."""

from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Int64

_WIDTH, _HEIGHT = 360.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 8.0, 18.0, 38.0
_MOST_BARS, _MOST_CELLS = 24, 24
_WIDEST_BAR, _WIDEST_CELL = 48.0, 24.0


def binned(values: Int64[np.ndarray, " n"]) -> tuple[list[str], list[int]]:
    """Return the names of bins of whole numbers, and how many of the values are in each.

    A bin is one number where the values are few; else up to 24 of equal width.
    """
    if not len(values):
        return [], []
    edges = _edges(values, _MOST_BARS)
    counts = np.histogram(values, edges)[0]
    names = [
        f"{low:,}" if low == high - 1 else f"{low:,}-{high - 1:,}"
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
    return names, counts.tolist()


def bars(names: Sequence[str], counts: Sequence[int], *, across: str, up: str) -> str:
    """Return a bar for each count; ``across`` and ``up`` say what the axes are."""
    most = max(counts, default=0) or 1
    step = min((_WIDTH - _LEFT - _RIGHT) / max(len(counts), 1), _WIDEST_BAR)
    room = _HEIGHT - _TOP - _BOTTOM
    # As many names as there is room for, at some six pixels a letter.
    every = max(1, -(-max(map(len, names), default=1) * 6 // max(1, round(step))))
    drawn = []
    for i, (name, count) in enumerate(zip(names, counts, strict=True)):
        x, tall = _LEFT + i * step, room * count / most
        told = escape(f"{name}: {count:,}")
        drawn.append(
            f'<rect x="{x + step * 0.08:.1f}" y="{_TOP + room - tall:.1f}" '
            f'width="{step * 0.84:.1f}" height="{tall:.1f}"><title>{told}</title></rect>'
        )
        if i % every == 0:
            drawn.append(_text(x + step / 2, _HEIGHT - _BOTTOM + 14, name, "middle"))
        if len(counts) <= 8 and count:
            drawn.append(_text(x + step / 2, _TOP + room - tall - 4, f"{count:,}", "middle"))
    if len(counts) > 8:
        drawn.append(_text(_LEFT - 5, _TOP + 4, f"{most:,}", "end"))
        drawn.append(_text(_LEFT - 5, _TOP + room, "0", "end"))
    return _figure(drawn, across, up)


def size_map(sizes: Int64[np.ndarray, "n 2"]) -> str:
    """Return how many crops have which width (to the right) and height (upwards)."""
    if not len(sizes):
        return _figure([], "width, pixels", "height, pixels")
    wide, tall = (_edges(column, _MOST_CELLS) for column in sizes.T)
    counts = np.histogram2d(sizes[:, 0], sizes[:, 1], (wide, tall))[0].astype(np.int64)
    step_x = min((_WIDTH - _LEFT - _RIGHT) / len(counts), _WIDEST_CELL)
    step_y = min((_HEIGHT - _TOP - _BOTTOM) / counts.shape[1], _WIDEST_CELL)
    drawn = []
    for i, j in np.argwhere(counts).tolist():
        # A tenth of the crops must not hide the rest: logarithmic, and never invisible.
        shade = 0.15 + 0.85 * np.log1p(counts[i, j]) / np.log1p(counts.max())
        x, y = _LEFT + i * step_x, _HEIGHT - _BOTTOM - (j + 1) * step_y
        told = f"{_span(wide, i)} x {_span(tall, j)}: {counts[i, j]:,}"
        drawn.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{step_x:.1f}" height="{step_y:.1f}" '
            f'fill-opacity="{shade:.2f}"><title>{told}</title></rect>'
        )
    right, top = _LEFT + len(counts) * step_x, _HEIGHT - _BOTTOM - counts.shape[1] * step_y
    drawn += [
        _text(_LEFT, _HEIGHT - _BOTTOM + 14, f"{sizes[:, 0].min():,}", "start"),
        _text(_LEFT - 5, _HEIGHT - _BOTTOM, f"{sizes[:, 1].min():,}", "end"),
    ]
    if len(wide) > 2:
        drawn.append(_text(right, _HEIGHT - _BOTTOM + 14, f"{sizes[:, 0].max():,}", "end"))
    if len(tall) > 2:
        drawn.append(_text(_LEFT - 5, top + 8, f"{sizes[:, 1].max():,}", "end"))
    return _figure(drawn, "width, pixels", "height, pixels")


def _edges(values: Int64[np.ndarray, " n"], most: int) -> Int64[np.ndarray, " edges"]:
    """Return edges of up to ``most`` bins of whole numbers, all of one width."""
    low, high = int(values.min()), int(values.max())
    width = -(-(high - low + 1) // most)
    return np.arange(low, high + width + 1, width)


def _span(edges: Int64[np.ndarray, " edges"], i: int) -> str:
    low, high = edges[i].item(), edges[i + 1].item() - 1
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _figure(drawn: Sequence[str], across: str, up: str) -> str:
    frame = (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
        f'y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM}"/>'
    )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    axes = [_text(middle, _HEIGHT - 6, across, "middle"), _text(0.0, 10.0, up, "start")]
    return (
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" '
        f'aria-label="{escape(f"{up} by {across}")}">{"".join([frame, *axes, *drawn])}</svg>'
    )
