"""A trained method in memory that decodes, embeds and scores for all requests at a time."""

import asyncio
import functools
import io
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from rayreid.checkpoint import Trained
from rayreid.data.decoding import decode_bytes
from rayreid.explain import SHOWN_HEIGHT, Explained, explain_pair, picture
from rayreid.serve.batching import Batcher
from rayreid.serve.models import Batch, Embedded, Explaining, Report, Scored, Served, Work
from rayreid.serve.pairs import Comparison, call_cost, embed_distinct, score_together
from rayreid.serve.refusals import RefusalError

IMAGES_PER_BATCH = {"cuda": 64, "cpu": 16}
"""Most images that are embedded at a time: on a core enough for its vector units, and few enough
for its cache, and for others not to wait."""
REQUESTS_PER_BATCH = 16
"""Most requests that are scored at a time."""
BATCH_WAIT_S = 0.004
"""How long an idle model waits for further requests: less than a crop takes on a CPU."""
NICENESS = 5
"""How far threads that compute stand back: those that read and decode have little to do, and
everything waits for it."""

P = ParamSpec("P")
R = TypeVar("R")


class Hosted:
    """A model that is loaded: every batch is of this one, whatever replaces it later."""

    def __init__(self, served: Served, trained: Trained, *, cuda: bool = False, lanes: int = 1):
        started = time.perf_counter()
        self.served = served
        # The same numbers whatever else is in a batch: TF32 would round to 11 bits, in ways
        # that differ with the shape of the batch.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        device = "cuda" if cuda else "cpu"
        self.method = trained.method.to(device)
        # Batches side by side, a thread each, rather than one that all threads share: those wait
        # for each other at every step, and for each core that something else wants too.
        self.embedders = ThreadPoolExecutor(lanes, "embed", _computing)
        # Apart, so that the last step of a request does not queue behind others' first.
        self.scorers = ThreadPoolExecutor(lanes, "score", _computing)
        # The event loop stays free, and no more full-size pictures than threads are in memory.
        self.cores = len(os.sched_getaffinity(0))
        self.decoders = ThreadPoolExecutor(self.cores, "decode")
        # The first batch is the slowest, and shows whether the method works on this machine.
        blank = np.zeros((served.height, served.width, 3), np.uint8)
        first = self.embedders.submit(embed_distinct, self.method, [""], [blank])
        (embedding,) = first.result()
        self.call_cost = self.scorers.submit(call_cost, self.method, embedding).result()
        self.images: Batcher[tuple[str, UInt8[np.ndarray, "h w 3"]], Tensor] = Batcher(
            self._embed,
            most=IMAGES_PER_BATCH[device],
            lanes=lanes,
            wait=BATCH_WAIT_S,
            done=self.done("embed"),
        )
        self.comparisons: Batcher[Comparison, Float32[np.ndarray, " p"]] = Batcher(
            self._score,
            most=REQUESTS_PER_BATCH,
            lanes=lanes,
            wait=BATCH_WAIT_S,
            done=self.done("score"),
        )
        self.batches: list[Batch] = []
        self.load_seconds: float | None = time.perf_counter() - started

    async def embed(self, work: Work) -> Embedded:
        """Return the embeddings of a request's images.

        Raises `RefusalError` 422 for the first that is not readable as an image.
        """
        seconds: dict[str, float] = {}
        embeddings = await self._embeddings(work, seconds)
        values = torch.stack(embeddings).cpu().numpy()
        return Embedded(self.served, values, seconds, self.report())

    async def score(self, work: Work, pairs: Int64[np.ndarray, "p 2"]) -> Scored:
        """Return the scores of pairs of a request's items; raises as `embed`."""
        seconds: dict[str, float] = {}
        embeddings = await self.items(work, seconds)
        started = time.perf_counter()
        scores = await self.comparisons(Comparison(work.keys, embeddings, pairs))
        seconds["score"] = time.perf_counter() - started
        return Scored(self.served, scores, seconds, self.report())

    async def items(self, work: Work, seconds: dict[str, float]) -> list[Tensor]:
        """Return the embeddings of all items of a request, on the model's device.

        The seconds of the stages are added to ``seconds``. Raises as `embed`.
        """
        device = next(self.method.parameters()).device
        # Copies: what came with a message is not writable.
        given = [torch.tensor(values, device=device) for values in work.embeddings]
        return [*await self._embeddings(work, seconds), *given]

    async def explain(
        self, work: Work, pair: tuple[int, int], *, lines: int, drawn: bool
    ) -> Explaining:
        """Return what the score of two of a request's images comes from; raises as `embed`."""
        started = time.perf_counter()
        pixels = await self._decoded(work)
        decoded = time.perf_counter()
        call = functools.partial(explain_pair, lines=lines)
        both = np.stack([pixels[i] for i in pair])
        explained = await self.run(self.scorers, call, self.method, both)
        seconds = {"decode": decoded - started, "explain": time.perf_counter() - decoded}
        png = None
        if drawn:
            images = [work.images[i] for i in pair]
            png = await self.run(self.decoders, self._drawn, explained, images)
            seconds["draw"] = time.perf_counter() - decoded - seconds["explain"]
        return Explaining(self.served, explained, png, seconds, self.report())

    def _drawn(self, explained: Explained, images: Sequence[bytes]) -> bytes:
        """Return the picture of an explanation, its crops as tall as they are shown."""
        width = round(SHOWN_HEIGHT * self.served.width / self.served.height)
        first, second = (decode_bytes(image, "", SHOWN_HEIGHT, width) for image in images)
        file = io.BytesIO()
        picture(explained, first, second).save(file, "PNG")
        return file.getvalue()

    async def _embeddings(self, work: Work, seconds: dict[str, float]) -> list[Tensor]:
        started = time.perf_counter()
        pixels = await self._decoded(work)
        decoded = time.perf_counter()
        items = zip(work.keys[: len(pixels)], pixels, strict=True)
        embeddings = await self.images.many(items)
        seconds["decode"] = decoded - started
        seconds["embed"] = time.perf_counter() - decoded
        return embeddings

    async def _decoded(self, work: Work) -> list[UInt8[np.ndarray, "h w 3"]]:
        named = list(zip(work.images, work.names, strict=True))
        # A call a thread, not one an image: a small crop is sooner decoded than handed over.
        share = max(1, -(-len(named) // self.cores))
        parts = [named[start : start + share] for start in range(0, len(named), share)]
        size = self.served.height, self.served.width
        decoding = [self.run(self.decoders, _decoded, part, size) for part in parts]
        pixels = []
        for one in chain.from_iterable(await asyncio.gather(*decoding)):
            if isinstance(one, ValueError):
                raise RefusalError(422, str(one))
            pixels.append(one)
        return pixels

    async def _embed(self, items: Sequence[tuple[str, UInt8[np.ndarray, "h w 3"]]]) -> list[Tensor]:
        keys, pixels = [key for key, _ in items], [pixels for _, pixels in items]
        return await self.run(self.embedders, embed_distinct, self.method, keys, pixels)

    async def _score(self, comparisons: Sequence[Comparison]) -> list[Float32[np.ndarray, " p"]]:
        call = functools.partial(score_together, free=self.call_cost)
        return await self.run(self.scorers, call, self.method, comparisons)

    async def run(
        self,
        threads: ThreadPoolExecutor,
        function: Callable[P, R],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> R:
        """Return a function's result from a thread, the event loop staying free."""
        call = functools.partial(function, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(threads, call)

    def done(self, stage: str) -> Callable[[int, float], None]:
        """Return what notes the batches of a stage."""

        def done(size: int, seconds: float) -> None:
            self.batches.append(Batch(stage, size, seconds))

        return done

    def report(self) -> Report:
        """Return what was done since the last answer."""
        waiting = len(self.images) + len(self.comparisons)
        report = Report(tuple(self.batches), self.load_seconds, waiting)
        self.batches, self.load_seconds = [], None
        return report


def _decoded(
    images: Sequence[tuple[bytes, str]], size: tuple[int, int]
) -> list[UInt8[np.ndarray, "h w 3"] | ValueError]:
    """Return each of some named images as pixels of a size, or what is wrong with it."""
    found: list[UInt8[np.ndarray, "h w 3"] | ValueError] = []
    for image, name in images:
        try:
            found.append(decode_bytes(image, name, *size))
        except ValueError as error:
            found.append(error)
    return found


def _computing() -> None:
    """Prepare a thread that computes: for itself, and after those who wait for a client."""
    torch.set_num_threads(1)
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
