"""Which regions of two crops matched: a method's explanation as plain data, and as a picture."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict

from rayreid.data.contact_sheet import font_of
from rayreid.data.views import as_images
from rayreid.explanation import Matches
from rayreid.method import Method

LINES = 20
"""Matches that are told, those that add most first."""
SHOWN_HEIGHT = 384
"""Height of a crop in a picture, in pixels."""

FOR, AGAINST = np.array((12, 148, 96)), np.array((214, 84, 48))
"""Colours of shares above and below zero; told apart by people who do not see red or green."""
_GAP, _CAPTION = 48, 58

Place = tuple[int, int]
Shares = list[list[float]]
Pixels = UInt8[np.ndarray, "h w 3"]


class Match(BaseModel):
    """A place of the first crop and one of the second, (row, column), and what they add."""

    first: Place
    second: Place
    adds: float
    """To the score, by all parts that matched these two places, in either direction."""
    parts: tuple[str, ...]
    """Which parts of the method those are."""


class Explained(BaseModel):
    """What a pair's score comes from; see `rayreid.explanation.Explanation`."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    score: float
    says: str
    """What the shares are."""
    grid: tuple[int, int]
    """Rows and columns of places that either crop is divided into."""
    sums: str
    """``each``: either crop's shares sum to the score less the constant; ``together``: those of
    both; ``no``: they need not."""
    constant: float
    """What no place adds."""
    first: Shares
    """What each place of the first crop adds, by row."""
    second: Shares
    attention: tuple[Shares, Shares] | None = None
    """How much of each place is let through, of methods that attend."""
    matches: list[Match] = []
    """Those that add most, first."""
    matched: float = 0.0
    """What these matches add together."""


@torch.inference_mode()
def explain_pair(
    method: Method,
    pair: UInt8[np.ndarray, "2 h w 3"],
    *,
    lines: int = LINES,
) -> Explained:
    """Return which regions of two crops, of the method's size, made their score.

    The first is the query. ``lines`` is how many matches are told. The method is in eval mode.
    """
    assert not method.training
    device = next(method.parameters()).device
    found = method.explain(as_images(torch.from_numpy(pair).to(device)))
    rows, columns = found.first.shape
    matches = [] if found.matches is None else _strongest(found.matches, columns, lines)
    return Explained(
        score=found.score,
        says=found.says,
        grid=(rows, columns),
        sums=found.sums,
        constant=found.constant,
        first=found.first.tolist(),
        second=found.second.tolist(),
        attention=found.attention and (found.attention[0].tolist(), found.attention[1].tolist()),
        matches=matches,
        matched=sum(match.adds for match in matches),
    )


def _strongest(matches: Matches, columns: int, lines: int) -> list[Match]:
    """Return the pairs of places that add most, what several parts add to one taken together."""
    together: dict[tuple[int, int], tuple[float, set[int]]] = {}
    for first, second, adds, part in zip(
        matches.first.tolist(),
        matches.second.tolist(),
        matches.adds.tolist(),
        matches.part.tolist(),
        strict=True,
    ):
        before, parts = together.get((first, second), (0.0, set()))
        together[first, second] = before + adds, parts | {part}
    ordered = sorted(together.items(), key=lambda item: -item[1][0])
    return [
        Match(
            first=divmod(first, columns),
            second=divmod(second, columns),
            adds=adds,
            parts=tuple(matches.parts[part] for part in sorted(parts)),
        )
        for (first, second), (adds, parts) in ordered[:lines]
        if adds > 0
    ]


def picture(explained: Explained, first: Pixels, second: Pixels) -> Image.Image:
    """Return both crops side by side, the shares of places laid over them, matches as lines.

    The crops, of one size, are as large as they are to be shown.
    """
    height, width = first.shape[:2]
    shares = [np.array(side, np.float32) for side in (explained.first, explained.second)]
    most = max(float(np.abs(side).max()) for side in shares) or 1.0
    sheet = Image.new("RGB", (2 * width + _GAP, height + _CAPTION), "white")
    for left, pixels, side in ((0, first, shares[0]), (width + _GAP, second, shares[1])):
        sheet.paste(Image.fromarray(_overlaid(pixels, side / most)), (left, 0))
    pen = ImageDraw.Draw(sheet, "RGBA")
    strongest = max((match.adds for match in explained.matches), default=1.0)
    for match in reversed(explained.matches):
        ends = (
            _centre(match.first, explained.grid, width, height, 0),
            _centre(match.second, explained.grid, width, height, width + _GAP),
        )
        strength = match.adds / strongest
        colour = (*FOR.tolist(), round(110 + 145 * strength))
        # White beneath, so that a line is seen on any crop.
        pen.line(ends, fill=(255, 255, 255, 170), width=3 + round(2 * strength))
        pen.line(ends, fill=colour, width=1 + round(2 * strength))
        for x, y in ends:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline="white")
    _caption(pen, explained, sheet.width, height)
    return sheet


def _overlaid(pixels: Pixels, shares: Float[np.ndarray, "a b"]) -> Pixels:
    """Return a crop with shares in [-1, 1] as colours over its grey."""
    height, width = pixels.shape[:2]
    spread = Image.fromarray(shares.astype(np.float32), "F").resize(
        (width, height), Image.Resampling.BILINEAR
    )
    there = np.asarray(spread)[..., None]
    grey = pixels.mean(2, keepdims=True) * 0.6 + pixels * 0.4
    weight = np.abs(there) * 0.7
    colour = np.where(there > 0, FOR, AGAINST)
    mixed: Pixels = (grey * (1 - weight) + colour * weight).round().astype(np.uint8)
    return mixed


def _centre(place: Place, grid: tuple[int, int], width: int, height: int, left: int) -> Place:
    row, column = place
    return (
        round(left + (column + 0.5) * width / grid[1]),
        round((row + 0.5) * height / grid[0]),
    )


def _caption(pen: Any, explained: Explained, width: int, top: int) -> None:
    """Write the score and what the colours are below the crops."""
    font = font_of(13)
    small = font_of(11)
    pen.text((6, top + 6), f"score {explained.score:.4f}", fill="black", font=font)
    x = 6
    for colour, name in ((FOR, "raises it"), (AGAINST, "lowers it")):
        pen.rectangle((x, top + 30, x + 10, top + 40), fill=tuple(colour.tolist()))
        pen.text((x + 14, top + 28), name, fill="black", font=small)
        x += 24 + round(pen.textlength(name, small))
    if explained.matches:
        told = f"{len(explained.matches)} strongest matches"
        if x + pen.textlength(told, small) > width - 6:
            told = f"{len(explained.matches)} matches"
        pen.text((x, top + 28), told, fill="black", font=small)
