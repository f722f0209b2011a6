"""The deployment of the HTTP side on Ray Serve: it reads requests and asks models.

It is one process: what it counts is the whole, and limits by token hold for all. Serve's proxy
before it is one process as well, and images are decoded behind it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import rayreid.session  # noqa: F401 - before ray: it sets what ray reads on import

# isort: split
import numpy as np
from fastapi import FastAPI
from jaxtyping import Int64
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.middleware import Middleware

from rayreid.guard.access import Guard
from rayreid.guard.audit import Audit
from rayreid.guard.origins import is_loopback
from rayreid.guard.tokens import Tokens
from rayreid.serve.api import api
from rayreid.serve.galleries.asking import Galleries
from rayreid.serve.galleries.keeper import Keeper, Lister
from rayreid.serve.galleries.searching import Searched, Wanted
from rayreid.serve.matcher import Matcher
from rayreid.serve.metrics import Metrics
from rayreid.serve.models import Embedded, Explaining, Scored, Served, State, Work
from rayreid.serve.refusals import RETRY_AFTER_S, RefusalError, Refused
from rayreid.serve.service import Service
from rayreid.serve.settings import ServiceSettings

log = logging.getLogger(__name__)

APPLICATION = "rayreid"
"""Name of the application in Ray Serve."""
FORGET_S = 30.0
"""How long replicas may take to let go of what was erased."""
STATES_S = 5.0
"""How long the states of the models are believed before Serve is asked again: its answer takes a
tenth of a second of this process's work, as it packs the code of a router for each deployment."""

FAILED = "failed to start"
"""What Serve's message about a deployment says, whose replicas end while they start."""

R = TypeVar("R")
A = TypeVar("A", Embedded, Scored, Explaining, Searched)


class Deployed:
    """The models of a service as deployments: `rayreid.serve.models.Models`."""

    def __init__(
        self,
        served: Mapping[str, Served],
        handles: Mapping[str, DeploymentHandle[Matcher]],
        metrics: Metrics,
    ):
        self.served, self.handles, self.metrics = served, handles, metrics
        self.known: Mapping[str, State] = {}
        self.asked_at = -STATES_S
        self.asking = asyncio.Lock()

    async def embed(self, name: str, work: Work) -> Embedded:
        """Return the embeddings of a request's images."""
        return await self._asked(name, lambda: self.handles[name].embed.remote(work), work)

    async def score(self, name: str, work: Work, pairs: Int64[np.ndarray, "p 2"]) -> Scored:
        """Return the scores of some pairs of a request's items."""
        ask = self.handles[name].score.remote
        scored: Scored = await self._asked(name, lambda: ask(work, pairs), work)
        self.metrics.scored.labels(name).inc(len(pairs))
        return scored

    async def explain(
        self, name: str, work: Work, pair: tuple[int, int], *, lines: int, drawn: bool
    ) -> Explaining:
        """Return what the score of two of a request's images comes from."""
        ask = self.handles[name].explain.remote
        return await self._asked(name, lambda: ask(work, pair, lines, drawn), work)

    async def search(
        self, name: str, work: Work, groups: Sequence[Sequence[int]], wanted: Wanted
    ) -> Searched:
        """Return what queries find in a gallery, each some of a request's items."""
        ask = self.handles[name].search.remote
        searched: Searched = await self._asked(name, lambda: ask(work, groups, wanted), work)
        return searched

    async def forget(self) -> int:
        """Have every replica of every model let go of what was erased; return how many did."""
        done = 0
        for name, handle in self.handles.items():
            response = handle.broadcast("forget")
            try:
                answers = await asyncio.to_thread(response.results, timeout_s=FORGET_S)
            except DeploymentUnavailableError:
                # Nobody holds anything, unless who does has not become known here yet.
                if (await asyncio.to_thread(states, [name]))[name].replicas:
                    raise _not_forgotten(name) from None
                continue
            except (RayActorError, TimeoutError) as error:
                # One that is gone holds nothing; but others may not have been reached.
                log.warning(
                    "not all replicas of %s have let go of what was erased: %s", name, error
                )
                raise _not_forgotten(name) from None
            for answer in answers:
                if isinstance(answer, Refused):
                    raise answer.error()
            done += len(answers)
        return done

    async def states(self) -> Mapping[str, State]:
        """Return the state of each model, as Serve's controller knows it."""
        async with self.asking:
            if time.monotonic() - self.asked_at > STATES_S:
                self.known = await asyncio.to_thread(states, list(self.served))
                self.asked_at = time.monotonic()
            return self.known

    async def _asked(self, name: str, ask: Callable[[], Awaitable[A | Refused]], work: Work) -> A:
        """Return a replica's answer, counted; raises `RefusalError`, its own or 503."""
        self.metrics.asked.labels(name).inc()
        asking = asyncio.ensure_future(answered(ask))
        try:
            while not (await asyncio.wait({asking}, timeout=STATES_S))[0]:
                # Serve would let it wait as long as a replica that cannot start is tried again.
                await self._refuse_where_none_starts(name)
            answer = asking.result()
        except RefusalError:
            await self._refuse_where_none_starts(name)
            raise
        finally:
            asking.cancel()
            self.metrics.asked.labels(name).dec()
        if isinstance(answer, Refused):
            raise answer.error()
        self.metrics.add(name, answer.report)
        self.metrics.embedded.labels(name).inc(len(work.images))
        for stage, seconds in answer.seconds.items():
            self.metrics.stages.labels(name, stage).observe(seconds)
        return answer

    async def _refuse_where_none_starts(self, name: str) -> None:
        """Raise `RefusalError` 503 with the reason, where no replica can be started."""
        state = (await self.states())[name]
        if state.reason and not state.replicas:
            sentence = f"model {name!r} is not running: {state.reason}"
            raise RefusalError(503, sentence, RETRY_AFTER_S)


def _not_forgotten(name: str) -> RefusalError:
    sentence = f"a replica of model {name!r} did not answer; purge again"
    return RefusalError(503, sentence, RETRY_AFTER_S)


async def answered(ask: Callable[[], Awaitable[R]]) -> R:
    """Return a deployment's answer; `RefusalError` 503 where it has no room, or is not there."""
    try:
        return await ask()
    except BackPressureError:
        raise RefusalError(
            503, "too many requests are waiting; try again later", RETRY_AFTER_S
        ) from None
    except (DeploymentUnavailableError, RayActorError) as error:
        log.warning("no replica answers: %s", error)
        raise RefusalError(
            503, "the model is not running; try again later", RETRY_AFTER_S
        ) from None


def states(names: list[str]) -> dict[str, State]:
    """Return how many replicas each model has, and why none starts where that was tried."""
    application = serve.status().applications.get(APPLICATION)
    found = {}
    for name in names:
        deployment = application and application.deployments.get(name)
        if not deployment:
            found[name] = State(0)
            continue
        running = sum(n for state, n in deployment.replica_states.items() if state == "RUNNING")
        lines = deployment.message.strip().splitlines()
        failed = lines and FAILED in lines[0] and not running
        found[name] = State(running, lines[-1] if failed else "")
    return found


class Ingress:
    """Reads requests and asks models."""

    def __init__(
        self,
        settings: ServiceSettings,
        served: Mapping[str, Served],
        models: Mapping[str, DeploymentHandle[Matcher]],
        keeper: DeploymentHandle[Keeper] | None = None,
    ):
        self.settings, self.served, self.models = settings, served, models
        self.keeper = keeper

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the HTTP interface; Serve calls this in the replica."""
        metrics = Metrics()
        deployed = Deployed(self.served, self.models, metrics)
        galleries = self._galleries(deployed)
        self.service = Service(deployed, self.settings.limits, galleries, metrics=metrics)
        return api(self.service, guards=[guard(self.settings)])

    async def drained(self, seconds: float) -> bool:
        """Admit no request more, and return whether all that were are answered in time."""
        return await self.service.places.drained(seconds)

    def _galleries(self, deployed: Deployed) -> Galleries | None:
        keeper, settings = self.keeper, self.settings.galleries
        if keeper is None or settings is None:
            return None

        async def ask(verb: str, *arguments: object) -> object:
            return await answered(lambda: keeper.ask.remote(verb, *arguments))

        lister = Lister(settings.store, settings.limits)
        return Galleries(ask, deployed, settings, lister.ask)


def guard(settings: ServiceSettings) -> Middleware:
    """Return what decides who may ask; raises what `Tokens` and `Audit` do."""
    return Middleware(
        Guard,
        tokens=Tokens(settings.tokens) if settings.tokens else None,
        loopback=is_loopback(settings.host),
        hosts=settings.hosts,
        audit=Audit(settings.audit) if settings.audit else None,
    )
