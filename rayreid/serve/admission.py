"""Admission: so many requests at once, a few more that wait, and 503 for the rest.

Done here rather than by Serve's proxy, so that a refusal has the service's shape, is counted, and
costs no reading of a body.
"""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from rayreid.serve.envelope import refusal_response
from rayreid.serve.metrics import Metrics
from rayreid.serve.refusals import RETRY_AFTER_S, RefusalError
from rayreid.serve.settings import Limits

ALWAYS = ("/healthz", "/readyz", "/metrics")
"""Paths that say how the service is, which must be told when it is busy above all."""


class Admission:
    """ASGI middleware that bounds the requests which are worked on and which wait."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics):
        self.app, self.limits, self.metrics = app, limits, metrics
        self.places = asyncio.Semaphore(limits.admitted)
        self.waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on when there is a place for it."""
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            await self.app(scope, receive, send)
            return
        if self.places.locked() and self.waiting >= self.limits.waiting:
            refusal = RefusalError(
                503, "too many requests are waiting; try again later", RETRY_AFTER_S
            )
            await refusal_response(scope, refusal)(scope, receive, send)
            return
        self.waiting += 1
        self.metrics.queued.set(self.waiting)
        try:
            await self.places.acquire()
        finally:
            self.waiting -= 1
            self.metrics.queued.set(self.waiting)
        self.metrics.admitted.inc()
        try:
            await self.app(scope, receive, send)
        finally:
            self.metrics.admitted.dec()
            self.places.release()
