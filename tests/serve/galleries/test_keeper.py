"""The keeper of galleries: in turn, and never silent about being there."""

import asyncio
import threading
from pathlib import Path

from rayreid.serve.galleries.keeper import Keeper, Lister
from rayreid.serve.galleries.records import Binding, GalleryLimits
from rayreid.serve.refusals import Refused


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


def test_lists_are_told_while_the_keeper_is_at_work(tmp_path: Path) -> None:
    keeper, lister = Keeper(str(tmp_path), GalleryLimits()), Lister(str(tmp_path), GalleryLimits())
    binding = Binding("m", "f", "p", (4,))
    begun, end = threading.Event(), threading.Event()

    def long() -> None:
        begun.set()
        assert end.wait(60)

    async def told() -> None:
        made = await keeper.ask("create", "g", binding)
        keeper.thread.submit(long)
        assert begun.wait(60)
        assert await lister.ask("gallery", "g") == made
        assert await lister.ask("names") == ["g"]
        missing = await lister.ask("gallery", "other")
        assert isinstance(missing, Refused)
        assert missing.status == 404
        end.set()

    try:
        asyncio.run(told())
    finally:
        end.set()
        keeper.close()
