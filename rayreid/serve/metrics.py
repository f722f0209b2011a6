"""What the service counts, as Prometheus reads it.

The HTTP side is one process, so what it counts is the whole. Replicas of models are many: what
they did travels with their answers (`rayreid.serve.models.Report`), each thing once.
"""

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayreid.serve.models import Report

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counts of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of: dict[str, Any] = {"registry": self.registry, "namespace": "rayreid"}
        self.requests = Counter(
            "requests", "Requests answered.", ("method", "route", "status"), **of
        )
        self.latency = Histogram(
            "request_seconds", "Time to the answer.", ("route",), buckets=_SECONDS, **of
        )
        self.open = Gauge("requests_open", "Requests being read, worked on or answered.", **of)
        self.admitted = Gauge("requests_admitted", "Requests that are worked on.", **of)
        self.queued = Gauge("requests_queued", "Requests that wait to be admitted.", **of)
        self.stages = Histogram(
            "stage_seconds", "Time of a request's stages.", ("model", "stage"), buckets=_SECONDS,
            **of,
        )  # fmt: skip
        self.embedded = Counter("images_embedded", "Images embedded.", ("model",), **of)
        self.scored = Counter("pairs_scored", "Pairs scored for requests.", ("model",), **of)
        self.batches = Histogram(
            "batch_size", "Images, or requests to score, of a batch.", ("model", "stage"),
            buckets=_SIZES, **of,
        )  # fmt: skip
        self.batch_seconds = Counter(
            "batch_seconds", "Time spent computing batches.", ("model", "stage"), **of
        )
        self.loads = Counter("model_loads", "Times a replica loaded a model.", ("model",), **of)
        self.load_seconds = Gauge(
            "model_load_seconds", "Time that the last load took.", ("model",), **of
        )
        self.asked = Gauge(
            "model_requests", "Requests that a model's replicas work on or queue.", ("model",), **of
        )
        self.waiting = Gauge(
            "batch_waiting", "Images and requests that waited for a batch in the replica that "
            "answered last.", ("model",), **of,
        )  # fmt: skip

    def add(self, model: str, report: Report) -> None:
        """Count what a replica reports."""
        for batch in report.batches:
            self.batches.labels(model, batch.stage).observe(batch.size)
            self.batch_seconds.labels(model, batch.stage).inc(batch.seconds)
        if report.load_seconds is not None:
            self.loads.labels(model).inc()
            self.load_seconds.labels(model).set(report.load_seconds)
        self.waiting.labels(model).set(report.waiting)

    def text(self) -> bytes:
        """Return all counts in Prometheus' text format."""
        text: bytes = generate_latest(self.registry)
        return text


class Counted:
    """ASGI middleware: counts requests by route and status, and how long they take."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 499  # nobody was there to be answered

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.metrics.open.inc()
        try:
            await self.app(scope, receive, seen)
        finally:
            self.metrics.open.dec()
            # Of paths that are no route there are as many as clients like.
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if route != "other" else "other"
            self.metrics.requests.labels(method, route, status).inc()
            self.metrics.latency.labels(route).observe(time.perf_counter() - started)
