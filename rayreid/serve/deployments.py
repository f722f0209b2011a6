"""The two deployments of the matching service on Ray Serve.

An `Ingress` reads and decodes requests; a `Matcher` holds the method, and embeds and scores
for all requests that are there at a time, in batches. Embeddings never leave the matcher.
"""

import asyncio
import functools
import logging
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import rayreid.session  # noqa: F401 - before ray: it sets what ray reads on import

# isort: split
import numpy as np
import torch
from fastapi import FastAPI
from jaxtyping import Float32, UInt8
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from torch import Tensor

from rayreid.checkpoint import load_trained
from rayreid.serve.api import Matched, Served, Work, api
from rayreid.serve.pairs import Comparison, call_cost, embed_distinct, score_together
from rayreid.serve.request import Limits, RefusalError

log = logging.getLogger(__name__)

IMAGES_PER_BATCH, REQUESTS_PER_BATCH = 64, 16
"""Most images that are embedded, and most requests that are scored, at a time."""
BATCH_WAIT_S = 0.004
"""How long a batch waits for further requests: less than embedding a crop takes on a CPU."""
ALIVE_S = 5
"""How long a matcher may take to show that it is there."""
RETRY_AFTER_S = 1
"""When a client that was refused for lack of room may try again."""


P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Image:
    """One image on its way to the method."""

    key: str
    pixels: UInt8[np.ndarray, "h w 3"]


class Matcher:
    """Holds the method; raises `ValueError` where the run is no longer the one to serve."""

    def __init__(self, run: Path, fingerprint: str, replicas: int, cuda: bool):
        trained = load_trained(run)
        if trained.fingerprint != fingerprint:
            raise ValueError(
                f"{run} holds weights {trained.fingerprint}, not {fingerprint} as when the "
                "service was started; start it again"
            )
        # The same numbers whatever else is in a batch: TF32 would round to 11 bits, in ways
        # that differ with the shape of the batch.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        # One core is left for Serve's proxy and the decoding: threads that wait for a core hold up
        # all others at every step.
        threads = max(1, (len(os.sched_getaffinity(0)) - 1) // replicas)
        self.method = trained.method.to("cuda" if cuda else "cpu")
        # One thread that computes: memory is that of one batch, and the event loop stays free
        # to gather the next one.
        self.worker = ThreadPoolExecutor(1, "torch", torch.set_num_threads, (threads,))
        # The first batch is the slowest, and shows whether the method works on this machine.
        loading = trained.experiment.loading
        blank = np.zeros((loading.height, loading.width, 3), np.uint8)
        (embedding,) = self.worker.submit(embed_distinct, self.method, [""], [blank]).result()
        self.call_cost = self.worker.submit(call_cost, self.method, embedding).result()

    async def alive(self) -> None:
        """Return, to show that there is someone."""

    async def match(self, work: Work) -> Matched:
        """Return the scores of a request."""
        started = time.perf_counter()
        images = map(Image, work.keys, work.pixels)
        embeddings = await asyncio.gather(*map(self.embed, images))
        embedded = time.perf_counter()
        scores = await self.score(Comparison(work.keys, embeddings, work.pairs))
        return Matched(scores, embedded - started, time.perf_counter() - embedded)

    @serve.batch(max_batch_size=IMAGES_PER_BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
    async def embed(self, images: list[Image]) -> list[Tensor]:
        """Return the embeddings of images of any requests."""
        keys, pixels = [image.key for image in images], [image.pixels for image in images]
        return await self._computed(embed_distinct, self.method, keys, pixels)

    @serve.batch(max_batch_size=REQUESTS_PER_BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
    async def score(self, comparisons: list[Comparison]) -> list[Float32[np.ndarray, " p"]]:
        """Return the scores of each of some requests."""
        return await self._computed(score_together, self.method, comparisons, free=self.call_cost)

    async def _computed(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        call = functools.partial(function, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self.worker, call)


class Ingress:
    """Reads requests and asks a matcher."""

    def __init__(self, matcher: DeploymentHandle[Matcher], served: Served, limits: Limits):
        self.matcher, self.served, self.limits = matcher, served, limits

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the HTTP interface; Serve calls this in the replica."""
        return api(self.served, self.limits, self.match, self.alive)

    async def match(self, work: Work) -> Matched:
        """Return the scores of a request; errors as `answered`."""
        matched: Matched = await answered(self.matcher.match.remote, work)
        return matched

    async def alive(self) -> None:
        """Return when a matcher answers; errors as `answered`, or when it takes too long."""
        try:
            async with asyncio.timeout(ALIVE_S):
                await answered(self.matcher.alive.remote)
        except TimeoutError:
            raise RefusalError(
                503, f"no matcher answers within {ALIVE_S} s; try again later", RETRY_AFTER_S
            ) from None


async def answered(ask: Callable[P, Awaitable[R]], *arguments: P.args, **named: P.kwargs) -> R:
    """Return a deployment's answer; `RefusalError` 503 where it has no room, or is not there."""
    try:
        return await ask(*arguments, **named)
    except BackPressureError:
        raise RefusalError(
            503, "too many requests are waiting; try again later", RETRY_AFTER_S
        ) from None
    except (DeploymentUnavailableError, RayActorError) as error:
        log.warning("no matcher answers: %s", error)
        raise RefusalError(503, "no matcher is running; try again later", RETRY_AFTER_S) from None
