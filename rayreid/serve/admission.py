"""Admission: so many requests at once, a few more that wait, and 503 for the rest.

Done here rather than by Serve's proxy, so that a refusal has the service's shape, is counted, and
costs no reading of a body; and so that a service can stop without losing a request.
"""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from rayreid.serve.envelope import refusal_response
from rayreid.serve.metrics import Metrics
from rayreid.serve.refusals import RETRY_AFTER_S, RefusalError
from rayreid.serve.settings import Limits

ALWAYS = ("/healthz", "/readyz", "/metrics")
"""Paths that say how the service is, which must be told when it is busy above all."""


class Places:
    """The places of the requests that are worked on, and of those that wait."""

    def __init__(self, limits: Limits):
        self.free = asyncio.Semaphore(limits.admitted)
        self.most_waiting = limits.waiting
        self.waiting = self.working = 0
        self.closed = False

    async def drained(self, seconds: float) -> bool:
        """Admit nobody more, and return whether all that were admitted are answered in time."""
        self.closed = True
        try:
            async with asyncio.timeout(seconds):
                while self.waiting or self.working:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return False
        return True


class Admission:
    """ASGI middleware that passes a request on when there is a place for it."""

    def __init__(self, app: ASGIApp, places: Places, metrics: Metrics):
        self.app, self.places, self.metrics = app, places, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, now or when another one is answered, or refuse it."""
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            await self.app(scope, receive, send)
            return
        places, refusal = self.places, None
        if places.closed:
            refusal = RefusalError(503, "the service is stopping; try again later", RETRY_AFTER_S)
        elif places.free.locked() and places.waiting >= places.most_waiting:
            refusal = RefusalError(
                503, "too many requests are waiting; try again later", RETRY_AFTER_S
            )
        if refusal is not None:
            await refusal_response(scope, refusal)(scope, receive, send)
            return
        self._count(waiting=1)
        try:
            await places.free.acquire()
        finally:
            self._count(waiting=-1)
        self._count(working=1)
        try:
            await self.app(scope, receive, send)
        finally:
            self._count(working=-1)
            places.free.release()

    def _count(self, waiting: int = 0, working: int = 0) -> None:
        self.places.waiting += waiting
        self.places.working += working
        self.metrics.queued.set(self.places.waiting)
        self.metrics.admitted.set(self.places.working)
