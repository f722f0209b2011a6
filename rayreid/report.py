"""Tables and pictures of results."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from rayreid.batch import Crops
from rayreid.data.loading import LoadingSettings, Pixels
from rayreid.gallery import best_matches

Colour = tuple[int, int, int]
RIGHT, WRONG, QUERY = (0, 150, 70), (210, 40, 40), (40, 40, 40)
"""Frames around a match of the query's identity, of another's, and around the query."""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; numbers are right-aligned, floats with three decimals."""
    cells = [[f"{c:.3f}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    widths = [max(len(r[i]) for r in (list(header), *cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *others = zip(row, widths, strict=True)
        text = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(text)} |"

    rule = [f"{'-' * widths[0]}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, cells)])


def ranked_lists(
    scores: np.ndarray,
    query: Crops,
    gallery: Crops,
    loading: LoadingSettings,
    *,
    queries: int = 6,
    matches: int = 8,
) -> Image.Image:
    """Return a picture of the best matches of some queries, evenly spread over the query set.

    Each row is a query (dark frame), then the gallery crops of highest score, framed green
    where they show the same identity and red where they do not, their score above them.
    """
    chosen = np.unique(np.linspace(0, len(query) - 1, min(queries, len(query))).astype(int))
    best = best_matches(scores, query, gallery, matches)
    query_pixels, gallery_pixels = (Pixels(c.images, loading) for c in (query, gallery))
    # Small crops are enlarged by a whole factor, so that a person can look at them.
    zoom = max(1, 128 // loading.height)
    width, height, frame, caption = loading.width * zoom, loading.height * zoom, 3, 14
    cell_width, cell_height = width + 4 * frame, height + 4 * frame + caption
    sheet = Image.new("RGB", ((matches + 1) * cell_width, len(chosen) * cell_height), "white")
    pen = ImageDraw.Draw(sheet)

    def paste(
        pixels: np.ndarray, row: int, column: int, colour: tuple[int, ...], text: str
    ) -> None:
        left, top = column * cell_width + frame, row * cell_height + caption
        pen.text((left, top - caption), text, fill="black")
        pen.rectangle((left, top, left + width + 2 * frame, top + height + 2 * frame), fill=colour)
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(picture, (left + frame, top + frame))

    for row, q in enumerate(chosen):
        identity = int(query.identities[q])
        paste(query_pixels[np.array([q])][0], row, 0, QUERY, f"id {identity} c{query.cameras[q]}")
        for column, g in enumerate(best[q], 1):
            if g < 0:
                break
            colour = RIGHT if gallery.identities[g] == identity else WRONG
            paste(gallery_pixels[np.array([g])][0], row, column, colour, f"{scores[q, g]:.2f}")
    return sheet
