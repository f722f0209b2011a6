"""What ranking costs beside sorting, and beside the matrix product that the scores come from."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from rayreid.batch import Census
from rayreid.benchmark.data import machine
from rayreid.benchmark.resident import in_own_process, peak_of
from rayreid.benchmark.timing import medians
from rayreid.checkpoint import build
from rayreid.experiment import compose
from rayreid.matching.tiles import ROWS_BYTES, score_rows
from rayreid.ranking.metrics import Ranker, Ranking, rank
from rayreid.report import table
from rayreid.run import commit

DIMENSION = 512
"""Of the features."""

NOISE = 2.25
"""Standard deviation around an identity's centre, over that of the centres."""

Tell = Callable[[str], None]
Work = Callable[[], object]


@dataclass(frozen=True)
class Size:
    """How large a set's test part is."""

    name: str
    queries: int
    gallery: int
    """Crops, distractors among them."""
    identities: int
    cameras: int
    distractors: int = 0
    """Gallery crops that show none of the identities."""

    def scaled(self, fraction: float) -> "Size":
        """Return a part of the size, with as many crops an identity."""
        if fraction == 1:
            return self
        counts = ("queries", "gallery", "identities", "distractors")
        smaller = {name: round(fraction * getattr(self, name)) for name in counts}
        return replace(self, name=f"{fraction:g} of {self.name}", **smaller)


MARKET = Size("Market-1501", 3368, 15913, 750, 6, 2793)
MSMT17 = Size("MSMT17", 11659, 82161, 3060, 15)


@dataclass(frozen=True)
class People:
    """Features of unit length, with what they show."""

    query: Float32[Tensor, "q d"]
    gallery: Float32[Tensor, "g d"]
    columns: tuple[
        Int64[np.ndarray, " q"],
        Int64[np.ndarray, " g"],
        Int64[np.ndarray, " q"],
        Int64[np.ndarray, " g"],
    ]
    """Identities of both, then cameras of both."""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    name: str
    text: str
    figures: Mapping[str, object]


def ranking(
    to: Path,
    tell: Tell,
    *,
    fraction: float = 1.0,
    rounds: int = 3,
    dimension: int = DIMENSION,
) -> str:
    """Measure ranking at the sizes of two public sets; return a page with the tables.

    Features are random around a centre of each identity. What is compared is timed in turn,
    ``rounds`` times, and medians are compared. ``fraction`` makes the sets smaller. The page and
    its figures go to ``to``.
    """
    sections = []
    for section in SECTIONS:
        sections.append(section(fraction, rounds, dimension))
        tell(f"{sections[-1].name}: measured")
    found = {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "fraction": fraction,
        "dimension": dimension,
        "rounds": rounds,
        **{section.name: section.figures for section in sections},
    }
    page = f"{machine()}. Medians of {rounds} interleaved rounds.\n\n" + "\n\n".join(
        section.text for section in sections
    )
    to.mkdir(parents=True, exist_ok=True)
    (to / "ranking.json").write_text(json.dumps(found, indent=1) + "\n")
    (to / "README.md").write_text(f"# Ranking\n\n{page}\n")
    return page


def from_scores(fraction: float, rounds: int, dimension: int) -> Section:
    """Measure ranking a matrix of scores, beside sorting it and beside one look at it."""
    size = MARKET.scaled(fraction)
    people = people_of(size, dimension)
    scores = (people.query @ people.gallery.T).numpy()
    ways: dict[str, Work] = {
        "numpy.argsort alone": lambda: np.argsort(scores, axis=1),
        "CMC, mAP, mINP, ROC": lambda: rank(scores, *people.columns),
        "one comparison of every score, counted": lambda: [
            np.count_nonzero(row >= 0) for row in scores
        ],
    }
    seconds = medians(ways, rounds)
    sorting, ours, _ = seconds.values()
    found = rank(scores, *people.columns)
    rows = [
        (name, f"{s:.3f}", f"{sorting / s:.1f}x", f"{scores.size / s / 1e6:.0f}")
        for name, s in seconds.items()
    ]
    text = f"## From a matrix of scores\n\n{_described(size, found)}; one thread.\n\n" + table(
        ("", "seconds", "argsort's", "million scores a second"), rows
    )
    figures = _figures(size, found) | {"seconds": seconds, "times_argsort": sorting / ours}
    return Section("from scores", text, figures)


def streamed(fraction: float, rounds: int, dimension: int) -> Section:
    """Measure ranking from features, beside their matrix product alone."""
    size = MSMT17.scaled(fraction)
    people = people_of(size, dimension)
    method = build(
        compose("baseline", {"trunk.name": "test_resnet", "trunk.weights": "none"},
                {"sources": ["synthetic=snow"]}),
        Census({"snow": 2}),
    ).eval()  # fmt: skip
    ways: dict[str, Work] = {
        "matrix product alone": lambda: [None for _ in products(people)],
        "product and ranking, streamed": lambda: ranked(people, products(people)),
        "Method.score alone": lambda: [
            None for _ in score_rows(method, people.query, people.gallery)
        ],
        "Method.score and ranking, streamed": lambda: ranked(
            people, score_rows(method, people.query, people.gallery)
        ),
    }
    seconds = medians(ways, rounds)
    product, whole, score, by_score = seconds.values()
    found = ranked(people, products(people))
    del people
    memory = in_own_process(memory_of, size, dimension)
    rows = [
        (
            name,
            f"{s:.2f}",
            f"{s / product:.2f}",
            f"{2e-9 * dimension * size.queries * size.gallery / s:.0f}",
        )
        for name, s in seconds.items()
    ]
    text = (
        f"## From features, streamed\n\n{_described(size, found)}; {dimension} dimensions, "
        f"{torch.get_num_threads()} threads, {ROWS_BYTES >> 20} MiB of scores at a time. "
        "Method.score is the cosine: it brings the features to unit length again for every such "
        "block.\n\n"
        + table(("", "seconds", "product's", "GFLOP/s"), rows)
        + f"\n\nMemory over the features at its peak, in a process of its own: "
        f"{'not to be had here' if memory is None else f'{memory / 1e6:.0f} MB'}; all scores are "
        f"{4e-6 * size.queries * size.gallery:.0f} MB."
    )
    figures = _figures(size, found) | {
        "seconds": seconds,
        "times_the_product": whole / product,
        "times_the_score": by_score / score,
        "peak_bytes_over_features": memory,
    }
    return Section("streamed", text, figures)


SECTIONS: Sequence[Callable[[float, int, int], Section]] = (from_scores, streamed)
"""What the page is made of: each takes the fraction, the rounds and the dimension."""


def people_of(size: Size, dimension: int, seed: int = 0) -> People:
    """Return features of random people seen by random cameras."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(0, size.identities, size.queries)
    people = rng.integers(0, size.identities, size.gallery - size.distractors)
    nobody = size.identities + np.arange(size.distractors)
    in_gallery = np.concatenate([people, nobody])
    shown_by = rng.integers(0, size.cameras, size.queries)
    in_gallery_by = rng.integers(0, size.cameras, size.gallery)
    centres = rng.standard_normal((size.identities + size.distractors, dimension), np.float32)
    return People(
        _features(centres, shown, rng),
        _features(centres, in_gallery, rng),
        (shown, in_gallery, shown_by, in_gallery_by),
    )


def _features(
    centres: Float32[np.ndarray, "i d"],
    identities: Int64[np.ndarray, " n"],
    rng: np.random.Generator,
) -> Float32[Tensor, "n d"]:
    made = np.empty((len(identities), centres.shape[1]), np.float32)
    for start in range(0, len(made), 1024):
        some = made[start : start + 1024]
        some[:] = rng.standard_normal(some.shape, np.float32)
        some *= NOISE
        some += centres[identities[start : start + 1024]]
        some /= np.linalg.norm(some, axis=1, keepdims=True)
    return torch.from_numpy(made)


def products(people: People) -> Iterator[tuple[int, Float32[Tensor, "r g"]]]:
    """Yield the scores of blocks of queries, as large as those of `score_rows`."""
    rows = max(1, ROWS_BYTES // (4 * len(people.gallery)))
    # Always into the same memory, which the system would have to fill with zeros anew.
    into = torch.empty(min(rows, len(people.query)), len(people.gallery))
    for start in range(0, len(people.query), rows):
        some = people.query[start : start + rows]
        yield start, torch.mm(some, people.gallery.T, out=into[: len(some)])


def ranked(people: People, blocks: Iterator[tuple[int, Float32[Tensor, "r g"]]]) -> Ranking:
    """Return the metrics of scores that come in blocks."""
    ranker = Ranker(*people.columns)
    for start, scores in blocks:
        ranker.add(start, scores.numpy())
        del scores  # before the next ones are made
    return ranker.ranking()


def memory_of(size: Size, dimension: int) -> int | None:
    """Return the bytes that this process takes more, at its peak, while it ranks from features.

    None where the system does not tell.
    """
    people = people_of(size, dimension)
    return peak_of(lambda: ranked(people, products(people)))


def _described(size: Size, found: Ranking) -> str:
    return (
        f"{size.queries} queries against {size.gallery} crops, the size of {size.name}: random "
        f"features, mAP {found.map:.3f}, R1 {found.rank1:.3f}, mINP {found.minp:.3f}, TPR "
        f"{found.tpr_at(1e-3):.3f} at FPR 1e-3"
    )


def _figures(size: Size, found: Ranking) -> dict[str, object]:
    return {
        "size": [size.queries, size.gallery],
        "mAP": found.map,
        "rank1": found.rank1,
        "mINP": found.minp,
        "roc": found.roc,
    }
