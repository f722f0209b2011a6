"""Scores of some pairs: exact, in bounded memory, without the matrix of all pairs."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from rayreid.data.views import as_images
from rayreid.matching.tiles import score_all
from rayreid.method import Method

WASTE = 1.25
"""Most pairs scored for each pair asked, where a call costs less than the waste."""


@torch.inference_mode()
def embed_distinct(
    method: Method, keys: Sequence[str], pixels: Sequence[UInt8[np.ndarray, "h w 3"]]
) -> list[Tensor]:
    """Return an embedding [*e] for each image, in fp32 on the method's device.

    Images of one key are one image, and are embedded once. All are embedded as one batch.
    """
    distinct = dict(zip(keys, pixels, strict=True))
    row = {key: number for number, key in enumerate(distinct)}
    device = next(method.parameters()).device
    batch = torch.from_numpy(np.stack(list(distinct.values()))).to(device)
    embeddings = method.embed(as_images(batch)).float()
    return [embeddings[row[key]] for key in keys]


def call_cost(method: Method, embedding: Float32[Tensor, "*e"]) -> int:
    """Return how many pairs could be scored in the time that a call takes for any number.

    Measured, because methods differ a thousandfold in what a pair costs. It steers speed alone.
    """

    def seconds(side: int) -> float:
        crops = embedding.expand(side, *embedding.shape)
        times = []
        for _ in range(5):
            started = time.perf_counter()
            score_all(method, crops, crops)
            times.append(time.perf_counter() - started)
        return min(times)

    one, many = seconds(1), seconds(16)
    return max(1, min(4096, round(255 * one / max(many - one, 1e-9))))


def score_pairs(
    method: Method,
    embeddings: Sequence[Tensor],
    pairs: Int64[np.ndarray, "p 2"],
    *,
    free: int = 64,
) -> Float32[np.ndarray, " p"]:
    """Return ``method.score`` of some pairs (left, right) of n embeddings [*e].

    The first of a pair is the query. A pair that is asked twice is scored once. Pairs are
    scored in blocks of queries x gallery that hold little else (see `blocks` for it and for
    ``free``), each in tiles of bounded memory, so the result is that of the matrix of all
    pairs, at the cost of those asked.
    """
    scores = np.empty(len(pairs), np.float32)
    row, column = np.zeros((2, len(embeddings)), np.int64)
    for lefts, rights, asked in blocks(pairs, free):
        queries = torch.stack([embeddings[i] for i in lefts])
        gallery = torch.stack([embeddings[i] for i in rights])
        block = score_all(method, queries, gallery).numpy()
        row[lefts], column[rights] = np.arange(len(lefts)), np.arange(len(rights))
        wanted = pairs[asked]
        scores[asked] = block[row[wanted[:, 0]], column[wanted[:, 1]]]
    return scores


@dataclass(frozen=True, eq=False)
class Comparison:
    """The embedded images of one request, by the hash of their contents, and its pairs."""

    keys: Sequence[str]
    embeddings: Sequence[Tensor]
    pairs: Int64[np.ndarray, "p 2"]


def score_together(
    method: Method, comparisons: Sequence[Comparison], *, free: int
) -> list[Float32[np.ndarray, " p"]]:
    """Return the scores of each comparison; a pair that is in several is scored once.

    ``free`` as in `score_pairs`.
    """
    row: dict[str, int] = {}
    embeddings: list[Tensor] = []
    pairs = []
    for one in comparisons:
        for key, embedding in zip(one.keys, one.embeddings, strict=True):
            if key not in row:
                row[key] = len(embeddings)
                embeddings.append(embedding)
        pairs.append(np.array([row[key] for key in one.keys], np.int64)[one.pairs])
    scores = score_pairs(method, embeddings, np.concatenate(pairs), free=free)
    return np.split(scores, np.cumsum([len(one.pairs) for one in comparisons])[:-1])


def blocks(
    pairs: Int64[np.ndarray, "p 2"], free: int
) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Yield blocks (lefts, rights, asked) that cover all pairs, each pair in one block.

    ``asked`` indexes the pairs that lie in lefts x rights. Lefts with the same rights make a
    block without waste; such blocks are joined while that scores at most `WASTE` times the
    pairs asked, or at most ``free`` pairs, which cost less than another call (`call_cost`).
    """
    rights_of: dict[int, set[int]] = {}
    asked_of: dict[int, list[int]] = {}
    for number, (left, right) in enumerate(pairs.tolist()):
        rights_of.setdefault(left, set()).add(right)
        asked_of.setdefault(left, []).append(number)
    lefts_of: dict[frozenset[int], list[int]] = {}
    for left, those in rights_of.items():
        lefts_of.setdefault(frozenset(those), []).append(left)

    def block() -> tuple[list[int], list[int], list[int]]:
        return lefts, sorted(rights), [number for left in lefts for number in asked_of[left]]

    lefts: list[int] = []
    rights: frozenset[int] = frozenset()
    count = 0
    for more_rights, more_lefts in lefts_of.items():
        joined = rights | more_rights
        scored = (len(lefts) + len(more_lefts)) * len(joined)
        distinct = count + len(more_lefts) * len(more_rights)
        if lefts and scored > max(free, WASTE * distinct):
            yield block()
            lefts, joined, distinct = [], more_rights, len(more_lefts) * len(more_rights)
        lefts, rights, count = lefts + more_lefts, joined, distinct
    if lefts:
        yield block()
