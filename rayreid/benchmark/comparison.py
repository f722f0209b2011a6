"""What a comparison came to: means, intervals over folds, paired gains, as tables and a figure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rayreid.benchmark.plan import Plan
from rayreid.methods import find_method
from rayreid.report import table

Pair = tuple[int, str]
"""Seed and fold: what two rows of figures are paired by."""

STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class Spread:
    """A mean over folds, and half the width of its 95 % interval (None for one fold)."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        """Return both with three decimals."""
        return f"{self.mean:.3f}" + (f" +- {self.half:.3f}" if self.half is not None else "")

    def signed(self) -> str:
        """Return both, the mean with its sign."""
        return f"{self.mean:+.3f}" + (f" +- {self.half:.3f}" if self.half is not None else "")


def over_folds(values: Mapping[Pair, float]) -> Spread:
    """Return the mean over folds, of means over seeds, with Student's interval over the folds."""
    folds = sorted({fold for _, fold in values})
    means = [mean(v for (_, f), v in values.items() if f == fold) for fold in folds]
    if len(means) < 2:
        return Spread(means[0], None)
    quantile = STUDENT[min(len(means) - 1, len(STUDENT)) - 1]
    return Spread(mean(means), quantile * stdev(means) / len(means) ** 0.5)


def paired(ours: Mapping[Pair, float], theirs: Mapping[Pair, float]) -> dict[Pair, float]:
    """Return our value less theirs for each seed and fold that both have."""
    return {pair: value - theirs[pair] for pair, value in ours.items() if pair in theirs}


@dataclass(frozen=True)
class Line:
    """One row of a table: an entry ranked in one way."""

    name: str
    against: str
    ablates: str
    adapts: bool
    """Whether it has seen the unlabelled crops of the domain it is ranked on."""
    seen: dict[Pair, float]
    held_out: dict[Pair, float]
    unseen: dict[Pair, float]
    elsewhere: dict[str, dict[Pair, float]]
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

            def maps(of: Callable[[Any], Iterable[Any]], ours: Any = ours) -> dict[Pair, float]:
                values = {(r["seed"], r["held_out"]): [v[0] for v in of(r) if v] for r in ours}
                return {pair: mean(each) for pair, each in values.items() if each}

            first = next(iter(plan.entries))
            found.append(
                Line(
                    name=f"{name}, {way}" if way else name,
                    against=entry.ablates or entry.against or (name if way else first),
                    ablates=entry.ablates,
                    adapts=find_method(entry.method).adapts or way == "adabn",
                    seen=maps(lambda r: r["seen"].values()),
                    held_out=maps(lambda r: [r["unseen"][r["held_out"]]]),
                    unseen=maps(
                        lambda r: [v for k, v in r["unseen"].items() if k != r["held_out"]]
                    ),
                    elsewhere={
                        domain: maps(partial(_elsewhere, domain))
                        for domain in ours[0].get("elsewhere", {})
                    },
                    # Other work on the machine only ever adds to a run's seconds.
                    costs={**ours[0], "seconds": round(min(r["seconds"] for r in ours))},
                )
            )
    return found


def page(plan: Plan, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the tables of a comparison: generalising, adapting, and each ablation."""
    every = lines(plan, rows)
    named = {line.name: line for line in every}
    generalising = [x for x in every if not x.adapts and not x.ablates]
    adapting = [x for x in every if x.adapts and not x.ablates]
    parts = [
        "## On unseen domains, which no method has seen\n\n"
        + _table(generalising, named, "unseen", costs=True)
    ]
    controls = [
        (one, *_gain(named[one].unseen, named[other].unseen), other)
        for one, other in plan.controls
        if one in named and other in named
    ]
    if controls:
        parts.append(
            "## Over the controls, on unseen domains\n\n"
            + table(("", "gain", "up", "over"), controls)
        )
    if adapting:
        plain = [x for x in generalising if any(y.against == x.name for y in adapting)]
        parts.append(
            "## Adapting: with unlabelled crops of the domain that is ranked\n\n"
            "Not comparable with the table above; ranked on the domain held out, whose training "
            "crops were there without labels.\n\n"
            + _table([*plain, *adapting], named, "held_out", costs=False)
        )
    domains = dict.fromkeys(name for x in every for name in x.elsewhere)
    if domains:
        parts.append(
            "## Elsewhere: on domains that were not drawn here\n\n"
            + table(
                ["", *(f"{name} mAP" for name in domains)],
                [
                    [x.name, *(_or_blank(x.elsewhere.get(name)) for name in domains)]
                    for x in every
                    if not x.ablates
                ],
            )
        )
    for entry in dict.fromkeys(x.ablates for x in every if x.ablates):
        ablations = [x for x in every if x.ablates == entry]
        where = "held_out" if named[entry].adapts else "unseen"
        pairs = {pair for x in ablations for pair in x.unseen}
        whole = _only(named[entry], pairs)
        parts.append(
            f"## Ablations of {entry}\n\n"
            + _table([whole, *ablations], named | {entry: whole}, where, costs=False)
        )
    return "\n\n".join(parts) + "\n"


def _gain(ours: Mapping[Pair, float], theirs: Mapping[Pair, float]) -> tuple[str, str]:
    """Return the mean gain with its interval, and how many of the pairs went up."""
    gains = paired(ours, theirs)
    if not gains:
        return "", ""
    ups = sum(gain > 0 for gain in gains.values())
    return over_folds(gains).signed(), f"{ups}/{len(gains)}"


def _elsewhere(domain: str, row: Mapping[str, Any]) -> list[Any]:
    return [row["elsewhere"].get(domain)]


def _or_blank(values: Mapping[Pair, float] | None) -> str:
    return str(over_folds(values)) if values else ""


def _only(line: Line, pairs: set[Pair]) -> Line:
    """Return a line with the seeds and folds that its ablations have."""

    def kept(values: dict[Pair, float]) -> dict[Pair, float]:
        return {pair: v for pair, v in values.items() if pair in pairs}

    return Line(**{**vars(line), "seen": kept(line.seen), "held_out": kept(line.held_out),
                   "unseen": kept(line.unseen), "against": line.name})  # fmt: skip


def _table(chosen: Sequence[Line], named: Mapping[str, Line], where: str, *, costs: bool) -> str:
    header = ["", "seen mAP", "held-out mAP", "unseen mAP", "gain", "up", "over"]
    if costs:
        header += ["s", "parameters", "multiply-adds a pair", "bytes a crop"]
    rows = []
    for line in chosen:
        other = named.get(line.against)
        maps = (line.seen, line.held_out, line.unseen)
        cells = [line.name, *map(_or_blank, maps)]
        if other is None or other.name == line.name:
            cells += ["", "", ""]
        else:
            gain, ups = _gain(getattr(line, where), getattr(other, where))
            cells += [gain, ups, other.name]
        if costs:
            names = ("seconds", "parameters", "macs per pair", "bytes per image")
            cells += [f"{line.costs[name]:,}" for name in names]
        rows.append(cells)
    return table(header, rows)


def draw(plan: Plan, rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Draw the mAP on seen and unseen domains with intervals over folds; the suffix says how."""
    from matplotlib.figure import Figure

    every = [x for x in lines(plan, rows) if not x.ablates and not x.adapts][::-1]
    figure = Figure((8, 0.45 * len(every) + 1.2), layout="constrained")
    axes = figure.subplots()
    for height, line in enumerate(every):
        for values, colour, label in (
            (line.seen, "0.6", "new people of the sources"),
            (line.unseen, "C0", f"{len(plan.unseen)} unseen domains"),
        ):
            if values:
                spread = over_folds(values)
                axes.errorbar(
                    spread.mean, height, xerr=spread.half, fmt="o", color=colour, capsize=3,
                    label=label if not height else None,
                )  # fmt: skip
    axes.set_yticks(range(len(every)), [line.name for line in every])
    axes.set_xlabel("mAP, 95 % interval over folds")
    axes.grid(axis="x", alpha=0.3)
    if every:
        axes.legend(loc="lower right")
    figure.savefig(path)
