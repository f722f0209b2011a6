"""A loaded model, asked by many at once, without Ray."""

import asyncio

import numpy as np
import pytest

from rayreid.checkpoint import Trained
from rayreid.serve.hosted import IMAGES_PER_BATCH, Hosted
from rayreid.serve.models import Given, describe, distinct
from rayreid.serve.refusals import RefusalError
from tests.serve.pictures import expected, picture


@pytest.fixture(scope="module")
def hosted(trained: Trained) -> Hosted:
    return Hosted(describe("tiny", trained), trained, lanes=2)


def test_requests_at_once_get_their_own_scores(hosted: Hosted, trained: Trained) -> None:
    draws = np.random.default_rng(0)
    requests = [
        ([picture(0), *(picture(50 * n + i) for i in range(1, 2 + n % 4))],
         draws.integers(0, 2, (1 + n % 5, 2)))
        for n in range(20)
    ]  # fmt: skip

    async def one(images: list[bytes], pairs: np.ndarray) -> np.ndarray:
        items = distinct(images, ())
        return (await hosted.score(items.work, items.number[pairs])).scores

    async def run() -> list[np.ndarray]:
        return await asyncio.gather(*(one(*request) for request in requests))

    for (images, pairs), scores in zip(requests, asyncio.run(run()), strict=True):
        wanted = expected(trained, images, [(a, b) for a, b in pairs.tolist()])
        np.testing.assert_allclose(scores, wanted, atol=1e-5)


def test_embeddings_come_back_as_they_went(hosted: Hosted, trained: Trained) -> None:
    images = [picture(1), picture(2)]

    async def run() -> np.ndarray:
        embedded = await hosted.embed(distinct(images, ()).work)
        assert embedded.embeddings.shape == (2, *hosted.served.embedding)
        given = [Given(hosted.served.fingerprint, row) for row in embedded.embeddings]
        items = distinct([picture(3)], given)
        return (await hosted.score(items.work, np.array([[0, 1], [2, 1]]))).scores

    wanted = expected(trained, [picture(3), *images], [(0, 1), (2, 1)])
    np.testing.assert_allclose(asyncio.run(run()), wanted, atol=1e-5)


def test_a_batch_is_reported_once(hosted: Hosted) -> None:
    async def run() -> None:
        work = distinct([picture(n) for n in range(20)], ()).work
        await hosted.embed(work)
        report = (await hosted.embed(work)).report
        assert sum(batch.size for batch in report.batches) == 20
        assert max(batch.size for batch in report.batches) <= IMAGES_PER_BATCH["cpu"] < 20
        assert report.load_seconds is None

    asyncio.run(run())


def test_what_is_no_image_is_refused_by_its_name(hosted: Hosted) -> None:
    items = distinct([picture(0), picture(0), b"nothing"], ())
    with pytest.raises(RefusalError, match=r"^\(422, 'images\[2\] ") as refusal:
        asyncio.run(hosted.embed(items.work))
    assert refusal.value.status == 422
