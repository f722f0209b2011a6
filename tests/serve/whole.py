"""The whole service in one process, without Ray: the door, the guard, the routes, a real model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rayreid.checkpoint import load_trained
from rayreid.guard.connections import DoorSettings
from rayreid.serve.api import api
from rayreid.serve.galleries.asking import Galleries
from rayreid.serve.galleries.keeper import Keeper
from rayreid.serve.galleries.searching import Searched, Searcher, Wanted
from rayreid.serve.galleries.settings import GalleriesSettings
from rayreid.serve.hosted import Hosted
from rayreid.serve.ingress import guard
from rayreid.serve.models import Embedded, Explaining, Scored, State, Work, calibration_of, describe
from rayreid.serve.service import Service
from rayreid.serve.settings import service_of
from tests.guard.servers import behind_the_door


class Here:
    """The models of a service, and who searches its galleries, in this process."""

    def __init__(self, run: Path, galleries: GalleriesSettings | None = None):
        trained = load_trained(run)
        served = describe(run.name, trained, calibration=calibration_of(run, trained))
        self.served, self.hosted = {run.name: served}, Hosted(served, trained)
        self.searcher = galleries and Searcher(self.hosted, galleries)

    async def embed(self, _: str, work: Work) -> Embedded:
        return await self.hosted.embed(work)

    async def score(self, _: str, work: Work, pairs: np.ndarray) -> Scored:
        return await self.hosted.score(work, pairs)

    async def explain(
        self, _: str, work: Work, pair: tuple[int, int], *, lines: int, drawn: bool
    ) -> Explaining:
        return await self.hosted.explain(work, pair, lines=lines, drawn=drawn)

    async def search(
        self, _: str, work: Work, groups: Sequence[Sequence[int]], wanted: Wanted
    ) -> Searched:
        return await self.searcher.search(work, groups, wanted)

    async def forget(self) -> int:
        await self.searcher.forget()
        return 1

    async def states(self) -> Mapping[str, State]:
        return dict.fromkeys(self.served, State(1))


@contextmanager
def whole(run: Path, door: DoorSettings | None = None, **settings: object) -> Iterator[int]:
    """Serve a run; yield the port."""
    service = service_of([run], **settings)
    models, enrolled = Here(run, service.galleries), None
    if service.galleries:
        keeper = Keeper(service.galleries.store, service.galleries.limits)
        enrolled = Galleries(keeper.ask, models, service.galleries)
    app = api(Service(models, service.limits, enrolled), guards=[guard(service)])
    with behind_the_door(app, door or DoorSettings()) as port:
        yield port
    if service.galleries:
        models.searcher.reader.close()
        keeper.close()
