"""k-reciprocal re-ranking: seconds and memory, beside the algorithm as it was published."""

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import torch
from jaxtyping import Float32, Int64

from rayreid.benchmark.data import machine
from rayreid.ranking.metrics import rank
from rayreid.ranking.rerank import RerankSettings, rerank_features
from rayreid.report import table
from rayreid.run import best_device, commit

MARKET = 3_368, 15_913
"""Query and gallery crops of Market-1501."""

FLOOR, CEILING = 15, 0.8e9
"""How many times faster than as published it has to be, and its bytes over the inputs at most."""

SETTINGS = RerankSettings()

_A_PERSON, _CAMERAS, _TRAITS = 25, 6, 64


def reranking(
    to: Path,
    tell: Callable[[str], None],
    *,
    few: int = 5_000,
    crops: int = sum(MARKET),
    width: int = 512,
    rounds: int = 3,
) -> str:
    """Measure re-ranking from features of ``width``; return a page with the table.

    ``few`` crops are re-ranked by the published algorithm and here, in turn, ``rounds`` times after
    a round of ours to warm up, and medians are compared; ``crops`` only here, once, in a process of
    its own. Distances are part of both. The figures go to ``to/reranking.json``.
    """
    device = best_device()
    vectors, identities, cameras = people(few, width)
    features = torch.from_numpy(vectors).to(device)
    queries = _queries(few)
    rerank_features(features[:queries], features[queries:], SETTINGS)
    seconds: dict[str, list[float]] = {"published": [], "here": [], "product": []}
    for _ in range(rounds):
        theirs = _timed(
            seconds["published"], lambda: published(vectors[:queries], vectors[queries:], SETTINGS)
        )
        ours = _timed(
            seconds["here"],
            lambda: rerank_features(features[:queries], features[queries:], SETTINGS),
        )
        _timed(seconds["product"], lambda: (features @ features.T)[0].cpu().numpy())
        tell(", ".join(f"{name} {taken[-1]:.3f} s" for name, taken in seconds.items()))
    spent = {name: median(taken) for name, taken in seconds.items()}
    columns = (identities[:queries], identities[queries:], cameras[:queries], cameras[queries:])
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        alone, peak = processes.submit(_alone, crops, width).result()
    ratio, difference = spent["published"] / spent["here"], float(np.abs(theirs - ours).max())
    found = {
        "machine": machine(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "width": width,
        "settings": SETTINGS.model_dump(),
        "commit": commit(),
        "few": {
            "crops": few,
            "queries": queries,
            "rounds": rounds,
            "seconds": spent,
            "ratio": ratio,
            "largest_difference": difference,
            "mAP": {
                "cosine": rank(vectors[:queries] @ vectors[queries:].T, *columns).map,
                "re-ranked": rank(ours, *columns).map,
            },
        },
        "all": {"crops": crops, "queries": _queries(crops), "seconds": alone, "bytes": peak},
    }
    to.mkdir(parents=True, exist_ok=True)
    (to / "reranking.json").write_text(json.dumps(found, indent=1) + "\n")
    rows = (
        (f"as published, {few:,} crops", f"{spent['published']:.2f} s", "", ""),
        (f"here, {few:,} crops", f"{spent['here']:.2f} s", f"{ratio:.1f}x", f"{FLOOR}x"),
        ("  of it the product of features, as one", f"{spent['product']:.2f} s", "", ""),
        ("  largest difference of a score", "", f"{difference:.1e}", "1e-06"),
        (f"here, {crops:,} crops", f"{alone:.2f} s", "", ""),
        ("  peak memory over the features", "", f"{peak / 1e9:.2f} GB", f"{CEILING / 1e9:g} GB"),
    )
    return (
        f"{machine()}; {torch.get_num_threads()} threads, {device}. k-reciprocal re-ranking from "
        f"{width} features a crop, the scores of {queries:,} and of {_queries(crops):,} queries; "
        f"medians of {rounds} interleaved rounds.\n\n"
        + table(("re-ranking", "time", "measured", "to reach"), rows)
    )


def people(
    count: int, width: int, seed: int = 0
) -> tuple[Float32[np.ndarray, "n d"], Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Return unit vectors of crops that are not easily told apart, their identities and cameras.

    About as many crops a person as Market-1501 has. The cosine finds some of a person's crops, and
    neighbours of different people overlap, so that no part of re-ranking has nothing to do.
    """
    rng = np.random.default_rng(seed)
    identities = rng.integers(0, max(1, count // _A_PERSON), count)
    centres = rng.standard_normal((identities.max() + 1, _TRAITS), np.float32)
    traits = centres[identities] + np.float32(1.2) * rng.standard_normal(
        (count, _TRAITS), np.float32
    )
    vectors = traits @ rng.standard_normal((_TRAITS, width), np.float32)
    vectors += np.float32(2.4) * rng.standard_normal((count, width), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, identities, rng.integers(0, _CAMERAS, count)


def published(
    queries: Float32[np.ndarray, "q d"],
    gallery: Float32[np.ndarray, "g d"],
    settings: RerankSettings,
) -> Float32[np.ndarray, "q g"]:
    """Return what `rerank_features` returns, by the algorithm as it is published.

    As torchreid and fast-reid run it: Euclidean distances of the three pairs of sets, joined and
    squared, matrices of all pairs, a loop over crops. Ties are in the order of an unstable sort.
    """
    k1, k2, share = settings.neighbours, settings.expansion, settings.original
    across = _euclidean(queries, gallery)
    within = _euclidean(queries, queries), _euclidean(gallery, gallery)
    distances = np.square(np.block([[within[0], across], [across.T, within[1]]]))
    distances = (distances / distances.max(axis=0)).T
    order: np.ndarray = np.argsort(distances, axis=1)

    def reciprocal(crop: int, k: int) -> np.ndarray:
        near: np.ndarray = order[crop, : k + 1]
        return np.compress((order[near, : k + 1] == crop).any(axis=1), near)

    weights = np.zeros_like(distances)
    for i in range(len(order)):
        mutual = reciprocal(i, k1)
        joined = [mutual]
        for j in mutual.tolist():
            others = reciprocal(j, round(k1 / 2))
            if len(np.intersect1d(others, mutual)) > 2 / 3 * len(others):
                joined.append(others)
        neighbours = np.unique(np.concatenate(joined))
        near = np.exp(-distances[i, neighbours])
        weights[i, neighbours] = near / near.sum()
    if k2 > 1:
        weights = np.stack([weights[near].mean(axis=0) for near in order[:, :k2]])
    having = [np.flatnonzero(column) for column in weights.T]
    scores = np.empty((len(queries), len(gallery)), np.float32)
    for i in range(len(queries)):
        shared = np.zeros(len(order), np.float32)
        for m in np.flatnonzero(weights[i]):
            shared[having[m]] += np.minimum(weights[i, m], weights[having[m], m])
        jaccard = 1 - shared / (2 - shared)
        mixed = (1 - share) * jaccard + share * distances[i]
        scores[i] = 1 - mixed[len(queries) :]
    return scores


def _euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return all distances of the rows."""
    squared = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    distances: np.ndarray = np.sqrt(np.maximum(squared, 0))
    return distances


def _queries(crops: int) -> int:
    """Return how many of a number of crops are queries, in Market-1501's proportion."""
    return max(1, crops * MARKET[0] // sum(MARKET))


def _timed(seconds: list[float], work: Callable[[], np.ndarray]) -> np.ndarray:
    """Return what the work returns, and note how long it took."""
    started = time.perf_counter()
    found = work()
    seconds.append(time.perf_counter() - started)
    return found


def _alone(crops: int, width: int) -> tuple[float, int]:
    """Return the seconds of a re-ranking, and the bytes at its peak over those before it.

    To be called in a fresh process. Libraries are woken by a re-ranking of few crops first.
    """
    small, _, _ = people(300, width)
    rerank_features(torch.from_numpy(small[:50]), torch.from_numpy(small[50:]), SETTINGS)
    vectors, _, _ = people(crops, width)
    queries = _queries(crops)
    features = torch.from_numpy(vectors).to(best_device())
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is held now
    before = _resident("VmRSS")
    seconds: list[float] = []
    _timed(seconds, lambda: rerank_features(features[:queries], features[queries:], SETTINGS))
    return seconds[0], _resident("VmHWM") - before


def _resident(kind: str) -> int:
    """Return bytes of this process in memory: now (VmRSS), or at most so far (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{kind}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, f"no {kind} in /proc/self/status"
    return 1024 * int(found[1])
