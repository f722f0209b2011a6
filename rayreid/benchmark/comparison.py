"""What a comparison came to: means, intervals, paired gains, as tables and a figure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from rayreid.benchmark.plan import Plan
from rayreid.methods import find_method
from rayreid.report import table
from rayreid.spread import Spread, spread

Key = tuple[int, str, str]
"""Seed, fold and ranked domain: what two values are paired by."""
Values = Mapping[Key, float]
FOLD, DOMAIN = 1, 2
"""Places in a key."""

LEGEND = """mAP, mean over seeds, folds and ranked domains. +- is half of a 95 % interval
(Student's t) over the folds, which share sources, or where it says so over the ranked domains,
which say how far a gain carries to other domains. Gains are paired by seed, fold and domain; "runs
up" counts pairs of runs (seed and fold), "domains up" ranked domains. Intervals are not corrected
for their number.
"""


def spread_over(values: Values, place: int) -> Spread:
    """Return the mean over folds or domains, the rest averaged before, with Student's interval."""
    return spread(_averaged(values, place))


def _averaged(values: Values, *places: int) -> list[float]:
    groups: dict[tuple[object, ...], list[float]] = {}
    for key, value in values.items():
        groups.setdefault(tuple(key[place] for place in places), []).append(value)
    return [mean(group) for group in groups.values()]


def paired(ours: Values, theirs: Values) -> dict[Key, float]:
    """Return our value less theirs for each seed, fold and domain that both have."""
    return {key: value - theirs[key] for key, value in ours.items() if key in theirs}


@dataclass(frozen=True)
class Line:
    """One row of a table: an entry ranked in one way."""

    name: str
    against: str
    ablates: str
    adapts: bool
    """Whether it has seen the unlabelled crops of a domain that it is ranked on."""
    seen: dict[Key, float]
    held_out: dict[Key, float]
    unseen: dict[Key, float]
    elsewhere: dict[Key, float]
    costs: Mapping[str, Any]


def lines(plan: Plan, rows: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Return the rows of figures by entry and way of ranking, in the plan's order."""
    rows = list(rows)
    found = []
    for name, entry in plan.entries.items():
        for way in ("", *entry.also):
            ours = [row for row in rows if row["entry"] == name and row["ranked by"] == way]
            if not ours:
                continue
            # Other work on the machine only ever adds to a run's seconds.
            seconds = {"seconds": min(row["seconds"] for row in ours)} if not way else {}
            first = next(iter(plan.entries))
            ranked = _values(ours, "unseen")
            found.append(
                Line(
                    name=f"{name}, {way}" if way else name,
                    against=entry.ablates or entry.against or (name if way else first),
                    ablates=entry.ablates,
                    adapts=find_method(entry.method).adapts or way == "adabn",
                    seen=_values(ours, "seen"),
                    held_out={k: v for k, v in ranked.items() if k[FOLD] == k[DOMAIN]},
                    unseen={k: v for k, v in ranked.items() if k[FOLD] != k[DOMAIN]},
                    elsewhere=_values(ours, "elsewhere"),
                    costs=ours[0]["costs"] | seconds,
                )
            )
    return found


def _values(rows: Iterable[Mapping[str, Any]], where: str) -> dict[Key, float]:
    """Return the mAP of each seed, fold and domain that could be ranked."""
    return {
        (row["seed"], row["held_out"], domain): figures[0]
        for row in rows
        for domain, figures in row[where].items()
        if figures
    }


def page(plan: Plan, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the tables of a comparison: generalising, adapting, elsewhere, and each ablation."""
    every = lines(plan, rows)
    named = {line.name: line for line in every}
    generalising = [x for x in every if not x.adapts and not x.ablates]
    adapting = [x for x in every if x.adapts and not x.ablates]
    # From one source to one target there is a domain held out, and no other.
    where = "unseen" if any(x.unseen for x in every) else "held_out"
    parts = [LEGEND]
    if generalising:
        parts.append("## On unseen domains\n\n" + _table(generalising, named, where))
        parts.append("## What it takes\n\n" + _costs(generalising))
    controls = [
        (one, *_gain(getattr(named[one], where), getattr(named[other], where)), other)
        for one, other in plan.controls
        if one in named and other in named
    ]
    if controls:
        parts.append(f"## Over the controls\n\n{table(('', *GAIN, 'over'), controls)}")
    if adapting:
        over = {x.against for x in adapting}
        plain = [x for x in generalising if x.name in over]
        parts.append(
            "## Adapting: with unlabelled crops of the domain that is ranked\n\n"
            "Not comparable with the tables above. Ranked on the domain held out, whose training "
            "crops were there without labels.\n\n"
            + _table([*plain, *adapting], named, "held_out", only=True)
        )
    domains = list(dict.fromkeys(domain for x in generalising for _, _, domain in x.elsewhere))
    if domains:
        header = ["", *(f"{domain} mAP" for domain in domains)]
        cells = [[x.name, *_by_domain(x.elsewhere, domains)] for x in generalising]
        parts.append("## Elsewhere\n\n" + table(header, cells))
    for entry in dict.fromkeys(x.ablates for x in every if x.ablates):
        if entry not in named:
            continue
        ablations = [x for x in every if x.ablates == entry]
        whole = _only(named[entry], {key[:2] for x in ablations for key in x.held_out})
        adapts = named[entry].adapts
        parts.append(
            f"## Ablations of {entry}\n\n"
            + _table(
                [whole, *ablations],
                named | {entry: whole},
                "held_out" if adapts else where,
                only=adapts,
            )
        )
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _only(line: Line, runs: set[tuple[int, str]]) -> Line:
    """Return a line with the seeds and folds that its ablations have."""

    def kept(values: Values) -> dict[Key, float]:
        return {key: value for key, value in values.items() if key[:2] in runs}

    return replace(
        line,
        seen=kept(line.seen),
        held_out=kept(line.held_out),
        unseen=kept(line.unseen),
        against=line.name,
    )


GAIN = ("gain", "over domains", "runs up", "domains up")


def _gain(ours: Values, theirs: Values) -> tuple[str, str, str, str]:
    """Return the mean gain with its interval over folds, that over domains, and how many are up."""
    gains = paired(ours, theirs)
    if not gains:
        return "", "", "", ""
    by_run, by_domain = _averaged(gains, 0, FOLD), _averaged(gains, DOMAIN)
    return (
        spread_over(gains, FOLD).signed(),
        spread_over(gains, DOMAIN).interval.strip(),
        f"{sum(gain > 0 for gain in by_run)}/{len(by_run)}",
        f"{sum(gain > 0 for gain in by_domain)}/{len(by_domain)}",
    )


def _table(
    chosen: Sequence[Line], named: Mapping[str, Line], where: str, *, only: bool = False
) -> str:
    """Return the mAP of some lines and their gains; ``only`` where, for what adapts to it."""
    columns = (where,) if only else ("seen", "held_out", "unseen")
    titles = {"seen": "seen mAP", "held_out": "held-out mAP", "unseen": "unseen mAP"}
    rows = []
    for line in chosen:
        maps = [getattr(line, column) for column in columns]
        cells = [line.name, *(str(spread_over(v, FOLD)) if v else "" for v in maps)]
        other = named.get(line.against)
        if other is None or other.name == line.name:
            cells += ["", "", "", "", ""]
        else:
            cells += [*_gain(getattr(line, where), getattr(other, where)), other.name]
        rows.append(cells)
    return table(["", *(titles[column] for column in columns), *GAIN, "over"], rows)


def _costs(chosen: Sequence[Line]) -> str:
    names = ("seconds", "parameters", "macs per pair", "bytes per image")
    header = ["", "s (fastest run)", "parameters", "multiply-adds a pair", "bytes a crop (fp32)"]
    rows = []
    for line in chosen:
        if any(name in line.costs for name in names):
            cells = [line.costs.get(name, "") for name in names]
            rows.append([line.name, *(f"{c:,.0f}" if c != "" else "" for c in cells)])
    return table(header, rows)


def _by_domain(values: Values, domains: Sequence[str]) -> list[str]:
    chosen = [{k: v for k, v in values.items() if k[DOMAIN] == domain} for domain in domains]
    return [str(spread_over(each, FOLD)) if each else "" for each in chosen]


def draw(plan: Plan, rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Draw the mAP on seen and unseen domains with intervals over folds; the suffix says how."""
    from matplotlib.figure import Figure

    every = [x for x in lines(plan, rows) if not x.ablates and not x.adapts][::-1]
    figure = Figure((8, 0.45 * len(every) + 1.2), layout="constrained")
    axes = figure.subplots()
    for values, colour, label in (
        ([x.seen for x in every], "0.6", "new people of the sources"),
        ([x.unseen or x.held_out for x in every], "C0", "unseen domains"),
    ):
        drawn = [(h, spread_over(v, FOLD)) for h, v in enumerate(values) if v]
        if drawn:
            axes.errorbar(
                [s.mean for _, s in drawn], [h for h, _ in drawn],
                xerr=[s.half or 0 for _, s in drawn], fmt="o", color=colour, capsize=3, label=label,
            )  # fmt: skip
            axes.legend(loc="lower right")
    axes.set_yticks(range(len(every)), [line.name for line in every])
    axes.set_xlabel("mAP, 95 % interval over folds")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path)
