"""How far one study goes: a thousand trivial trials through the machinery of real ones."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rayreid.experiment import compose
from rayreid.quickstart.sizes import FEW, OWN, SMALL, SPACES
from rayreid.report import table
from rayreid.search_space import parse_space, start_within
from rayreid.session import session
from rayreid.tune.search import Search
from rayreid.tune.settings import StudySettings
from rayreid.tune.trivial import object_store_bytes, open_trivial, run_trivial

METHOD, EPOCHS, CORES, AT_A_TIME = "gmn", 5, 2, 4
EVERY = 50
"""Trials between two rows."""

Row = dict[str, int | float]


def scale(
    folder: Path,
    trials: int,
    tell: Callable[[str], None],
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Run a study of trivial trials in an empty folder; return the driver's rows over its trials.

    The space, the sampler (TPE), early stopping (ASHA), the journal and the record are the
    quickstart study's; only learning is left out. ``keep`` receives what there is after each row,
    so that a run that is cut short has measured what it came to.
    """
    space = parse_space(SPACES[METHOD])
    start = start_within(space, compose(METHOD, SMALL, OWN[METHOD], FEW))
    settings = StudySettings(trials=trials, parallel=AT_A_TIME, cpus_per_trial=CORES / AT_A_TIME)
    rows: list[Row] = []
    with session(cpus=CORES):
        search = open_trivial(folder, space, settings, EPOCHS, start)
        clocks = {name: _timed(search, name) for name in ("suggest", "hear", "on_trial_complete")}
        told = dict.fromkeys(clocks, 0)
        began = time.perf_counter()

        def watch() -> None:
            done = len(clocks["on_trial_complete"])
            if done % EVERY and done != trials:
                return
            before = int(rows[-1]["trials"]) if rows else 0
            since = float(rows[-1]["seconds"]) if rows else 0.0
            seconds = time.perf_counter() - began
            spent = {name: sum(calls[told[name] :]) for name, calls in clocks.items()}
            told.update({name: len(calls) for name, calls in clocks.items()})
            rows.append(
                {
                    "trials": done,
                    "seconds": seconds,
                    "seconds_a_trial": (seconds - since) / (done - before),
                    **{f"{name}_ms": 1e3 * s / (done - before) for name, s in spent.items()},
                    "resident_mib": resident_mib(),
                    "journal_mib": _mib(folder / "optuna.journal"),
                    "reports_mib": _mib(folder / "reports.jsonl"),
                    "object_store_mib": object_store_bytes() / 2**20,
                }
            )
            tell(f"{done} trials: {rows[-1]}")
            keep(_so_far(search, rows))

        _after(search, watch)
        run_trivial(search, _score)
    return _so_far(search, rows)


def _so_far(search: Search, rows: list[Row]) -> dict[str, Any]:
    states = [state for state in search.states().values() if state != "running"]
    return {
        "trials": len(states),
        "epochs": search.epochs,
        "reports": sum(len(found) for found in search.record.trials.values()),
        "states": {state: states.count(state) for state in sorted(set(states))},
        "rows": rows,
    }


def _score(values: Mapping[str, Any], epoch: int) -> float:
    """Return a score that depends on the settings, so that trials differ and some are stopped."""
    rate, weight = float(values["optimiser.lr"]), float(values["config.pair_weight"])
    worth = 1 - abs(math.log10(rate) + 2.3) - 0.1 * abs(math.log10(weight))
    return worth * (1 - math.exp(-epoch))


def _timed(search: Search, name: str) -> list[float]:
    """Have the seconds of a call of one of the search's methods kept in the list returned."""
    taken: list[float] = []
    work = getattr(search, name)

    def timed(*arguments: Any, **keywords: Any) -> Any:
        began = time.perf_counter()
        try:
            return work(*arguments, **keywords)
        finally:
            taken.append(time.perf_counter() - began)

    setattr(search, name, timed)
    return taken


def _after(search: Search, watch: Callable[[], None]) -> None:
    """Have ``watch`` called whenever a trial is over."""
    complete = search.on_trial_complete

    def watched(*arguments: Any, **keywords: Any) -> None:
        complete(*arguments, **keywords)
        watch()

    search.on_trial_complete = watched  # type: ignore[method-assign]


def _mib(path: Path) -> float:
    return path.stat().st_size / 2**20 if path.is_file() else 0.0


def resident_mib() -> float:
    """Return the resident memory of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return math.nan


def scale_table(found: Mapping[str, Any]) -> str:
    """Return the rows over the trials, about ten of them."""
    every = max(1, len(found["rows"]) // 10)
    chosen = found["rows"][every - 1 :: every]
    header = (
        "trials", "s", "ms a trial", "of it suggest", "reports", "ends", "driver, MiB",
        "journal, MiB", "record, MiB", "object store, MiB",
    )  # fmt: skip
    lines = [
        (
            int(row["trials"]),
            f"{row['seconds']:.0f}",
            f"{1e3 * row['seconds_a_trial']:.0f}",
            f"{row['suggest_ms']:.0f}",
            f"{row['hear_ms']:.0f}",
            f"{row['on_trial_complete_ms']:.0f}",
            f"{row['resident_mib']:.0f}",
            f"{row['journal_mib']:.2f}",
            f"{row['reports_mib']:.2f}",
            f"{row['object_store_mib']:.2f}",
        )
        for row in chosen
    ]
    states = ", ".join(f"{count} {state}" for state, count in found["states"].items())
    return (
        "## A study of many trials\n\n"
        f"`rayreid benchmark studies --scale`: {found['trials']:,} trials that learn nothing, "
        f"through the machinery of real ones, {AT_A_TIME} at a time on {CORES} cores, up to "
        f"{found['epochs']} epochs each ({states}; {found['reports']:,} reports). Milliseconds are "
        "of the driver and the workers together, a trial, over the trials since the row before.\n\n"
        + table(header, lines)
    )


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw the time that a trial takes, and the driver's memory and files, over the trials."""
    from matplotlib.figure import Figure

    rows = found["rows"]
    trials = [row["trials"] for row in rows]
    figure = Figure((9, 3.4), layout="constrained")
    times, sizes = figure.subplots(1, 2)
    times.plot(trials, [1e3 * row["seconds_a_trial"] for row in rows], label="in all")
    for name, label in (("suggest", "suggest"), ("hear", "reports"), ("on_trial_complete", "ends")):
        times.plot(trials, [row[f"{name}_ms"] for row in rows], label=f"of it {label}")
    times.set_ylabel("ms a trial")
    first = rows[0]["resident_mib"]
    sizes.plot(trials, [row["resident_mib"] - first for row in rows],
               label=f"driver, over its {first:.0f}")  # fmt: skip
    for name, label in (("journal", "journal"), ("reports", "record")):
        sizes.plot(trials, [row[f"{name}_mib"] for row in rows], label=label)
    sizes.set_ylabel("MiB")
    for part in (times, sizes):
        part.set_xlabel("trials")
        part.set_ylim(bottom=0)
        part.grid(alpha=0.3)
        part.legend()
    figure.savefig(path, metadata={"Date": None})
