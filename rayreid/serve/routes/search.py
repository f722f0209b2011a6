"""Searching a gallery for people."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from fastapi import APIRouter, Request
from pydantic import BaseModel

from rayreid.serve.bodies import documented
from rayreid.serve.decisions import Thresholds, decide_search
from rayreid.serve.envelope import ERRORS, Envelope, enveloped
from rayreid.serve.galleries.bodies import SearchBody
from rayreid.serve.galleries.search import SearchSettings
from rayreid.serve.galleries.searching import Wanted
from rayreid.serve.galleries.snapshot import Filters
from rayreid.serve.models import Given, distinct
from rayreid.serve.reading import Asked, read, refuse_unless_item
from rayreid.serve.refusals import RefusalError
from rayreid.serve.routes.galleries import model_of
from rayreid.serve.routes.matching import refuse_others_embeddings
from rayreid.serve.service import Service

log = logging.getLogger(__name__)


class MatchAnswer(BaseModel):
    """An identity that a query may be, by its sample of highest score."""

    identity: str
    sample: str
    score: float
    decision: str
    camera: str | None
    time: datetime | None
    tags: list[str]


class ResultAnswer(BaseModel):
    """What one query found, best first."""

    decision: str
    """Of the best: match, review, no_match, or uncalibrated."""
    matches: list[MatchAnswer]
    searched: int
    """Samples that the filters left to search."""
    thresholds: Thresholds
    """What the decisions are by."""


class EnrolledCounts(BaseModel):
    """What the gallery held."""

    identities: int
    samples: int


class SearchAnswer(Envelope):
    """What each query found."""

    results: list[ResultAnswer]
    gallery: str
    snapshot: int
    """Version of the gallery that was searched; all that was acknowledged before is in it."""
    enrolled: EnrolledCounts
    threshold: float | None
    """Scores above it are matches, of every query; null where nothing is decided."""


def router(service: Service) -> APIRouter:
    """Return the route that searches; none where the service keeps no galleries."""
    routes = APIRouter(prefix="/v1/match", tags=["galleries"], responses=ERRORS)
    if service.enrolled is None:
        return routes
    galleries, settings = service.enrolled, service.enrolled.settings.search

    @routes.post("/search", openapi_extra=documented(SearchBody))
    async def search(request: Request) -> SearchAnswer:
        """Search a gallery for the people that queries show."""
        started = time.perf_counter()
        asked = await read(request, service.limits, SearchBody)
        groups, wanted = _groups(asked), _wanted(asked.body, settings)
        _refuse_too_many_scores(sum(map(len, groups)), wanted, settings)
        there = await galleries.get(asked.body.gallery)
        served = model_of(service, there, asked.body.model)
        rate = asked.body.false_positive_identification_rate
        decide_search(served, [], there, 1, rate)  # a rate without a threshold is refused now
        refuse_others_embeddings(asked.embeddings, served)
        enrolled: Sequence[Given] = ()
        if asked.samples:
            enrolled = await galleries.embeddings(asked.samples, served)
        items = distinct(asked.images, [*asked.embeddings, *enrolled])
        numbers = [[int(items.number[index]) for index in group] for group in groups]
        reading = time.perf_counter() - started
        found = await galleries.searchers.search(served.name, items.work, numbers, wanted)
        results = []
        for one, group in zip(found.found, groups, strict=True):
            scores = [match.score for match in one.matches]
            decided = decide_search(found.served, scores, found.gallery, len(group), rate)
            matches = [
                MatchAnswer(
                    identity=match.sample.identity,
                    sample=match.sample.id,
                    score=match.score,
                    decision=decision,
                    **{
                        name: value
                        for name, value in asdict(match.sample).items()
                        if name in ("camera", "time", "tags")
                    },
                )
                for match, decision in zip(one.matches, decided.decisions, strict=True)
            ]
            first = matches[0].decision if matches else "no_match"
            results.append(
                ResultAnswer(
                    decision=first,
                    matches=matches,
                    searched=one.searched,
                    thresholds=decided.thresholds,
                )
            )
        return SearchAnswer(
            **enveloped(request, found.served, {"read": reading, **found.seconds}),
            results=results,
            gallery=found.gallery.name,
            snapshot=found.gallery.version,
            enrolled=EnrolledCounts(
                identities=found.gallery.identities, samples=found.gallery.samples
            ),
            threshold=max(
                (m for one in results if (m := one.thresholds.match) is not None), default=None
            ),
        )

    return routes


def _groups(asked: Asked[SearchBody]) -> list[list[int]]:
    """Return the items of each query; raises `RefusalError` 422 where there are none such."""
    groups = asked.body.queries
    if groups is None:
        groups = [[index] for index in range(len(asked))]
    if not groups:
        raise RefusalError(422, "there are no queries to search for")
    for number, group in enumerate(groups):
        if not group:
            raise RefusalError(422, f"queries[{number}] names no item")
        for index in group:
            refuse_unless_item(f"queries[{number}]", index, len(asked))
    if sum(map(len, groups)) > len(asked):
        raise RefusalError(422, "the queries name more items than there are; name each once")
    return groups


def _wanted(body: SearchBody, settings: SearchSettings) -> Wanted:
    """Return how a request wants a gallery searched; raises `RefusalError` 422 for too much."""
    top_k, shortlist = body.top_k or settings.top_k, body.shortlist or settings.shortlist
    for name, asked, most in (
        ("top_k", top_k, settings.most),
        ("shortlist", shortlist, settings.most_shortlisted),
    ):
        if asked > most:
            raise RefusalError(422, f"{name} is {asked}, more than {most}")
    filters = body.filters
    return Wanted(
        body.gallery,
        Filters(
            None if filters.cameras is None else tuple(filters.cameras),
            filters.since,
            filters.until,
            tuple(filters.tags),
        ),
        top_k,
        shortlist,
        body.fusion or settings.fusion,
    )


def _refuse_too_many_scores(crops: int, wanted: Wanted, settings: SearchSettings) -> None:
    scores = crops * max(wanted.shortlist, wanted.top_k)
    if scores > settings.most_scored:
        raise RefusalError(
            422,
            f"{crops} crops with a shortlist of {max(wanted.shortlist, wanted.top_k)} are {scores} "
            f"exact scores, more than {settings.most_scored}; search for fewer at a time",
        )
