"""Dynamic batches: what several requests ask at a time is computed together.

A batch forms while the one before it is computed, so a busy model takes what has come, and an idle
one waits for others just as long as it is told. What nobody waits for any more is left out.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Gathers items into batches for a function that computes many at once.

    ``compute`` gets at most ``most`` items, oldest first, and returns a result for each; its error
    is that of all of them. ``lanes`` batches are computed at a time, and few items are spread over
    those that are free. ``wait`` is how long, in seconds, an item waits for others while nothing is
    computed. ``done`` is told the size of each batch and the seconds it took.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        most: int,
        lanes: int = 1,
        wait: float = 0.0,
        done: Callable[[int, float], None] = lambda *_: None,
    ):
        self.compute, self.most, self.lanes, self.wait, self.done = compute, most, lanes, wait, done
        self.items: deque[tuple[T, asyncio.Future[R]]] = deque()
        self.gathering: asyncio.Task[None] | None = None
        self.full = asyncio.Event()
        self.computing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return the number of items that wait."""
        return len(self.items)

    async def __call__(self, item: T) -> R:
        """Return the result of an item, computed together with others."""
        return await self._asked(item)

    async def many(self, items: Iterable[T]) -> list[R]:
        """Return the results of items, each computed together with whatever others."""
        # Futures, not a task each: of small crops there are a thousand a second.
        return await asyncio.gather(*[self._asked(item) for item in items])

    def _asked(self, item: T) -> asyncio.Future[R]:
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.items.append((item, future))
        if len(self.items) >= self.most * self.lanes:
            self.full.set()
        if not self.gathering and len(self.computing) < self.lanes:
            # A task of its own: one that is cancelled must not take others' batches with it.
            self.gathering = asyncio.create_task(self._gathered())
        return future

    async def _gathered(self) -> None:
        """Give others the time to come, then start what lanes there are for."""
        try:
            if not self.computing and len(self.items) < self.most * self.lanes:
                self.full = asyncio.Event()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.wait):
                        await self.full.wait()
        finally:
            self.gathering = None
            # Whatever becomes of the wait, nobody is left waiting for ever.
            self._start()

    def _start(self) -> None:
        while self.items and len(self.computing) < self.lanes:
            free = self.lanes - len(self.computing)
            share = min(self.most, -(-len(self.items) // free))
            batch: list[tuple[T, asyncio.Future[R]]] = []
            while self.items and len(batch) < share:
                item, future = self.items.popleft()
                if not future.done():
                    batch.append((item, future))
            if batch:
                task = asyncio.create_task(self._computed(batch))
                self.computing.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.computing.discard(task)
        self._start()

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
