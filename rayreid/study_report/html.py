"""Parts of a report's page: sections, figures, tables, the legend of marks."""

from collections.abc import Iterable, Sequence
from html import escape

from rayreid.study_report.record import Study
from rayreid.study_report.verdict import warning

LISTED = 30
"""Rows of a table of trials; the rest is counted."""


def section(title: str, *parts: str) -> str:
    """Return a part of the page under a title."""
    return f"<section><h2>{title}</h2>{''.join(parts)}</section>"


def figure(caption: str, drawn: str) -> str:
    """Return a chart under what it shows."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawn}</figure>"


def rest(count: int, what: str) -> str:
    """Return how many more there are than are listed."""
    return f"<p>and {count - LISTED:,} more {what}</p>" if count > LISTED else ""


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], study: Study, kind: str = ""
) -> str:
    """Return a table; one of a study that looked at its target says so itself."""
    head = "".join(f"<th>{escape(title)}</th>" for title in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(pretty(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    said = warning(study)
    caption = f'<caption class="wrong">{escape(said)}</caption>' if said else ""
    known = f' class="{kind}"' if kind else ""
    return f'<div class="wide"><table{known}>{caption}<tr>{head}</tr>{body}</table></div>'


def pretty(cell: str) -> str:
    """Return text with the sign that it is typed as."""
    return cell.replace("+-", "±")


def legend() -> str:
    """Return what the marks of trials mean."""
    entries = (("ended", "ended"), ("stopped", "stopped early"), ("crashed", "crashed"))
    marks = {
        "ended": '<circle class="ended" cx="7" cy="7" r="4"/>',
        "stopped": '<circle class="stopped" cx="7" cy="7" r="4"/>',
        "crashed": '<path class="crashed" d="M3,3l8,8m0,-8l-8,8"/>',
    }
    items = "".join(
        f'<span><svg class="key" viewBox="0 0 14 14" aria-hidden="true">{marks[kind]}</svg>'
        f"{words}</span>"
        for kind, words in entries
    )
    return f'<p class="legend">{items}<span>a click on a mark shows its trial everywhere</span></p>'
