"""Models that are replaced, loaded when they are asked for, or gone, on a real Ray Serve.

The last of this folder's tests: what is served afterwards is another run.
"""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from rayreid import serve
from rayreid.checkpoint import Trained, load_trained
from tests.serve.deployed.settings import settings_of
from tests.serve.pictures import PATH, TIMEOUT, expected, in_json, picture

log = logging.getLogger(__name__)

START_S = 240.0
"""How long a busy machine may take to start the processes of four deployments under load."""

pytestmark = pytest.mark.timeout(START_S + 120)


def test_a_model_is_replaced_without_losing_a_request(
    client: httpx.Client, folder: Path, trained: Trained, other_run: Path
) -> None:
    images, pairs = [picture(0), picture(1), picture(2)], [(0, 1), (2, 1)]
    other = load_trained(other_run)
    wanted = {one.fingerprint: expected(one, images, pairs) for one in (trained, other)}
    assert np.ptp([scores[0] for scores in wanted.values()]) > 1e-2, "a mix-up would not show"
    over = threading.Event()

    def flow(_: int) -> list[str]:
        seen = []
        while not over.is_set():
            response = client.post(PATH, json=in_json(images, pairs), timeout=2 * TIMEOUT)
            assert response.status_code == 200, response.text
            answer = response.json()
            np.testing.assert_allclose(answer["scores"], wanted[answer["fingerprint"]], atol=1e-5)
            seen.append(answer["fingerprint"])
            time.sleep(0.05)  # The new replicas' processes have no other cores to start on.
        return seen

    with ThreadPoolExecutor(4) as threads:
        flows = [threads.submit(flow, n) for n in range(4)]
        try:
            serve.start(settings_of(other_run, client.base_url.port, folder), timeout=START_S)
            time.sleep(0.5)
        finally:
            over.set()
        seen = [flow.result(2 * TIMEOUT) for flow in flows]
    for one in seen:
        assert set(one) == {trained.fingerprint, other.fingerprint}
        assert one[-1] == other.fingerprint
    assert client.get("/healthz").json()["fingerprint"] == other.fingerprint


@pytest.fixture
def other(client: httpx.Client, folder: Path, other_run: Path) -> Trained:
    """Return the other run, which is served now, whichever tests were before."""
    other = load_trained(other_run)
    if client.get("/healthz").json()["fingerprint"] != other.fingerprint:
        serve.start(settings_of(other_run, client.base_url.port, folder), timeout=START_S)
    return other


@pytest.mark.slow
def test_a_model_is_loaded_when_it_is_asked_for_and_leaves(
    client: httpx.Client, other: Trained
) -> None:
    started = time.perf_counter()
    body = in_json([picture(0), picture(1)], [[0, 1]]) | {"model": "spare"}
    answer = client.post(PATH, json=body, timeout=3 * TIMEOUT)
    log.warning("cold start: %.1f s", time.perf_counter() - started)
    assert answer.status_code == 200, answer.text
    wanted = expected(other, [picture(0), picture(1)], [(0, 1)])
    np.testing.assert_allclose(answer.json()["scores"], wanted, atol=1e-5)
    assert answer.json()["model"] == "spare"
    await_loaded(client, "spare", loaded=True)
    await_loaded(client, "spare", loaded=False)


def await_loaded(client: httpx.Client, name: str, *, loaded: bool) -> None:
    """Wait until the service tells of a model that it is loaded, or no longer."""
    started = time.monotonic()
    while True:
        models = {one["name"]: one for one in client.get("/v1/models").json()["models"]}
        if models[name]["loaded"] == loaded:
            break
        assert time.monotonic() < started + 120, models[name]
        time.sleep(0.5)
    log.warning("%s: loaded=%s after %.0f s", name, loaded, time.monotonic() - started)


@pytest.mark.slow
@pytest.mark.usefixtures("other")
def test_a_folder_that_is_gone_is_told_when_a_replica_starts(
    client: httpx.Client, other_run: Path
) -> None:
    body = in_json([picture(0), picture(1)], [[0, 1]])
    await_loaded(client, "spare", loaded=False)
    (other_run / "best").rename(other_run / "gone")
    try:
        assert client.post(PATH, json=body).status_code == 200
        # Another replica than the loaded one has nothing to load.
        answer = client.post(PATH, json=body | {"model": "spare"}, timeout=3 * TIMEOUT)
        assert answer.status_code == 503, answer.text
        assert "no trained run" in answer.json()["error"], answer.text
        assert client.post(PATH, json=body).status_code == 200
    finally:
        (other_run / "gone").rename(other_run / "best")
