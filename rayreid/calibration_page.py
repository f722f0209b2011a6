"""A page that shows a calibration: scores of one and of two people, and the thresholds."""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

from rayreid.ranking.calibration import Calibration
from rayreid.ranking.thresholds import NotEnough, PairThreshold, SearchTable, SearchThreshold

PAGE = "calibration.html"

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720.0, 300.0, 56.0, 16.0, 46.0, 44.0
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5c6b7a; --line: #d5dbe1;
  --page: #fff; --one: #0b7a53; --two: #b4412a; --three: #2f5fb3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --soft: #9aa8b5; --line: #38434e;
  --page: #12181e; --one: #48c793; --two: #f0866d; --three: #83aaf0; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p { max-width: 46rem; color: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .7rem; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } td:first-child, th:first-child { text-align: left; }
.wide { overflow-x: auto; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
.axis { stroke: var(--line); } .one { fill: var(--one); } .two { fill: var(--two); }
.area { fill-opacity: .35; stroke-width: 1.5; } .area.one { stroke: var(--one); }
.area.two { stroke: var(--two); }
.mark { stroke: var(--ink); stroke-dasharray: 3 3; }
.curve { fill: none; stroke: var(--three); stroke-width: 2; }
.beyond { stroke-dasharray: 2 5; }
"""


def page(calibration: Calibration) -> str:
    """Return the page as HTML, which needs no other file, no host and no script."""
    search = calibration.search
    parts = [
        f"<h1>Thresholds of {escape(calibration.method)}</h1>",
        f"<p>Weights {escape(calibration.fingerprint)}, from {calibration.genuine:,} pairs of one "
        f"person and {calibration.impostors:,} of two, {calibration.people:,} people of "
        f"{escape(calibration.source)}; {escape(calibration.written)}.</p>",
        "<h2>Pairs</h2>",
        _scores_figure(calibration),
        f'<div class="wide">{_table(PAIR_HEADER, pair_rows(calibration))}</div>',
        f"<p>{PAIR_NOTE}{' ' + BOTH_NOTE if calibration.directions == 'both' else ''}</p>",
    ]
    if search:
        parts += [
            "<h2>Searches</h2>",
            _search_figure(search),
            f'<div class="wide">{_table(search_header(search), search_rows(search))}</div>',
            f"<p>{search_note(search)}</p>",
        ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>Thresholds</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


PAIR_HEADER = ("false accept rate", "threshold", "threshold, 95 %", "rate, 95 % by pairs",
               "by people", "true accept rate", "by people")  # fmt: skip
BOTH_NOTE = (
    "The method's score changes when query and gallery change places: each pair was scored both "
    "ways, and both scores count."
)
PAIR_NOTE = (
    "Bounds by pairs are exact for independent pairs (Clopper and Pearson; of a threshold, order "
    "statistics). Pairs that share a person are not independent: bounds by people come of drawing "
    "the people again, are the wider ones, and are those that answers of the service carry."
)


def pair_rows(calibration: Calibration) -> list[tuple[str, ...]]:
    """Return a row for each false accept rate, and one for the score below which nothing is."""
    rows = []
    for one in calibration.pairs:
        if isinstance(one, NotEnough):
            rows.append((f"{one.rate:g}", "too few pairs", *[""] * 5))
            continue
        rows.append(
            (
                f"{one.false_accept_rate:g}",
                f"{one.threshold:.4f}",
                _span(one.threshold_bounds, ".4f"),
                _span(one.bounds, ".2g"),
                _span(one.people_bounds, ".2g"),
                f"{one.true_accept_rate:.3f}",
                _span(one.true_accept_people_bounds, ".3f"),
            )
        )
    if calibration.review is not None:
        rows.append(("no match up to", f"{calibration.review:.4f}", *[""] * 5))
    return rows


def search_header(search: SearchTable) -> tuple[str, ...]:
    """Return the titles of `search_rows`."""
    sizes = [f"{size:,} enrolled" for size in shown_sizes(search)]
    return ("false-positive identification rate", *sizes, "rate, 95 % by people", "found")


def shown_sizes(search: SearchTable) -> list[int]:
    """Return galleries to tell of: powers of ten up to all people at hand, these, and ten times."""
    most = search.sizes[-1]
    tens = [10**k for k in range(1, 9) if 10**k < most]
    return [*tens, most, 10 * most]


def search_rows(search: SearchTable) -> list[tuple[str, ...]]:
    """Return a row for each rate: thresholds by size, * where extrapolated, - where not enough."""
    rows = []
    for one in search.rates:
        cells = []
        for size in shown_sizes(search):
            found = search.threshold(size, one.rate)
            if isinstance(found, SearchThreshold):
                cells.append(f"{found.threshold:.4f}{'*' if found.extrapolated else ''}")
            else:
                cells.append("-")
        identified = "" if one.identified is None else f"{one.identified:.3f}"
        rows.append((f"{one.rate:g}", *cells, _span(one.people_bounds, ".2g"), identified))
    return rows


def search_note(search: SearchTable) -> str:
    """Return what the table of searches rests on."""
    return (
        f"Of {search.searches:,} searches of people who are not enrolled, against "
        f"{search.sizes[-1]:,} people of {search.samples:.1f} crops each in the mean; *: "
        "extrapolated by the union bound, which is never too low; -: not enough searches. Bounds "
        "and the share of right people found are at all people enrolled."
    )


def _span(bounds: tuple[float, float] | None, form: str) -> str:
    return "" if bounds is None else f"{bounds[0]:{form}} to {bounds[1]:{form}}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _scores_figure(calibration: Calibration) -> str:
    """Return the two distributions of scores with the thresholds."""
    shown = calibration.distributions
    x = _scale(shown.edges[0], shown.edges[-1], _LEFT, _WIDTH - _RIGHT)
    most = max(*shown.genuine, *shown.impostor)
    y = _scale(0.0, most, _HEIGHT - _BOTTOM, _TOP)
    drawn = []
    for name, shares in (("two", shown.impostor), ("one", shown.genuine)):
        steps = [
            f"{x(edge):.1f},{y(share):.1f}"
            for i, share in enumerate(shares)
            for edge in shown.edges[i : i + 2]
        ]
        ends = f"{x(shown.edges[0]):.1f},{y(0):.1f}", f"{x(shown.edges[-1]):.1f},{y(0):.1f}"
        drawn.append(
            f'<polygon class="area {name}" points="{ends[0]} {" ".join(steps)} {ends[1]}"/>'
        )
    marks = [(one.threshold, f"{one.false_accept_rate:g}") for one in calibration.pairs
             if isinstance(one, PairThreshold)]  # fmt: skip
    if calibration.review is not None:
        marks.append((calibration.review, "no match"))
    drawn += _marks(marks, x)
    drawn += _across(shown.edges[0], shown.edges[-1], x, "score")
    drawn += [
        f'<rect class="one" x="{_LEFT}" y="0" width="10" height="10"/>',
        _text(_LEFT + 16, 10.0, "pairs of one person", "start"),
        f'<rect class="two" x="{_LEFT + 150}" y="0" width="10" height="10"/>',
        _text(_LEFT + 166, 10.0, "of two; lines: thresholds by false accept rate", "start"),
    ]
    return _figure(drawn, "Scores of pairs of one person and of two people, with thresholds")


def _marks(marks: Sequence[tuple[float, str]], x: Callable[[float], float]) -> list[str]:
    """Return lines with their names, on two levels where they would run into each other."""
    drawn, last, level = [], -math.inf, 0
    for value, name in sorted(marks):
        level = 1 - level if x(value) - last < 64 else 0
        last, top = x(value), _TOP - 4 - 13 * level
        drawn.append(f'<line class="mark" x1="{last:.1f}" x2="{last:.1f}" y1="{top + 3:.1f}" '
                     f'y2="{_HEIGHT - _BOTTOM}"/>')  # fmt: skip
        drawn.append(_text(last, top, name, "middle"))
    return drawn


def _search_figure(search: SearchTable) -> str:
    """Return thresholds by the number of people enrolled; dashed where extrapolated."""
    most = search.sizes[-1]
    beyond = [round(most * 10 ** (k / 8)) for k in range(9)]
    lines = []
    for one in search.rates:
        inside = [
            (s, t) for s, t in zip(search.sizes, one.thresholds, strict=True) if t is not None
        ]
        outside = [
            (s, found.threshold)
            for s in beyond
            if isinstance(found := search.threshold(s, one.rate), SearchThreshold)
        ]
        lines.append((one.rate, inside, outside))
    every = [t for _, inside, outside in lines for _, t in (*inside, *outside)]
    if not every:
        return ""
    low, high = min(every), max(every)
    x = _scale(0.0, math.log10(max(10 * most, 10)), _LEFT, _WIDTH - _RIGHT - 40)
    y = _scale(low, high if high > low else low + 1, _HEIGHT - _BOTTOM, _TOP)
    drawn = []
    for rate, inside, outside in lines:
        for points, name in ((inside, "curve"), (outside, "curve beyond")):
            if points:
                path = " ".join(f"{x(math.log10(s)):.1f},{y(t):.1f}" for s, t in points)
                drawn.append(f'<polyline class="{name}" points="{path}"/>')
        if points := [*inside, *outside]:
            last = points[-1]
            drawn.append(_text(x(math.log10(last[0])) + 5, y(last[1]) + 4, f"{rate:g}", "start"))
    base = _HEIGHT - _BOTTOM
    drawn.append(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>'
    )
    drawn += [
        _text(x(k), base + 16, f"{10**k:,}", "middle")
        for k in range(int(math.log10(10 * most)) + 1)
    ]
    drawn += [
        _text((_LEFT + _WIDTH) / 2, _HEIGHT - 8, "people enrolled", "middle"),
        _text(0.0, 12.0, "threshold, by false-positive identification rate; dotted: extrapolated",
              "start"),
        *(_text(_LEFT - 6, y(v) + 4, f"{v:.3g}", "end") for v in (low, high)),
    ]  # fmt: skip
    return _figure(drawn, "Thresholds of searches by the number of people enrolled")


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _across(low: float, high: float, x: Callable[[float], float], name: str) -> list[str]:
    base = _HEIGHT - _BOTTOM
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next(m for m in (1, 2, 5) if (high - low) / (step * m) <= 8)
    ticks = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>',
        *(_text(x(tick), base + 16, f"{tick:g}", "middle") for tick in ticks),
        _text((_LEFT + _WIDTH) / 2, _HEIGHT - 8, name, "middle"),
    ]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _figure(drawn: Sequence[str], told: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(told)}">'
        f"{''.join(drawn)}</svg>"
    )
