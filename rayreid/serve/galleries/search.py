"""Exact search of a gallery in memory: a shortlist by the cheap score, the method's own on it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from pydantic import Field
from torch import Tensor

from rayreid.matching.tiles import score_all
from rayreid.serve.galleries.records import Gallery, Sample, UnavailableError
from rayreid.serve.galleries.snapshot import Filters, Snapshot
from rayreid.settings import FailureError, Settings

BLOCK_BYTES = 64 * 2**20
"""Cheap scores that are held at a time, and rows that are gathered at a time."""
GATHERED = 1 / 3
"""Share of the samples below which their rows are gathered: to read, to write and to read again
takes three times as long as to multiply."""
FIRST_LOOK = 8
"""Samples of an identity that are looked at before more are."""


class SearchSettings(Settings):
    """How a gallery is searched."""

    top_k: int = Field(10, ge=1)
    """Identities that a query is answered with, unless it asks for another number."""
    most: int = Field(100, ge=1)
    """Most that it may ask for."""
    shortlist: int = Field(200, ge=1)
    """Samples of each query that are scored exactly: those first by the method's cheap score, and
    the best of as many identities as are asked for."""
    most_shortlisted: int = Field(10_000, ge=1)
    """Most that it may ask for."""
    most_scored: int = Field(51_200, ge=1)
    """Most exact scores of a request: its crops times the shortlist, and times ``top_k``. What is
    searched for others waits for them."""
    fusion: Literal["mean", "max"] = "mean"
    """Score of a sample with several crops of one person: the mean of theirs, or the highest."""


@dataclass(frozen=True)
class Match:
    """An identity that a query may be: by its sample of highest score."""

    sample: Sample
    score: float


@dataclass(frozen=True)
class Found:
    """A query's matches, best first, and how many samples were searched for them."""

    matches: tuple[Match, ...]
    searched: int


@torch.inference_mode()
def search(
    snapshot: Snapshot,
    queries: Sequence[Float32[Tensor, "_ *e"]],
    filters: Filters,
    *,
    top_k: int,
    shortlist: int,
    fusion: str,
) -> tuple[Gallery, list[Found]]:
    """Return what was searched, and for each query, crops of one person, who it may be.

    An identity's score is that of its best sample, a sample's that of `SearchSettings.fusion`; ties
    are in the order of enrolment. With a shortlist of all samples this is the brute force. Raises
    `FailureError` where a score is no finite number.
    """
    with snapshot.lock:
        if snapshot.head is None:
            raise UnavailableError("the gallery was changed while it was searched; ask again")
        model, places = snapshot.model, snapshot.chosen(filters)
        if not len(places):
            return snapshot.gallery, [Found((), 0) for _ in queries]
        identities = snapshot.identities[places]
        found = []
        for crops, cheap in zip(queries, cheap_scores(snapshot, queries, places), strict=True):
            scores, first = fused(cheap, fusion), np.arange(len(places))
            if not model.by_products:
                first = shortlisted(scores, identities, shortlist, top_k)
                chosen = torch.from_numpy(places[first]).to(model.device)
                exact = score_all(model.method, crops, snapshot.embeddings.view()[chosen])
                scores = fused(exact, fusion)
            if not np.isfinite(scores).all():
                raise FailureError("the model's score of an enrolled sample is no finite number")
            best = best_of_each(scores, identities[first], top_k)
            matches = [
                Match(snapshot.sample(int(places[first[place]])), float(scores[place]))
                for place in best
            ]
            found.append(Found(tuple(matches), len(places)))
        return snapshot.gallery, found


def cheap_scores(
    snapshot: Snapshot,
    queries: Sequence[Float32[Tensor, "_ *e"]],
    places: Int64[np.ndarray, " p"],
) -> Iterator[Float32[Tensor, "_ p"]]:
    """Yield each query's cheap scores of some samples: one reading of them for many queries."""
    held = snapshot.rough.view()
    chosen = torch.from_numpy(places).to(held.device)
    for few in in_turn(queries, max(1, BLOCK_BYTES // (4 * len(held)))):
        vectors = snapshot.model.method.rough(torch.cat(few), queries=True)
        if len(places) == len(held):
            scores = vectors @ held.T
        elif len(places) > GATHERED * len(held):
            scores = (vectors @ held.T)[:, chosen]
        else:
            blocks = chosen.split(max(1, BLOCK_BYTES // (4 * held.shape[1])))
            scores = torch.cat([vectors @ held[some].T for some in blocks], 1)
        yield from scores.split([len(crops) for crops in few])


def in_turn(
    queries: Sequence[Float32[Tensor, "_ *e"]], most: int
) -> Iterator[list[Float32[Tensor, "_ *e"]]]:
    """Yield queries in order, as many at a time as have at most so many crops, or one."""
    few: list[Tensor] = []
    for query in queries:
        if few and sum(map(len, few)) + len(query) > most:
            yield few
            few = []
        few.append(query)
    yield few


def fused(scores: Float32[Tensor, "c n"], fusion: str) -> Float32[np.ndarray, " n"]:
    """Return the score of each sample with all crops of a query."""
    one = scores.amax(0) if fusion == "max" else scores.mean(0)
    result: np.ndarray = one.float().cpu().numpy()
    return result


def shortlisted(
    rough: Float32[np.ndarray, " n"],
    identities: Int64[np.ndarray, " n"],
    length: int,
    top_k: int,
) -> Int64[np.ndarray, " s"]:
    """Return the places of the ``length`` highest scores, and of the best of ``top_k`` identities.

    So there are as many identities as are asked for, were the first samples all of one.
    """
    if length >= len(rough):
        return np.arange(len(rough))
    highest = np.argpartition(-rough, length - 1)[:length]
    return np.union1d(highest, best_of_each(rough, identities, top_k))


def best_of_each(
    scores: Float32[np.ndarray, " n"], identities: Int64[np.ndarray, " n"], top_k: int
) -> Int64[np.ndarray, " k"]:
    """Return the place of the highest score of each of the ``top_k`` first identities, in order.

    Looked for among the highest scores, of which more are taken until there are enough identities:
    to put all in order would take as long as to compute them.
    """
    count = FIRST_LOOK * top_k
    while True:
        some = np.arange(len(scores))
        if count < len(scores):
            # With all that equal the last, so that ties stay in order.
            some = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
        order = some[np.argsort(-scores[some], kind="stable")]
        _, first = np.unique(identities[order], return_index=True)
        if len(first) >= top_k or count >= len(scores):
            return order[np.sort(first)[:top_k]]
        count *= FIRST_LOOK
