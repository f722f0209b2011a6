"""How fast pairs are scored: beside the straightforward form, and beside the matrix unit's rate."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rayreid.benchmark.data import machine
from rayreid.benchmark.resident import in_own_process, peak_of
from rayreid.benchmark.timing import medians, threads
from rayreid.matching.maxima import correlation_maxima, self_maxima
from rayreid.matching.metric_network import MetricNetwork
from rayreid.matching.products import WAYS
from rayreid.report import table
from rayreid.run import commit

Maps = Float[Tensor, "b c n"]


@dataclass(frozen=True)
class Sizes:
    """What is scored: enough to leave the caches, few enough for seconds."""

    positions: int = 192
    """Of a map: 24 x 8."""
    channels: tuple[int, ...] = (128, 512)
    queries: int = 16
    gallery: int = 96
    batch: int = 64
    """Of a training step."""
    embedding: int = 2048
    hidden: tuple[int, ...] = (64, 512)
    crops: int = 8192
    """Of a gallery of embeddings."""
    product: int = 2048
    """Side of the product that tells the matrix unit's rate."""


@dataclass(frozen=True)
class Row:
    """One way of scoring, by both forms; rates in pairs a second."""

    name: str
    threads: int
    precision: str
    plain: float
    ours: float
    flop: float
    """Of the products for one pair."""
    peak: float
    """FLOP/s of the fastest product of this precision in the same run."""
    error: float
    """Largest difference from float64, in deviations of the scores."""

    @property
    def ratio(self) -> float:
        """Return how many times faster than the straightforward form."""
        return self.ours / self.plain

    @property
    def share(self) -> float:
        """Return which share of the matrix unit's rate."""
        return self.ours * self.flop / self.peak


def matching(
    to: Path,
    tell: Callable[[str], None],
    *,
    rounds: int = 7,
    sizes: Sizes | None = None,
) -> str:
    """Measure scoring on the CPU, on one thread and on all; return a page with the tables.

    Straightforward and fast form are timed in turn, ``rounds`` times; medians are compared. The
    figures go to ``to/matching.json``.
    """
    sizes = sizes or Sizes()
    rows: list[Row] = []
    training: list[dict[str, int | float | None]] = []
    for count in sorted({1, torch.get_num_threads()}):
        with threads(count):
            peaks = {kind: _peak(kind, sizes, rounds) for kind in (torch.float32, torch.bfloat16)}
            for row in _all_rows(sizes, count, peaks, rounds):
                rows.append(row)
                tell(f"{row.name}, {row.precision}, {count} threads: {row.ratio:.1f}x")
            training.extend(_training(sizes, count, channels) for channels in sizes.channels)
    found = {
        "machine": machine(),
        "commit": commit(),
        "rounds": rounds,
        "sizes": asdict(sizes),
        "rows": [asdict(row) | {"ratio": row.ratio, "share": row.share} for row in rows],
        "training": training,
    }
    to.mkdir(parents=True, exist_ok=True)
    (to / "matching.json").write_text(json.dumps(found, indent=1) + "\n")
    return _page(rows, training, sizes, rounds)


def _all_rows(
    sizes: Sizes, count: int, peaks: dict[torch.dtype, float], rounds: int
) -> Iterator[Row]:
    """Yield the figures of each scorer, in fp32 and with products in bf16."""
    for kind, peak in peaks.items():
        half = kind == torch.bfloat16
        name = "bf16" if half else "fp32"
        for channels in sizes.channels:
            queries, gallery = (
                _maps(sizes.queries, channels, sizes),
                _maps(sizes.gallery, channels, sizes, 1),
            )
            exact = _score(plain_maxima(queries[:4].double(), gallery[:24].double()))
            forms = {
                "plain": partial(plain_maxima, queries.to(kind), gallery.to(kind)),
                "ours": partial(correlation_maxima, queries, gallery),
            }
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                seconds = medians(forms, rounds)
                error = _error(_score(correlation_maxima(queries[:4], gallery[:24])), exact)
            pairs = len(queries) * len(gallery)
            flop = 2.0 * channels * sizes.positions**2
            rates = (pairs / seconds["plain"], pairs / seconds["ours"])
            yield Row(f"best matches, C = {channels}", count, name, *rates, flop, peak, error)
        for hidden in (0, *sizes.hidden):
            if half and not hidden:
                continue
            yield _metric_row(sizes, count, hidden, half, peak, rounds)


def _metric_row(sizes: Sizes, count: int, hidden: int, half: bool, peak: float, rounds: int) -> Row:
    """Return the figures of M-Net: without hidden layers, or with one of some units."""
    generator = torch.Generator().manual_seed(0)
    net = MetricNetwork(sizes.embedding, hidden or 1, 1 if hidden else 0).eval()
    # One product for all pairs takes many; a layer of units on each pair takes few.
    queries = torch.randn(2 if hidden else 512, sizes.embedding, generator=generator)
    gallery = torch.randn(sizes.crops, sizes.embedding, generator=generator)
    few = queries[:2]
    exact = plain_metric(net.double(), few.double(), gallery[:256].double())
    net = net.float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        # The straightforward form is of fp32 always: half precision loses near pairs there.
        forms = {
            "plain": partial(plain_metric, net, few, gallery),
            "ours": partial(net.score, queries, gallery),
        }
        seconds = medians(forms, rounds)
        error = _error(net.score(few, gallery[:256]), exact)
    name = f"M-Net, {hidden} hidden units" if hidden else "M-Net, linear"
    return Row(name, count, "bf16" if half else "fp32",
               len(few) * len(gallery) / seconds["plain"],
               len(queries) * len(gallery) / seconds["ours"],
               2.0 * sizes.embedding * (hidden or 1), peak, error)  # fmt: skip


def plain_maxima(
    queries: Float[Tensor, "q c n"], gallery: Float[Tensor, "g c n"]
) -> tuple[Tensor, Tensor]:
    """Return `correlation_maxima` as published code has it: the correlation, then both maxima."""
    correlation = torch.einsum("pcs,gcr->pgrs", queries, gallery)
    return correlation.max(2)[0], correlation.max(3)[0]


@torch.no_grad()
def plain_metric(net: MetricNetwork, queries: Tensor, gallery: Tensor, chunk: int = 4096) -> Tensor:
    """Return M-Net's scores from the tensor of all pairs' squared differences, in chunks."""
    with torch.autocast("cpu", enabled=False):
        rows = [
            torch.cat([net((query - part).square()) for part in gallery.split(chunk)])
            for query in queries
        ]
    return torch.stack(rows)


FORMS: Mapping[str, Callable[[Maps], tuple[Tensor, Tensor]]] = {
    "plain": lambda maps: plain_maxima(maps, maps),
    "ours": self_maxima,
}


def _training(sizes: Sizes, count: int, channels: int) -> dict[str, int | float | None]:
    """Return seconds and peak bytes of a batch's maxima, forwards and backwards."""
    row: dict[str, int | float | None] = {"threads": count, "channels": channels}
    for name in FORMS:
        seconds, peak = in_own_process(training_cost, name, sizes, channels, count)
        row |= {f"{name}_seconds": seconds, f"{name}_bytes": peak}
    return row


def training_cost(form: str, sizes: Sizes, channels: int, count: int) -> tuple[float, int | None]:
    """Return the seconds of a form, the second time, and its peak of memory, the first time."""
    with threads(count):
        maps = _maps(sizes.batch, channels, sizes).requires_grad_()

        def step() -> None:
            forth, back = FORMS[form](maps)
            (forth.mean() + back.square().mean()).backward()

        # A few maps first: code and buffers that any call loads are not counted.
        (FORMS[form](maps[:2])[0].sum()).backward()
        peak = peak_of(step)
        started = time.perf_counter()
        step()
        return time.perf_counter() - started, peak


def _maps(count: int, channels: int, sizes: Sizes, seed: int = 0) -> Maps:
    """Return normalised maps of a few people, so that scores deviate as those of crops do."""
    shown, drawn = torch.Generator().manual_seed(9), torch.Generator().manual_seed(seed)
    people = torch.randn(8, channels, sizes.positions, generator=shown)
    noise = torch.randn(count, channels, sizes.positions, generator=drawn)
    return F.normalize(people[torch.arange(count) % 8] + noise, dim=1)


def _score(maxima: tuple[Tensor, Tensor]) -> Float[Tensor, "q g"]:
    """Return QAConv's score with equal weights."""
    return maxima[0].mean(2) + maxima[1].mean(2)


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.std())


def _peak(kind: torch.dtype, sizes: Sizes, rounds: int) -> float:
    """Return the FLOP/s of the fastest way to a large product."""
    a, b = (torch.randn(sizes.product, sizes.product).to(kind) for _ in range(2))
    ways = WAYS if kind == torch.float32 else WAYS[:1]
    seconds = medians({way.__name__: partial(way, a, b) for way in ways}, rounds)
    return 2.0 * sizes.product**3 / min(seconds.values())


def _page(
    rows: list[Row], training: list[dict[str, int | float | None]], sizes: Sizes, rounds: int
) -> str:
    head = ("", "precision", "threads", "straightforward", "here", "ratio", "GFLOP/s",
            "of the fastest product", "error / deviation")  # fmt: skip
    cells = [
        (r.name, r.precision, r.threads, f"{r.plain:.3g}", f"{r.ours:.3g}", f"{r.ratio:.1f}x",
         f"{r.ours * r.flop / 1e9:.0f}", f"{r.share:.0%}", f"{r.error:.1e}")
        for r in rows
    ]  # fmt: skip
    learnt = [
        (t["channels"], t["threads"], f"{t['plain_seconds']:.2f}", f"{t['ours_seconds']:.2f}",
         _mebibytes(t["plain_bytes"]), _mebibytes(t["ours_bytes"]))
        for t in training
    ]  # fmt: skip
    return (
        f"{machine()}. Pairs a second, maps of {sizes.positions} positions, embeddings of "
        f"{sizes.embedding} channels; medians of {rounds} interleaved rounds.\n\n"
        f"{table(head, cells)}\n\n"
        f"Maxima of a batch of {sizes.batch} with itself, forwards and backwards, fp32; memory is "
        "the peak over the maps:\n\n"
        + table(("C", "threads", "straightforward, s", "here, s",
                 "straightforward, MiB", "here, MiB"), learnt)
    )  # fmt: skip


def _mebibytes(count: int | float | None) -> str:
    return "?" if count is None else f"{count / 2**20:.0f}"
