"""The keeper of galleries: in turn, and never silent about being there."""

import asyncio
import threading
from pathlib import Path

from rayreid.serve.galleries.keeper import Keeper
from rayreid.serve.galleries.records import GalleryLimits


async def _asked_while_at_work(keeper: Keeper) -> None:
    assert await keeper.ask("ready") == []
    done = threading.Event()
    keeper.thread.submit(done.wait, 30)  # as a purge of many samples
    waiting = asyncio.create_task(keeper.ask("names"))
    await asyncio.sleep(0)
    try:
        # At work, it says so at once; what it is asked waits.
        await asyncio.wait_for(keeper.ask("ready"), 5)
        assert not waiting.done()
    finally:
        done.set()
    assert await waiting == []
    assert keeper.under_way == 0


def test_a_keeper_at_work_is_ready(tmp_path: Path) -> None:
    keeper = Keeper(str(tmp_path), GalleryLimits())
    asyncio.run(_asked_while_at_work(keeper))
    keeper.close()
