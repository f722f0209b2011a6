"""Who is admitted, and how a service is emptied."""

import asyncio

import httpx

from rayreid.serve.api import api
from rayreid.serve.models import Scored, Work
from rayreid.serve.service import Service
from rayreid.serve.settings import Limits
from tests.serve.pictures import PATH, in_json, picture
from tests.serve.test_api import Zeros

BODY = in_json([picture(0)], [[0, 0]])


class Slow(Zeros):
    """Models that answer when they are let."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()

    async def score(self, name: str, work: Work, pairs: object) -> Scored:
        await self.may.wait()
        return await super().score(name, work, pairs)


def test_places_and_waiting_are_bounded_and_health_is_always_told() -> None:
    async def run() -> None:
        models = Slow()
        service = Service(models, Limits(admitted=2, waiting=1))
        transport = httpx.ASGITransport(api(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            tasks = [asyncio.create_task(client.post(PATH, json=BODY)) for _ in range(5)]
            await asyncio.sleep(0.2)
            refused = [await task for task in tasks if task.done()]
            assert [response.status_code for response in refused] == [503, 503]
            assert refused[0].headers["Retry-After"] == "1"
            assert (service.places.working, service.places.waiting) == (2, 1)
            assert (await client.get("/healthz")).status_code == 200
            assert "rayreid_requests_queued 1.0" in (await client.get("/metrics")).text
            models.may.set()
            answered = [await task for task in tasks if task.result not in refused]
            assert sorted(r.status_code for r in answered) == [200, 200, 200, 503, 503]
            assert (service.places.working, service.places.waiting) == (0, 0)

    asyncio.run(run())


def test_what_is_under_way_is_answered_before_the_end() -> None:
    async def run() -> None:
        models = Slow()
        service = Service(models, Limits(admitted=1, waiting=1))
        transport = httpx.ASGITransport(api(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            tasks = [asyncio.create_task(client.post(PATH, json=BODY)) for _ in range(2)]
            await asyncio.sleep(0.1)
            assert not await service.places.drained(0.05)
            late = await client.post(PATH, json=BODY)
            assert (late.status_code, "stopping" in late.json()["error"]) == (503, True)
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/healthz")).status_code == 200
            ending = asyncio.create_task(service.places.drained(5.0))
            models.may.set()
            assert await ending
            assert [(await task).status_code for task in tasks] == [200, 200]

    asyncio.run(run())
