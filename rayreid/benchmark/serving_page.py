"""How a service fared under load, as a page and a figure."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayreid.benchmark.data import machine
from rayreid.benchmark.load import Load
from rayreid.benchmark.requests import FEW, IMAGES, pairs_of
from rayreid.report import table
from rayreid.run import commit

AIM = 0.8
"""Least share of the model's own throughput that the service should reach."""

BATCHES = (16, 64)
"""Images that the model is called with directly, in whichever of these it is faster."""

CLIENTS = 12
"""Who ask at a time to find the saturation: three batches of images are always there."""

LARGE, FEW_CLIENTS = 4, 6
"""Large requests have so many times the images of others; so many clients ask with them at a time,
and no crop is in two of their requests."""


PIXELS, JPEGS = "from pixels", "from JPEGs"
INPUTS = (PIXELS, JPEGS)
"""What the model is called with directly; the service is sent JPEGs."""


@dataclass(frozen=True)
class Way:
    """One way to call a model directly."""

    input: str
    threads: int
    batch: int


@dataclass(frozen=True, eq=False)
class Round:
    """A model directly, and served right after."""

    direct: Mapping[str, float]
    """Images a second that the model alone embeds and matches, by its input."""
    served: Load
    """As fast as `CLIENTS` can ask."""
    large: Load
    """As fast as `FEW_CLIENTS` can ask in large requests."""
    passed: Load
    """As fast as `CLIENTS` can ask Ray Serve, which passes requests of the same size on to a
    replica that does nothing with them, and their answers back."""


@dataclass(frozen=True, eq=False)
class Served:
    """A model served, beside itself."""

    name: str
    height: int
    width: int
    asked_at_once: int
    """Images of a request."""
    ways: Sequence[Way]
    """Those that were the fastest, one for each of `INPUTS`."""
    tried: Mapping[Way, float]
    """Images a second of every way, tried before."""
    rounds: Sequence[Round]
    loads: Mapping[str, Load]
    asked: Mapping[str, float]
    """Requests a second that were to arrive."""
    shares: Mapping[str, float]
    """Cores that each of the service's processes took at saturation, in the last round."""

    def direct(self, input: str) -> float:
        """Return the model's own images a second, the median of the rounds."""
        return float(np.median([one.direct[input] for one in self.rounds]))

    def requests(self) -> float:
        """Return the requests a second that were served at saturation, the median of the rounds."""
        return float(np.median([one.served.rate() for one in self.rounds]))

    def passed(self) -> float:
        """Return the requests a second of Ray Serve alone, the median of the rounds."""
        return float(np.median([one.passed.rate() for one in self.rounds]))

    def refused(self) -> int:
        """Return the requests of all rounds that were not answered 200."""
        served = [load for one in self.rounds for load in (one.served, one.large)]
        return sum(int((load.status != 200).sum()) for load in served)

    def images(self, large: bool = False) -> float:
        """Return the images a second that were served at saturation, in large requests or not."""
        return float(np.median([self._images(one, large) for one in self.rounds]))

    def pairs(self) -> float:
        """Return the pairs a second that were served at saturation."""
        return len(pairs_of(self.asked_at_once)) * self.requests()

    def share(self, input: str, large: bool = False) -> tuple[float, float, float]:
        """Return what is served of what the model does directly: median, least and most."""
        each = [self._images(one, large) / one.direct[input] for one in self.rounds]
        return float(np.median(each)), min(each), max(each)

    def _images(self, one: Round, large: bool) -> float:
        load, times = (one.large, LARGE) if large else (one.served, 1)
        return times * self.asked_at_once * load.rate()


def figures(one: Served) -> dict[str, Any]:
    """Return what was measured, as plain values."""

    def load(it: Load) -> dict[str, Any]:
        return {
            "seconds": it.seconds,
            "statuses": it.counts(),
            "answered_a_second": it.rate(),
            "p50_p95_p99_s": it.percentiles(),
            "longest_s": float(it.latency.max()),
            "refused_without_retry_after": int(((it.status == 503) & (it.told == 0)).sum()),
            "cores_of_the_client": it.busy,
        }

    return {
        "input": [one.height, one.width],
        "direct_ways_tried": [asdict(w) | {"images_a_second": r} for w, r in one.tried.items()],
        "direct_ways": [asdict(way) for way in one.ways],
        "direct_images_a_second": {input: one.direct(input) for input in INPUTS},
        "served_images_a_second": one.images(),
        "images_of_a_request": one.asked_at_once,
        "served_pairs_a_second": one.pairs(),
        "share_of_direct_median_least_most": {input: one.share(input) for input in INPUTS},
        "in_large_requests": {
            "times_the_images": LARGE,
            "served_images_a_second": one.images(large=True),
            "share_of_direct_median_least_most": {
                input: one.share(input, large=True) for input in INPUTS
            },
        },
        "requests_a_second": one.requests(),
        "requests_a_second_of_serve_alone": one.passed(),
        "cores": dict(one.shares),
        "rounds": [
            {
                "direct": dict(r.direct),
                "served": {"clients": CLIENTS, **load(r.served)},
                "in_large_requests": {"clients": FEW_CLIENTS, **load(r.large)},
                "serve_alone": {"clients": CLIENTS, **load(r.passed)},
            }
            for r in one.rounds
        ],
        "loads": {
            name: {"arriving_a_second": one.asked[name], **load(it)}
            for name, it in one.loads.items()
        },
    }


def page(measured: Sequence[Served], seconds: float, others: float) -> str:
    """Return the tables in Markdown; ``others`` is the load average before."""
    throughput = [
        (
            one.name,
            f"{one.height}x{one.width}",
            f"{one.direct(PIXELS):.1f}",
            f"{one.direct(JPEGS):.1f}",
            f"{one.images():.1f}",
            f"{one.pairs():.0f}",
            *map(_told, map(one.share, INPUTS)),
            *(_told(one.share(input, large=True)) for input in INPUTS),
            str(one.asked_at_once),
            f"{one.requests():.1f}",
            f"{one.refused()}",
            f"{one.passed():.0f}",
            f"{one.rounds[-1].served.busy:.2f}",
        )
        for one in measured
    ]
    loads = [
        (
            one.name,
            name,
            f"{one.asked[name]:.1f}",
            f"{it.rate():.1f}",
            f"{it.counts().get('503', 0)}",
            f"{sum(n for status, n in it.counts().items() if status not in ('200', '503'))}",
            *(f"{1000 * p:.0f}" for p in it.percentiles()),
            f"{1000 * it.latency.max():.0f}",
        )
        for one in measured
        for name, it in one.loads.items()
    ]
    cores = len(os.sched_getaffinity(0))
    short = [load for one in measured for load in one.loads.values()]
    unsaid = sum(int(((load.status == 503) & (load.told == 0)).sum()) for load in short)
    return (
        f"# The service under load\n\n`rayreid benchmark serve`: {machine()}; commit {commit()}. "
        f"JPEGs in forms, each of the first half of a request, or of every {IMAGES} of a larger "
        "one, matched with each of the second. The model directly: batches of "
        f"{' or '.join(map(str, BATCHES))}, in one thread or one a core, whichever is fastest, in "
        "a process that has the machine for itself but for the idle service. The service computes "
        f"a batch a core, each in one thread, and shares the {cores} cores with the client that "
        f"asks it: {CLIENTS} at a time, {seconds:g} s. The two are measured in turn, "
        f"{len(measured[0].rounds)} times: medians, and of the shares, each of a turn, the least "
        f"and the most too. Large requests: {LARGE} times the images, from {FEW_CLIENTS} clients "
        "at a time. Serve alone, in turn too: requests of the same size, passed on the same way to "
        f"a replica that does nothing with them. Before it began, {others:.1f} other processes "
        "wanted a core (load average).\n\n"
        + table(
            (
                "model",
                "input",
                "direct, from pixels, images/s",
                "from JPEGs",
                "served",
                "pairs/s",
                "of direct from pixels",
                "from JPEGs",
                "in large requests, of direct from pixels",
                "from JPEGs",
                "images of a request",
                "requests/s",
                "not answered 200",
                "Serve alone, requests/s",
                "cores of the client",
            ),
            throughput,
        )
        + f"\n\nRequests that arrive at random times, whatever becomes of those before, for "
        f"{seconds:g} s each, twice as long at twice the load; shares of the requests answered "
        "above. Latency counts from when a request was to arrive; percentiles are those of what "
        "was answered 200. Places are those that a service has by default (88), or 24 where a "
        f"request has only {FEW} images. 503s without Retry-After: {unsaid}.\n\n"
        + table(
            (
                "model",
                "load",
                "arriving/s",
                "answered/s",
                "503",
                "hung, lost, other",
                "p50 ms",
                "p95 ms",
                "p99 ms",
                "longest of all, ms",
            ),
            loads,
        )
        + "\n\n![Throughput and latency](load.svg)"
    )


def _told(share: tuple[float, float, float]) -> str:
    return "{:.0%} ({:.0%} to {:.0%})".format(*share)


def draw(measured: Sequence[Served], path: Path) -> None:
    """Draw throughput beside the model's own, and the latencies under each load."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure((9, 3.2 * len(measured)), layout="constrained")
    for row, one in zip(figure.subplots(len(measured), 2, squeeze=False), measured, strict=True):
        bars, curves = row
        names = [*(f"direct, {input}" for input in INPUTS), "served", "in large requests"]
        lengths = [*map(one.direct, INPUTS), one.images(), one.images(large=True)]
        bars.barh(names, lengths, color=["0.7", "0.7", "C0", "C0"])
        bars.axvline(AIM * one.direct(PIXELS), color="C3", linewidth=1)
        bars.invert_yaxis()
        bars.set_xlabel(f"images/s; the line is at {AIM:.0%}")
        bars.set_title(f"{one.name}, {one.height}x{one.width}")
        for name, load in one.loads.items():
            latencies = load.accepted()
            if len(latencies):
                shares = np.linspace(0, 1, 101)
                curves.plot(np.quantile(latencies, shares), shares, label=name)
        curves.set_xscale("log")
        curves.xaxis.set_minor_formatter(NullFormatter())
        curves.set_xlabel("seconds to the answer")
        curves.set_ylabel("share of the answers 200")
        curves.legend(title="load")
        curves.grid(alpha=0.3)
    figure.savefig(path)
