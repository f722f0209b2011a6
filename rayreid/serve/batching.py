"""Dynamic batches: what several requests ask at a time is computed together.

A batch forms while the one before it is computed, so a busy model takes what has come, and an idle
one waits for others just as long as it is told. What nobody waits for any more is left out.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Gathers items into batches for a function that computes many at once.

    ``compute`` gets at most ``most`` items, oldest first, and returns a result for each; its error
    is that of all of them. ``wait`` is how long, in seconds, an item waits for others while
    nothing is computed. ``done`` is told the size of each batch and the seconds it took.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        most: int,
        wait: float,
        done: Callable[[int, float], None] = lambda *_: None,
    ):
        self.compute, self.most, self.wait, self.done = compute, most, wait, done
        self.items: deque[tuple[T, asyncio.Future[R]]] = deque()
        self.full = asyncio.Event()
        self.runner: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return the number of items that wait."""
        return len(self.items)

    async def __call__(self, item: T) -> R:
        """Return the result of an item, computed together with others."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.items.append((item, future))
        if len(self.items) >= self.most:
            self.full.set()
        if self.runner is None:
            # A task of its own: one that is cancelled must not take others' batches with it.
            self.runner = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            if self.wait and len(self.items) < self.most:
                self.full.clear()
                try:
                    async with asyncio.timeout(self.wait):
                        await self.full.wait()
                except TimeoutError:
                    pass  # those that are there are the batch
            while self.items:
                batch: list[tuple[T, asyncio.Future[R]]] = []
                while self.items and len(batch) < self.most:
                    item, future = self.items.popleft()
                    if not future.done():
                        batch.append((item, future))
                if batch:
                    await self._computed(batch)
        finally:
            self.runner = None

    async def _computed(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        started = time.perf_counter()
        try:
            results = await self.compute([item for item, _ in batch])
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        self.done(len(batch), time.perf_counter() - started)
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
