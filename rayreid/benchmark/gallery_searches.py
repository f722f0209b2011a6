"""What a search of a gallery costs: the time that a replica's thread takes for it."""

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from rayreid.batch import Census
from rayreid.benchmark.gallery_stores import SHAPES, Sqlite, rows
from rayreid.benchmark.timing import medians, threads
from rayreid.checkpoint import build
from rayreid.experiment import compose
from rayreid.method import Method
from rayreid.methods.qaconv_ms import QACONV
from rayreid.serve.galleries.search import search
from rayreid.serve.galleries.snapshot import Filters, Model, Snapshot

AT_ONCE = (1, 16)
"""Queries that are searched for together: one, and as many as a replica takes at a time."""
SHORTLIST = 200
ROUNDS = 7
PROGRESS = 256

_TRUNK = {"sources": ("synthetic=snow",), "trunk.weights": "none"}
METHODS: Mapping[str, tuple[str, str, Mapping[str, object]]] = {
    "cosine": ("baseline", "vectors", {"trunk.name": "resnet18"}),
    "GMN": ("gmn", "vectors", {"trunk.name": "resnet18"}),
    "QAConv": ("qaconv_ms", "maps", {**QACONV, "config.channels": 64,
                                     "trunk.name": "test_resnet", "trunk.frozen_norms": False}),
}  # fmt: skip
"""Methods by what they are told as, what they embed into, and settings that make it so."""


def searches(vectors: int, maps: int) -> list[tuple[str, str, str, str, str]]:
    """Return rows of a table: method, samples, memory, milliseconds of one query, and of many.

    One thread searches all of a snapshot for the ten best people, shortlists being `SHORTLIST`.
    """
    counts, found = {"vectors": vectors, "maps": maps}, []
    for kind, count in counts.items():
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            kept = Sqlite(Path(folder), SHAPES[kind])
            for start in range(0, count, PROGRESS):
                kept.add(start, rows(kind, min(PROGRESS, count - start), start))
            for name, (method, embeds, settings) in METHODS.items():
                if embeds == kind:
                    found.append(_searched(name, _untrained(method, settings), kept, kind))
            kept.close()
    return found


def _searched(name: str, method: Method, kept: Sqlite, kind: str) -> tuple[str, str, str, str, str]:
    snapshot = Snapshot(Model(method, torch.device("cpu"), "f", "p"))
    snapshot.refresh(kept.store, "g")
    parts = {}
    for at_once in AT_ONCE:
        queries = [torch.from_numpy(rows(kind, 1, 10**6 + n)) for n in range(at_once)]
        parts[str(at_once)] = functools.partial(
            search, snapshot, queries, Filters(), top_k=10, shortlist=SHORTLIST, fusion="mean"
        )
    with threads(1):
        taken = medians(parts, ROUNDS)
    samples = f"{len(snapshot.rows):,} x {np.prod(SHAPES[kind]):,}"
    times = [f"{1000 * seconds:.0f}" for seconds in taken.values()]
    return name, samples, f"{snapshot.bytes / 2**20:.0f}", times[0], times[1]


def _untrained(name: str, settings: Mapping[str, object]) -> Method:
    torch.manual_seed(0)
    return build(compose(name, {**_TRUNK, **settings}), Census({"snow": 2})).eval()
