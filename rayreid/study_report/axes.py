"""Axes of a chart, and the chart itself, as inline SVG that takes the colours of its page."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

Number = float | int


@dataclass(frozen=True)
class Axis:
    """Numbers from ``low`` to ``high`` laid out from one place to another, in SVG units."""

    low: Number
    high: Number
    start: Number
    end: Number
    log: bool = False

    @classmethod
    def over(
        cls, values: Iterable[Number], start: Number, end: Number, *, log: bool = False
    ) -> "Axis":
        """Return an axis that holds all finite values with a little room at its ends."""
        found = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
        low, high = (min(found), max(found)) if found else (1.0, 10.0)
        if log:
            room = (high / low) ** 0.04 if high > low else 1.5
            return cls(low / room, high * room, start, end, log=True)
        room = (high - low) * 0.06 or max(abs(high), 1.0) * 0.05
        return cls(low - room, high + room, start, end)

    def __call__(self, value: Number) -> float:
        """Return the place of a value."""
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(value))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Return round values within the axis: up to about ``most``."""
        if self.log and self.high / self.low >= 10:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            marks = [m * 10.0**p for p in range(min(powers) - 1, max(powers) + 1) for m in (1, 3)]
            inside = [mark for mark in marks if self.low <= mark <= self.high]
            return inside if len(inside) <= most else [10.0**p for p in powers]
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Choices:
    """Names laid out evenly from one place to another."""

    names: Sequence[str]
    start: Number
    end: Number

    def __call__(self, value: object) -> float:
        """Return the place of a name."""
        step = (self.end - self.start) / len(self.names)
        return self.start + (self.names.index(str(value)) + 0.5) * step


def short(value: object) -> str:
    """Return a value as it is written beside an axis or in a table."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e5):
        return str(int(value))
    return f"{value:.3g}"


def text(x: Number, y: Number, words: str, anchor: str = "start", kind: str = "") -> str:
    """Return words at a place."""
    known = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{known}>{escape(words)}</text>'


def line(x1: Number, y1: Number, x2: Number, y2: Number, kind: str = "rule") -> str:
    """Return a straight line."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def path(
    points: Sequence[tuple[Number, Number]], kind: str, title: str = "", trial: int | None = None
) -> str:
    """Return a line through points; a title is told where a pointer rests on it."""
    through = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    told = f"<title>{escape(title)}</title>" if title else ""
    return f'<polyline class="{kind}"{of_trial(trial)} points="{through}">{told}</polyline>'


def dot(x: Number, y: Number, kind: str, title: str, trial: int) -> str:
    """Return a trial's mark: a disc, or a cross where it crashed."""
    told, mine = f"<title>{escape(title)}</title>", of_trial(trial)
    if kind == "crashed":
        cross = f"M{x - 4:.1f},{y - 4:.1f}l8,8m0,-8l-8,8"
        return f'<path class="crashed"{mine} d="{cross}">{told}</path>'
    return f'<circle class="{kind}"{mine} cx="{x:.1f}" cy="{y:.1f}" r="4">{told}</circle>'


def of_trial(trial: int | None) -> str:
    """Return the attribute by which the page's script finds all that is drawn of a trial."""
    return "" if trial is None else f' data-trial="{trial}"'


def across(axis: Axis, y: Number, top: Number, *, most: int = 5) -> list[str]:
    """Return a horizontal axis's ticks at ``y``, with faint lines up to ``top``."""
    return [
        part
        for tick in axis.ticks(most)
        for part in (
            line(axis(tick), top, axis(tick), y, "grid"),
            text(axis(tick), y + 15, short(tick), "middle"),
        )
    ]


def up(axis: Axis, x: Number, right: Number, *, most: int = 4) -> list[str]:
    """Return a vertical axis's ticks at ``x``, with faint lines to ``right``."""
    return [
        part
        for tick in axis.ticks(most)
        for part in (
            line(x, axis(tick), right, axis(tick), "grid"),
            text(x - 6, axis(tick) + 4, short(tick), "end"),
        )
    ]


def chart(parts: Iterable[str], width: Number, height: Number, label: str, kind: str = "") -> str:
    """Return a chart; ``label`` says what it shows to who cannot see it."""
    known = f' class="{kind}"' if kind else ""
    return (
        f'<svg{known} viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
