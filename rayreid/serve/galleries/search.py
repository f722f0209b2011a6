"""Exact search of a gallery in memory: a shortlist by the cheap score, the method's own on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from pydantic import Field
from torch import Tensor

from rayreid.matching.tiles import score_all
from rayreid.method import Method
from rayreid.serve.galleries.records import Gallery, Sample
from rayreid.serve.galleries.snapshot import Filters, Snapshot
from rayreid.settings import FailureError, Settings

BLOCK_BYTES = 64 * 2**20
"""Embeddings whose cheap scores are computed at a time."""


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
    method: Method,
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
        places = snapshot.chosen(filters)
        if not len(places):
            return snapshot.gallery, [Found((), 0) for _ in queries]
        gallery, identities = snapshot.embeddings.view(), snapshot.identities[places]
        counts = [len(crops) for crops in queries]
        rough = approximated(method, torch.cat(list(queries)), gallery, places)
        found = []
        for crops, cheap in zip(queries, rough.split(counts), strict=True):
            scores, first = fused(cheap, fusion), np.arange(len(places))
            if type(method).approximate is not Method.approximate:
                # The cheap scores are not the method's own.
                first = shortlisted(scores, identities, shortlist, top_k)
                chosen = torch.from_numpy(places[first]).to(gallery.device)
                scores = fused(score_all(method, crops, gallery[chosen]), fusion)
            if not np.isfinite(scores).all():
                raise FailureError("the model's score of an enrolled sample is no finite number")
            best = best_of_each(scores, identities[first], top_k)
            matches = [
                Match(snapshot.sample(int(places[first[place]])), float(scores[place]))
                for place in best
            ]
            found.append(Found(tuple(matches), len(places)))
        return snapshot.gallery, found


def approximated(
    method: Method,
    crops: Float32[Tensor, "c *e"],
    gallery: Float32[Tensor, "n *e"],
    places: Int64[np.ndarray, " p"],
) -> Float32[Tensor, "c p"]:
    """Return the cheap scores of some samples, a block of them at a time."""
    rows = max(1, BLOCK_BYTES // (4 * max(1, gallery[0].numel())))
    scores = torch.empty(len(crops), len(places))
    for start in range(0, len(places), rows):
        some = torch.from_numpy(places[start : start + rows]).to(gallery.device)
        # A slice is no copy.
        block = gallery[start : start + rows] if len(places) == len(gallery) else gallery[some]
        scores[:, start : start + len(some)] = method.approximate(crops, block)
    return scores


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
    """Return the place of the highest score of each of the ``top_k`` first identities, in order."""
    order = np.argsort(-scores, kind="stable")
    _, first = np.unique(identities[order], return_index=True)
    return order[np.sort(first)[:top_k]]
