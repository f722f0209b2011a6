"""Dynamic batches, without a model."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayreid.serve.batching import Batcher


class Computer:
    """Squares numbers, when it is let; keeps the batches it was given."""

    def __init__(self, open_from_the_start: bool = True):
        self.batches: list[list[int]] = []
        self.most_at_once = self.now = 0
        self.may = asyncio.Event()
        if open_from_the_start:
            self.may.set()

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        await self.may.wait()
        await asyncio.sleep(0)
        self.now -= 1
        if 13 in numbers:
            raise ValueError("unlucky")
        return [n * n for n in numbers]


@given(
    arrivals=st.lists(st.lists(st.integers(0, 12), max_size=9), max_size=6),
    most=st.integers(1, 5),
    lanes=st.integers(1, 3),
    together=st.booleans(),
)
def test_each_gets_its_own_result_in_batches_within_bounds(
    arrivals: list[list[int]], most: int, lanes: int, together: bool
) -> None:
    async def run() -> None:
        computer, sizes = Computer(), []
        batcher = Batcher(computer, most=most, lanes=lanes, done=lambda n, _: sizes.append(n))
        waves = []
        for wave in arrivals:
            asked = batcher.many(wave) if together else asyncio.gather(*map(batcher, wave))
            waves.append(asyncio.ensure_future(asked))
            await asyncio.sleep(0)
        assert [list(await wave) for wave in waves] == [[n * n for n in w] for w in arrivals]
        flat = [n for wave in arrivals for n in wave]
        assert sorted(n for batch in computer.batches for n in batch) == sorted(flat)
        assert all(len(batch) <= most for batch in computer.batches)
        assert computer.most_at_once <= lanes
        assert sum(sizes) == len(flat)
        assert len(batcher) == 0

    asyncio.run(run())


def test_what_comes_while_a_batch_is_computed_is_the_next_one() -> None:
    async def run() -> None:
        computer = Computer(open_from_the_start=False)
        batcher = Batcher(computer, most=8)
        tasks = [asyncio.create_task(batcher(0))]
        await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(batcher(n)) for n in range(1, 6)]
        await asyncio.sleep(0.01)
        assert len(batcher) == 5
        computer.may.set()
        await asyncio.gather(*tasks)
        assert computer.batches == [[0], [1, 2, 3, 4, 5]]

    asyncio.run(run())


def test_an_idle_one_waits_for_others() -> None:
    async def run() -> None:
        computer = Computer()
        batcher = Batcher(computer, most=8, wait=5.0)
        first = asyncio.create_task(batcher(0))
        await asyncio.sleep(0.01)
        assert not computer.batches
        # Full: it need not wait for its five seconds.
        await asyncio.wait_for(asyncio.gather(first, *map(batcher, range(1, 8))), 2)
        assert computer.batches == [[0, 1, 2, 3, 4, 5, 6, 7]]

    asyncio.run(run())


def test_few_are_spread_over_the_lanes_that_are_free() -> None:
    async def run() -> None:
        computer = Computer()
        batcher = Batcher(computer, most=8, lanes=2)
        await asyncio.gather(*map(batcher, range(6)))
        assert computer.batches == [[0, 1, 2], [3, 4, 5]]

    asyncio.run(run())


def test_what_nobody_waits_for_is_not_computed() -> None:
    async def run() -> None:
        computer = Computer(open_from_the_start=False)
        batcher = Batcher(computer, most=8)
        busy = asyncio.create_task(batcher(0))
        await asyncio.sleep(0.01)
        gone, stays = asyncio.create_task(batcher(1)), asyncio.create_task(batcher(2))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0)
        computer.may.set()
        assert await asyncio.gather(busy, stays) == [0, 4]
        assert computer.batches == [[0], [2]]

    asyncio.run(run())


def test_many_that_nobody_waits_for_are_not_computed() -> None:
    async def run() -> None:
        computer = Computer(open_from_the_start=False)
        batcher = Batcher(computer, most=2)
        first = asyncio.ensure_future(batcher.many([1, 2]))
        await asyncio.sleep(0.01)
        gone = asyncio.ensure_future(batcher.many([3, 4]))
        last = asyncio.ensure_future(batcher.many([5]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        computer.may.set()
        assert await first == [1, 4]
        assert await last == [25]
        assert computer.batches == [[1, 2], [5]]

    asyncio.run(run())


def test_an_error_is_that_of_its_batch_alone() -> None:
    async def run() -> None:
        batcher = Batcher(Computer(), most=1)
        results = await asyncio.gather(batcher(13), batcher(3), return_exceptions=True)
        assert isinstance(results[0], ValueError)
        assert results[1] == 9
        with pytest.raises(ValueError, match="unlucky"):
            await batcher(13)

    asyncio.run(run())
