"""A page that shows domains: a contact sheet, counts, sizes, copies and looks, in one HTML file."""

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from PIL import Image

from rayreid.data.contact_sheet import block, check_size, sheet
from rayreid.data.loading import LoadingSettings
from rayreid.data.plotting import bars, binned, size_map
from rayreid.data.scanning import LOOK_HEIGHT, LOOK_WIDTH, PARTS, Scan, crops_in, legible, scan
from rayreid.data.sources import SyntheticSettings, canonical, open_source
from rayreid.data.statistics import People, copies, people_of

SAMPLE = 20_000
"""Crops of a domain whose pixels are measured, where it has more: some tens of seconds."""

_LISTED = 50
"""Rows of a list on the page; the rest is counted."""

Progress = Callable[[int], object]


@dataclass(frozen=True, eq=False)
class Shown:
    """What the page has of one domain."""

    picture: Image.Image
    row: str
    """Of the table of domains."""
    section: str
    broken: int


def show(
    sources: Sequence[str],
    folder: Path,
    *,
    people: int = 8,
    cameras: int = 8,
    height: int = 128,
    sample: int = SAMPLE,
    synthetic: SyntheticSettings | None = None,
    progress: Callable[[str, int], Progress] | None = None,
) -> list[Shown]:
    """Write ``sheet.png`` and ``index.html`` about the domains of some sources to a folder.

    The page has everything in it, the sheet too: it needs no other file, no host and no script.
    Every file is read, once; the pixels of ``sample`` crops a domain are measured. ``progress`` is
    called with each source and the number of its crops, and what it returns with the number of
    those done since its last call.

    Raises `ValueError` or `FileNotFoundError` as a source's reader does, and for a sheet that
    would be too large, or a folder that is a file.
    """
    check_size(len(sources), people=people, cameras=cameras, height=height)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, where a folder for the page was expected")
    shown = []
    for source in [canonical(source) for source in sources]:
        domain = open_source(source, LoadingSettings(), synthetic or SyntheticSettings())
        add = progress(source, crops_in(domain)) if progress else None
        found = scan(domain, decode=sample, progress=add)
        known = people_of(found)
        picture = block(found, known, people=people, cameras=cameras, height=height)
        section = _section(source, found, known, picture)
        shown.append(Shown(picture, _looks(found, known), section, len(found.broken)))
    folder.mkdir(parents=True, exist_ok=True)
    sheet([each.picture for each in shown]).save(folder / "sheet.png")
    (folder / "index.html").write_text(page(shown), encoding="utf-8")
    return shown


def page(shown: Sequence[Shown]) -> str:
    """Return the page as HTML."""
    header = (
        "Domain", "Crops", "People", "Cameras", "Median size", "Measured",
        "Mean colour", "Brightness", "Contrast", "Sharpness",
    )  # fmt: skip
    head = "".join(f"<th>{title}</th>" for title in header)
    rows = "".join(each.row for each in shown)
    looks = (
        "<p>Every file is read for counts, sizes and copies. Measured are the crops, evenly spread "
        "over a domain, whose pixels are decoded: for the columns right of it, and to find damage "
        "that a header does not tell. Brightness and contrast are mean and standard deviation of a "
        "crop's luma, 0 to 255; sharpness is the variance of its Laplacian. Each is the mean over "
        "the crops measured and, after ±, the standard deviation over them; all crops are scaled "
        f"to {LOOK_WIDTH} x {LOOK_HEIGHT} for it.</p>"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Whatever a name might smuggle in, nothing is fetched and nothing runs.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>Domains</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>Domains</h1>\n"
        f'<div class="wide"><table class="domains"><tr>{head}</tr>{rows}</table></div>\n{looks}\n'
        + "\n".join(each.section for each in shown)
        + "\n</body>\n</html>\n"
    )


def _looks(found: Scan, known: People) -> str:
    """Return a domain's row in the table of domains."""
    looks = found.looks[~np.isnan(found.looks[:, 0])].astype(np.float64)
    sizes = found.sizes[found.sizes[:, 0] > 0]
    measured = f"{len(looks):,}" if len(looks) < len(found) else "all"
    median = " x ".join(f"{v:g}" for v in np.median(sizes, axis=0)) if len(sizes) else "none"
    cells = [f"<bdi>{escape(legible(found.domain.name))}</bdi>"]
    cells += [f"{n:,}" for n in (len(found), len(known), len(np.unique(found.cameras)))]
    cells += [median, measured]
    if len(looks):
        means, spreads = looks.mean(0), looks.std(0)
        rgb = ", ".join(f"{value:.0f}" for value in means[:3])
        cells.append(f'<i style="background:rgb({rgb})"></i> {rgb}')
        cells += [f"{m:,.0f} ± {s:,.0f}" for m, s in zip(means[3:], spreads[3:], strict=True)]
    else:
        cells += [""] * 4
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _section(source: str, found: Scan, known: People, picture: Image.Image) -> str:
    """Return all that the page says of a domain."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    inlined = base64.b64encode(buffer.getvalue()).decode()
    name = f"<bdi>{escape(legible(found.domain.name))}</bdi>"
    sizes = found.sizes[found.sizes[:, 0] > 0]
    return "\n".join(
        [
            f"<section><h2>{name}</h2>",
            f'<p class="source"><bdi>{escape(legible(source))}</bdi></p>',
            f'<div class="wide"><img alt="People by cameras" width="{picture.width}" '
            f'height="{picture.height}" src="data:image/jpeg;base64,{inlined}"></div>',
            '<div class="pair">',
            _parts(found),
            _cameras(found),
            "</div>",
            '<div class="plots">',
            bars(*binned(known.cameras), across="cameras that see a person", up="people"),
            bars(*binned(known.crops), across="crops of a person", up="people"),
            size_map(sizes) if len(np.unique(sizes, axis=0)) > 1 else "",
            "</div>",
            _sizes(sizes),
            _alone(known),
            _copies(found),
            _broken(found),
            "</section>",
        ]
    )


def _parts(found: Scan) -> str:
    rows: list[list[str | int]] = []
    for number, part in enumerate(PARTS):
        here = found.parts == number
        persons = found.persons[here]
        counts = (here.sum(), len(np.unique(persons[persons >= 0])), (persons < 0).sum())
        broken = sum(int(found.parts[crop]) == number for crop in found.broken)
        rows.append([part, *map(int, counts), len(np.unique(found.cameras[here])), broken])
    header = ("Part", "Crops", "People", "Distractors", "Cameras", "Broken crops")
    return _table(header, rows)


def _cameras(found: Scan) -> str:
    rows: list[list[str | int]] = []
    cameras = np.unique(found.cameras)
    for camera in cameras[:_LISTED].tolist():
        here = found.cameras == camera
        persons = found.persons[here]
        parts = np.bincount(found.parts[here], minlength=len(PARTS)).tolist()
        rows.append([f"c{camera}", *parts, len(np.unique(persons[persons >= 0]))])
    return _table(("Camera", *PARTS, "People"), rows) + _rest(len(cameras), "cameras")


def _sizes(sizes: Int64[np.ndarray, "n 2"]) -> str:
    counts = Counter(map(tuple, sizes.tolist()))
    common = [f"{width} x {height} ({n:,})" for (width, height), n in counts.most_common(5)]
    many = f"{len(counts):,} sizes, most often " if len(counts) > 1 else "One size: "
    return f"<p>{many}{', '.join(common)}.</p>" if common else ""


def _alone(known: People) -> str:
    alone = np.flatnonzero(known.cameras == 1)
    if not len(alone):
        return "<p>Everybody is seen by at least two cameras.</p>"
    names = ", ".join(
        f"{known.identities[p]} ({'train' if known.learnt[p] else 'test'})" for p in alone[:_LISTED]
    )
    return (
        f"<h3>In one camera only: {len(alone):,} of {len(known):,} people</h3><p>{names}"
        f"{_rest(len(alone), 'people')}</p>"
    )


def _copies(found: Scan) -> str:
    groups = copies(found)
    if not groups:
        return "<p>No two crops have the same bytes.</p>"
    # What is a mistake comes first.
    groups.sort(key=lambda group: len({found.persons[crop] for crop in group}) == 1)
    items = []
    for group in groups[:_LISTED]:
        differ = len({found.persons[crop] for crop in group}) > 1
        files = "".join(
            f"<li>id {found.identities[crop]}, c{found.cameras[crop]}, "
            f"{PARTS[found.parts[crop]]}: <bdi>{escape(found.name(crop))}</bdi></li>"
            for crop in group[:_LISTED]
        )
        label = '<strong class="wrong">different identities</strong>' if differ else "one identity"
        items.append(f"<li>{label}<ul>{files}</ul>{_rest(len(group), 'crops')}</li>")
    wrong = sum(len({found.persons[crop] for crop in group}) > 1 for group in groups)
    told = f", {wrong:,} of them with different identities: labelling mistakes" if wrong else ""
    return (
        f"<h3>Exact copies: {len(groups):,} groups of crops with the same bytes{told}</h3>"
        f"<ol>{''.join(items)}</ol>{_rest(len(groups), 'groups')}"
    )


def _broken(found: Scan) -> str:
    if not found.broken:
        return ""
    items = "".join(
        f"<li><bdi>{escape(found.name(crop))}</bdi>: {escape(reason)}</li>"
        for crop, reason in list(found.broken.items())[:_LISTED]
    )
    return (
        f'<h3 class="wrong">Broken crops: {len(found.broken):,}, passed over</h3><ul>{items}</ul>'
        f"{_rest(len(found.broken), 'crops')}"
    )


def _rest(count: int, what: str) -> str:
    return f"<p>and {count - _LISTED:,} more {what}</p>" if count > _LISTED else ""


def _table(header: Iterable[str], rows: Iterable[Iterable[str | int]]) -> str:
    """Return a table of texts that need no escaping, and of numbers."""
    head = "".join(f"<th>{title.capitalize()}</th>" for title in header)
    lines = (
        "".join(f"<td>{f'{cell:,}' if isinstance(cell, int) else cell}</td>" for cell in row)
        for row in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #667; --rule: #d8dce2; --back: #fff;
  --bar: #3b6fb6; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa3ad; --rule: #363c44;
  --back: #15181c; --bar: #7aa7e6; --wrong: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3 { line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--rule); padding-top: 1rem; }
h3 { font-size: 1.05rem; }
p, li { overflow-wrap: anywhere; max-width: 46rem; }
.source, svg text { color: var(--soft); }
.source { margin-top: -0.8rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
.pair { display: flex; flex-wrap: wrap; gap: 0 3rem; align-items: flex-start; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { text-align: right; padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.domains td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
td i { display: inline-block; width: 1em; height: 1em; border-radius: 3px; vertical-align: -2px;
  border: 1px solid var(--rule); }
img { display: block; height: auto; max-width: none; }
svg { width: 100%; max-width: 30rem; height: auto; fill: var(--bar); }
svg text { fill: var(--soft); font-size: 11px; }
svg line { stroke: var(--rule); }
.wrong { color: var(--wrong); }
"""
