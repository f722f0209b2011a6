"""The deployment of one model on Ray Serve: its replicas hold the method, embed and score."""

import os
import time
from collections.abc import Sequence

import rayreid.session  # noqa: F401 - before ray: it sets what ray reads on import

# isort: split
import numpy as np
from jaxtyping import Int64

from rayreid.serve.galleries.searching import Searched, Searcher, Wanted
from rayreid.serve.galleries.settings import GalleriesSettings
from rayreid.serve.hosted import Hosted
from rayreid.serve.models import Embedded, Explaining, Scored, Served, Work, load
from rayreid.serve.refusals import RefusalError, Refused


class Matcher:
    """Holds the method; raises `ValueError` where the run is no longer the one to serve.

    ``sharing`` is how many replicas share the machine. Refusals are returned, not raised: Serve
    would write each to its log with a traceback.
    """

    def __init__(
        self,
        run: str,
        served: Served,
        sharing: int,
        cuda: bool,
        galleries: GalleriesSettings | None = None,
    ):
        started = time.perf_counter()
        trained = load(run, served)
        lanes = 1 if cuda else max(1, len(os.sched_getaffinity(0)) // sharing)
        self.hosted = Hosted(served, trained, cuda=cuda, lanes=lanes)
        self.searcher = None if galleries is None else Searcher(self.hosted, galleries)
        self.hosted.load_seconds = time.perf_counter() - started

    async def embed(self, work: Work) -> Embedded | Refused:
        """Return the embeddings of a request's images."""
        try:
            return await self.hosted.embed(work)
        except RefusalError as error:
            return error.as_value()

    async def score(self, work: Work, pairs: Int64[np.ndarray, "p 2"]) -> Scored | Refused:
        """Return the scores of pairs of a request's items."""
        try:
            return await self.hosted.score(work, pairs)
        except RefusalError as error:
            return error.as_value()

    async def explain(
        self, work: Work, pair: tuple[int, int], lines: int, drawn: bool
    ) -> Explaining | Refused:
        """Return what the score of two of a request's images comes from."""
        try:
            return await self.hosted.explain(work, pair, lines=lines, drawn=drawn)
        except RefusalError as error:
            return error.as_value()

    async def search(
        self, work: Work, groups: Sequence[Sequence[int]], wanted: Wanted
    ) -> Searched | Refused:
        """Return what queries find in a gallery, each some of a request's items."""
        assert self.searcher is not None, "the service keeps no galleries"
        try:
            return await self.searcher.search(work, groups, wanted)
        except RefusalError as error:
            return error.as_value()

    async def forget(self) -> Refused | None:
        """Bring what is held of galleries up to date: what was erased is no longer held."""
        assert self.searcher is not None, "the service keeps no galleries"
        try:
            await self.searcher.forget()
        except RefusalError as error:
            return error.as_value()
        return None
