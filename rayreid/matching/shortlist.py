"""Two stages: a cheap score for all pairs, the method's own for those that come first."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rayreid.matching.tiles import ROWS_BYTES, Progress, precision_of, score_all
from rayreid.method import Method

SAMPLED = 64
"""Queries whose full ranking tells what a shortlist loses."""


@dataclass(frozen=True)
class Shortlisted:
    """What a shortlist costs and loses, measured on queries that were scored in full as well."""

    length: int
    queries: int
    first: float
    """Share of the queries whose highest-scored crop is on their shortlist."""
    recall: float
    """Mean share of as many highest-scored crops as a shortlist has that are on it."""
    faster: float
    """How many times as fast as scoring in full."""


@torch.inference_mode()
def shortlisted_rows(
    method: Method,
    queries: Float[Tensor, "q *e"],
    gallery: Float[Tensor, "g *e"],
    length: int,
    *,
    half: bool = False,
    progress: Progress | None = None,
) -> Iterator[tuple[int, Float[Tensor, "r g"]]]:
    """Yield scores as `score_rows` does, exact for ``length`` crops of each query.

    These are the first by ``method.approximate``; all others score less than they do, in the order
    of the approximation. ``half`` and ``progress`` are `score_all`'s.
    """
    length = min(length, len(gallery))
    rows = max(1, ROWS_BYTES // (4 * max(1, len(gallery))))
    for start in range(0, len(queries), rows):
        few = queries[start : start + rows]
        rough = method.approximate(few, gallery)
        chosen = rough.topk(length, dim=1).indices
        exact = torch.empty(chosen.shape, device=rough.device)
        with precision_of(queries.device, half):
            for i, columns in enumerate(chosen):
                exact[i] = method.score(few[i : i + 1], gallery[columns])[0]
        # The highest that is left out comes just below the lowest on the list.
        lowest = exact.amin(1, keepdim=True)
        last = rough.gather(1, chosen).amin(1, keepdim=True)
        below = torch.nextafter(lowest, torch.full_like(lowest, -torch.inf))
        scores = torch.minimum(below + (rough - last), below)
        yield start, scores.scatter_(1, chosen, exact).cpu()
        if progress:
            progress(rough.numel())


@torch.inference_mode()
def measured(
    method: Method,
    queries: Float[Tensor, "q *e"],
    gallery: Float[Tensor, "g *e"],
    length: int,
    *,
    half: bool = False,
) -> Shortlisted:
    """Return what a shortlist costs and loses, on `SAMPLED` queries evenly spread."""
    length = min(length, len(gallery))
    few = queries[:: -(-len(queries) // SAMPLED)]
    # Once before, so that neither pays for what a first call loads.
    score_all(method, few[:1], gallery[:length], half=half)
    started = time.perf_counter()
    full = score_all(method, few, gallery, half=half)
    between = time.perf_counter()
    rough = torch.cat([s for _, s in shortlisted_rows(method, few, gallery, length, half=half)])
    ended = time.perf_counter()
    listed = torch.zeros_like(full, dtype=torch.bool)
    listed.scatter_(1, rough.topk(length, dim=1).indices, True)
    order = full.topk(length, dim=1).indices
    found = listed.gather(1, order).float()
    return Shortlisted(
        length=length,
        queries=len(few),
        first=found[:, 0].mean().item(),
        recall=found.mean().item(),
        faster=(between - started) / (ended - between),
    )
