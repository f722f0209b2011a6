"""Search beside a model: snapshots in its process, queries of several requests at a time."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from jaxtyping import Float32
from torch import Tensor

from rayreid.serve.batching import Batcher
from rayreid.serve.galleries.keeper import refused
from rayreid.serve.galleries.reader import Reader
from rayreid.serve.galleries.records import Gallery, GalleryError
from rayreid.serve.galleries.search import Found, search
from rayreid.serve.galleries.settings import GalleriesSettings
from rayreid.serve.galleries.snapshot import Filters, Model
from rayreid.serve.hosted import Hosted
from rayreid.serve.models import Report, Served, Work
from rayreid.serve.refusals import Refused
from rayreid.settings import FailureError

REQUESTS_PER_BATCH = 16
"""Most requests that are searched for at a time."""
BATCH_WAIT_S = 0.002
"""How long an idle searcher waits for further requests."""


@dataclass(frozen=True)
class Wanted:
    """How a gallery is to be searched."""

    gallery: str
    filters: Filters
    top_k: int
    shortlist: int
    fusion: str


@dataclass(frozen=True, eq=False)
class Searched:
    """What each query found, in which gallery, by which model, and the seconds of the stages."""

    served: Served
    gallery: Gallery
    """As it was searched, with its version."""
    found: tuple[Found, ...]
    seconds: Mapping[str, float]
    report: Report = field(default_factory=Report)


@dataclass(frozen=True, eq=False)
class _Request:
    wanted: Wanted
    queries: list[Float32[Tensor, "_ *e"]]


class Searcher:
    """Searches galleries with one model."""

    def __init__(self, hosted: Hosted, settings: GalleriesSettings):
        device = next(hosted.method.parameters()).device
        self.hosted = hosted
        served = hosted.served
        model = Model(hosted.method, device, served.fingerprint, served.preprocessing)
        self.reader = Reader(settings.store, settings.limits, model, settings.memory_bytes)
        # Reading waits for the disk, and must not keep the model from its work.
        self.thread = ThreadPoolExecutor(1, "reader")
        self.requests: Batcher[_Request, tuple[Gallery, list[Found]] | Refused] = Batcher(
            self._searched,
            most=REQUESTS_PER_BATCH,
            wait=BATCH_WAIT_S,
            done=hosted.done("search"),
        )

    async def search(self, work: Work, groups: Sequence[Sequence[int]], wanted: Wanted) -> Searched:
        """Return what queries find, each some of a request's items; raises `RefusalError`.

        What was acknowledged before the call is found.
        """
        seconds: dict[str, float] = {}
        items = await self.hosted.items(work, seconds)
        started = time.perf_counter()
        queries = [torch.stack([items[number] for number in group]) for group in groups]
        answer = await self.requests(_Request(wanted, queries))
        seconds["search"] = time.perf_counter() - started
        if isinstance(answer, Refused):
            raise answer.error()
        gallery, found = answer
        return Searched(self.hosted.served, gallery, tuple(found), seconds, self.hosted.report())

    async def forget(self) -> None:
        """Bring all that is held in memory up to date with the store."""
        try:
            await self.hosted.run(self.thread, self.reader.forget)
        except GalleryError as error:
            raise refused(error).error() from None

    async def _searched(
        self, requests: Sequence[_Request]
    ) -> list[tuple[Gallery, list[Found]] | Refused]:
        """Return what requests find; those that want the same are one search."""
        alike: dict[Wanted, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(request.wanted, []).append(number)
        answers: dict[int, tuple[Gallery, list[Found]] | Refused] = {}
        for wanted, numbers in alike.items():
            queries = [query for number in numbers for query in requests[number].queries]
            try:
                gallery, found = await self._found(wanted, queries)
            except GalleryError as error:
                answers |= dict.fromkeys(numbers, refused(error))
                continue
            except FailureError as error:
                answers |= dict.fromkeys(numbers, Refused(500, str(error)))
                if len(numbers) > 1:
                    # One of them may be the cause, which is nobody else's matter.
                    for number in numbers:
                        (answers[number],) = await self._searched([requests[number]])
                continue
            results = iter(found)
            for number in numbers:
                answers[number] = gallery, [next(results) for _ in requests[number].queries]
        return [answers[number] for number in range(len(requests))]

    async def _found(
        self, wanted: Wanted, queries: list[Float32[Tensor, "_ *e"]]
    ) -> tuple[Gallery, list[Found]]:
        hosted = self.hosted
        snapshot = await hosted.run(self.thread, self.reader.snapshot, wanted.gallery)
        return await hosted.run(
            hosted.scorers,
            search,
            snapshot,
            queries,
            wanted.filters,
            top_k=wanted.top_k,
            shortlist=wanted.shortlist,
            fusion=wanted.fusion,
        )
