"""A service under steady load for a while: whether its memory stays what it is."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from rayreid.benchmark.data import machine
from rayreid.benchmark.faults import Bench, bench
from rayreid.benchmark.load import Load
from rayreid.benchmark.processes import Process, serving
from rayreid.report import table
from rayreid.run import commit

SETTLED = 0.25
"""Share of the time after which memory should be steady: pools and caches are filled by then."""

MEMORY = (
    "process", "MiB at first", "settled", "at half time", "at the end",
    "growth once settled, bytes a request", "+- (95 %)",
)  # fmt: skip

Samples = Float64[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Soak:
    """Memory of each process of a service over time, under load."""

    load: Load
    seconds: Samples
    memory: dict[str, Samples]
    """Bytes, by process."""

    def slope(self, name: str) -> tuple[float, float]:
        """Return the growth of a process in bytes a second once settled, and half of its interval.

        The interval is of 95 %, of a line through samples that follow each other closely: such
        errors are not independent, so it is rather too narrow than too wide.
        """
        settled = self.seconds >= SETTLED * self.seconds[-1]
        return slope(self.seconds[settled], self.memory[name][settled])


def named(process: Process) -> str:
    """Return what a process of the service is, and its number."""
    return f"{process.name.split('::')[1].split('.')[0]} ({process.pid})"


def slope(seconds: Samples, values: Samples) -> tuple[float, float]:
    """Return the slope of values over time, and half of its 95 % interval."""
    from scipy.stats import linregress, t

    if not np.ptp(values):
        return 0.0, 0.0  # of which linregress makes nan
    line = linregress(seconds, values)
    half = float(t.ppf(0.975, len(values) - 2) * line.stderr)
    return float(line.slope), half


def soaked(on: Bench, seconds: float, rate: float, every: float = 1.0) -> Soak:
    """Ask a service steadily, and look at its memory."""
    future: Future[Load]
    with on.under_load(seconds, rate) as future:
        begun, times = time.monotonic(), []
        seen: dict[str, list[float]] = {}
        while not future.done():
            times.append(time.monotonic() - begun)
            for one in serving():
                seen.setdefault(named(one), []).append(float(one.resident))
            time.sleep(every)
        load = future.result()
    whole = {name: np.array(values) for name, values in seen.items() if len(values) == len(times)}
    return Soak(load, np.array(times), whole)


def soak(
    to: Path, tell: Callable[[str], None], *, seconds: float = 600.0, rate: float = 90.0,
    port: int = 8767,
) -> str:  # fmt: skip
    """Measure a soak of a small model; return a page, which also goes to ``to`` with a plot."""
    with bench(port) as on:
        result = soaked(on, seconds, rate)
    rows = []
    for name, values in result.memory.items():
        growth, half = (one / rate for one in result.slope(name))
        moments = (0.0, SETTLED, 0.5, 1.0)
        rows.append(
            (
                name.rpartition(" ")[0],
                *(f"{values[int(at * (len(values) - 1))] / 2**20:.1f}" for at in moments),
                f"{growth:+z.0f}",
                f"{half:.0f}",
            )
        )
        tell(" ".join(rows[-1]))
    page = (
        f"# Soak\n\n`rayreid benchmark soak`: {machine()}; commit {commit()}. A small model, "
        f"{rate:g} requests a second of 4 images for {seconds:g} s; {result.load.counts()}. Memory "
        "is that in use, what processes share included, at first after a few seconds under load. "
        "Growth is of a line through a sample a "
        f"second, after the first {SETTLED:.0%}; where it comes in steps, the plot tells more.\n\n"
        + table(MEMORY, rows)
        + "\n\n![Memory over time](soak.svg)"
    )
    to.mkdir(parents=True, exist_ok=True)
    draw(result, to / "soak.svg")
    (to / "soak.md").write_text(page + "\n")
    return page


def draw(result: Soak, path: Path) -> None:
    """Draw what each process has more than at first, over time."""
    from matplotlib.figure import Figure

    figure = Figure((8, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, values in result.memory.items():
        # Matplotlib leaves out of its legend what begins with an underscore.
        label = name.rpartition(" ")[0].rpartition(":")[2].lstrip("_")
        axes.plot(result.seconds, (values - values[0]) / 2**20, label=label)
    axes.axvline(SETTLED * result.seconds[-1], color="0.7", linewidth=1)
    axes.set_xlabel("seconds; the line is where pools and caches should be filled")
    axes.set_ylabel("MiB more than at first")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)
