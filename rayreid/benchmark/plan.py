"""The plan of a comparison: entries, folds and seeds, read from a file fixed before the run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rayreid.data.sources import canonical
from rayreid.experiment import Experiment, compose
from rayreid.protocols import Fold, leave_one_domain_out
from rayreid.settings import Settings, checked, read_yaml, unknown

Also = Literal["adabn", "cosine", "untrained", "colour histogram"]
"""Another way to rank: with norms adapted to each target; by the cosine of the same embeddings;
with the weights that training began with; by colours alone."""


class Entry(Settings):
    """One row of the comparison."""

    method: str
    """The method's name."""
    settings: dict[str, Any] = Field({})
    """What it changes, as dotted assignments."""
    also: tuple[Also, ...] = ()
    """Other ways to rank what it learnt, each a row of its own."""
    against: str = ""
    """The row that its gain is over, by its name, or ``name, way``; by default the first."""
    ablates: str = ""
    """The entry that it is an ablation of; it then runs with fewer seeds."""


class Plan(Settings):
    """Who is compared, on what."""

    sources: tuple[str, ...] = Field(min_length=3)
    """Domains to learn from, each held out in its turn."""
    unseen: tuple[str, ...] = Field(min_length=1)
    """Domains that are ranked and never learnt from."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Seeds of people, weights and batches."""
    ablation_seeds: tuple[int, ...] = (0,)
    """Those of the ablations."""
    elsewhere: tuple[str, ...] = ()
    """Other domains that are ranked, in a table of their own."""
    shared: dict[str, Any]
    """Settings of all entries, as dotted assignments."""
    single: dict[str, Any] = Field({})
    """On top of them where one domain is learnt from alone."""
    entries: dict[str, Entry] = Field(min_length=1)
    """The rows by name."""
    controls: tuple[tuple[str, str], ...] = ()
    """Further pairs of rows: what the first gains over the second."""

    @field_validator("sources", "unseen", "elsewhere")
    @classmethod
    def _canonical(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(canonical, value))

    @model_validator(mode="after")
    def _names_are_there(self) -> "Plan":
        rows = {
            f"{name}, {way}" if way else name
            for name, entry in self.entries.items()
            for way in ("", *entry.also)
        }
        for name, entry in self.entries.items():
            for other in filter(None, (entry.against, entry.ablates)):
                if other not in rows:
                    raise ValueError(f"entry {name!r} names {other!r}, which is no row")
        for pair in self.controls:
            for other in pair:
                if other not in rows:
                    raise ValueError(f"a control names {other!r}, which is no row")
        return self


@dataclass(frozen=True)
class Cell:
    """One training run of the comparison."""

    entry: str
    seed: int
    held_out: str
    experiment: Experiment

    @property
    def key(self) -> str:
        """Return what tells the cell from all others, its settings among it."""
        return f"{self.entry} {self.held_out} {self.experiment.fingerprint}"


def load_plan(path: Path | None = None) -> Plan:
    """Return the plan in a YAML file, by default the package's own.

    Raises `ValueError` or `FileNotFoundError` in a sentence.
    """
    path = path or Path(__file__).with_name("methods.yaml")
    if not path.is_file():
        raise FileNotFoundError(f"there is no plan {path}")
    return checked(Plan, read_yaml(path.read_text(), path))


def narrowed(
    plan: Plan, only: Sequence[str], unseen: Sequence[str], elsewhere: Sequence[str] = ()
) -> Plan:
    """Return the plan with some of its entries, and other domains to rank, where any are given.

    Raises `ValueError` for an entry that is not there.
    """
    for name in only:
        if name not in plan.entries:
            raise unknown("entry", name, plan.entries)
    # An ablation is nothing without what it ablates.
    wanted = {*only, *(plan.entries[name].ablates for name in only)}
    kept = {name: entry for name, entry in plan.entries.items() if not only or name in wanted}
    named = {"unseen": unseen, "elsewhere": elsewhere}
    domains = {name: tuple(map(canonical, each)) for name, each in named.items() if each}
    return plan.model_copy(update={"entries": kept, **domains})


def cells(plan: Plan, folds: Sequence[Fold] = ()) -> Iterator[Cell]:
    """Yield the training runs of a plan, by default with each source left out; ablations last.

    Seed after seed, so that domains need not be drawn again.
    """
    folds = folds or leave_one_domain_out(plan.sources)
    for ablations, seeds in ((False, plan.seeds), (True, plan.ablation_seeds)):
        entries = {
            n: entry for n, entry in plan.entries.items() if bool(entry.ablates) == ablations
        }
        for seed, (name, entry), fold in product(seeds, entries.items(), folds):
            yield Cell(name, seed, fold.held_out, _experiment(plan, entry, seed, fold))


def _experiment(plan: Plan, entry: Entry, seed: int, fold: Fold) -> Experiment:
    where = {"sources": fold.sources, "seed": seed, "synthetic.seed": seed}
    alone = plan.single if len(fold.sources) == 1 else {}
    made = compose(entry.method, plan.shared, alone, entry.settings, where)
    return made.replaced({"target": fold.held_out}) if made.Method.adapts else made
