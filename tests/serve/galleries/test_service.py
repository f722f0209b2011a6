"""Galleries on a real Ray Serve: found when acknowledged, erased everywhere, kept through kills."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import ray

from rayreid import serve
from rayreid.checkpoint import Trained
from rayreid.serve.galleries.settings import GalleriesSettings
from rayreid.serve.settings import service_of
from tests.serve.galleries.test_erasure import quick_traces
from tests.serve.pictures import expected, picture

WAIT = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "galleries"


@pytest.fixture(scope="module")
def client(run: Path, folder: Path, ray_session: None) -> Iterator[httpx.Client]:  # noqa: ARG001
    galleries = GalleriesSettings(store=str(folder))
    settings = service_of([run], replicas=2, port=free_port(), galleries=galleries)
    url = serve.start(settings, timeout=120.0)
    with httpx.Client(base_url=url, timeout=WAIT, trust_env=False) as client:
        yield client
    serve.stop()


def ok(response: httpx.Response) -> dict:
    assert response.is_success, response.text
    answer: dict = response.json()
    return answer


def images(*seeds: int) -> list[str]:
    return [base64.b64encode(picture(seed)).decode() for seed in seeds]


def enrol(client: httpx.Client, gallery: str, *seeds: int, who: str = "person") -> dict:
    body = {
        "images": images(*seeds),
        "identities": [f"{who} {seed}" for seed in seeds],
        "ids": [f"{who}-{seed}" for seed in seeds],
    }
    return ok(client.post(f"/v1/galleries/{gallery}/samples", json=body))


def found(client: httpx.Client, gallery: str, seed: int) -> tuple[int, set[str]]:
    """Return the version that was searched, and the samples that were found."""
    body = {"gallery": gallery, "images": images(seed), "top_k": 100}
    answer = ok(client.post("/v1/match/search", json=body))
    return answer["snapshot"], {match["sample"] for match in answer["results"][0]["matches"]}


def test_many_enrol_and_search_at_once_and_each_finds_what_it_enrolled(
    client: httpx.Client, trained: Trained
) -> None:
    ok(client.post("/v1/galleries", json={"name": "busy"}))

    def enrol_then_search(seed: int) -> None:
        version = enrol(client, "busy", seed)["version"]
        # Twice: either replica may answer.
        for _ in range(2):
            snapshot, samples = found(client, "busy", seed)
            assert snapshot >= version
            assert f"person-{seed}" in samples

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(enrol_then_search, range(24), timeout=WAIT))
    assert ok(client.get("/v1/galleries/busy"))["samples"] == 24
    body = {"gallery": "busy", "images": images(3), "top_k": 100}
    (result,) = ok(client.post("/v1/match/search", json=body))["results"]
    wanted = expected(trained, [picture(s) for s in range(24)], [(3, s) for s in range(24)])
    for match in result["matches"]:
        seed = int(match["sample"].partition("-")[2])
        assert match["score"] == pytest.approx(wanted[seed], abs=1e-4)
    again = client.post(
        "/v1/galleries/busy/samples",
        json={"images": images(0), "identities": ["x"], "ids": ["person-0"]},
    )
    assert again.status_code == 409


def test_a_purge_reaches_every_replica_and_leaves_nothing_in_files_or_logs(
    client: httpx.Client, folder: Path
) -> None:
    secret = "Leonora-Exampleton"
    ok(client.post("/v1/galleries", json={"name": "watched"}))
    enrol(client, "watched", 0, 1)
    enrol(client, "watched", 2, 3, who=secret)
    person = f"/v1/galleries/watched/identities/{secret} 2"
    # Names pass through paths, refusals and retries: none of that is to be written down.
    ok(client.get(person))
    client.patch(person, json={"name": f"{secret} 3"})
    client.get(f"/v1/galleries/watched/identities/{secret} none")
    client.post(
        "/v1/galleries/watched/samples",
        json={"images": images(9), "identities": [secret], "ids": [f"{secret}-2"]},
    )
    for _ in range(6):
        assert f"{secret}-2" in found(client, "watched", 2)[1]
    rows = ok(client.post("/v1/embed", json={"images": images(2, 3)}))["embeddings"]
    gone = np.stack([np.frombuffer(base64.b64decode(row["data"]), "<f4") for row in rows])
    assert quick_traces(folder, gone, ())
    receipt = ok(
        client.post(
            "/v1/galleries/watched/purge",
            json={"identities": [f"{secret} 2"], "samples": [f"{secret}-3"]},
        )
    )
    assert (receipt["samples"], receipt["replicas"]) == (2, 2)
    for _ in range(6):
        snapshot, samples = found(client, "watched", 2)
        assert (snapshot, samples) == (receipt["version"], {"person-0", "person-1"})
    assert quick_traces(folder, gone, {secret}) == []
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    logs = session / "logs"
    # What is in the logs is found in them: the deployment's own name.
    assert quick_traces(logs, gone[:0], {"rayreid__galleries"})
    assert quick_traces(logs, gone, {secret}) == []


SERVER = """
import sys
from rayreid.__main__ import main
main()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_killed_while_enrolling_has_all_that_it_acknowledged(
    run: Path, tmp_path: Path
) -> None:
    port, store = free_port(), tmp_path / "galleries"
    config = tmp_path / "models.yaml"
    config.write_text(f"models:\n- run: {run}\ngalleries: {store}\n")
    acknowledged: list[int] = []
    for turn in range(3):
        log = tmp_path / f"log-{turn}"
        with log.open("w") as out:
            server = subprocess.Popen(
                [sys.executable, "-c", SERVER, "serve", "--config", str(config), f"--port={port}"],
                env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
                stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=WAIT, trust_env=False) as client:
                await_ready(client, server, log)
                if turn == 0:
                    ok(client.post("/v1/galleries", json={"name": "hall"}))
                for number in acknowledged:
                    path = f"/v1/galleries/hall/identities/person {number}"
                    assert ok(client.get(path))["samples"] == 1
                count = ok(client.get("/v1/galleries/hall"))["samples"]
                assert len(acknowledged) <= count <= len(acknowledged) + 4 * turn
                stop_at = time.monotonic() + 2.0 + turn / 3

                def enrol_until(first: int) -> None:
                    for number in range(first, first + 1000):
                        try:
                            enrol(client, "hall", number)
                        except (httpx.HTTPError, AssertionError):
                            return  # killed before it was answered
                        acknowledged.append(number)

                with ThreadPoolExecutor(4) as threads:
                    working = [
                        threads.submit(enrol_until, 10_000 * turn + 1000 * n) for n in range(4)
                    ]
                    time.sleep(max(0.0, stop_at - time.monotonic()))
                    kill_family(server)
                    for one in working:
                        one.result(WAIT)
        finally:
            kill_family(server)
    assert len(acknowledged) > 20


def await_ready(client: httpx.Client, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 150
    while True:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)


def kill_family(server: subprocess.Popen) -> None:
    """Kill -9 a server and all that it started, at once."""
    if not psutil.pid_exists(server.pid):
        return
    parent = psutil.Process(server.pid)
    family = [parent, *parent.children(recursive=True)]
    for process in family:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    server.wait(30)
    psutil.wait_procs(family, timeout=30)
